//! `PeerPolicy`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::common::{ConditionsStatus, Selector};

/// How workloads are spoken to by other workloads: in clear or in TLS with a certificate on both sides.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "PeerPolicy",
    plural = "peerpolicies",
    shortname = "pp",
    category = "outrider",
    namespaced,
    status = "ConditionsStatus",
    doc = "How workloads are spoken to by other workloads: in clear or in TLS with a certificate on both sides."
)]
#[serde(rename_all = "camelCase")]
pub struct PeerPolicySpec {
    /// The workloads that it is for. Default: all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// What they accept. Default: what the policy of the namespace says, then the one of the mesh (a policy without selector in
    /// `outrider-system`), then `Permissive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// What they accept at single ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<PeerPort>,
}

/// What a workload accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    /// Default: `Permissive`.
    #[serde(default)]
    pub mode: MtlsMode,
}

/// What a workload accepts at one port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerPort {
    /// The port of the workload, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub number: u16,
    /// What it accepts there.
    pub mtls: Mtls,
}

/// What connections are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// Only mutual TLS. Of what comes in clear, HTTP probes of the Pod's containers are let through, and nothing else.
    #[serde(alias = "STRICT", alias = "strict")]
    Strict,
    /// Mutual TLS and clear text. Whoever waits for the server to speak first waits a second longer where it is not mutual TLS.
    #[default]
    #[serde(alias = "PERMISSIVE", alias = "permissive")]
    Permissive,
    /// Clear text.
    #[serde(alias = "DISABLED", alias = "disabled")]
    Disabled,
}

/// What is wrong with a policy by itself.
pub(super) fn check(policy: &PeerPolicy) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (spec, mut at) = (&policy.spec, Check::spec(&mut out));
    at.selector(spec.selector.as_ref());
    at.unique("ports", "number", spec.ports.iter().map(|port| port.number));
    for (index, port) in spec.ports.iter().enumerate() {
        at.item("ports", index).range("number", Some(port.number), 1, u16::MAX);
    }
    out
}
