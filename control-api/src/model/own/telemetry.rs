//! `Telemetry`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a `Telemetry` says.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "outrider.dev", version = "v1", kind = "Telemetry", plural = "telemetries", namespaced)]
#[serde(rename_all = "camelCase")]
pub struct TelemetrySpec {}
