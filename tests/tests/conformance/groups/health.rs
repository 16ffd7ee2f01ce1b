//! The health of hosts: outlier detection, and what the first active checks find.

use outrider_tests::reply::{Finish, Reply};
use outrider_tests::upstream::TcpScript;

use crate::driver::{Case, Group, case, case::Act, get, talk};

/// No host is used against what is known of it.
const NO_PANIC: &str = "common_lb_config: { healthy_panic_threshold: { value: 0 } }\n";

/// A cluster's outlier detection, without panic.
fn outlier(settings: &str) -> String {
    let base = if settings.contains("base_ejection_time") { "" } else { "base_ejection_time: 100s, " };
    format!("{NO_PANIC}outlier_detection: {{ max_ejection_percent: 100, {base}{settings} }}\n")
}

fn stats(cluster: &str) -> [String; 3] {
    ["outlier_detection.*", "upstream_cx_none_healthy", "lb_healthy_panic"]
        .map(|name| format!("cluster.{cluster}.{name}"))
}

/// Requests to the route of `cluster`, and what was counted.
fn asks(name: &str, cluster: &str, times: usize) -> Case {
    let requests = vec![get(&format!("/{cluster}/")); times];
    let mut case = case(name, requests);
    case.stats.extend(stats(cluster));
    case
}

/// Asks until nobody is healthy, or until somebody is again.
fn until(name: &str, cluster: &str, out: bool) -> Case {
    case(name, Act::Until(get(&format!("/{cluster}/")), "no healthy upstream", out))
}

fn page(name: &str, filter: &'static str) -> Case {
    case(name, Act::Admin("GET", "/clusters", Box::leak(Box::new([filter]))))
}

/// Outlier detection.
pub(crate) fn outliers() -> Group {
    let clusters: [(&str, &[&str], String); 14] = [
        ("dead", &["closed"], outlier("consecutive_5xx: 3")),
        (
            "gate",
            &["a"],
            outlier("consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100"),
        ),
        ("five", &["a"], outlier("consecutive_5xx: 2")),
        (
            "split",
            &["closed"],
            outlier("split_external_local_origin_errors: true, consecutive_local_origin_failure: 2"),
        ),
        (
            "splitfive",
            &["a"],
            outlier(
                "split_external_local_origin_errors: true, consecutive_5xx: 0, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100",
            ),
        ),
        (
            "back",
            &["closed"],
            // Envoy tells its workers of a change of health within the same second only later.
            outlier("interval: 0.05s, base_ejection_time: 1s, consecutive_5xx: 2")
                .replace("{ value: 0 }", "{ value: 0 }, update_merge_window: 0s"),
        ),
        ("few", &["closed"], "outlier_detection: { consecutive_5xx: 2 }\n".to_owned()),
        (
            "one",
            &["closed"],
            format!("{NO_PANIC}outlier_detection: {{ consecutive_5xx: 2, always_eject_one_host: true }}\n"),
        ),
        (
            "panic",
            &["closed"],
            "outlier_detection: { consecutive_5xx: 2, max_ejection_percent: 100 }\n".to_owned(),
        ),
        ("lenient", &["closed"], outlier("consecutive_5xx: 2, enforcing_consecutive_5xx: 0")),
        ("late", &["a"], outlier("consecutive_5xx: 2")),
        ("cut", &["a"], outlier("consecutive_5xx: 1")),
        ("grpc", &["a"], outlier("consecutive_5xx: 2")),
        ("tcpdead", &["closed"], outlier("consecutive_5xx: 2")),
    ];
    let routes: String = clusters
        .iter()
        .map(|(name, ..)| {
            format!("  - {{ match: {{ prefix: /{name}/ }}, route: {{ cluster: {name}, timeout: 0.2s }} }}\n")
        })
        .collect();
    let routes = format!(
        "virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n{routes}  - {{ match: {{ prefix: /retried }}, route: {{ cluster: again, retry_policy: {{ retry_on: 5xx, num_retries: 3, retry_back_off: {{ base_interval: 0.02s, max_interval: 0.02s }} }} }} }}\n  - {{ match: {{ prefix: / }}, route: {{ cluster: a }} }}\n"
    );
    Group::new("outliers")
        .upstreams(&["a"])
        .upstream("closed", None, None)
        .with(|mut b| {
            for (name, hosts, more) in &clusters {
                b = b.hosts(name, hosts, more);
            }
            b.hosts("again", &["closed"], &outlier("consecutive_5xx: 2")).tcp("tcp", "cluster: tcpdead")
        })
        .routes(&routes)
        .cases([
            asks("connects fail", "dead", 3),
            asks("then nobody is healthy", "dead", 2),
            page("shown while out", "dead::"),
            asks("gateway failures", "gate", 2).reply(Reply::status(503)),
            asks("then no gateway", "gate", 1),
            asks("5xx, a success, 5xx", "five", 3)
                .reply(Reply::status(500))
                .reply(Reply::status(200))
                .reply(Reply::status(500)),
            asks("and another 5xx", "five", 1).reply(Reply::status(501)),
            asks("then none for 5xx", "five", 1),
            asks("of local origin", "split", 2),
            asks("of local origin, then none", "split", 1),
            asks("500 is no gateway's, even where origins are split", "splitfive", 2)
                .reply(Reply::status(500)),
            asks("503 is, where origins are split", "splitfive", 2).reply(Reply::status(503)),
            asks("what becomes of it", "splitfive", 1),
            asks("out for a moment", "back", 2),
            until("out", "back", true),
            until("back again", "back", false),
            asks("too few hosts to eject one", "few", 3),
            asks("one always", "one", 2),
            asks("one always, then none", "one", 1),
            asks("panic", "panic", 2),
            asks("panic, still asked", "panic", 1),
            asks("not enforced", "lenient", 5),
            asks("timeouts", "late", 2).reply(Reply::status(0).finish(Finish::Silence)),
            asks("timeouts, then none", "late", 1),
            asks("cut in the body", "cut", 1).reply(Reply::text("0123456789").finish(Finish::Close(3))),
            asks("cut in the body, then none", "cut", 1),
            {
                let call = || get("/grpc/").h("content-type", "application/grpc");
                let mut case = case("a gRPC status in the head", vec![call(), call()]).reply(
                    Reply::status(200)
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "14")
                        .head_only(),
                );
                case.stats.extend(stats("grpc"));
                case
            },
            asks("a gRPC status, then none", "grpc", 1),
            // Ejection by rate is for the tests of `upstream::outlier`: nobody can tell when an interval ends here.
            case("TCP", talk("tcp").drain()).logs(1),
            case("TCP again", talk("tcp").drain()).logs(1).stats(&["cluster.tcpdead.outlier_detection.*"]),
            case("TCP, then none", talk("tcp").drain())
                .logs(1)
                .stats(&["cluster.tcpdead.outlier_detection.*", "cluster.tcpdead.upstream_cx_none_healthy"]),
            case("retried until it is out", get("/retried"))
                .stats(&["cluster.again.outlier_detection.*", "cluster.again.upstream_rq_retry"]),
            page("flags", "::health_flags"),
            page("rates", "success_rate"),
        ])
}

/// A health check that is made once: the next one is far away.
fn checked(probe: &str) -> String {
    format!(
        "{NO_PANIC}health_checks: [ {{ timeout: 2s, interval: 1000s, no_traffic_interval: 1000s, unhealthy_threshold: 3, healthy_threshold: 2, {probe} }} ]\n"
    )
}

/// The first round of active health checks, which the start waits for.
pub(crate) fn first_checks() -> Group {
    let closed = "address: { socket_address: { address: 127.0.0.1, port_value: @{closed} } }";
    let fixed = |config: &str| {
        format!(
            "connect_timeout: 2s\ntype: STATIC\nload_assignment: {{ cluster_name: x, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ {closed}, health_check_config: {{ {config} }} }} }} ] }} ] }}\n{}",
            checked("tcp_health_check: {}")
        )
    };
    let clusters: [(&str, &[&str], String); 11] = [
        ("refused", &["closed"], checked("tcp_health_check: {}")),
        ("connected", &["a"], checked("tcp_health_check: {}")),
        ("ok", &["a"], checked("http_health_check: { path: /healthz, host: h.example }")),
        (
            "wanted",
            &["a"],
            checked("http_health_check: { path: /healthz, expected_statuses: [ { start: 201, end: 300 } ] }"),
        ),
        (
            "body",
            &["a"],
            checked("http_health_check: { path: /healthz, receive: [ { text: \"00ff00ff\" } ] }"),
        ),
        (
            "named",
            &["a"],
            checked("http_health_check: { path: /healthz, service_name_matcher: { exact: x } }"),
        ),
        ("unreached", &["closed"], checked("http_health_check: { path: /healthz }")),
        ("half", &["a", "closed"], checked("http_health_check: { path: /healthz }")),
        (
            "pong",
            &["echo"],
            checked(
                "tcp_health_check: { send: { text: \"50494e47\" }, receive: [ { text: \"5049\" }, { text: \"4e47\" } ] }",
            ),
        ),
        (
            "nogrpc",
            &["a"],
            format!("{}{}", checked("grpc_health_check: {}"), crate::driver::case::H2_CLUSTER),
        ),
        ("fallen", &["closed"], checked("tcp_health_check: {}").replace("{ value: 0 }", "{ value: 50 }")),
    ];
    let mut names: Vec<&str> = clusters.iter().map(|(name, ..)| *name).collect();
    names.extend(["unasked", "elsewhere"]);
    let routes: String = names
        .iter()
        .map(|name| format!("  - {{ match: {{ prefix: /{name}/ }}, route: {{ cluster: {name} }} }}\n"))
        .collect();
    let routes = format!("virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n{routes}");
    let mut group = Group::new("first-checks")
        .upstreams(&["a"])
        .tcp_upstream("echo", TcpScript::Echo)
        .upstream("closed", None, None)
        .with(|mut b| {
            for (name, hosts, more) in &clusters {
                b = b.hosts(name, hosts, more);
            }
            b.cluster("unasked", &fixed("disable_active_health_check: true"))
                .cluster("elsewhere", &fixed("port_value: @{a}"))
        })
        .routes(&routes);
    for name in names.iter().filter(|name| **name != "pong") {
        let mut case = case(name, vec![get(&format!("/{name}/")); 2]);
        case.stats.extend(stats(name));
        group.cases.push(case);
    }
    group.cases([
        page("flags", "::health_flags"),
        case(
            "counts",
            Act::Admin(
                "GET",
                "/stats?usedonly&filter=(health_check.(attempt|success|failure|network_failure|verify_cluster)|membership_(healthy|total))$",
                &[],
            ),
        ),
    ])
}
