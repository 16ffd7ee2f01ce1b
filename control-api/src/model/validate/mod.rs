//! The rules that an object must keep by itself, whatever else there is. What the API server of Kubernetes checks by the
//! CRDs' schemas and CEL rules is checked here, so that a mistake is told at once and with its field.

mod core;
mod filters;
mod forms;
mod gateway;
mod meta;
mod node;
mod re2;
mod routes;
#[cfg(test)]
mod tests;
pub mod text;

use node::{Node, Report};

use super::{Kind, Object, own};

/// What is wrong with an object: fields and reasons. Empty: nothing.
pub fn check(object: &Object) -> Vec<(String, String)> {
    let json = object.body.to_json();
    let root = Node::root(&json);
    let mut report = Report::default();
    meta::check(&mut report, object, &root);
    match object.key.kind {
        Kind::Namespace | Kind::Pod => {}
        Kind::Secret => core::secret(&mut report, &root),
        Kind::ConfigMap => core::config_map(&mut report, &root),
        Kind::Service => core::service(&mut report, &root),
        Kind::EndpointSlice => core::endpoint_slice(&mut report, &root),
        Kind::GatewayClass => gateway::class(&mut report, &root),
        Kind::Gateway => gateway::gateway(&mut report, &root),
        Kind::HttpRoute => routes::http(&mut report, &root),
        Kind::GrpcRoute => routes::grpc(&mut report, &root),
        Kind::TlsRoute => routes::tls(&mut report, &root),
        Kind::TcpRoute => routes::tcp(&mut report, &root),
        Kind::ReferenceGrant => gateway::grant(&mut report, &root),
        Kind::BackendTlsPolicy => gateway::backend_tls(&mut report, &root),
        // The kinds of our own judge themselves.
        Kind::TrafficPolicy
        | Kind::ExternalService
        | Kind::PeerPolicy
        | Kind::AuthorizationPolicy
        | Kind::Telemetry
        | Kind::JoinToken
        | Kind::Revocation => report.0.extend(own::check(&object.body)),
    }
    report.0
}
