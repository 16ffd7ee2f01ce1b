//! `outriderctl identity revoke`.

use serde_json::json;

use super::Session;
use super::failure::Failure;
use crate::model::Kind;
use crate::model::own::MESH_NAMESPACE;
use crate::pb;

/// Stores a `Revocation` of one identity. Its name says whose it is, so that revoking twice is one.
pub(super) async fn revoke(
    session: &mut Session<'_, '_>,
    identity: &str,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let parts: Vec<&str> = identity.strip_prefix("spiffe://").unwrap_or_default().split('/').collect();
    let [_, "ns", namespace, "sa", account] = parts.as_slice() else {
        return Err(Failure::usage(format!(
            "{identity:?}: want an identity in full, as in spiffe://cluster.local/ns/shop/sa/web"
        )));
    };
    let name = format!("{account}.{namespace}");
    let mut spec = json!({ "identities": [identity] });
    if let (Some(reason), Some(fields)) = (reason, spec.as_object_mut()) {
        fields.insert("reason".to_owned(), reason.into());
    }
    let object = json!({
        "apiVersion": Kind::Revocation.api_version(),
        "kind": Kind::Revocation.name(),
        "metadata": { "namespace": MESH_NAMESPACE, "name": name },
        "spec": spec,
    });
    let manifest = pb::Manifest { source: "identity revoke".to_owned(), json: object.to_string() };
    let request = pb::ApplyRequest { manifests: vec![manifest], dry_run: false };
    session.client().await?.apply(request).await?;
    Ok(session.say(&format!(
        "{identity} is revoked; outriderctl delete revocations {name} -n {MESH_NAMESPACE} gives it back"
    ))?)
}
