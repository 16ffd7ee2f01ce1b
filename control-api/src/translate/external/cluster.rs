//! The cluster of an ExternalService's port.

use std::time::Duration;

use outrider_proto::pb::envoy::config::cluster::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::config::endpoint::v3 as endpoint;
use outrider_proto::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use outrider_proto::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrider_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::material::Material;
use super::{cluster_name, settings};
use crate::model::own::{
    ExternalPort, ExternalProtocol, ExternalService, ExternalServiceSpec, ExternalTls, Resolution, TlsVersion,
};
use crate::model::{Key, Kind};
use crate::translate::Context;
use crate::translate::cluster::{http_options, options};
use crate::translate::policy::backend_tls::SYSTEM_ROOTS;
use crate::translate::wire::{address, ads, any, duration, origin};
use crate::world::Named;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The cluster of a port.
pub(super) fn of_port(
    context: &Context,
    service: &Named,
    object: &ExternalService,
    port: &ExternalPort,
    material: &Material,
) -> pb::Cluster {
    let (spec, name) = (&object.spec, cluster_name(service, port));
    let mut cluster = pb::Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(discovery(spec.resolution)),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        lb_policy: pb::cluster::LbPolicy::LeastRequest as i32,
        load_assignment: Some(assignment(&name, spec, port)),
        metadata: Some(origin(&Key::new(Kind::ExternalService, &service.0, &service.1), "")),
        ..Default::default()
    };
    let secured = secured(spec, port);
    if port.protocol.is_http() {
        let mut http = http_options(port.protocol.is_http2());
        if secured && server_name(spec).is_none() {
            // Each request says which host it is for.
            http.upstream_http_protocol_options = Some(core::UpstreamHttpProtocolOptions {
                auto_sni: true,
                auto_san_validation: alternatives(spec).is_empty(),
                ..Default::default()
            });
        }
        cluster.typed_extension_protocol_options = options(&http);
    }
    if secured {
        cluster.transport_socket = Some(socket(service, spec, port, material));
    }
    settings(context, service, spec, port).to_cluster(port.protocol.is_http2(), &mut cluster);
    cluster
}

fn discovery(resolution: Resolution) -> pb::cluster::ClusterDiscoveryType {
    use pb::cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType};
    if resolution == Resolution::Static {
        return ClusterDiscoveryType::Type(DiscoveryType::Static as i32);
    }
    let config = DnsCluster {
        respect_dns_ttl: true,
        dns_lookup_family: DnsLookupFamily::V4Preferred as i32,
        all_addresses_in_single_endpoint: resolution == Resolution::LogicalDNS,
        ..Default::default()
    };
    ClusterDiscoveryType::ClusterType(CustomClusterType {
        name: "envoy.cluster.dns".to_owned(),
        typed_config: Some(any(&config)),
    })
}

/// Whether TLS is spoken from the proxy on.
pub(super) fn secured(spec: &ExternalServiceSpec, port: &ExternalPort) -> bool {
    match port.protocol {
        ExternalProtocol::HTTPS => true,
        ExternalProtocol::TLS => false,
        _ => spec.tls.is_some(),
    }
}

fn assignment(
    name: &str,
    spec: &ExternalServiceSpec,
    port: &ExternalPort,
) -> endpoint::ClusterLoadAssignment {
    use endpoint::lb_endpoint::HostIdentifier;
    let number = port.target_port.unwrap_or(port.number);
    let listed = if spec.addresses.is_empty() { &spec.hosts } else { &spec.addresses };
    let one = |host: &String| endpoint::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address(host, number)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let local = endpoint::LocalityLbEndpoints {
        lb_endpoints: listed.iter().map(one).collect(),
        ..Default::default()
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![local],
        ..Default::default()
    }
}

/// The server name, where it is the same for all requests.
fn server_name(spec: &ExternalServiceSpec) -> Option<&str> {
    let said = spec.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    said.or_else(|| match spec.hosts.as_slice() {
        [only] if !only.starts_with("*.") => Some(only),
        _ => None,
    })
}

/// Names that were given for the certificate.
fn alternatives(spec: &ExternalServiceSpec) -> &[String] {
    spec.tls.as_ref().map(|tls| tls.subject_alt_names.as_slice()).unwrap_or_default()
}

/// The name under which the client's certificate is served. Each port has one of its own.
fn secret_name(service: &Named, port: &ExternalPort) -> String {
    format!("{}|client-certificate", cluster_name(service, port))
}

/// The client's certificate of a port, as a secret.
pub(super) fn client_certificate(
    service: &Named,
    port: &ExternalPort,
    material: &Material,
) -> Option<tls::Secret> {
    let identity = material.identity.as_ref().ok()?.as_ref()?;
    if port.protocol == ExternalProtocol::TLS {
        return None;
    }
    Some(tls::Secret {
        name: secret_name(service, port),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: Some(inline(&identity.chain)),
            private_key: Some(inline(&identity.key)),
            ..Default::default()
        })),
    })
}

fn inline(bytes: &[u8]) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineBytes(bytes.to_vec())),
        ..Default::default()
    }
}

fn socket(
    service: &Named,
    spec: &ExternalServiceSpec,
    port: &ExternalPort,
    material: &Material,
) -> core::TransportSocket {
    use tls::common_tls_context::ValidationContextType;
    let given = spec.tls.as_ref();
    let names: Vec<&str> = match alternatives(spec) {
        [] => server_name(spec).into_iter().collect(),
        given => given.iter().map(String::as_str).collect(),
    };
    let trusted = match &material.roots {
        Ok(Some(pem)) => inline(pem),
        _ => core::DataSource {
            specifier: Some(core::data_source::Specifier::Filename(SYSTEM_ROOTS.to_owned())),
            ..Default::default()
        },
    };
    let validation = tls::CertificateValidationContext {
        trusted_ca: Some(trusted),
        match_typed_subject_alt_names: names.iter().map(|name| san(name)).collect(),
        ..Default::default()
    };
    let shown = material
        .identity
        .as_ref()
        .ok()
        .and_then(Option::as_ref)
        .map(|_| tls::SdsSecretConfig { name: secret_name(service, port), sds_config: Some(ads()) });
    let alpn = match port.protocol {
        it if it.is_http2() => vec!["h2".to_owned()],
        it if it.is_http() => vec!["http/1.1".to_owned()],
        _ => Vec::new(),
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(parameters(given)),
            tls_certificate_sds_secret_configs: shown.into_iter().collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            alpn_protocols: alpn,
            ..Default::default()
        }),
        sni: server_name(spec).unwrap_or_default().to_owned(),
        ..Default::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&context))),
    }
}

/// Envoy's clients speak TLS 1.2 alone when nobody says otherwise.
fn parameters(given: Option<&ExternalTls>) -> tls::TlsParameters {
    use tls::tls_parameters::TlsProtocol;
    let least = match given.and_then(|tls| tls.min_version) {
        None | Some(TlsVersion::V12) => TlsProtocol::TlSv12,
        Some(TlsVersion::V13) => TlsProtocol::TlSv13,
    };
    tls::TlsParameters {
        tls_minimum_protocol_version: least as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..Default::default()
    }
}

fn san(name: &str) -> tls::SubjectAltNameMatcher {
    use tls::subject_alt_name_matcher::SanType;
    let kind = if name.contains("://") { SanType::Uri } else { SanType::Dns };
    tls::SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    }
}
