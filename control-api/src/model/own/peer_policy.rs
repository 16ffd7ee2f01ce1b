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
    /// What they accept.
    #[serde(default)]
    pub mtls: Mtls,
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
    /// Only mutual TLS. Not possible yet: workloads have no identities.
    #[serde(alias = "STRICT", alias = "strict")]
    Strict,
    /// Mutual TLS and clear text.
    #[default]
    #[serde(alias = "PERMISSIVE", alias = "permissive")]
    Permissive,
    /// Clear text.
    #[serde(alias = "DISABLED", alias = "disabled")]
    Disabled,
}

/// What is wrong with a policy by itself.
pub(super) fn check(policy: &PeerPolicy) -> Vec<(String, String)> {
    // Accepted, it would let through in clear what its author believes to be refused.
    const NO_IDENTITIES: &str = "workloads have no identities yet, so mutual TLS cannot be demanded; use Permissive, or deny what must not come with an AuthorizationPolicy";
    let mut out = Vec::new();
    let (spec, mut at) = (&policy.spec, Check::spec(&mut out));
    at.selector(spec.selector.as_ref());
    if spec.mtls.mode == MtlsMode::Strict {
        at.field("mtls.mode", NO_IDENTITIES);
    }
    at.unique("ports", "number", spec.ports.iter().map(|port| port.number));
    for (index, port) in spec.ports.iter().enumerate() {
        let mut at = at.item("ports", index);
        at.range("number", Some(port.number), 1, u16::MAX);
        if port.mtls.mode == MtlsMode::Strict {
            at.field("mtls.mode", NO_IDENTITIES);
        }
    }
    out
}
