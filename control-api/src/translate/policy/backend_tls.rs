//! `BackendTLSPolicy`: TLS towards a service, verified.

use std::sync::Arc;

use outrider_proto::pb::envoy::config::cluster::v3::{Cluster, cluster};
use outrider_proto::pb::envoy::config::core::v3::{
    DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
};
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrider_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use pb::subject_alt_name_matcher::SanType;

use crate::attach::{BackendTls, Roots, SubjectName};
use crate::translate::wire::{ads, any};
use crate::translate::{Context, mtls, names, port::Port, port::Spoken};
use crate::world::Named;

/// Where proxies find the authorities that their system knows. Envoy has no word for them, only a path, and this
/// is where Debian, Alpine and the images made of them have the file; Outrider takes the path as Envoy does. A proxy without that
/// file does not connect.
pub const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Puts TLS into the cluster of a service that has a policy. The client speaks HTTP/2 where the port does not say that it wants it (`http2`),
/// and shows the certificate of a Secret.
pub fn apply_to_cluster(
    context: &Context,
    service: &Named,
    port: &Port,
    (http2, certificate): (bool, Option<&Named>),
    cluster: &mut Cluster,
) {
    let Some(tls) = policy(context, service, port) else { return };
    let Some(validation) = validation(tls) else {
        fail(cluster);
        return;
    };
    let shown = certificate
        .map(|secret| pb::SdsSecretConfig { name: names::secret(secret), sds_config: Some(ads()) });
    let message = pb::UpstreamTlsContext {
        common_tls_context: Some(pb::CommonTlsContext {
            tls_params: Some(mtls::newest()),
            alpn_protocols: protocols(port.spoken, http2).iter().map(|it| (*it).to_owned()).collect(),
            tls_certificate_sds_secret_configs: shown.into_iter().collect(),
            validation_context_type: Some(pb::common_tls_context::ValidationContextType::ValidationContext(
                validation,
            )),
            ..Default::default()
        }),
        sni: tls.hostname.to_string(),
        ..Default::default()
    };
    cluster.transport_socket = Some(TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&message))),
    });
}

/// The policy of a port: one for the port by name goes before one for the whole service.
pub(in crate::translate) fn policy<'c>(
    context: &'c Context,
    service: &Named,
    port: &Port,
) -> Option<&'c BackendTls> {
    let all = &context.attachments.backend_tls;
    let named = || all.get(&(service.clone(), Some(Arc::clone(&port.name))));
    (!port.name.is_empty()).then(named).flatten().or_else(|| all.get(&(service.clone(), None)))
}

/// What the peer's certificate must be; `None` when there is nothing to verify it by.
///
/// Only fields that Envoy and Outrider both have: `trusted_ca` (gRPC wants `system_root_certs` in its place, which Envoy
/// ignores), and typed names. `auto_sni_san_validation` would do for the host name alone, but says nothing to gRPC.
fn validation(tls: &BackendTls) -> Option<pb::CertificateValidationContext> {
    let specifier = match &tls.roots {
        Roots::System => Specifier::Filename(SYSTEM_ROOTS.to_owned()),
        Roots::Pem(pem) => Specifier::InlineString(pem.to_string()),
        Roots::Invalid => return None,
    };
    let host = [SubjectName::Dns(Arc::clone(&tls.hostname))];
    let names = if tls.names.is_empty() { &host[..] } else { &tls.names };
    Some(pb::CertificateValidationContext {
        trusted_ca: Some(DataSource { specifier: Some(specifier), ..Default::default() }),
        match_typed_subject_alt_names: names.iter().map(matcher).collect(),
        ..Default::default()
    })
}

/// A name in the certificate. For a DNS name Envoy reads a wildcard in the certificate as one.
fn matcher(name: &SubjectName) -> pb::SubjectAltNameMatcher {
    let (kind, text) = match name {
        SubjectName::Dns(text) => (SanType::Dns, text),
        SubjectName::Uri(text) => (SanType::Uri, text),
    };
    pb::SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(text.to_string())),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What is offered in the handshake: what is spoken behind it. Where nobody said what that is, nothing is, and HTTP/1.1 is
/// understood without.
fn protocols(spoken: Spoken, http2: bool) -> &'static [&'static str] {
    match spoken {
        _ if http2 => &["h2"],
        Spoken::Http2 | Spoken::Grpc => &["h2"],
        Spoken::Http => &["http/1.1"],
        Spoken::Tls | Spoken::Tcp | Spoken::Unknown => &[],
    }
}

/// A cluster without endpoints: requests get 503, connections are closed, and nothing goes out that nobody would verify. TLS
/// settings that cannot succeed would do the same more slowly, and be one mistake away from succeeding.
fn fail(cluster: &mut Cluster) {
    cluster.cluster_discovery_type =
        Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static as i32));
    cluster.eds_cluster_config = None;
    cluster.load_assignment = None;
    cluster.transport_socket = None;
}

#[cfg(test)]
mod tests {
    use outrider_proto::any::unpack;

    use super::*;
    use crate::attach::Attachments;
    use crate::model::{Key, Kind};
    use crate::translate::cluster::{self as clusters, Way};

    fn port(name: &str, spoken: Spoken) -> Port {
        Port { number: 443, name: name.into(), spoken, target: None }
    }

    fn service() -> Named {
        ("shop".into(), "web".into())
    }

    fn context(at: Option<&str>, names: Vec<SubjectName>, roots: Roots) -> Context {
        let tls = BackendTls {
            policy: Key::new(Kind::BackendTlsPolicy, "shop", "web"),
            hostname: "web.example.com".into(),
            names,
            roots,
        };
        let mut attachments = Attachments::default();
        attachments.backend_tls.insert((service(), at.map(Into::into)), tls);
        Context { attachments: Arc::new(attachments), ..Context::default() }
    }

    fn tls(cluster: &Cluster) -> Option<pb::UpstreamTlsContext> {
        match cluster.transport_socket.as_ref()?.config_type.as_ref()? {
            ConfigType::TypedConfig(config) => Some(unpack(config).unwrap()),
        }
    }

    fn names_of(context: &pb::UpstreamTlsContext) -> Vec<(SanType, String)> {
        let Some(pb::common_tls_context::ValidationContextType::ValidationContext(validation)) =
            &context.common_tls_context.as_ref().unwrap().validation_context_type
        else {
            panic!("{context:?}")
        };
        assert!(validation.trusted_ca.is_some());
        let text = |it: &StringMatcher| match it.match_pattern.clone() {
            Some(MatchPattern::Exact(text)) => text,
            other => panic!("{other:?}"),
        };
        let names = validation.match_typed_subject_alt_names.iter();
        names.map(|it| (it.san_type(), text(it.matcher.as_ref().unwrap()))).collect()
    }

    #[test]
    fn the_host_is_sent_and_verified() {
        let context = context(None, Vec::new(), Roots::System);
        let found =
            tls(&clusters::message(&context, &service(), &port("http", Spoken::Http), Way::Gateway)).unwrap();
        assert_eq!(found.sni, "web.example.com");
        assert_eq!(names_of(&found), [(SanType::Dns, "web.example.com".to_owned())]);
        assert_eq!(found.common_tls_context.unwrap().alpn_protocols, ["http/1.1"]);
    }

    #[test]
    fn names_are_verified_instead_of_the_host() {
        let names =
            vec![SubjectName::Uri("spiffe://a/b".into()), SubjectName::Dns("other.example.com".into())];
        let context = context(None, names, Roots::Pem("pem".into()));
        let found =
            tls(&clusters::message(&context, &service(), &port("grpc", Spoken::Grpc), Way::Gateway)).unwrap();
        assert_eq!(found.sni, "web.example.com");
        let want = [(SanType::Uri, "spiffe://a/b"), (SanType::Dns, "other.example.com")];
        assert_eq!(names_of(&found), want.map(|(kind, name)| (kind, name.to_owned())));
        assert_eq!(found.common_tls_context.unwrap().alpn_protocols, ["h2"]);
    }

    #[test]
    fn a_policy_for_one_port_is_for_that_port() {
        let context = context(Some("https"), Vec::new(), Roots::System);
        let at = |name| clusters::message(&context, &service(), &port(name, Spoken::Http), Way::Gateway);
        assert!(tls(&at("https")).is_some());
        assert!(tls(&at("http")).is_none());
    }

    #[test]
    fn without_authorities_nothing_goes_out() {
        let context = context(None, Vec::new(), Roots::Invalid);
        let cluster = clusters::message(&context, &service(), &port("http", Spoken::Http), Way::Gateway);
        assert_eq!(cluster.name, names::outbound(&service(), 443));
        let fixed = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static as i32);
        assert_eq!(cluster.cluster_discovery_type, Some(fixed));
        assert_eq!((cluster.load_assignment, cluster.eds_cluster_config), (None, None));
    }

    #[test]
    fn tls_of_the_application_is_not_wrapped_in_another() {
        let context = context(None, Vec::new(), Roots::System);
        let port = port("https", Spoken::Tls);
        assert!(tls(&clusters::message(&context, &service(), &port, Way::Mesh)).is_none());
        assert!(tls(&clusters::message(&context, &service(), &port, Way::Gateway)).is_some());
        let passed = clusters::message(&context, &service(), &port, Way::Passthrough);
        assert!(tls(&passed).is_none());
        let endpoints = passed.eds_cluster_config.unwrap().service_name;
        assert_eq!(endpoints, names::outbound(&service(), 443), "the same endpoints under another name");
    }
}
