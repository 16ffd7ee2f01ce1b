//! Bootstraps that name a control plane.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3 as pb;
use outrider_proto::prost::Message as _;

use super::{bad, good, indent, manager, with_hcm};
use crate::model::{
    BackOff, Bootstrap, ChannelTarget, ConfigSource, ConfigSourceKind, Discovery, GrpcService, GrpcTarget,
    RateLimit, Routes, Secret, SecretError, SecretKind, SecretRef, ValidationRef,
};

/// What a sidecar of a mesh starts with, with `clusters` beside the control plane's.
fn sidecar(clusters: &str) -> String {
    format!(
        r#"
node: {{id: sidecar~10.0.0.1~a.b~b.svc, cluster: a.b, metadata: {{NAME: a, LABELS: {{app: a}}}}, locality: {{region: r, zone: z}}}}
dynamic_resources:
  lds_config: {{ads: {{}}, initial_fetch_timeout: 0s, resource_api_version: V3}}
  cds_config: {{ads: {{}}, initial_fetch_timeout: 0s, resource_api_version: V3}}
  ads_config:
    api_type: DELTA_GRPC
    set_node_on_first_message_only: true
    transport_api_version: V3
    rate_limit_settings: {{max_tokens: 5, fill_rate: 2}}
    grpc_services:
    - envoy_grpc: {{cluster_name: xds-grpc, retry_policy: {{retry_back_off: {{base_interval: 1s}}}}}}
      initial_metadata: [{{key: x-who, value: me}}]
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    load_assignment:
      cluster_name: xds-grpc
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: ./etc/istio/proxy/XDS}}}}}}}}]}}]
{}"#,
        indent(clusters, 2)
    )
}

fn single(services: &[GrpcService]) -> &GrpcService {
    let [service] = services else { panic!("not one service: {services:?}") };
    service
}

#[test]
fn a_sidecar_that_asks_a_control_plane() {
    let (model, _) = good(&sidecar(""));
    let dynamic = &model.dynamic;
    let forever = ConfigSource { kind: ConfigSourceKind::Ads, initial_fetch_timeout: Duration::ZERO };
    assert_eq!((dynamic.lds.as_ref(), dynamic.cds.as_ref()), (Some(&forever), Some(&forever)));
    let ads = dynamic.ads.as_ref().expect("an aggregated stream");
    assert!(ads.aggregated && ads.delta && ads.set_node_on_first_message_only);
    assert_eq!(ads.rate_limit, Some(RateLimit { max_tokens: 5, refill: Duration::from_millis(500) }));
    let service = single(&ads.services);
    let GrpcTarget::Cluster { cluster, authority: None, .. } = &service.target else { panic!("{service:?}") };
    assert_eq!(&**cluster, "xds-grpc");
    assert_eq!(service.back_off, BackOff { base: Duration::from_secs(1), max: Duration::from_secs(10) });
    let (name, value) = &service.initial_metadata[0];
    assert_eq!((name.as_str(), value.as_bytes(), value.is_sensitive()), ("x-who", &b"me"[..], true));
}

#[test]
fn the_control_plane_is_told_the_whole_node() {
    let yaml = sidecar("")
        .replace("node: {", "node: {client_features: [f], dynamic_parameters: {t: {params: {a: b}}}, ");
    let (model, ledger) = good(&yaml);
    let node = pb::Node::decode(&*model.node.wire).expect("a node");
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("sidecar~10.0.0.1~a.b~b.svc", "a.b"));
    assert_eq!(node.user_agent_name, "outrider");
    let Some(pb::node::UserAgentVersionType::UserAgentBuildVersion(build)) = node.user_agent_version_type
    else {
        panic!("no version")
    };
    let version = build.version.expect("numbers");
    let version = format!("{}.{}.{}", version.major_number, version.minor_number, version.patch);
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert_eq!(node.client_features, ["f"]);
    assert!(node.dynamic_parameters.contains_key("t"));
    assert!(node.metadata.expect("metadata").fields.contains_key("LABELS"));
    assert_eq!(node.locality.expect("a locality").zone, "z");
    assert!(ledger.inert.iter().all(|(path, _)| !path.starts_with("node")), "{ledger:?}");
}

#[test]
fn sources_that_cannot_be_are_refused_by_their_path() {
    let path = "static_resources.clusters[1].eds_cluster_config.eds_config";
    for (source, wanted) in [
        ("{self: {}}", ".self: not implemented"),
        ("{ads: {}, authorities: [{name: a}]}", ".authorities: xdstp://"),
        (
            "{api_config_source: {api_type: REST, cluster_names: [xds-grpc]}}",
            ".api_config_source.api_type: REST is not",
        ),
        ("{api_config_source: {api_type: GRPC}}", ".api_config_source.grpc_services: a service is needed"),
        (
            "{api_config_source: {api_type: AGGREGATED_GRPC}}",
            ".api_config_source.api_type: the aggregated stream is made",
        ),
        (
            "{api_config_source: {api_type: GRPC, transport_api_version: V2, grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]}}",
            ".api_config_source.transport_api_version: version 2 is gone",
        ),
        (
            "{api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: e}}]}}",
            ".api_config_source.grpc_services[0].envoy_grpc.cluster_name: \"e\" must be a cluster of static_resources",
        ),
        (
            "{api_config_source: {api_type: GRPC, grpc_services: [{google_grpc: {target_uri: 'xds:///a', stat_prefix: g}}]}}",
            ".api_config_source.grpc_services[0].google_grpc.target_uri: \"xds:///a\": this scheme",
        ),
        (
            "{api_config_source: {api_type: GRPC, grpc_services: [{google_grpc: {target_uri: 'a:1', stat_prefix: g, call_credentials: [{access_token: t}]}}]}}",
            ".api_config_source.grpc_services[0].google_grpc.call_credentials[0].access_token: a token is sent over TLS alone",
        ),
        ("{path_config_source: {path: ''}}", ".path_config_source.path: "),
        (
            "{path_config_source: {path: /x, poll_interval: 1s}}",
            ".path_config_source.poll_interval: files are watched",
        ),
    ] {
        let problems =
            bad(&sidecar(&format!("- {{name: e, type: EDS, eds_cluster_config: {{eds_config: {source}}}}}")));
        assert!(
            problems.iter().any(|it| it.starts_with(&format!("{path}{wanted}"))),
            "{source}: {problems:#?}"
        );
    }
    let problems = bad("node: {id: i, cluster: c}\ndynamic_resources: {cds_config: {ads: {}}}");
    assert_eq!(
        problems,
        ["dynamic_resources.cds_config.ads: it needs dynamic_resources.ads_config in the bootstrap"]
    );
    let problems = bad(&sidecar("").replace("node: {id", "node: {user_agent_name"));
    assert!(problems[0].starts_with("node: a control plane is told who asks"), "{problems:?}");
    let problems =
        bad(&sidecar("").replace("  lds_config:", "  lds_resources_locator: 'xdstp://a/b/c'\n  lds_config:"));
    assert!(problems[0].starts_with("dynamic_resources.lds_resources_locator: xdstp://"), "{problems:?}");
}

#[test]
fn endpoints_from_elsewhere() {
    let (model, _) = good(&sidecar(
        r#"
- {name: "outbound|80||a", type: EDS, eds_cluster_config: {eds_config: {ads: {}, initial_fetch_timeout: 0s}, service_name: s}}
- name: c
  type: EDS
  eds_cluster_config:
    eds_config:
      api_config_source:
        api_type: GRPC
        grpc_services:
        - google_grpc:
            target_uri: "dns:///cp.example:18000"
            stat_prefix: cp
            channel_credentials: {ssl_credentials: {root_certs: {filename: ca.pem}}}
            call_credentials: [{access_token: hush}]
            channel_args: {args: {grpc.keepalive_time_ms: {int_value: 30000}, grpc.default_authority: {string_value: cp}}}
"#,
    ));
    let discovery: Vec<_> = model.clusters[1..]
        .iter()
        .map(|cluster| match &cluster.discovery {
            Discovery::Eds { source, service_name } => (&source.kind, &**service_name),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(discovery[0], (&ConfigSourceKind::Ads, "s"));
    let ConfigSourceKind::Api(api) = discovery[1].0 else { panic!() };
    assert!(!api.delta && !api.aggregated);
    let GrpcTarget::Channel(channel) = &single(&api.services).target else { panic!() };
    assert_eq!(channel.target, ChannelTarget::Host { host: "cp.example".into(), port: 18000 });
    assert!(channel.tls.as_ref().is_some_and(|tls| tls.identity.is_none()));
    assert_eq!(channel.authorization.as_ref().map(|value| value.as_bytes()), Some(&b"Bearer hush"[..]));
    assert_eq!(channel.keepalive_time, Some(Duration::from_secs(30)));
    assert_eq!(channel.authority.as_ref().map(|authority| authority.as_str()), Some("cp"));
    assert!(!format!("{model:?}").contains("hush"), "tokens are not shown");
}

#[test]
fn endpoints_are_from_one_place() {
    let problems =
        bad(&sidecar("- {name: e, type: EDS}\n- {name: s, eds_cluster_config: {eds_config: {ads: {}}}}"));
    assert_eq!(
        problems,
        [
            "static_resources.clusters[1].eds_cluster_config: a cluster of type EDS needs it",
            "static_resources.clusters[2].eds_cluster_config: it is for clusters of type EDS alone; remove it",
        ]
    );
    let (_, ledger) = good(&sidecar(
        "- {name: e, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}, load_assignment: {cluster_name: e}}",
    ));
    assert_eq!(ledger.inert[0].0, "static_resources.clusters[1].load_assignment");
}

#[test]
fn routes_from_elsewhere() {
    let rds = |fields: &str| {
        let ads = "node: {id: i, cluster: k}\ndynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: c}}]}}\n";
        format!("{ads}{}", with_hcm(&format!("rds: {{{fields}}}")))
    };
    let manager = manager(&rds("route_config_name: '80', config_source: {ads: {}}"));
    let Routes::Rds { source, name } = &manager.routes else { panic!("{:?}", manager.routes) };
    assert_eq!((&**name, source), ("80", &ConfigSource::default()));
    assert_eq!(source.initial_fetch_timeout.as_secs(), 15);
    let problems = bad(&rds("route_config_name: 'xdstp://a/b', config_source: {ads: {}}"));
    let path = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.rds";
    assert!(problems[0].starts_with(&format!("{path}.route_config_name: xdstp://")), "{problems:?}");
}

/// A listener as a mesh's control plane sends it, TLS alone.
fn mesh_tls() -> Bootstrap {
    let sds = |name: &str| {
        format!(
            "{{name: {name}, sds_config: {{api_config_source: {{api_type: GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{{envoy_grpc: {{cluster_name: sds-grpc}}}}]}}, initial_fetch_timeout: 0s}}}}"
        )
    };
    let yaml = format!(
        r#"
node: {{id: i, cluster: k}}
static_resources:
  clusters:
  - {{name: sds-grpc, load_assignment: {{cluster_name: sds-grpc, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: ./socket}}}}}}}}]}}]}}}}
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 10000}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: later}}
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          session_ticket_keys_sds_secret_config: {}
          common_tls_context:
            tls_certificate_sds_secret_configs: [{}]
            combined_validation_context:
              default_validation_context: {{match_subject_alt_names: [{{prefix: "spiffe://td/"}}]}}
              validation_context_sds_secret_config: {}
"#,
        sds("tickets"),
        sds("default"),
        sds("ROOTCA"),
    );
    good(&yaml).0
}

#[test]
fn a_context_is_not_ready_before_all_its_secrets_are_there() {
    let model = mesh_tls();
    let tls = model.listeners[0].filter_chains[0].tls.clone().expect("TLS");
    let names: Vec<&str> = tls.dynamic_secrets().iter().map(|secret| &*secret.name).collect();
    assert_eq!(names, ["default", "ROOTCA", "tickets"]);
    assert!(matches!(tls.common.certificates[..], [SecretRef::Dynamic(_)]));
    assert!(
        matches!(&tls.common.validation, ValidationRef::Dynamic { default, .. } if default.san_matchers.len() == 4)
    );

    let secret = |text: &str| -> Arc<Secret> {
        let (model, _) = good(&format!("static_resources: {{secrets: [{text}]}}"));
        model.secrets[0].clone()
    };
    let certificate = secret(
        "{name: default, tls_certificate: {certificate_chain: {inline_string: C}, private_key: {inline_string: K}}}",
    );
    let tickets = secret("{name: tickets, session_ticket_keys: {keys: [{inline_string: T}]}}");
    let resolve = |roots: Option<Arc<Secret>>| {
        tls.resolve(&|wanted| match &*wanted.name {
            "default" => Some(certificate.clone()),
            "tickets" => Some(tickets.clone()),
            _ => roots.clone(),
        })
    };
    let waiting = tls.resolve(&|_| None).expect_err("nothing is there");
    assert_eq!(waiting.to_string(), r#"waiting for the secrets "default", "ROOTCA", "tickets""#);
    let waiting = resolve(None).expect_err("the roots are not there");
    assert!(matches!(waiting, SecretError::Missing(missing) if missing.len() == 1));
    // Roots that are none would verify nobody.
    let empty = resolve(Some(secret("{name: ROOTCA, validation_context: {}}"))).expect_err("no roots");
    assert!(empty.to_string().contains("nobody would be verified"), "{empty}");
    let wrong = resolve(Some(certificate.clone())).expect_err("not a validation context");
    assert!(wrong.to_string().contains("it is not a validation context"), "{wrong}");

    let roots = secret(
        "{name: ROOTCA, validation_context: {trusted_ca: {inline_string: R}, crl: {filename: /crl}, match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: x}}]}}",
    );
    assert_eq!(roots.files().iter().map(|name| &***name).collect::<Vec<_>>(), ["/crl"]);
    let ready = resolve(Some(roots)).expect("all is there");
    let validation = ready.validation().expect("a validation");
    assert!(validation.trusted_ca.is_some() && validation.crl.is_some());
    assert_eq!(validation.san_matchers.len(), 5, "the default's, then the secret's");
    assert_eq!((ready.certificates().len(), ready.ticket_keys().len()), (1, 1));
    assert!(matches!(certificate.kind, SecretKind::Certificate(_)));
}
