//! The table of kinds.

use std::fmt;

use gateway_api::apis::{experimental, standard};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::own;

macro_rules! kinds {
    ($( $variant:ident, $name:literal, $plural:literal, $short:expr, $group:literal, $versions:expr, $namespaced:literal, $of:ty; )*) => {
        /// A kind of resource.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $(#[doc = $name] $variant,)* }

        impl Kind {
            /// All kinds, those first that others refer to.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As in manifests: `HTTPRoute`.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// As in addresses: `httproutes`.
            pub const fn plural(self) -> &'static str { match self { $(Self::$variant => $plural,)* } }
            /// Short names that command lines know.
            pub const fn short_names(self) -> &'static [&'static str] { match self { $(Self::$variant => &$short,)* } }
            /// The API group; empty for the core.
            pub const fn group(self) -> &'static str { match self { $(Self::$variant => $group,)* } }
            /// The versions that are read; the first one is written.
            pub const fn versions(self) -> &'static [&'static str] { match self { $(Self::$variant => &$versions,)* } }
            /// Whether objects of this kind live in namespaces.
            pub const fn namespaced(self) -> bool { match self { $(Self::$variant => $namespaced,)* } }
        }

        /// The content of an object, by kind.
        #[derive(Clone, Debug)]
        pub enum Body { $(#[doc = $name] $variant(Box<$of>),)* }

        impl Body {
            /// Which kind it is.
            pub fn kind(&self) -> Kind { match self { $(Self::$variant(_) => Kind::$variant,)* } }
            /// Its metadata.
            pub fn meta(&self) -> &ObjectMeta { match self { $(Self::$variant(it) => &it.metadata,)* } }
            /// Its metadata, to change it.
            pub fn meta_mut(&mut self) -> &mut ObjectMeta { match self { $(Self::$variant(it) => &mut it.metadata,)* } }
            /// As JSON.
            pub fn to_json(&self) -> Value {
                match self { $(Self::$variant(it) => serde_json::to_value(it).unwrap_or_default(),)* }
            }
            /// Reads it from JSON; unknown fields go to `unknown`.
            pub(super) fn read(kind: Kind, value: Value, unknown: &mut Vec<String>) -> Result<Self, super::read::FieldError> {
                match kind { $(Kind::$variant => Ok(Self::$variant(Box::new(super::read::typed(value, unknown)?))),)* }
            }
        }

        $(impl Typed for $of {
            const KIND: Kind = Kind::$variant;
            fn of(body: &Body) -> Option<&Self> {
                match body { Body::$variant(it) => Some(it), _ => None }
            }
        })*
    };
}

/// A Rust type that is the content of one kind.
pub trait Typed: Sized + 'static {
    /// The kind.
    const KIND: Kind;
    /// The content, when it is of this kind.
    fn of(body: &Body) -> Option<&Self>;
}

const GATEWAY: [&str; 2] = ["v1", "v1beta1"];

kinds! {
    Namespace, "Namespace", "namespaces", ["ns"], "", ["v1"], false, core::Namespace;
    Secret, "Secret", "secrets", [], "", ["v1"], true, core::Secret;
    ConfigMap, "ConfigMap", "configmaps", ["cm"], "", ["v1"], true, core::ConfigMap;
    Service, "Service", "services", ["svc"], "", ["v1"], true, core::Service;
    EndpointSlice, "EndpointSlice", "endpointslices", ["eps"], "discovery.k8s.io", ["v1"], true, discovery::EndpointSlice;
    Pod, "Pod", "pods", ["po"], "", ["v1"], true, core::Pod;
    GatewayClass, "GatewayClass", "gatewayclasses", ["gc"], "gateway.networking.k8s.io", GATEWAY, false, standard::gatewayclasses::GatewayClass;
    Gateway, "Gateway", "gateways", ["gtw"], "gateway.networking.k8s.io", GATEWAY, true, standard::gateways::Gateway;
    HttpRoute, "HTTPRoute", "httproutes", ["hr"], "gateway.networking.k8s.io", GATEWAY, true, standard::httproutes::HttpRoute;
    GrpcRoute, "GRPCRoute", "grpcroutes", ["gr"], "gateway.networking.k8s.io", ["v1", "v1alpha2"], true, standard::grpcroutes::GrpcRoute;
    TlsRoute, "TLSRoute", "tlsroutes", [], "gateway.networking.k8s.io", ["v1", "v1alpha3", "v1alpha2"], true, standard::tlsroutes::TlsRoute;
    TcpRoute, "TCPRoute", "tcproutes", [], "gateway.networking.k8s.io", ["v1alpha2", "v1"], true, experimental::tcproutes::TcpRoute;
    ReferenceGrant, "ReferenceGrant", "referencegrants", ["refgrant"], "gateway.networking.k8s.io", ["v1beta1", "v1", "v1alpha2"], true, standard::referencegrants::ReferenceGrant;
    BackendTlsPolicy, "BackendTLSPolicy", "backendtlspolicies", ["btlspolicy"], "gateway.networking.k8s.io", ["v1", "v1alpha3"], true, standard::backendtlspolicies::BackendTlsPolicy;
    TrafficPolicy, "TrafficPolicy", "trafficpolicies", ["tp"], "outrider.dev", ["v1"], true, own::TrafficPolicy;
    ExternalService, "ExternalService", "externalservices", ["es"], "outrider.dev", ["v1"], true, own::ExternalService;
    PeerPolicy, "PeerPolicy", "peerpolicies", ["pp"], "outrider.dev", ["v1"], true, own::PeerPolicy;
    AuthorizationPolicy, "AuthorizationPolicy", "authorizationpolicies", ["ap"], "outrider.dev", ["v1"], true, own::AuthorizationPolicy;
    Telemetry, "Telemetry", "telemetries", ["tel"], "outrider.dev", ["v1"], true, own::Telemetry;
    JoinToken, "JoinToken", "jointokens", ["jt"], "outrider.dev", ["v1"], true, own::JoinToken;
    Revocation, "Revocation", "revocations", [], "outrider.dev", ["v1"], true, own::Revocation;
}

impl Kind {
    /// `group/version` of the version that is written.
    pub fn api_version(self) -> String {
        let version = self.versions().first().copied().unwrap_or("v1");
        if self.group().is_empty() { version.to_owned() } else { format!("{}/{version}", self.group()) }
    }

    /// The kind of a manifest.
    ///
    /// # Errors
    /// What is wrong, in words; `Ok(None)` when this is no kind that concerns a control plane (a Deployment, say).
    pub fn of_manifest(api_version: &str, kind: &str) -> Result<Option<Self>, String> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let Some(found) =
            Self::ALL.iter().copied().find(|known| known.name() == kind && known.group() == group)
        else {
            let near = Self::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(kind));
            let ours = group == "outrider.dev" || group == "gateway.networking.k8s.io";
            return match near {
                Some(near) if ours || group.is_empty() => Err(format!(
                    "{api_version} {kind} is not known; did you mean {} {}?",
                    near.api_version(),
                    near.name()
                )),
                _ if ours => Err(format!("{api_version} has no kind {kind} that this control plane knows")),
                _ => Ok(None),
            };
        };
        if found.versions().contains(&version) {
            return Ok(Some(found));
        }
        Err(format!("{kind} has no version {version:?} here; use {}", found.versions().join(" or ")))
    }

    /// The kind that a command line names: `HTTPRoute`, `httproutes`, `hr`, `httproutes.gateway.networking.k8s.io`.
    pub fn of_word(word: &str) -> Option<Self> {
        let word = word.split_once('.').map_or(word, |(plural, _)| plural).to_ascii_lowercase();
        Self::ALL.iter().copied().find(|kind| {
            kind.name().eq_ignore_ascii_case(&word)
                || kind.plural() == word
                || kind.short_names().contains(&word.as_str())
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
