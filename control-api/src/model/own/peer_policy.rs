//! `PeerPolicy`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a `PeerPolicy` says.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "outrider.dev", version = "v1", kind = "PeerPolicy", plural = "peerpolicies", namespaced)]
#[serde(rename_all = "camelCase")]
pub struct PeerPolicySpec {}
