//! The admin interface, and counters after known traffic.

use outrider_tests::reply::{Finish, Reply};

use crate::driver::{Case, Group, case, case::Act, get, post, raw, req};

/// Every counter of these scopes that traffic moves.
const SCOPES: &[&str] = &["http.main.*", "cluster.a.*", "cluster.dead.*", "cluster.h2.*", "listener.main.*"];

/// Counters that measure time or bytes on the wire of a particular encoding, or the order of events of one library.
const VOLATILE: &[&str] = &[
    "_time",
    "_length_ms",
    "rq_active",
    "cx_active",
    "_buffered",
    "_bytes_total",
    "http2.",
    "upstream_cx_destroy",
    "downstream_cx_destroy",
    "upstream_cx_pool",
    "cx_drain",
    "connections_accepted_per",
];

fn counted(name: &str, act: impl Into<Act>) -> Case {
    let mut case = case(name, act).stats(SCOPES);
    case.ignore.extend(VOLATILE.iter().map(|v| (*v).to_owned()));
    case
}

fn page(name: &str, path: &'static str, keep: &'static [&'static str]) -> Case {
    case(name, Act::Admin("GET", path, keep))
}

/// Pages and counters.
pub(crate) fn admin() -> Group {
    Group::new("admin")
        .upstreams(&["a"])
        .upstream("closed", None, None)
        .with(|b| b.hosts("dead", &["closed"], "").hosts("h2", &["a"], crate::driver::case::H2_CLUSTER))
        .with(|b| {
            b.listener(
                "main",
                &format!(
                    "stat_prefix: main\nfilter_chains:\n- filters:\n{}",
                    outrider_tests::bootstrap::indent(
                        2,
                        &outrider_tests::bootstrap::hcm_filter("main", ROUTES)
                    )
                ),
            )
        })
        .cases([
            counted("200", get("/x")),
            counted("200 over h2", get("/x").h2()),
            counted("post", post("/x", "body")).reply(Reply::status(201)),
            counted("302", get("/x")).reply(Reply::status(302)),
            counted("404 of the upstream", get("/x")).reply(Reply::status(404)),
            counted("500 of the upstream", get("/x")).reply(Reply::status(500)),
            counted("101", get("/x").upgrade("websocket", "x")).reply(Reply::switch("websocket")),
            counted("direct", get("/direct")),
            counted("redirect", get("/redirect")),
            counted("no route", get("/none")),
            counted("no cluster", get("/nowhere")),
            counted("dead", get("/dead")),
            counted("to h2", get("/h2")),
            counted("retried", get("/retry")).reply(Reply::status(503)).reply(Reply::text("ok")),
            counted("retried in vain", get("/retry")).reply(Reply::status(503)),
            counted("timed out", get("/to")).reply(Reply::status(0).finish(Finish::Silence)),
            counted("per try timed out", get("/try")).reply(Reply::status(0).finish(Finish::Silence)),
            counted("cut", get("/x")).reply(Reply::text("0123456789").finish(Finish::Close(3))),
            counted("head", req("HEAD", "/x")),
            counted("bad request", raw("GET /x HTTP/1.1\r\nhost: h\r\nbad name: x\r\n\r\n")),
            counted("http/1.0", raw("GET /x HTTP/1.0\r\n\r\n")),
            counted("mirrored", get("/mirror")).ignore("upstream[1]").ignore("upstream[0]"),
            page("ready", "/ready", &[]),
            page("server_info", "/server_info", &[".state = ", "node.id", "node.cluster", ".concurrency"]),
            page("listeners", "/listeners", &[]),
            page(
                "clusters",
                "/clusters",
                &[
                    "::default_priority",
                    "::added_via_api",
                    "::health_flags",
                    "::weight",
                    "::region",
                    "::zone",
                    "::canary",
                    "::priority",
                    "::hostname",
                    "::eds_service_name",
                    "::local_origin_success_rate",
                ],
            ),
            page("stats of one name", "/stats?filter=^http.main.downstream_rq_(1|3|4)xx$", &[]),
            page("stats as json", "/stats?filter=^http.main.downstream_rq_4xx$&format=json", &[]),
            page("stats used only", "/stats?usedonly&filter=^cluster.a.upstream_rq_(2|4)xx$", &[]),
            page("stats bad filter", "/stats?filter=(", &[]),
            page("stats bad format", "/stats?format=blah", &[]),
            page("prometheus", "/stats/prometheus?filter=^http.main.downstream_rq_4xx$", &[]),
            page("prometheus cluster", "/stats?format=prometheus&filter=^cluster.a.upstream_rq_404$", &[]),
            page("prometheus tagged", "/stats/prometheus?filter=^cluster.a.upstream_rq_(4|2)xx$", &[]),
            page("prometheus gauge", "/stats/prometheus?filter=^cluster.a.membership_healthy$", &[]),
            page(
                "prometheus listener",
                "/stats/prometheus?filter=^listener.main.downstream_cx_overflow$",
                &[],
            ),
            page("histogram text", "/stats?filter=^cluster.h2.upstream_rq_retry_none$", &[]),
            page("unknown page", "/nothing", &["invalid"]),
            page("get of a changing page", "/healthcheck/fail", &[]),
            case("reset counters", Act::Admin("POST", "/reset_counters", &[])),
            page("counters are reset", "/stats?filter=^http.main.downstream_rq_(2|4)xx$", &[]),
            case("healthcheck fail", Act::Admin("POST", "/healthcheck/fail", &[])),
            page("not ready", "/ready", &[]),
            page("state draining", "/server_info", &[".state = "]),
            case("healthcheck ok", Act::Admin("POST", "/healthcheck/ok", &[])),
            page("ready again", "/ready", &[]),
            page("logging needs post", "/logging", &[]),
            page("memory", "/memory", &["no such line"]),
            page("certs", "/certs", &[]),
            page("config dump kinds", "/config_dump", &["= \"type.googleapis.com/envoy.admin"]),
        ])
}

const ROUTES: &str = r#"
upgrade_configs: [ { upgrade_type: websocket } ]
route_config:
  validate_clusters: false
  virtual_hosts:
  - name: none
    domains: ["none"]
  - name: all
    domains: ["*"]
    routes:
    - { match: { prefix: /direct }, direct_response: { status: 200 } }
    - { match: { prefix: /redirect }, redirect: { path_redirect: /x } }
    - { match: { prefix: /nowhere }, route: { cluster: nowhere } }
    - { match: { prefix: /dead }, route: { cluster: dead } }
    - { match: { prefix: /h2 }, route: { cluster: h2 } }
    - { match: { prefix: /retry }, route: { cluster: a, retry_policy: { retry_on: 5xx, retry_back_off: { base_interval: 0.001s, max_interval: 0.002s } } } }
    - { match: { prefix: /to }, route: { cluster: a, timeout: 0.1s } }
    - { match: { prefix: /try }, route: { cluster: a, timeout: 2s, retry_policy: { retry_on: 5xx, per_try_timeout: 0.1s, num_retries: 1, retry_back_off: { base_interval: 0.001s, max_interval: 0.002s } } } }
    - { match: { prefix: /mirror }, route: { cluster: a, request_mirror_policies: [ { cluster: h2 } ] } }
    - { match: { path: /x }, route: { cluster: a } }
"#;

/// Virtual clusters.
pub(crate) fn virtual_clusters() -> Group {
    Group::new("virtual-clusters")
        .upstreams(&["a"])
        .http("main", "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], virtual_clusters: [ { name: vc, headers: [ { name: \":path\", string_match: { prefix: /vc } } ] } ], routes: [ { match: { prefix: / }, route: { cluster: a } } ] } ] }")
        .upstream("closed", None, None)
        .with(|b| b.hosts("dead", &["closed"], ""))
        .http("retry", "route_config: { virtual_hosts: [ { name: two, domains: [\"*\"], virtual_clusters: [ { name: vc, headers: [ { name: \":path\", string_match: { prefix: /vc } } ] }, { name: v2, headers: [ { name: \":path\", string_match: { prefix: /two } }, { name: \":method\", string_match: { exact: GET } } ] } ], routes: [ { match: { prefix: /vc/dead }, route: { cluster: dead } }, { match: { prefix: / }, route: { cluster: a, retry_policy: { retry_on: 5xx } } } ] } ] }")
        .cases([
            case("inside", get("/vc/x")).stats(&["vhost.*"]).ignore("_time"),
            case("retried", get("/vc/retry").to("retry")).reply(Reply::status(503)).reply(Reply::text("ok")).stats(&["vhost.*"]).ignore("_time"),
            case("second", get("/two").to("retry")).stats(&["vhost.*"]).ignore("_time"),
            case("dead", get("/vc/dead").to("retry")).stats(&["vhost.*"]).ignore("_time"),
            case("outside", get("/x")).stats(&["vhost.*"]).ignore("_time"),
        ])
}
