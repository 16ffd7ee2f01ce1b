use super::*;
use crate::{Descriptors, load};

fn problems(text: &str) -> Vec<String> {
    let descs = Descriptors::load();
    let name = "envoy.config.bootstrap.v3.Bootstrap";
    let loaded = load::parse(&descs, text, "t.yaml", name, load::ParseOptions::default())
        .unwrap_or_else(|problems| panic!("{problems}"));
    check(&loaded.message, &loaded.lines).iter().map(Problem::to_string).collect()
}

/// Problems of a cluster, without the common start of their paths.
fn cluster(fields: &str) -> Vec<String> {
    let found = problems(&format!("static_resources: {{clusters: [{{name: a, {fields}}}]}}"));
    found.iter().map(|it| it.replace("t.yaml:1: static_resources.clusters[0].", "")).collect()
}

#[test]
fn a_good_bootstrap_passes() {
    let text =
        "static_resources: {clusters: [{name: a, connect_timeout: 1s, load_assignment: {cluster_name: a}}]}";
    assert_eq!(problems(text), Vec::<String>::new());
    assert_eq!(problems("{}"), Vec::<String>::new());
}

#[test]
fn every_broken_rule_is_named_with_its_place() {
    let text = "
static_resources:
  clusters:
  - connect_timeout: 0s
    dns_refresh_rate: 0.0001s
    lb_policy: 99
  listeners:
  - name: l
    address: {socket_address: {address: '', port_value: 70000}}
";
    assert_eq!(
        problems(text),
        [
            "t.yaml:4: static_resources.clusters[0].connect_timeout: value must be greater than 0s",
            "t.yaml:4: static_resources.clusters[0].name: value length must be at least 1 characters",
            "t.yaml:5: static_resources.clusters[0].dns_refresh_rate: value must be greater than 0.001s",
            "t.yaml:6: static_resources.clusters[0].lb_policy: value must be one of the defined enum values (ROUND_ROBIN, \
         LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG), got 99",
            "t.yaml:9: static_resources.listeners[0].address.socket_address.port_value: \
         value must be less than or equal to 65535",
            "t.yaml:9: static_resources.listeners[0].address.socket_address.address: \
         value length must be at least 1 characters",
        ]
    );
}

#[test]
fn rules_by_kind() {
    for (fields, wanted) in [
        ("load_assignment: {}", "load_assignment.cluster_name: value length must be at least 1 characters"),
        (
            "transport_socket: {typed_config: {}}",
            "transport_socket.name: value length must be at least 1 characters",
        ),
        (
            "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1}]",
            "health_checks[0]: one of http_health_check, tcp_health_check, grpc_health_check, custom_health_check is required",
        ),
        (
            "eds_cluster_config: {}, health_checks: [{tcp_health_check: {}}]",
            "health_checks[0].timeout: value is required",
        ),
        (
            "load_assignment: {cluster_name: a, policy: {overprovisioning_factor: 0}}",
            "load_assignment.policy.overprovisioning_factor: value must be greater than 0",
        ),
        (
            "upstream_bind_config: {extra_source_addresses: [{}]}",
            "upstream_bind_config.extra_source_addresses[0].address: value is required",
        ),
        (
            "common_lb_config: {locality_weighted_lb_config: {}, healthy_panic_threshold: {value: 101}}",
            "common_lb_config.healthy_panic_threshold.value: value must be inside range [0, 100]",
        ),
    ] {
        let found = cluster(fields);
        assert!(found.iter().any(|it| it == wanted), "{fields}: {found:?}");
    }
}

#[test]
fn rules_reach_into_an_any() {
    let text = r#"
static_resources:
  listeners:
  - address: {pipe: {path: /x}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: a
          route_config:
            virtual_hosts:
            - name: v
              routes:
              - match: {prefix: /}
"#;
    let hcm = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0]";
    assert_eq!(
        problems(text),
        [
            format!("t.yaml:13: {hcm}.domains: value must contain at least 1 item(s)"),
            format!(
                "t.yaml:15: {hcm}.routes[0]: one of route, redirect, direct_response, filter_action, non_forwarding_action is required"
            ),
        ]
    );
}

#[test]
fn every_pattern_of_the_api_compiles() {
    let descs = Descriptors::load();
    let names: Vec<&str> = descs.names().collect();
    let pool = descs.pool_with(names.iter().copied());
    let (mut patterns, mut rules) = (0, 0);
    for desc in pool.all_messages() {
        for rule in Plan::new(&desc).rules.values() {
            rules += 1;
            let pattern = match &rule.pgv.r#type {
                Some(field_rules::Type::String(it)) => it.pattern.as_ref(),
                Some(field_rules::Type::Bytes(it)) => it.pattern.as_ref(),
                _ => None,
            };
            if let Some(pattern) = pattern {
                patterns += 1;
                assert!(rule.pattern.is_some(), "{}: {pattern}", desc.full_name());
            }
        }
    }
    assert!(patterns > 5 && rules > 1000, "{patterns} patterns, {rules} rules");
}
