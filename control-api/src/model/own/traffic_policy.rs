//! `TrafficPolicy`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a `TrafficPolicy` says.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {}
