//! Single resources from their bytes, as a control plane sends them.

use std::sync::Arc;

use outrider_proto::load::{self, ParseOptions};
use outrider_proto::prost::Message as _;
use outrider_proto::prost::encoding;
use outrider_proto::{Descriptors, any};

use super::super::{
    KnownClusters, Ledger, Options, Resource, ResourceKind, ResourceReader, UnknownFields, from_any,
};
use crate::model::{Cluster, Discovery, EndpointHealth, Endpoints, MetadataValue, NetworkFilter, Routes};

fn bytes(kind: ResourceKind, yaml: &str) -> Vec<u8> {
    let descs = Descriptors::load();
    let name = any::type_name(kind.type_url());
    let loaded = load::parse(&descs, yaml, "test.yaml", name, ParseOptions::default());
    loaded.unwrap_or_else(|problems| panic!("{problems}")).message.encode_to_vec()
}

fn ads() -> Options {
    Options { ads: true, ..Options::default() }
}

fn good(kind: ResourceKind, yaml: &str) -> (Resource, Ledger) {
    let (result, ledger) = from_any(kind, &bytes(kind, yaml), &ads());
    (result.unwrap_or_else(|problems| panic!("{problems:#?}")), ledger)
}

fn bad(kind: ResourceKind, yaml: &str, options: &Options) -> Vec<String> {
    let problems = from_any(kind, &bytes(kind, yaml), options).0.expect_err("something is wrong");
    problems.iter().map(ToString::to_string).collect()
}

fn cluster(yaml: &str) -> Arc<Cluster> {
    match good(ResourceKind::Cluster, yaml).0 {
        Resource::Cluster(cluster) => cluster,
        other => panic!("{other:?}"),
    }
}

fn endpoints(yaml: &str) -> (Arc<str>, Arc<Endpoints>, Ledger) {
    match good(ResourceKind::Endpoints, yaml) {
        (Resource::Endpoints { cluster_name, endpoints }, ledger) => (cluster_name, endpoints, ledger),
        other => panic!("{other:?}"),
    }
}

#[test]
fn kinds_and_type_urls() {
    for kind in ResourceKind::ALL {
        assert_eq!(ResourceKind::of_type_url(kind.type_url()), Some(kind));
        assert!(Descriptors::load().knows(any::type_name(kind.type_url())), "{kind:?}");
    }
    assert_eq!(ResourceKind::of_type_url("type.googleapis.com/envoy.api.v2.Cluster"), None);
}

const MUTUAL: &str = r#"
name: outbound|80||a.b.svc.cluster.local
type: EDS
eds_cluster_config: {eds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}, service_name: outbound|80||a.b.svc.cluster.local}
connect_timeout: 10s
lb_policy: LEAST_REQUEST
circuit_breakers: {thresholds: [{max_connections: 4294967295, max_pending_requests: 4294967295, max_requests: 4294967295, max_retries: 4294967295, track_remaining: true}]}
metadata: {filter_metadata: {istio: {services: [{host: a, name: a, namespace: b}]}}}
alt_stat_name: "outbound|80||a.b.svc.cluster.local;"
transport_socket_matches:
- name: tlsMode-istio
  match: {tlsMode: istio}
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: outbound_.80_._.a.b.svc.cluster.local
      common_tls_context:
        alpn_protocols: [istio-peer-exchange, istio]
        tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}
        tls_certificate_sds_secret_configs: [{name: default, sds_config: {ads: {}}}]
        combined_validation_context:
          default_validation_context: {match_subject_alt_names: [{exact: "spiffe://cluster.local/ns/b/sa/a"}]}
          validation_context_sds_secret_config: {name: ROOTCA, sds_config: {ads: {}}}
- name: tlsMode-disabled
  match: {}
  transport_socket: {name: envoy.transport_sockets.raw_buffer, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}
"#;

#[test]
fn a_cluster_of_a_mesh() {
    let cluster = cluster(MUTUAL);
    assert!(
        matches!(&cluster.discovery, Discovery::Eds { service_name, .. } if *service_name == cluster.name)
    );
    assert!(cluster.breaker_default.track_remaining);
    let [istio, plain] = &cluster.tls_matches[..] else { panic!("{:?}", cluster.tls_matches) };
    assert_eq!(istio.criteria["tlsMode"], MetadataValue::Text("istio".into()));
    let tls = istio.tls.as_ref().expect("TLS");
    assert_eq!(tls.sni, "outbound_.80_._.a.b.svc.cluster.local");
    assert_eq!(tls.dynamic_secrets().len(), 2);
    assert!(plain.criteria.is_empty() && plain.tls.is_none());
    let none = MUTUAL
        .split("  transport_socket: {name: envoy.transport_sockets.raw_buffer")
        .next()
        .expect("the start");
    assert_eq!(
        bad(ResourceKind::Cluster, none, &ads()),
        ["transport_socket_matches[1].transport_socket: a transport socket is needed: TLS or raw_buffer"]
    );
}

#[test]
fn endpoints_of_a_mesh() {
    let (name, endpoints, ledger) = endpoints(
        r#"
cluster_name: outbound|80||a
policy: {overprovisioning_factor: 200}
endpoints:
- locality: {region: r, zone: z}
  load_balancing_weight: 3
  priority: 1
  lb_endpoints:
  - endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 8080}}}
    load_balancing_weight: 2
    metadata: {filter_metadata: {envoy.transport_socket_match: {tlsMode: istio}, istio: {workload: "a;b;a;latest;c"}}}
  - endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 8080}}}
    health_status: DRAINING
    metadata: {filter_metadata: {istio: {workload: "a;b;a;latest;c"}}}
"#,
    );
    assert_eq!(&*name, "outbound|80||a");
    assert_eq!(endpoints.policy.overprovisioning_factor, 200);
    let locality = &endpoints.localities[0];
    assert_eq!((locality.priority, locality.weight, locality.zone.as_str()), (1, Some(3), "z"));
    let [first, second] = &locality.endpoints[..] else { panic!() };
    assert_eq!((first.address.to_string().as_str(), first.weight), ("10.0.0.1:8080", 2));
    assert_eq!(second.health, EndpointHealth::Draining);
    let criteria = cluster(MUTUAL).tls_matches[0].criteria.clone();
    let matches = |endpoint: &crate::model::Endpoint| {
        let metadata = endpoint.metadata.as_ref().expect("metadata");
        metadata.has(crate::model::TRANSPORT_SOCKET_MATCH, &criteria)
    };
    assert!(matches(first) && !matches(second));
    let workload =
        second.metadata.as_ref().and_then(|metadata| metadata.get("istio", &["workload"]).cloned());
    assert_eq!(workload, Some(MetadataValue::Text("a;b;a;latest;c".into())));
    assert_eq!(ledger, Ledger::default());
}

#[test]
fn endpoints_that_cannot_be_are_refused_by_their_path() {
    let endpoint = |more: &str| {
        format!(
            "cluster_name: a\nendpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 10.0.0.1, port_value: 1}}}}, {more}}}}}]}}]"
        )
    };
    let refused = |yaml: &str| bad(ResourceKind::Endpoints, yaml, &ads())[0].clone();
    let at = "endpoints[0].lb_endpoints[0].endpoint";
    for (yaml, wanted) in [
        (
            endpoint("additional_addresses: [{address: {socket_address: {address: '::1', port_value: 1}}}]"),
            format!("{at}.additional_addresses: a second address"),
        ),
        (endpoint("").replace("10.0.0.1", "a.example"), format!("{at}.address.socket_address.address: \"a.example\" is not an IP address")),
        (
            "cluster_name: a\npolicy: {drop_overloads: [{category: one}, {category: two}]}".to_owned(),
            "policy.drop_overloads: one category".to_owned(),
        ),
        (
            "cluster_name: a\npolicy: {drop_overloads: [{category: x, drop_percentage: {numerator: 101}}]}".to_owned(),
            "policy.drop_overloads[0].drop_percentage: it must not be more".to_owned(),
        ),
        (
            "cluster_name: a\nendpoints: [{leds_cluster_locality_config: {leds_collection_name: x, leds_config: {ads: {}}}}]".to_owned(),
            "endpoints[0].leds_cluster_locality_config: endpoints one by one".to_owned(),
        ),
        // A rule of the API itself.
        ("cluster_name: ''".to_owned(), "cluster_name: value length must be at least 1".to_owned()),
        ("cluster_name: a\nendpoints: [{priority: 200}]".to_owned(), "endpoints[0].priority: value must be less than".to_owned()),
    ] {
        let problem = refused(&yaml);
        assert!(problem.starts_with(&wanted), "{yaml}: {problem}");
    }
}

#[test]
fn one_rule_is_broken_one_problem_is_named() {
    let problems = bad(ResourceKind::Cluster, "{name: '', connect_timeout: 0s}", &ads());
    assert_eq!(
        problems,
        [
            "connect_timeout: value must be greater than 0s",
            "name: value length must be at least 1 characters"
        ]
    );
    let (result, _) = from_any(ResourceKind::Cluster, b"\xff\xff", &ads());
    let problems = result.expect_err("it is no cluster");
    assert!(problems[0].message.starts_with("malformed envoy.config.cluster.v3.Cluster: "), "{problems:?}");
}

#[test]
fn unknown_fields_are_told_refused_or_passed_over() {
    let mut bytes = bytes(ResourceKind::Cluster, "{name: a, load_assignment: {cluster_name: a}}");
    encoding::string::encode(9999, &"x".to_owned(), &mut bytes);
    let read = |unknown_fields| from_any(ResourceKind::Cluster, &bytes, &Options { unknown_fields, ..ads() });
    let (result, ledger) = read(UnknownFields::Warn);
    assert!(result.is_ok());
    assert_eq!(ledger.unknown, ["#9999"]);
    let (result, ledger) = read(UnknownFields::Ignore);
    assert!(result.is_ok() && ledger.unknown.is_empty());
    let problems = read(UnknownFields::Reject).0.expect_err("the field is not known");
    assert!(problems[0].to_string().starts_with("#9999: Envoy's API has no such field"), "{problems:?}");
}

#[test]
fn routes_may_name_clusters_that_come_later_unless_they_say_otherwise() {
    let table = |more: &str| {
        format!(
            "{{name: '80', {more} virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: later}}}}]}}]}}"
        )
    };
    let options = Options { clusters: Some(KnownClusters::new(|name| name == "there")), ..ads() };
    let read = |yaml: &str| {
        from_any(ResourceKind::RouteConfiguration, &bytes(ResourceKind::RouteConfiguration, yaml), &options).0
    };
    let routes = read(&table("")).expect("clusters are not checked by default");
    assert_eq!(&**routes.name(), "80");
    let problems = read(&table("validate_clusters: true,")).expect_err("the check was asked for");
    assert_eq!(
        problems[0].to_string(),
        "virtual_hosts[0].routes[0].route.cluster: there is no cluster named \"later\""
    );
}

#[test]
fn a_listener_with_an_extension_written_as_a_structure() {
    let descs = Descriptors::load();
    let name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let yaml = format!(
        r#"
name: 0.0.0.0_80
address: {{socket_address: {{address: 0.0.0.0, port_value: 80}}}}
bind_to_port: false
traffic_direction: OUTBOUND
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/{name}
      stat_prefix: outbound
      rds: {{route_config_name: "80", config_source: {{ads: {{}}, initial_fetch_timeout: 0s, resource_api_version: V3}}}}
      http_filters: [{{name: r, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
"#
    );
    let kind = ResourceKind::Listener;
    let mut listener =
        outrider_proto::pb::envoy::config::listener::v3::Listener::decode(&*bytes(kind, &yaml))
            .expect("a listener");
    let plain = from_any(kind, &listener.encode_to_vec(), &ads()).0.expect("it is right");
    // The router as a control plane without its type would send it.
    let router = r#"{"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"suppress_envoy_headers": true}}"#;
    let router = load::parse(&descs, router, "t.json", "google.protobuf.Any", ParseOptions::default())
        .expect("a structure");
    let router: outrider_proto::pb::google::protobuf::Any = router.typed().expect("an Any");
    let mut typed = Vec::new();
    encoding::string::encode(
        1,
        &"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router".to_owned(),
        &mut typed,
    );
    encoding::bytes::encode(2, &router.value, &mut typed);
    set_router(&mut listener, typed);
    let (result, ledger) = from_any(kind, &listener.encode_to_vec(), &ads());
    let structured = result.unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(ledger.unknown.is_empty(), "{ledger:?}");
    for (resource, suppressed) in [(plain, false), (structured, true)] {
        let Resource::Listener(listener) = resource else { panic!("{resource:?}") };
        let NetworkFilter::Http(manager) = &listener.filter_chains[0].filter else { panic!() };
        assert!(matches!(&manager.routes, Routes::Rds { name, .. } if &**name == "80"));
        assert_eq!(manager.router.suppress_envoy_headers, suppressed);
    }
}

/// Puts a `TypedStruct` with these bytes in the place of the router.
fn set_router(listener: &mut outrider_proto::pb::envoy::config::listener::v3::Listener, typed: Vec<u8>) {
    use outrider_proto::pb::envoy::config::listener::v3::filter::ConfigType;
    use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
    let Some(ConfigType::TypedConfig(any)) = &mut listener.filter_chains[0].filters[0].config_type else {
        panic!()
    };
    let mut manager = hcm::HttpConnectionManager::decode(&*any.value).expect("a connection manager");
    let Some(hcm::http_filter::ConfigType::TypedConfig(router)) = &mut manager.http_filters[0].config_type
    else {
        panic!()
    };
    router.type_url = "type.googleapis.com/xds.type.v3.TypedStruct".to_owned();
    router.value = typed;
    any.value = manager.encode_to_vec();
}

#[test]
fn a_secret_and_its_files() {
    let yaml = "{name: s, tls_certificate: {certificate_chain: {filename: /t/c.pem}, private_key: {filename: /t/k.pem}}}";
    let (Resource::Secret(secret), ledger) = good(ResourceKind::Secret, yaml) else { panic!() };
    assert_eq!(secret.files().iter().map(|name| &***name).collect::<Vec<_>>(), ["/t/c.pem", "/t/k.pem"]);
    assert_eq!(ledger, Ledger::default());
    let watched = yaml.replace("}}}", "}, watched_directory: {path: /t}}}");
    assert_eq!(secret.watched_directories(), [std::path::Path::new("/t")], "that of both files, once");
    let (Resource::Secret(secret), _) = good(ResourceKind::Secret, &watched) else { panic!() };
    assert_eq!(secret.watched.as_deref(), Some("/t"));
    let problems = bad(ResourceKind::Secret, &watched.replace("path: /t}}}", "path: ''}}}"), &ads());
    assert!(problems[0].starts_with("tls_certificate.watched_directory.path"), "{problems:?}");
}

#[test]
fn a_reader_reads_one_after_the_other() {
    let mut reader = ResourceReader::default();
    let good = bytes(ResourceKind::Cluster, MUTUAL);
    let wrong = bytes(ResourceKind::Cluster, "{name: x, lb_policy: CLUSTER_PROVIDED}");
    for _ in 0..2 {
        assert!(reader.read(ResourceKind::Cluster, "", &good, &ads()).0.is_ok());
        let problems = reader.read(ResourceKind::Cluster, "", &wrong, &ads()).0.expect_err("not supported");
        assert!(problems[0].path.starts_with("lb_policy"), "{problems:?}");
        reader.release();
    }
}
