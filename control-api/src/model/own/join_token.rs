//! `JoinToken`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;

/// The most uses of one token.
const MOST_USES: u32 = 1_000_000;

/// A secret by which workloads without Kubernetes get their first certificate. `outriderctl token create` makes it; only its hash is
/// kept here. It is for a service account of its own namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "JoinToken",
    plural = "jointokens",
    shortname = "jt",
    category = "outrider",
    namespaced,
    doc = "A secret by which workloads without Kubernetes get their first certificate; only its hash is kept."
)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenSpec {
    /// The service account whose identity the bearer gets.
    pub service_account: String,
    /// The SHA-256 of the token's last part: `sha256:` and 64 hexadecimal digits.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub hash: String,
    /// When it ends (RFC 3339), as in `2030-01-31T12:00:00Z`.
    pub expires: String,
    /// How many certificates can still be got with it. The last use deletes it.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub uses: u32,
}

impl JoinTokenSpec {
    /// The hash.
    pub fn digest(&self) -> Option<[u8; 32]> {
        let hex = self.hash.strip_prefix("sha256:").filter(|hex| hex.len() == 64)?;
        let mut out = [0; 32];
        for (index, slot) in out.iter_mut().enumerate() {
            *slot = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(out)
    }

    /// When it ends, in seconds since 1970.
    pub fn expires_at(&self) -> Option<i64> {
        chrono::DateTime::parse_from_rfc3339(&self.expires).ok().map(|it| it.timestamp())
    }
}

/// What is wrong with a token by itself.
pub(super) fn check(token: &JoinToken) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (spec, mut at) = (&token.spec, Check::spec(&mut out));
    at.name("serviceAccount", &spec.service_account);
    if spec.digest().is_none() {
        at.field("hash", "want sha256: and 64 hexadecimal digits; a token itself must not stand here (outriderctl token create)");
    }
    if spec.expires_at().is_none() {
        at.field("expires", format!("{:?} is no moment; write it as 2030-01-31T12:00:00Z", spec.expires));
    }
    at.range("uses", Some(spec.uses), 1, MOST_USES);
    out
}
