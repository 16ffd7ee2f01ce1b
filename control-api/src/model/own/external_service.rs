//! `ExternalService`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a `ExternalService` says.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "ExternalService",
    plural = "externalservices",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalServiceSpec {}
