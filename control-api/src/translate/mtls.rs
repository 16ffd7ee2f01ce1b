//! Mutual TLS between workloads, by itself: a sidecar that has an identity speaks it to endpoints whose sidecar has one, and in clear to all
//! others.
//!
//! Who has an identity is said by Istio's label, which its injector and ours put on a Pod ([`LABEL`]), or by the slice where endpoints are no
//! Pods; a proxy whose Pod is not known says it by its own labels. Certificates and roots are the proxy's own affair: it gets them from the
//! agent behind the cluster [`SDS`], never from here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use outrider_proto::pb::envoy::config::cluster::v3::{Cluster, cluster::TransportSocketMatch};
use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrider_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use outrider_proto::pb::google::protobuf as wkt;
use pb::subject_alt_name_matcher::SanType;

use super::policy::authorization::{Workload, labels};
use super::policy::peers::{Accepted, any_disabled};
use super::wire::{any, duration, truth};
use super::{Context, cluster, names};
use crate::model::own::MtlsMode;
use crate::world::{Named, Of, Proxy, World};

/// The label of workloads with an identity, and its value.
pub const LABEL: (&str, &str) = ("security.istio.io/tlsMode", "istio");
/// The static cluster of a proxy behind which its agent serves secrets.
pub const SDS: &str = "sds-grpc";
/// The annotation of a Service without selector: the accounts that serve it, by commas.
pub const ACCOUNTS: &str = "outrider.dev/service-accounts";
/// What a sidecar offers in the handshake, so that its peer knows TLS of the mesh from that of an application. The words are Istio's.
pub const PROTOCOLS: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// Versions of HTTP, as ALPN names them.
const HTTP1: &str = "http/1.1";
const HTTP2: &str = "h2";

/// The secrets of an agent, as Istio names them.
const CERTIFICATE: &str = "default";
const ROOTS: &str = "ROOTCA";
/// Under which name endpoints say what is spoken to them, and which word means mutual TLS.
const MATCH: &str = "envoy.transport_socket_match";
const MODE: &str = "tlsMode";
/// The account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

fn labelled<'l>(labels: impl IntoIterator<Item = (&'l String, &'l String)>) -> bool {
    labels.into_iter().any(|(name, value)| (name.as_str(), value.as_str()) == LABEL)
}

/// Whether a proxy has an identity.
pub fn is_on(world: &World, proxy: &Proxy) -> bool {
    labels(world, proxy).is_some_and(|labels| labelled(&labels))
}

/// Whether a pod's sidecar has an identity.
pub fn pod_is_on(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().is_some_and(labelled)
}

/// Whether mutual TLS is spoken to an endpoint: its pod says so, or where it is none, its slice. `port`: look whether a policy has clear text
/// spoken at this port of it.
///
/// `None`: its pod is not known where others of the namespace are. It has not been told of yet, or is gone: nothing is to go there before it is
/// known how.
pub fn of_endpoint(
    context: &Context,
    slice: &Of<'_, EndpointSlice>,
    endpoint: &Endpoint,
    port: Option<u16>,
) -> Option<bool> {
    let world = &context.world;
    let off = |labels: Option<&BTreeMap<String, String>>| {
        let workload = Workload { namespace: slice.namespace(), labels };
        port.is_some_and(|port| Accepted::of(context, workload).at(Some(port)) == MtlsMode::Disabled)
    };
    let reference = endpoint.target_ref.as_ref().filter(|it| it.kind.as_deref() == Some("Pod"));
    match reference.and_then(|it| it.name.as_deref()) {
        Some(name) => match world.get::<Pod>(slice.namespace(), name) {
            Some(pod) => Some(pod_is_on(&pod) && !off(pod.metadata.labels.as_ref())),
            None => world.all_in::<Pod>(slice.namespace()).next().is_none().then_some(false),
        },
        None => Some(slice.object.label(LABEL.0) == Some(LABEL.1) && !off(Some(&BTreeMap::new()))),
    }
}

/// The metadata of an endpoint that mutual TLS is spoken to.
pub fn metadata() -> core::Metadata {
    core::Metadata { filter_metadata: HashMap::from([(MATCH.to_owned(), criteria())]), ..Default::default() }
}

fn criteria() -> wkt::Struct {
    let value = wkt::Value { kind: Some(wkt::value::Kind::StringValue(LABEL.1.to_owned())) };
    wkt::Struct { fields: HashMap::from([(MODE.to_owned(), value)]) }
}

/// Has a cluster speak mutual TLS to those of its endpoints that can, and in clear to the rest. `then`: what is spoken in it, as ALPN names
/// it, where that is known beforehand.
///
/// HTTP/1.1 becomes HTTP/2 on the way from sidecar to sidecar, many requests on one connection, where all who serve speak mutual TLS: what is
/// agreed upon by ALPN can only be asked for where every endpoint has TLS (Envoy refuses it beside clear text). Then TLS is spoken to whatever
/// endpoint there is, and one without is not spoken to until the cluster has followed.
pub fn apply_to_cluster(
    context: &Context,
    service: &Named,
    port: u16,
    then: Option<&str>,
    cluster: &mut Cluster,
) {
    let agreed = then == Some(HTTP1) && is_everywhere(context, service);
    let offered = agreed.then_some(HTTP2).into_iter().chain(then);
    let tls = pb::UpstreamTlsContext {
        common_tls_context: Some(common(
            [LABEL.1].into_iter().chain(offered).map(str::to_owned).collect(),
            identities(context, service),
        )),
        sni: format!("outbound_.{port}_._.{}", names::host(service)),
        ..Default::default()
    };
    if agreed {
        cluster::agree_by_alpn(cluster);
        cluster.transport_socket = Some(socket("envoy.transport_sockets.tls", &tls));
        return;
    }
    let one = |name: &str, criteria, socket| TransportSocketMatch {
        name: name.to_owned(),
        r#match: Some(criteria),
        transport_socket: Some(socket),
    };
    cluster.transport_socket_matches = vec![
        one("tlsMode-istio", criteria(), socket("envoy.transport_sockets.tls", &tls)),
        one(
            "tlsMode-disabled",
            wkt::Struct::default(),
            socket("envoy.transport_sockets.raw_buffer", &RawBuffer {}),
        ),
    ];
}

/// How a sidecar takes connections of its peers: `protocols` are spoken in them.
pub fn downstream(context: &Context, protocols: &[&str]) -> core::TransportSocket {
    let mesh = format!("spiffe://{}/", context.world.trust_domain());
    let tls = pb::DownstreamTlsContext {
        common_tls_context: Some(common(
            protocols.iter().map(|it| (*it).to_owned()).collect(),
            vec![uri(MatchPattern::Prefix(mesh))],
        )),
        require_client_certificate: Some(truth(true)),
        ..Default::default()
    };
    socket("envoy.transport_sockets.tls", &tls)
}

fn socket<M: outrider_proto::prost::Message + outrider_proto::prost::Name>(
    name: &str,
    config: &M,
) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

/// The proxy's own certificate, and peers that are one of `peers`.
fn common(alpn: Vec<String>, peers: Vec<pb::SubjectAltNameMatcher>) -> pb::CommonTlsContext {
    use pb::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let secret = |name: &str| pb::SdsSecretConfig { name: name.to_owned(), sds_config: Some(agent()) };
    let validation =
        pb::CertificateValidationContext { match_typed_subject_alt_names: peers, ..Default::default() };
    pb::CommonTlsContext {
        tls_params: Some(newest()),
        alpn_protocols: alpn,
        tls_certificate_sds_secret_configs: vec![secret(CERTIFICATE)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(validation),
                validation_context_sds_secret_config: Some(secret(ROOTS)),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

/// TLS 1.3 where both sides can: clients of Envoy's offer 1.2 by themselves, in which certificates, and so who speaks with whom, pass
/// in clear.
pub(crate) fn newest() -> pb::TlsParameters {
    pb::TlsParameters {
        tls_maximum_protocol_version: pb::tls_parameters::TlsProtocol::TlSv13 as i32,
        ..Default::default()
    }
}

/// The agent, which has all the time it needs: without a certificate nothing is spoken.
fn agent() -> core::ConfigSource {
    use core::{api_config_source::ApiType, config_source::ConfigSourceSpecifier, grpc_service};
    let service = core::GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
            cluster_name: SDS.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3 as i32,
        initial_fetch_timeout: Some(duration(std::time::Duration::ZERO)),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(core::ApiConfigSource {
            api_type: ApiType::Grpc as i32,
            transport_api_version: core::ApiVersion::V3 as i32,
            grpc_services: vec![service],
            set_node_on_first_message_only: true,
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn uri(pattern: MatchPattern) -> pb::SubjectAltNameMatcher {
    pb::SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() }),
        ..Default::default()
    }
}

/// Who may answer for a service: the accounts of the pods that it selects, or those of its annotation. Where neither says one, anybody of
/// its namespace.
fn identities(context: &Context, service: &Named) -> Vec<pb::SubjectAltNameMatcher> {
    let domain = context.world.trust_domain();
    let all = context.once.accounts(|| accounts(&context.world));
    let revoked = context.world.revoked();
    let account = |it: &Arc<str>| format!("spiffe://{domain}/ns/{}/sa/{it}", service.0);
    match all.get(service) {
        Some(known) if !known.is_empty() => {
            let mut names: Vec<String> = known.iter().map(account).collect();
            names.retain(|it| !revoked.contains(it.as_str()));
            if names.is_empty() {
                // Nobody is left who may answer. No list at all would mean anybody.
                names.push(format!("spiffe://{domain}/revoked"));
            }
            names.into_iter().map(|it| uri(MatchPattern::Exact(it))).collect()
        }
        _ => vec![uri(MatchPattern::Prefix(format!("spiffe://{domain}/ns/{}/sa/", service.0)))],
    }
}

/// Whether all who serve a service speak mutual TLS at all of their ports: the Pods that it selects, and there is one. Of services without a
/// selector it is not known. It follows from Pods and policies alone, as endpoints come and go between two translations.
fn is_everywhere(context: &Context, service: &Named) -> bool {
    context.once.meshed(|| meshed(context)).contains(service)
}

fn meshed(context: &Context) -> BTreeSet<Named> {
    type Kinds<'w> = BTreeSet<Option<&'w BTreeMap<String, String>>>;
    let world = &context.world;
    let mut pods: HashMap<&str, Kinds<'_>> = HashMap::new();
    for pod in world.all::<Pod>() {
        pods.entry(pod.namespace()).or_default().insert(pod.body().metadata.labels.as_ref());
    }
    let disabled = any_disabled(context);
    let speaks = |namespace: &str, labels: &BTreeMap<String, String>| {
        labelled(labels)
            && (!disabled || {
                let accepted = Accepted::of(context, Workload { namespace, labels: Some(labels) });
                let mut ports = accepted.ports().map(Some).chain([None]);
                ports.all(|port| accepted.at(port) != MtlsMode::Disabled)
            })
    };
    let all = |service: &Of<'_, Service>| {
        let selector = service.spec.as_ref().and_then(|it| it.selector.as_ref()).filter(|it| !it.is_empty());
        let (Some(selector), Some(pods)) = (selector, pods.get(&**service.namespace())) else { return false };
        let mut selected = pods
            .iter()
            .copied()
            .flatten()
            .filter(|labels| selector.iter().all(|(name, value)| labels.get(name) == Some(value)))
            .peekable();
        selected.peek().is_some() && selected.all(|labels| speaks(service.namespace(), labels))
    };
    let services = world.all::<Service>().filter(all);
    services.map(|it| (Arc::clone(it.namespace()), Arc::clone(it.name()))).collect()
}

/// The accounts of services, as far as they are known.
pub(super) type Accounts = HashMap<Named, BTreeSet<Arc<str>>>;

fn accounts(world: &World) -> Accounts {
    // Most pods are like others: the replicas of one workload.
    type Kinds<'w> = BTreeSet<(&'w BTreeMap<String, String>, &'w str)>;
    let mut pods: HashMap<&str, Kinds<'_>> = HashMap::new();
    for pod in world.all::<Pod>().filter(|pod| pod_is_on(pod)) {
        let (namespace, pod) = (pod.namespace(), pod.body());
        let account = pod.spec.as_ref().and_then(|it| it.service_account_name.as_deref());
        let account = account.filter(|it| !it.is_empty()).unwrap_or(DEFAULT_ACCOUNT);
        if let Some(labels) = &pod.metadata.labels {
            pods.entry(namespace).or_default().insert((labels, account));
        }
    }
    let mut out = Accounts::new();
    for service in world.all::<Service>() {
        let named = || (Arc::clone(service.namespace()), Arc::clone(service.name()));
        if let Some(listed) = service.object.annotation(ACCOUNTS) {
            let listed = listed.split(',').map(str::trim).filter(|it| !it.is_empty());
            let listed: BTreeSet<Arc<str>> = listed.map(Arc::from).collect();
            // One that lists nobody says nothing: it must not mean that anybody will do.
            if !listed.is_empty() {
                out.insert(named(), listed);
                continue;
            }
        }
        let selector = service.spec.as_ref().and_then(|it| it.selector.as_ref()).filter(|it| !it.is_empty());
        let (Some(selector), Some(pods)) = (selector, pods.get(&**service.namespace())) else { continue };
        let selects = |labels: &BTreeMap<String, String>| {
            selector.iter().all(|(name, value)| labels.get(name) == Some(value))
        };
        let found: BTreeSet<Arc<str>> = pods
            .iter()
            .filter(|(labels, _)| selects(labels))
            .map(|(_, account)| Arc::from(*account))
            .collect();
        if !found.is_empty() {
            out.insert(named(), found);
        }
    }
    out
}
