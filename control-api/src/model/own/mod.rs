//! The kinds of our own: what the standard lacks. Group `outrider.dev`.

mod authorization_policy;
mod check;
mod common;
mod external_check;
mod external_service;
mod health_check;
mod join_token;
mod jwt;
mod peer_policy;
mod revocation;
mod settings;
mod settings_check;
mod telemetry;
#[cfg(test)]
mod tests;
mod traffic_policy;

pub use authorization_policy::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, Operation, Rule, Source, ip_block,
};
pub use common::{
    AncestorRef, AncestorStatus, ConditionsStatus, Duration, PolicyStatus, SecretKeyRef, Selector, TargetRef,
};
pub use external_service::{
    CaCertificateRef, CaKind, Credential, CredentialType, ExternalPort, ExternalProtocol, ExternalService,
    ExternalServiceSpec, ExternalTls, Resolution, SecretRef, TlsVersion,
};
pub use health_check::{GrpcHealthCheck, HealthCheck, HttpHealthCheck, StatusRange, TcpHealthCheck};
pub use join_token::{JoinToken, JoinTokenSpec};
pub use jwt::{JwksFrom, JwksKind, JwtIssuer};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
pub use peer_policy::{Mtls, MtlsMode, PeerPolicy, PeerPolicySpec, PeerPort};
pub use revocation::{Revocation, RevocationSpec};
pub use settings::{
    Backoff, CircuitBreakers, ConnectionPool, FailurePercentage, HashCookie, HashOn, Http2Settings,
    LoadBalancing, LoadBalancingPolicy, OutlierDetection, RateLimit, RateLimitHeader, RateLimitRule, Retries,
    RetryBudget, SlowStart, SuccessRate, TcpKeepalive, Timeouts,
};
pub use telemetry::{AccessLog, AccessLogFilter, MESH_NAMESPACE, Telemetry, TelemetrySpec};
pub use traffic_policy::{TrafficPolicy, TrafficPolicySpec};

use super::Body;

/// What is wrong with an object of a kind of our own by itself: fields and reasons. Nothing for other kinds.
pub fn check(body: &Body) -> Vec<(String, String)> {
    match body {
        Body::TrafficPolicy(it) => traffic_policy::check(it),
        Body::ExternalService(it) => external_check::check(it),
        Body::PeerPolicy(it) => peer_policy::check(it),
        Body::AuthorizationPolicy(it) => authorization_policy::check(it),
        Body::Telemetry(it) => telemetry::check(it),
        Body::JoinToken(it) => join_token::check(it),
        Body::Revocation(it) => revocation::check(it),
        _ => Vec::new(),
    }
}

/// The definitions of all kinds of our own, for clusters whose API server keeps them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        TrafficPolicy::crd(),
        ExternalService::crd(),
        PeerPolicy::crd(),
        AuthorizationPolicy::crd(),
        Telemetry::crd(),
        JoinToken::crd(),
        Revocation::crd(),
    ]
}

/// The same as YAML, each with the name of its file.
///
/// # Errors
/// When a definition cannot be written, which would be a mistake of ours.
pub fn crds_yaml() -> Result<Vec<(String, String)>, String> {
    let one = |crd: CustomResourceDefinition| {
        let name = format!("{}.yaml", crd.metadata.name.as_deref().unwrap_or_default());
        let value = serde_json::to_value(&crd).map_err(|error| error.to_string())?;
        Ok((name, serde_saphyr::to_string(&value).map_err(|error| error.to_string())?))
    };
    crds().into_iter().map(one).collect()
}
