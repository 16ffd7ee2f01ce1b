//! What proxies are told of policies, and what policies are told of themselves.

use outrider_proto::pb::envoy::config::cluster::v3::{Cluster, cluster::LbPolicy};
use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use outrider_proto::prost::Message as _;

use crate::model::{Key, Kind};
use crate::translate::testing::{Table, WEB, conditions, context, envoy_takes, message, resources, sidecar};
use crate::translate::{Context, Resources, Type, translate};

const HTTP: &str = "outbound|80||web.shop.svc.cluster.local";
const GRPC: &str = "outbound|9000||web.shop.svc.cluster.local";

/// A TrafficPolicy `shop/NAME` of this spec in flow style.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrider.dev/v1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn for_web(spec: &str) -> String {
    format!("{WEB}{}", policy("web", &format!("{{targetRefs: [{{kind: Service, name: web}}], {spec}}}")))
}

fn cluster(resources: &Resources, name: &str) -> Cluster {
    message(resources, Type::Cluster, name)
}

fn route(resources: &Resources, table: &str) -> (pb::Route, pb::RouteAction) {
    let table: Table = message(resources, Type::Route, table);
    let host = table.virtual_hosts.iter().find(|it| it.name.starts_with("web.shop")).unwrap();
    let route = host.routes[0].clone();
    let Some(pb::route::Action::Route(action)) = route.action.clone() else { panic!("not forwarded") };
    (route, action)
}

fn said(context: &Context, kind: Kind, name: &str) -> Vec<String> {
    conditions(&context.policies.statuses[&Key::new(kind, "shop", name)])
}

#[test]
fn timeouts_retries_and_breakers_stand_where_envoy_reads_them() {
    let spec = "timeouts: {request: 5s, idle: 1m, connect: 250ms},
        retries: {on: [5xx, unavailable], statusCodes: [409], attempts: 3, perTryTimeout: 1s, backoff: {base: 10ms, max: 1s}, budget: {percent: 25}},
        circuitBreakers: {maxConnections: 1, maxPendingRequests: 2, maxRequests: 3}";
    let all = resources(&context(&for_web(spec)));
    envoy_takes(&all);
    let found = cluster(&all, HTTP);
    assert_eq!(found.connect_timeout.unwrap().nanos, 250_000_000);
    let thresholds = &found.circuit_breakers.unwrap().thresholds[0];
    let numbers = [thresholds.max_connections, thresholds.max_pending_requests, thresholds.max_requests];
    assert_eq!(numbers.map(|it| it.unwrap().value), [1, 2, 3]);
    assert_eq!(thresholds.retry_budget.as_ref().unwrap().budget_percent.unwrap().value, 25.0);
    let (_, action) = route(&all, "80");
    assert_eq!(action.timeout.unwrap().seconds, 5);
    assert_eq!(action.idle_timeout.unwrap().seconds, 60);
    let retries = action.retry_policy.unwrap();
    assert_eq!(retries.retry_on, "5xx,unavailable,retriable-status-codes");
    assert_eq!(retries.num_retries.unwrap().value, 3);
    assert_eq!(retries.retriable_status_codes, [409]);
    assert_eq!(retries.per_try_timeout.unwrap().seconds, 1);
    assert_eq!(retries.retry_back_off.unwrap().max_interval.unwrap().seconds, 1);
}

#[test]
fn what_nobody_asked_for_is_not_there() {
    let all = resources(&context(WEB));
    envoy_takes(&all);
    let found = cluster(&all, HTTP);
    assert!(
        found.circuit_breakers.is_none()
            && found.outlier_detection.is_none()
            && found.health_checks.is_empty()
    );
    let (route, action) = route(&all, "80");
    assert!(action.retry_policy.is_none() && route.typed_per_filter_config.is_empty());
    assert_eq!(action.timeout.unwrap().seconds, 0, "long calls and streams must not end by surprise");
    let listener = all.of(Type::Listener).get("0.0.0.0_80").unwrap();
    assert!(!String::from_utf8_lossy(&listener.body).contains("local_ratelimit"));
}

#[test]
fn each_way_to_balance_is_taken() {
    for (spec, want) in [
        ("policy: RoundRobin, slowStart: {window: 30s, minWeightPercent: 20}", LbPolicy::RoundRobin),
        ("policy: LeastRequest, choices: 4, slowStart: {window: 30s}", LbPolicy::LeastRequest),
        ("policy: Random", LbPolicy::Random),
        ("policy: RingHash, hashOn: [{header: X-User}], minimumRingSize: 4096", LbPolicy::RingHash),
        (
            "policy: Maglev, hashOn: [{cookie: {name: sid, ttl: 0s, path: /}}, {sourceIp: true}], tableSize: 131",
            LbPolicy::Maglev,
        ),
    ] {
        let all = resources(&context(&for_web(&format!("loadBalancing: {{{spec}}}"))));
        envoy_takes(&all);
        assert_eq!(cluster(&all, HTTP).lb_policy(), want);
        let (_, action) = route(&all, "80");
        let hashes = matches!(want, LbPolicy::RingHash | LbPolicy::Maglev);
        assert_eq!(!action.hash_policy.is_empty(), hashes, "{spec}");
        assert!(action.hash_policy.iter().all(|it| it.terminal));
    }
}

#[test]
fn outliers_are_found_only_in_the_ways_that_were_asked_for() {
    let all = resources(&context(&for_web(
        "outlierDetection: {consecutiveGatewayErrors: 3, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 50, panicThresholdPercent: 0}",
    )));
    envoy_takes(&all);
    let found = cluster(&all, HTTP);
    assert_eq!(found.common_lb_config.unwrap().healthy_panic_threshold.unwrap().value, 0.0);
    let outliers = found.outlier_detection.unwrap();
    assert_eq!(outliers.consecutive_gateway_failure.unwrap().value, 3);
    assert_eq!(outliers.enforcing_consecutive_gateway_failure.unwrap().value, 100);
    assert_eq!(outliers.enforcing_consecutive_5xx.unwrap().value, 0);
    assert_eq!(outliers.enforcing_success_rate.unwrap().value, 0);
    for spec in [
        "consecutiveErrors: 5",
        "consecutiveLocalFailures: 2",
        "successRate: {minimumHosts: 3, stdevThousandths: 1500}",
        "failurePercentage: {threshold: 80}",
    ] {
        envoy_takes(&resources(&context(&for_web(&format!("outlierDetection: {{{spec}}}")))));
    }
}

#[test]
fn health_checks_are_made_as_the_port_speaks() {
    let all = resources(&context(&for_web(
        "healthCheck: {http: {path: /healthz, host: web, expectedStatuses: [{from: 200, to: 299}, {from: 404}]}, interval: 2s, unhealthyThreshold: 2}",
    )));
    envoy_takes(&all);
    let check = cluster(&all, HTTP).health_checks.remove(0);
    use outrider_proto::pb::envoy::config::core::v3::health_check::HealthChecker;
    assert_eq!((check.interval.unwrap().seconds, check.no_traffic_interval.unwrap().seconds), (2, 2));
    let Some(HealthChecker::HttpHealthCheck(http)) = check.health_checker else { panic!("not by HTTP") };
    let ranges: Vec<_> = http.expected_statuses.iter().map(|it| (it.start, it.end)).collect();
    assert_eq!(ranges, [(200, 300), (404, 405)], "Envoy's ranges end before their end");
    envoy_takes(&resources(&context(&for_web("healthCheck: {tcp: {send: PING, receive: PONG}}"))));
    // gRPC needs HTTP/2: where it is not spoken, nothing is checked, and the policy says so.
    let world = context(&for_web("healthCheck: {grpc: {service: shop.Web}}"));
    let all = resources(&world);
    envoy_takes(&all);
    assert_eq!(cluster(&all, GRPC).health_checks.len(), 1);
    assert_eq!(cluster(&all, HTTP).health_checks.len(), 0);
    let said = said(&world, Kind::TrafficPolicy, "web");
    assert!(
        said.iter().any(|it| it.starts_with("PartiallyInvalid=True") && it.contains("healthCheck.grpc")),
        "{said:?}"
    );
}

#[test]
fn rates_are_limited_by_a_filter_that_only_those_get_who_need_it() {
    let yaml = for_web(
        "rateLimit: {requests: 100, per: 1s, burst: 200, rules: [{headers: [{name: X-User}], requests: 5, per: 1s}, {headers: [{name: x-user, value: root}], requests: 50, per: 2s}]}",
    );
    let world = context(&yaml);
    let all = resources(&world);
    envoy_takes(&all);
    let (found, _) = route(&all, "80");
    assert!(found.typed_per_filter_config.contains_key("envoy.filters.http.local_ratelimit"));
    for name in ["0.0.0.0_80", "http_proxy"] {
        let listener = all.of(Type::Listener).get(name).unwrap();
        assert!(
            String::from_utf8_lossy(&listener.body).contains("local_ratelimit"),
            "{name} would ignore it"
        );
    }
    // Whoever reads the status learns what the number is of.
    let said = said(&world, Kind::TrafficPolicy, "web").join("\n");
    assert!(said.contains("each match of each route that leads here has a bucket of its own"), "{said}");
    // A service that this proxy does not see changes nothing for it.
    let hidden = yaml.replace(
        "{name: web, namespace: shop}\nspec:\n  cluster",
        "{name: web, namespace: shop, annotations: {outrider.dev/export-to: other}}\nspec:\n  cluster",
    );
    let all = resources(&context(&hidden));
    let listener = all.of(Type::Listener).get("http_proxy").unwrap();
    assert!(!String::from_utf8_lossy(&listener.body).contains("local_ratelimit"));
}

#[test]
fn connections_are_kept_as_asked() {
    let all = resources(&context(&for_web(
        "connectionPool: {tcpKeepalive: {time: 60s, interval: 5s, probes: 3}, idleTimeout: 5m, maxConnectionDuration: 1h, maxRequestsPerConnection: 7, http2: {maxConcurrentStreams: 50, initialStreamWindowSize: 65536, initialConnectionWindowSize: 131072, keepaliveInterval: 10s}}",
    )));
    envoy_takes(&all);
    let found = cluster(&all, GRPC);
    assert_eq!(
        found.upstream_connection_options.unwrap().tcp_keepalive.unwrap().keepalive_time.unwrap().value,
        60
    );
    let packed = found.typed_extension_protocol_options.values().next().unwrap();
    let options = HttpProtocolOptions::decode(packed.value.as_slice()).unwrap();
    assert_eq!(options.common_http_protocol_options.unwrap().max_requests_per_connection.unwrap().value, 7);
    let text = format!("{:?}", options.upstream_protocol_options);
    assert!(text.contains("connection_keepalive: Some") && text.contains("value: 65536"), "{text}");
}

#[test]
fn a_policy_for_one_port_replaces_the_one_for_all_there() {
    let yaml = format!(
        "{}{}",
        for_web("timeouts: {request: 5s, connect: 5s}"),
        policy(
            "grpc",
            "{targetRefs: [{kind: Service, name: web, sectionName: grpc}], timeouts: {connect: 1s}}"
        )
    );
    let all = resources(&context(&yaml));
    assert_eq!(cluster(&all, HTTP).connect_timeout.unwrap().seconds, 5);
    assert_eq!(cluster(&all, GRPC).connect_timeout.unwrap().seconds, 1);
    assert_eq!(route(&all, "9000").1.timeout.unwrap().seconds, 0);
}

#[test]
fn the_oldest_policy_is_in_force_and_the_others_are_told() {
    let at = |name: &str, time: &str, timeout: u32| {
        policy(
            name,
            &format!("{{targetRefs: [{{kind: Service, name: web}}], timeouts: {{request: {timeout}s}}}}"),
        )
        .replace("namespace: shop}", &format!("namespace: shop, creationTimestamp: '{time}'}}"))
    };
    let yaml = format!("{WEB}{}{}", at("a", "2026-01-02T00:00:00Z", 2), at("b", "2026-01-01T00:00:00Z", 1));
    let world = context(&yaml);
    assert_eq!(route(&resources(&world), "80").1.timeout.unwrap().seconds, 1);
    assert_eq!(said(&world, Kind::TrafficPolicy, "b"), ["Accepted=True Accepted: in force"]);
    assert_eq!(
        said(&world, Kind::TrafficPolicy, "a"),
        ["Accepted=False Conflicted: TrafficPolicy shop/b is for the same target and goes first"]
    );
    // Equally old: by name.
    let yaml = yaml.replace("2026-01-02", "2026-01-01");
    assert_eq!(route(&resources(&context(&yaml)), "80").1.timeout.unwrap().seconds, 2);
}

#[test]
fn a_policy_without_its_target_is_told_and_changes_nothing() {
    let yaml = format!(
        "{WEB}{}{}",
        policy("a", "{targetRefs: [{kind: Service, name: nobody}], timeouts: {request: 1s}}"),
        policy("b", "{targetRefs: [{kind: Service, name: web, sectionName: nope}], timeouts: {request: 1s}}"),
    );
    let world = context(&yaml);
    for (name, part) in [("a", "there is no Service shop/nobody"), ("b", "no port named \"nope\"")] {
        let said = said(&world, Kind::TrafficPolicy, name);
        assert!(said[0].starts_with("Accepted=False TargetNotFound") && said[0].contains(part), "{said:?}");
    }
    assert!(resources(&world) == resources(&context(WEB)));
}

#[test]
fn a_condition_keeps_its_time_while_it_is_the_same() {
    let world = context(&for_web("timeouts: {request: 1s}"));
    let first = super::Policies::after(&world.world, 1_000, None);
    let same = super::Policies::after(&world.world, 2_000, Some(&first));
    assert_eq!(first.statuses, same.statuses);
    assert!(format!("{:?}", first.statuses).contains("1970-01-01T00:16:40Z"));
    let fresh = context(WEB);
    assert!(super::Policies::after(&fresh.world, 3_000, Some(&same)).statuses.is_empty());
}

#[test]
fn clients_that_are_grpc_libraries_get_nothing_that_they_refuse() {
    let world = context(&for_web("loadBalancing: {policy: Random}, rateLimit: {requests: 1, per: 1s}"));
    let all = translate(&world, &crate::world::Proxy { grpc: true, ..sidecar() });
    assert_eq!(cluster(&all, GRPC).lb_policy(), LbPolicy::RoundRobin);
    let table: Table = message(&all, Type::Route, "web.shop.svc.cluster.local:9000");
    assert!(table.virtual_hosts[0].routes[0].typed_per_filter_config.is_empty());
}
