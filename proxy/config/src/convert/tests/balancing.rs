//! Policies that hash, outlier detection, health checks.

use std::time::Duration;

use super::{bad, good, route};
use crate::model::{Cluster, HashSource, LbPolicy, Probe, RingHashFunction, RouteAction};

const CLUSTER: &str = "static_resources.clusters[0]";

fn bootstrap(fields: &str) -> String {
    format!("static_resources: {{clusters: [{{name: c, {fields}}}]}}")
}

fn one(fields: &str) -> Cluster {
    good(&bootstrap(fields)).0.clusters[0].as_ref().clone()
}

/// Problems with the paths below the cluster's.
fn problems(fields: &str) -> Vec<String> {
    let below = |problem: String| problem.strip_prefix(CLUSTER).unwrap_or(&problem).to_owned();
    bad(&bootstrap(fields)).into_iter().map(below).collect()
}

fn typed(kind: &str, name: &str, config: &str) -> String {
    format!(
        "load_balancing_policy: {{policies: [{{typed_extension_config: {{name: p, typed_config: {{'@type': type.googleapis.com/envoy.extensions.load_balancing_policies.{kind}.v3.{name}, {config}}}}}}}]}}"
    )
}

#[test]
fn rings_and_tables_old_and_new() {
    let ring = |function, min_size, max_size, by_hostname| LbPolicy::RingHash {
        function,
        min_size,
        max_size,
        by_hostname,
    };
    let most = 8_388_608;
    assert_eq!(one("lb_policy: RING_HASH").lb, ring(RingHashFunction::XxHash, 1024, most, false));
    let fields = "lb_policy: RING_HASH, ring_hash_lb_config: {hash_function: MURMUR_HASH_2, minimum_ring_size: 5, maximum_ring_size: 9}, common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}";
    assert_eq!(one(fields).lb, ring(RingHashFunction::Murmur2, 5, 9, true));
    assert_eq!(one("lb_policy: MAGLEV").lb, LbPolicy::Maglev { table_size: 65_537, by_hostname: false });
    let own = typed(
        "maglev",
        "Maglev",
        "table_size: 11, consistent_hashing_lb_config: {hash_policy: [{connection_properties: {source_ip: true}}]}",
    );
    let cluster = one(&own);
    assert_eq!(cluster.lb, LbPolicy::Maglev { table_size: 11, by_hostname: false });
    assert!(matches!(cluster.hash_policy[0].source, HashSource::SourceIp));
}

#[test]
fn sizes_that_cannot_be() {
    assert_eq!(
        problems("lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 5, maximum_ring_size: 4}"),
        [".ring_hash_lb_config.minimum_ring_size: it must not be more than maximum_ring_size, which is 4"]
    );
    assert_eq!(
        problems("lb_policy: MAGLEV, maglev_lb_config: {table_size: 65536}"),
        [".maglev_lb_config.table_size: 65536 is not a prime number"]
    );
    assert_eq!(
        problems(
            "lb_policy: MAGLEV, common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 150}}"
        ),
        [
            ".common_lb_config.consistent_hashing_lb_config.hash_balance_factor: the load of one host is not bounded; remove it"
        ]
    );
}

#[test]
fn what_a_cookie_says_besides_its_value() {
    let yaml = "match: {prefix: /}\nroute: {cluster: c, hash_policy: [{cookie: {name: s, ttl: 90s, path: /p, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}}, {cookie: {name: t, ttl: 0s}, terminal: true}, {cookie: {name: u}}]}";
    let RouteAction::Forward(forward) = route(yaml).action else { panic!("not forwarded") };
    let attributes = |index: usize| match &forward.hash_policy[index].source {
        HashSource::Cookie { attributes, .. } => attributes.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(attributes(0).as_deref(), Some("; Max-Age=90; Path=/p; SameSite=Lax; Secure; HttpOnly"));
    assert_eq!(attributes(1).as_deref(), Some("; HttpOnly"));
    assert_eq!(attributes(2), None);
    assert_eq!([0, 1].map(|index: usize| forward.hash_policy[index].terminal), [false, true]);
}

#[test]
fn outliers_have_envoys_defaults_and_times_that_fit() {
    let outlier = one("outlier_detection: {base_ejection_time: 400s}").outlier.expect("outlier detection");
    assert_eq!((outlier.interval_ms.get(), outlier.max_ejection_percent.get()), (10_000, 10));
    assert_eq!((outlier.base_ejection_time_ms.get(), outlier.max_ejection_time_ms.get()), (400_000, 400_000));
    assert_eq!(
        (outlier.consecutive_5xx.limit.get(), outlier.consecutive_gateway_failure.enforcing.get()),
        (5, 0)
    );
    assert_eq!(
        problems("outlier_detection: {base_ejection_time: 2s, max_ejection_time: 1s}"),
        [".outlier_detection.max_ejection_time: it must not be shorter than base_ejection_time"]
    );
}

const TIMES: &str = "timeout: 1s, interval: 2s, unhealthy_threshold: 3, healthy_threshold: 4";

#[test]
fn health_checks_fill_in_their_intervals() {
    let check = one(&format!(
        "health_checks: [{{{TIMES}, unhealthy_interval: 5s, tcp_health_check: {{send: {{text: 00fF}}, receive: [{{binary: AQI=}}]}}}}]"
    ));
    let check = check.checks.expect("a check");
    let (intervals, seconds) = (&check.intervals, Duration::from_secs);
    assert_eq!([intervals.healthy, intervals.healthy_edge, intervals.unhealthy], [2, 2, 5].map(seconds));
    assert_eq!(
        [intervals.unhealthy_edge, intervals.no_traffic, intervals.no_traffic_healthy],
        [5, 60, 60].map(seconds)
    );
    let Probe::Tcp(tcp) = &check.probe else { panic!("not by TCP") };
    assert_eq!((&tcp.send[..], &tcp.receive[0][..]), (&[0, 255][..], &[1, 2][..]));
}

#[test]
fn health_checks_that_cannot_be() {
    let http =
        |fields: &str| problems(&format!("health_checks: [{{{TIMES}, http_health_check: {{{fields}}}}}]"));
    let at = ".health_checks[0].http_health_check";
    assert_eq!(
        http("path: /, expected_statuses: [{start: 200, end: 200}]"),
        [format!(
            "{at}.expected_statuses[0]: 200 to 200 is no range of statuses: start is below end, within 100 and 600"
        )]
    );
    assert_eq!(
        http("path: /, send: {text: ab}"),
        [format!("{at}.send: a GET request has no body; use POST, PUT, PATCH or OPTIONS")]
    );
    assert_eq!(
        http("path: x"),
        [format!("{at}.path: \"x\" is not a path; it begins with / and holds no spaces")]
    );
    assert_eq!(
        problems(&format!("health_checks: [{{{TIMES}, tcp_health_check: {{send: {{text: abc}}}}}}]")),
        [
            ".health_checks[0].tcp_health_check.send.text: \"abc\" is not hexadecimal: an even number of 0-9, a-f, without spaces"
        ]
    );
}
