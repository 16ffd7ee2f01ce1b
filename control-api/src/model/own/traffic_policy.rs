//! `TrafficPolicy`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::common::{PolicyStatus, TargetRef};
use super::health_check::HealthCheck;
use super::settings::{
    CircuitBreakers, ConnectionPool, LoadBalancing, OutlierDetection, RateLimit, Retries, Timeouts,
};
use super::settings_check as check_of;

/// How a service is called by the proxies of its clients: balancing, retries, timeouts, breakers, outliers, health checks, rate
/// limits, connections. Where several policies name one target, the oldest is in force, then the first by name.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    shortname = "tp",
    category = "outrider",
    namespaced,
    status = "PolicyStatus",
    doc = "How a service is called by the proxies of its clients: balancing, retries, timeouts, breakers, outliers, health checks, rate limits, connections."
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// The services that it is for: Services and ExternalServices in the policy's own namespace, 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// How the endpoint of a request is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// When a request is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How much there may be at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breakers: Option<CircuitBreakers>,
    /// When an endpoint that fails requests is left out for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// How proxies find out by themselves whether an endpoint works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How many requests each proxy lets through, for each match of each route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Connections to endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
}

/// What is wrong with a policy by itself.
pub(super) fn check(policy: &TrafficPolicy) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (spec, mut at) = (&policy.spec, Check::spec(&mut out));
    if spec.target_refs.is_empty() || spec.target_refs.len() > 16 {
        at.field("targetRefs", "name 1 to 16 targets");
    }
    for (index, target) in spec.target_refs.iter().enumerate() {
        let mut at = at.item("targetRefs", index);
        match (target.group.as_str(), target.kind.as_str()) {
            ("", "Service") | ("outrider.dev", "ExternalService") => {}
            ("", "ExternalService") => at.field("group", "the group of ExternalService is outrider.dev"),
            (group, kind) => at.field(
                "kind",
                format!("{kind:?} of group {group:?} cannot be a target; use Service (group \"\") or ExternalService (group outrider.dev)"),
            ),
        }
        at.name("name", &target.name);
        if let Some(section) = &target.section_name {
            at.name("sectionName", section);
        }
    }
    at.unique(
        "targetRefs",
        "",
        spec.target_refs.iter().map(|it| {
            let section = it.section_name.as_deref().map(|name| format!(" port {name}")).unwrap_or_default();
            format!("{} {}{section}", it.kind, it.name)
        }),
    );
    if let Some(it) = &spec.load_balancing {
        check_of::load_balancing(at.at("loadBalancing"), it);
    }
    if let Some(it) = &spec.retries {
        check_of::retries(at.at("retries"), it, spec.circuit_breakers.as_ref());
    }
    if let Some(it) = &spec.timeouts {
        check_of::timeouts(at.at("timeouts"), it);
    }
    if let Some(it) = &spec.outlier_detection {
        check_of::outlier_detection(at.at("outlierDetection"), it);
    }
    if let Some(it) = &spec.health_check {
        check_of::health_check(at.at("healthCheck"), it);
    }
    if let Some(it) = &spec.rate_limit {
        check_of::rate_limit(at.at("rateLimit"), it);
    }
    if let Some(it) = &spec.connection_pool {
        check_of::connection_pool(at.at("connectionPool"), it);
    }
    out
}
