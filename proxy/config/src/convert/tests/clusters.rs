use std::time::Duration;

use super::{bad, good, indent};
use crate::model::{
    CircuitBreaker, Cluster, Discovery, DnsFamily, EndpointHealth, LbPolicy, SocketAddress, UpstreamProtocol,
};

/// A bootstrap with the cluster `c`, which has the fields `fields`.
fn bootstrap(fields: &str) -> String {
    format!("static_resources:\n  clusters:\n  - name: c:1\n{}", indent(fields, 4))
}

fn one(fields: &str) -> Cluster {
    good(&bootstrap(fields)).0.clusters[0].as_ref().clone()
}

fn hosts(address: &str) -> String {
    format!(
        "load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {address}}}}}]}}]}}\n"
    )
}

const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn http(options: &str) -> String {
    format!(
        "typed_extension_protocol_options:\n  {HTTP}:\n    \"@type\": type.googleapis.com/{HTTP}\n{}",
        indent(options, 4)
    )
}

#[test]
fn defaults_are_envoys() {
    let cluster = one("connect_timeout: 0.25s");
    assert_eq!((&*cluster.name, &*cluster.stat_name), ("c:1", "c_1"));
    assert_eq!(cluster.connect_timeout, Duration::from_millis(250));
    assert_eq!((cluster.lb.clone(), cluster.panic_threshold.get()), (LbPolicy::RoundRobin, 50));
    assert_eq!(cluster.http.protocol, UpstreamProtocol::Http1);
    assert_eq!(cluster.http.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(cluster.breaker_default, CircuitBreaker::default());
    assert!(matches!(cluster.discovery, Discovery::Static(hosts) if hosts.localities.is_empty()));
}

#[test]
fn endpoints_with_weights_and_health() {
    let cluster = one(r#"
load_assignment:
  cluster_name: c
  policy: {overprovisioning_factor: 100}
  endpoints:
  - locality: {zone: z}
    priority: 1
    lb_endpoints:
    - {load_balancing_weight: 3, health_status: DRAINING, endpoint: {hostname: h, address: {pipe: {path: /x}}}}
"#);
    let Discovery::Static(hosts) = cluster.discovery else { panic!() };
    assert_eq!(hosts.policy.overprovisioning_factor, 100);
    let locality = &hosts.localities[0];
    assert_eq!((locality.zone.as_str(), locality.priority), ("z", 1));
    let endpoint = &locality.endpoints[0];
    assert_eq!((&*endpoint.hostname, endpoint.weight, endpoint.health), ("h", 3, EndpointHealth::Draining));
}

#[test]
fn names_are_resolved_in_dns_clusters_alone() {
    let name = "{socket_address: {address: db.example, port_value: 5432}}";
    let cluster = one(&format!(
        "type: STRICT_DNS\ndns_lookup_family: V4_ONLY\ndns_refresh_rate: 9s\nrespect_dns_ttl: true\n{}{}",
        "typed_dns_resolver_config: {name: cares, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: [{socket_address: {address: 10.0.0.1, port_value: 53}}], dns_resolver_options: {use_tcp_for_dns_lookups: true}}}\n",
        hosts(name)
    ));
    let Discovery::StrictDns { endpoints, dns } = cluster.discovery else { panic!() };
    let address = &endpoints.localities[0].endpoints[0].address;
    assert_eq!(*address, SocketAddress::Name { host: "db.example".into(), port: 5432 });
    assert_eq!(
        (dns.family, dns.refresh_rate.as_secs(), dns.respect_ttl, dns.use_tcp),
        (DnsFamily::V4Only, 9, true, true)
    );
    assert_eq!(dns.resolvers[0].to_string(), "10.0.0.1:53");

    let problems = bad(&bootstrap(&hosts(name)));
    assert_eq!(
        problems,
        [
            "static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \"db.example\" is not an IP address; names are resolved in clusters of type STRICT_DNS and LOGICAL_DNS alone"
        ]
    );
    let newer = one(&format!(
        "cluster_type: {{name: envoy.cluster.dns, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, all_addresses_in_single_endpoint: true}}}}\n{}",
        hosts(name)
    ));
    assert!(matches!(newer.discovery, Discovery::LogicalDns { .. }));
}

#[test]
fn original_destination() {
    let cluster = one(
        "type: ORIGINAL_DST\nlb_policy: CLUSTER_PROVIDED\noriginal_dst_lb_config: {use_http_header: true, upstream_port_override: 15006}",
    );
    let Discovery::OriginalDst(dst) = cluster.discovery else { panic!() };
    assert_eq!(dst.http_header.expect("a header"), "x-envoy-original-dst-host");
    assert_eq!((dst.port_override, dst.cleanup_interval.as_secs()), (Some(15006), 5));
    assert_eq!(
        bad(&bootstrap("type: ORIGINAL_DST")),
        [
            "static_resources.clusters[0].lb_policy: a cluster of type ORIGINAL_DST chooses hosts by itself; use CLUSTER_PROVIDED"
        ]
    );
    assert_eq!(
        bad(&bootstrap("lb_policy: CLUSTER_PROVIDED")),
        [
            "static_resources.clusters[0].lb_policy: only clusters of type ORIGINAL_DST choose hosts by themselves; use another policy"
        ]
    );
}

#[test]
fn policies_in_both_spellings() {
    let old = one(
        "lb_policy: LEAST_REQUEST\nleast_request_lb_config: {choice_count: 4, active_request_bias: {default_value: 2, runtime_key: x}}",
    );
    let LbPolicy::LeastRequest { choices: 4, active_request_bias } = &old.lb else { panic!() };
    assert_eq!(active_request_bias.get(), 2.0);
    let new = one(
        "load_balancing_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random}}}]}",
    );
    assert_eq!(new.lb, LbPolicy::Random);
    let problems = bad(&bootstrap("lb_policy: CLUSTER_PROVIDED"));
    assert_eq!(
        problems,
        [
            "static_resources.clusters[0].lb_policy: only clusters of type ORIGINAL_DST choose hosts by themselves; use another policy"
        ]
    );
}

#[test]
fn http_options_in_both_spellings() {
    let new = one(&http(
        "common_http_protocol_options: {idle_timeout: 0s, max_requests_per_connection: 7}\nexplicit_http_config: {http2_protocol_options: {max_concurrent_streams: 5}}\nupstream_http_protocol_options: {auto_sni: true, auto_san_validation: true}",
    ));
    assert_eq!(new.http.protocol, UpstreamProtocol::Http2);
    assert_eq!((new.http.idle_timeout, new.http.max_requests_per_connection), (None, 7));
    assert_eq!(new.http.http2.max_concurrent_streams, Some(5));
    assert!(new.http.auto_sni && new.http.auto_san_validation);
    let old = one("http2_protocol_options: {}\nmax_requests_per_connection: 3");
    assert_eq!((old.http.protocol, old.http.max_requests_per_connection), (UpstreamProtocol::Http2, 3));
    let downstream = one(
        "protocol_selection: USE_DOWNSTREAM_PROTOCOL\nhttp_protocol_options: {}\nhttp2_protocol_options: {}",
    );
    assert_eq!(downstream.http.protocol, UpstreamProtocol::UseDownstream);
    let problems = bad(&bootstrap(&http("auto_config: {}")));
    assert_eq!(
        problems,
        [
            "static_resources.clusters[0].transport_socket: auto_config chooses the protocol by ALPN, which needs a TLS transport socket"
        ]
    );
}

#[test]
fn circuit_breakers_and_their_runtime() {
    let yaml = "circuit_breakers: {thresholds: [{max_requests: 5, track_remaining: true, retry_budget: {budget_percent: {value: 12.5}}}, {priority: HIGH, max_retries: 9}], per_host_thresholds: [{max_connections: 2}]}";
    let cluster = one(yaml);
    assert_eq!((cluster.breaker_default.max_requests, cluster.breaker_default.track_remaining), (5, true));
    let budget = cluster.breaker_default.retry_budget.expect("a budget");
    assert_eq!((budget.budget_centipercent, budget.min_concurrency), (1250, 3));
    assert_eq!((cluster.breaker_high.max_retries, cluster.breaker_high.max_requests), (9, 1024));
    assert_eq!(cluster.per_host_max_connections, Some(2));
    let runtime = "layered_runtime: {layers: [{name: s, static_layer: {\"circuit_breakers.c:1.default.max_requests\": 6}}]}\n";
    let (model, ledger) = good(&(bootstrap(yaml) + runtime));
    // Whoever keeps the limit asks the runtime; here it is only known to be read.
    assert_eq!(model.clusters[0].breaker_default.max_requests, 5);
    assert_eq!(
        model.runtime.get("circuit_breakers.c:1.default.max_requests"),
        Some(crate::model::RuntimeValue::Number(6.0))
    );
    assert_eq!(ledger.inert, []);
}

#[test]
fn what_changes_traffic_and_is_not_there_is_refused() {
    let problems = bad(&bootstrap(
        "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, custom_health_check: {name: x}}]\noutlier_detection: {detect_degraded_hosts: true}\nlb_subset_config: {}",
    ));
    let fields: Vec<&str> = problems.iter().map(|text| text.split(": ").next().unwrap_or_default()).collect();
    let cluster = "static_resources.clusters[0]";
    assert_eq!(
        fields,
        [
            format!("{cluster}.lb_subset_config"),
            format!("{cluster}.health_checks[0].custom_health_check"),
            format!("{cluster}.outlier_detection.detect_degraded_hosts")
        ]
    );
}

#[test]
fn grpc_checks_need_a_cluster_that_speaks_http2() {
    let check = "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {}}]\n";
    let refused = |more: &str| {
        let problems = bad(&bootstrap(&format!("{check}{more}")));
        let at = "static_resources.clusters[0].health_checks[0].grpc_health_check: ";
        assert!(problems.len() == 1 && problems[0].starts_with(at), "{problems:?}");
    };
    refused("");
    refused("protocol_selection: USE_DOWNSTREAM_PROTOCOL");
    refused(&http("use_downstream_protocol_config: {http_protocol_options: {}}"));
    for more in [
        "http2_protocol_options: {}",
        &http("explicit_http_config: {http2_protocol_options: {}}"),
        &http("use_downstream_protocol_config: {http2_protocol_options: {}}"),
    ] {
        assert!(one(&format!("{check}{more}")).checks.is_some());
    }
}

#[test]
fn two_clusters_of_one_name() {
    assert_eq!(
        bad("static_resources: {clusters: [{name: a}, {name: a}]}"),
        ["static_resources.clusters[1].name: there is a cluster named \"a\" already"]
    );
}

#[test]
fn a_source_address_for_each_ip_version() {
    let bind = |text: &str| {
        format!("static_resources: {{clusters: [{{name: c, upstream_bind_config: {{{text}}}}}]}}")
    };
    let v4 = "source_address: {address: 127.0.0.6, port_value: 0}";
    let extra = |address: &str| {
        format!("extra_source_addresses: [{{address: {{address: '{address}', port_value: 0}}}}]")
    };
    let (model, _) = good(&bind(&format!("{v4}, {}", extra("::6"))));
    let cluster = &model.clusters[0];
    let shown = [&cluster.bind, &cluster.bind_other].map(|one| one.as_ref().map(ToString::to_string));
    assert_eq!(shown, [Some("127.0.0.6:0".to_owned()), Some("[::6]:0".to_owned())]);
    let at = "static_resources.clusters[0].upstream_bind_config.extra_source_addresses[0].address";
    let problems = bad(&bind(&format!("{v4}, {}", extra("127.0.0.7"))));
    assert_eq!(problems, [format!("{at}: it has the IP version of source_address; it is for the other")]);
    let problems = bad(&bind(&extra("::6")));
    assert_eq!(problems, [format!("{at}: it needs source_address beside it")]);
}
