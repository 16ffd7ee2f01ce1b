//! Join tokens: objects of the store that know the hash of a secret, and how often it is still good.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Mutex;

use super::super::authority::seconds;
use super::super::identity::Workload;
use super::CredentialError;
use crate::model::own::JoinToken;
use crate::model::{Key, Kind};
use crate::store::{Expect, SharedStore, StoreError, Write};

/// What every join token begins with: `outrider_join.NAMESPACE.NAME.SECRET`.
pub const PREFIX: &str = "outrider_join.";
/// How often a token is tried to be used while other control planes use it too.
const TRIES: u32 = 16;
/// How many tokens can be used here at the same time, about.
const LANES: usize = 64;
/// How long a use waits for others of the same token.
const PATIENCE: Duration = Duration::from_secs(10);

/// The join tokens of a store.
#[derive(Clone, Debug)]
pub struct JoinTokens {
    store: SharedStore,
    /// Uses of one token go one after the other: at once they would only undo each other's writes.
    lanes: Arc<[Mutex<()>]>,
}

/// A use of a token that is not used up yet.
#[derive(Clone, Debug)]
pub struct Ticket {
    key: Key,
    hash: [u8; 32],
}

impl Ticket {
    /// Which token it is of, for people: never its secret.
    pub fn name(&self) -> String {
        self.key.to_string()
    }
}

/// A secret that was just made, with the hash that is kept of it.
#[derive(Clone)]
pub struct NewSecret {
    /// What the workload sends.
    pub token: String,
    /// As it stands in the object: `sha256:HEX`.
    pub hash: String,
    /// The object's name.
    pub name: String,
}

/// A token as it is found.
struct Found {
    revision: u64,
    json: Value,
    token: JoinToken,
}

impl JoinTokens {
    pub(super) fn new(store: SharedStore) -> Self {
        Self { store, lanes: (0..LANES).map(|_| Mutex::default()).collect() }
    }

    /// Whom a token makes its bearer.
    pub(super) async fn find(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<(Workload, Ticket), CredentialError> {
        let parts = token.strip_prefix(PREFIX).map(|rest| rest.split('.').collect::<Vec<_>>());
        let Some([namespace, name, secret]) = parts.as_deref() else { return Err(CredentialError::Join) };
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
        // Names as Kubernetes has them, before a store is asked for them.
        let known = Workload::new(namespace, name).map_err(|_| CredentialError::Join)?;
        let ticket = Ticket { key: Key::new(Kind::JoinToken, &known.namespace, &known.account), hash };
        let found = self.look(&ticket, now).await?;
        let workload = Workload::new(&ticket.key.namespace, &found.token.spec.service_account)
            .map_err(|error| CredentialError::Subject(error.to_string()))?;
        Ok((workload, ticket))
    }

    /// Counts one use; the last one deletes the token.
    pub(super) async fn spend(&self, ticket: Ticket, now: SystemTime) -> Result<(), CredentialError> {
        let many = || CredentialError::Unavailable("many use this join token at once".into());
        let [first, ..] = ticket.hash;
        let _turn = match self.lanes.get(usize::from(first) % LANES) {
            Some(lane) => Some(tokio::time::timeout(PATIENCE, lane.lock()).await.map_err(|_| many())?),
            None => None,
        };
        for tried in 0..TRIES {
            let mut found = self.look(&ticket, now).await?;
            let left = found.token.spec.uses.saturating_sub(1);
            if let Some(uses) = found.json.pointer_mut("/spec/uses") {
                *uses = left.into();
            }
            let json = (left > 0).then(|| Bytes::from(found.json.to_string()));
            let write = Write { key: ticket.key.clone(), expect: Expect::Revision(found.revision), json };
            match self.store.commit(vec![write]).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => tokio::time::sleep(pause(tried)).await,
                Err(error) => return Err(CredentialError::Unavailable(error.to_string())),
            }
        }
        Err(many())
    }

    /// The token of a ticket, if its secret is right, and it is still good.
    async fn look(&self, ticket: &Ticket, now: SystemTime) -> Result<Found, CredentialError> {
        let found = self.store.get(&ticket.key).await;
        let found = found.map_err(|error| CredentialError::Unavailable(error.to_string()))?;
        let Some(record) = found else { return Err(CredentialError::Join) };
        let damaged =
            |error: serde_json::Error| CredentialError::Unavailable(format!("{}: {error}", ticket.key));
        let json: Value = serde_json::from_slice(&record.json).map_err(damaged)?;
        let token: JoinToken = serde_json::from_value(json.clone()).map_err(damaged)?;
        let kept = token.spec.digest().ok_or(CredentialError::Join)?;
        constant_time::verify_slices_are_equal(&kept, &ticket.hash).map_err(|_| CredentialError::Join)?;
        let expires = token.spec.expires_at().ok_or(CredentialError::Expired)?;
        if expires <= seconds(now) {
            return Err(CredentialError::Expired);
        }
        if token.spec.uses == 0 {
            return Err(CredentialError::Join);
        }
        Ok(Found { revision: record.revision, json, token })
    }
}

/// How long to wait before another try: by chance, so that control planes do not meet again; longer from try to try.
fn pause(tried: u32) -> Duration {
    let mut chance = [u8::MAX; 1];
    if rand::fill(&mut chance).is_err() {
        chance = [u8::MAX; 1];
    }
    let [chance] = chance;
    let most = 4_u64 << tried.min(6);
    Duration::from_millis(most * u64::from(chance) / u64::from(u8::MAX))
}

/// Makes a secret of 256 random bits for a namespace.
///
/// # Errors
/// When the system has no random numbers.
pub fn new_secret(namespace: &str) -> anyhow::Result<NewSecret> {
    let (mut bytes, mut mark) = ([0u8; 32], [0u8; 5]);
    for part in [&mut bytes[..], &mut mark[..]] {
        rand::fill(part).map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (secret, name) = (URL_SAFE_NO_PAD.encode(bytes), format!("join-{}", hex(&mark)));
    let hash = format!("sha256:{}", hex(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref()));
    Ok(NewSecret { token: format!("{PREFIX}{namespace}.{name}.{secret}"), hash, name })
}
