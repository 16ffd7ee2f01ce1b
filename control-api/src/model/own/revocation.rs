//! `Revocation`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::common::ConditionsStatus;

/// Identities that are no longer believed, before their certificates end. They get no further certificate, their proxies no configuration, and
/// the sidecars of the mesh neither take connections from them nor make any to them; what is open is closed.
///
/// It counts in `outrider-system` alone. Deleting it gives the identities back; a certificate from before is good again as long as it lasts.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "Revocation",
    plural = "revocations",
    category = "outrider",
    namespaced,
    status = "ConditionsStatus",
    doc = "Identities of workloads that are no longer believed, before their certificates end."
)]
#[serde(rename_all = "camelCase")]
pub struct RevocationSpec {
    /// The identities, 1 to 256, as in `spiffe://cluster.local/ns/shop/sa/web`.
    #[schemars(length(min = 1, max = 256))]
    pub identities: Vec<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is wrong with it by itself.
pub(super) fn check(revocation: &Revocation) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (spec, mut at) = (&revocation.spec, Check::spec(&mut out));
    if spec.identities.is_empty() || spec.identities.len() > 256 {
        at.field("identities", "name 1 to 256 identities");
    }
    at.unique("identities", "", spec.identities.iter());
    for (index, text) in spec.identities.iter().enumerate() {
        let parts: Vec<&str> = text.strip_prefix("spiffe://").unwrap_or_default().split('/').collect();
        let fine = matches!(parts.as_slice(), [domain, "ns", namespace, "sa", account]
            if [domain, namespace, account].iter().all(|it| !it.is_empty() && !it.contains('*')));
        if !fine {
            at.field(
                &format!("identities[{index}]"),
                format!("{text:?}: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, each in full"),
            );
        }
    }
    out
}
