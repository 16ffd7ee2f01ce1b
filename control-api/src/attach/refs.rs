//! References of routes, in one form for all kinds of routes.

use gateway_api::apis::{experimental::tcproutes as tcp, standard};
use serde::Deserialize;
use serde_json::Value;
use standard::{grpcroutes as grpc, httproutes as http, tlsroutes as tls};

/// The API group of the Gateway API.
pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Ours.
pub(super) const OWN_GROUP: &str = "outrider.dev";

/// What a route says about one of its parents, defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct ParentRef<'w> {
    pub(super) group: &'w str,
    pub(super) kind: &'w str,
    pub(super) namespace: &'w str,
    pub(super) name: &'w str,
    pub(super) section: Option<&'w str>,
    pub(super) port: Option<i32>,
    /// As it was written, for the status.
    pub(super) written: Value,
}

/// What a rule says about one of its backends, defaults filled in.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackendRef<'w> {
    pub(super) group: &'w str,
    pub(super) kind: &'w str,
    pub(super) namespace: &'w str,
    pub(super) name: &'w str,
    pub(super) port: Option<i32>,
    pub(super) weight: u32,
}

macro_rules! parents {
    ($($from:ty),*) => { $(
        impl<'w> From<(&'w str, &'w $from)> for ParentRef<'w> {
            fn from((namespace, it): (&'w str, &'w $from)) -> Self {
                Self {
                    group: it.group.as_deref().unwrap_or(GATEWAY_GROUP),
                    kind: it.kind.as_deref().unwrap_or("Gateway"),
                    namespace: it.namespace.as_deref().unwrap_or(namespace),
                    name: &it.name,
                    section: it.section_name.as_deref().filter(|name| !name.is_empty()),
                    port: it.port,
                    written: serde_json::to_value(it).unwrap_or_default(),
                }
            }
        }
    )* };
}

parents!(
    http::HttpRouteParentRefs,
    grpc::GrpcRouteParentRefs,
    tls::TlsRouteParentRefs,
    tcp::TcpRouteParentRefs
);

macro_rules! backends {
    ($($from:ty),*) => { $(
        impl<'w> From<(&'w str, &'w $from)> for BackendRef<'w> {
            fn from((namespace, it): (&'w str, &'w $from)) -> Self {
                Self {
                    group: it.group.as_deref().unwrap_or_default(),
                    kind: it.kind.as_deref().unwrap_or("Service"),
                    namespace: it.namespace.as_deref().unwrap_or(namespace),
                    name: &it.name,
                    port: it.port,
                    weight: it.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or_default()),
                }
            }
        }
    )* };
}

backends!(
    http::HttpRouteRulesBackendRefs,
    grpc::GrpcRouteRulesBackendRefs,
    tls::TlsRouteRulesBackendRefs,
    tcp::TcpRouteRulesBackendRefs
);

/// The backend of a mirror filter, read from JSON as the generated types have one for each place where filters stand.
#[derive(Debug, Deserialize)]
pub(super) struct MirrorRef {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i32>,
}

impl MirrorRef {
    /// As a reference from an object of this namespace.
    pub(super) fn seen_from<'w>(&'w self, namespace: &'w str) -> BackendRef<'w> {
        BackendRef {
            group: self.group.as_deref().unwrap_or_default(),
            kind: self.kind.as_deref().unwrap_or("Service"),
            namespace: self.namespace.as_deref().unwrap_or(namespace),
            name: &self.name,
            port: self.port,
            weight: 1,
        }
    }
}
