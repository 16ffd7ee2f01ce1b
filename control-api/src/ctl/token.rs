//! `outriderctl token create`.

use serde_json::json;

use super::Session;
use super::failure::Failure;
use crate::ca::credential::join::new_secret;
use crate::ca::identity::Workload;
use crate::model::Kind;
use crate::model::own::Duration;
use crate::pb;

/// The longest that a join token can be used.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// Makes a join token: its secret is shown this once, and its hash is stored.
pub(super) async fn create(
    session: &mut Session<'_, '_>,
    account: &str,
    ttl: Duration,
    uses: u32,
) -> Result<(), Failure> {
    let namespace = session.namespace().to_owned();
    let workload = Workload::new(&namespace, account).map_err(|error| Failure::usage(error.to_string()))?;
    if ttl.std().is_zero() || ttl.std() > LONGEST {
        return Err(Failure::usage(format!("--ttl {ttl}: want more than nothing, and 720h at most")));
    }
    let secret = new_secret(&namespace).map_err(|error| Failure::refused(error.to_string()))?;
    let expires = chrono::Utc::now() + ttl.std();
    let expires = expires.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let object = json!({
        "apiVersion": Kind::JoinToken.api_version(),
        "kind": Kind::JoinToken.name(),
        "metadata": { "namespace": namespace, "name": secret.name },
        "spec": { "serviceAccount": account, "hash": secret.hash, "expires": expires, "uses": uses },
    });
    let manifest = pb::Manifest { source: "token create".to_owned(), json: object.to_string() };
    let request = pb::ApplyRequest { manifests: vec![manifest], dry_run: false };
    session.client().await?.apply(request).await?;
    let times = if uses == 1 { "once".to_owned() } else { format!("{uses} times") };
    session.warn(&format!("for {workload}, good {times} until {expires}; it is shown this once:"))?;
    Ok(session.say(&secret.token)?)
}
