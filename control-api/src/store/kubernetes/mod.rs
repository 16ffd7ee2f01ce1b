//! Kubernetes as the store: what its API server keeps is what there is.
//!
//! Every kind of [`Kind::ALL`] that the server serves is watched and mirrored in memory; a kind whose CRD is not installed is
//! left out with a line in the log, and taken up when the CRD appears. What is mirrored is what translation reads: no managed
//! fields, no `status` but a pod's addresses, of secrets only those of the types `kubernetes.io/tls` and `Opaque` (the server
//! filters, so Helm's releases never come here), of config maps only those with a `ca.crt`.
//!
//! **Revisions.** An object's revision is its `resourceVersion` as a number. Within one kind Kubernetes promises that they
//! grow with each change (KEP-5504, conformance since 1.35, and true of every version on etcd). Between kinds nothing is
//! promised, although one etcd counts them together: each kind has a watch of its own, and what happened first may be told last.
//! So nothing here compares those of two kinds, and the store's own revision (that of listings and changes, by which a watch is
//! resumed) is another number: the position of a change in the order in which this process was told. No two changes share one,
//! so who resumes gets exactly what came after. Positions of a process begin where no other's are; one that this process did
//! not give out is answered [`StoreError::Compacted`], by which its owner lists anew.
//!
//! **Commits.** Kubernetes has no transactions. All writes are tried first with `dryRun=All`, so that schemas, admission,
//! access rights and expectations of all are judged before anything is written; then each is done. When one fails then (a
//! race, or the server went away) [`StoreError::Partial`] names what was written. A write replaces the whole object
//! (create or update under the field manager `outrider`, `fieldValidation=Strict`) as in the other stores; finalizers and owners
//! that others set stay. Core kinds are not written: that is `kubectl`'s, and the control plane needs no such rights.

mod clean;
mod commit;
pub mod crds;
mod discover;
#[cfg(test)]
pub(crate) mod fake;
mod feed;
mod limit;
mod merge;
mod mirror;
mod options;
pub mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::client::ClientBuilder;
pub use options::{Options, OptionsError};

use super::{Change, Committed, Listing, Record, Store, StoreError, Write};
use crate::model::{Key, Kind};
use mirror::Mirror;

/// How long a listing waits for the first picture of all kinds.
const SYNC: Duration = Duration::from_secs(30);
/// How long the server has for one request.
const REQUEST: Duration = Duration::from_secs(15);
/// Under which name fields are written.
const MANAGER: &str = "outrider";

/// Kubernetes' API server as the store.
#[derive(Clone)]
pub struct Kubernetes {
    shared: Arc<Shared>,
    /// Ends the watches with the last clone.
    _watches: Arc<Watches>,
}

struct Shared {
    client: Client,
    /// For people.
    place: String,
    mirror: Mirror,
    /// The kinds that the server serves, with the version that is used.
    served: std::sync::Mutex<BTreeMap<Kind, ApiResource>>,
    pace: Pace,
}

/// How long is waited, where nothing happens by itself.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How often missing kinds are looked for.
    again: Duration,
    /// After a fault of ours.
    fault: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { again: Duration::from_secs(5), fault: Duration::from_secs(15) }
    }
}

struct Watches(tokio::task::JoinHandle<()>);

impl Drop for Watches {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Connects as the options say, and starts to watch. The server need not be there yet: [`Store::list`] waits for it.
    ///
    /// # Errors
    /// When there is no usable configuration: no kubeconfig, a context that it does not have, keys that cannot be read.
    pub async fn open(options: &Options) -> Result<Self, StoreError> {
        let config = options.config().await.map_err(|reason| StoreError::ReadOnly(reason.to_string()))?;
        let place = format!("Kubernetes at {}", config.cluster_url);
        let builder = ClientBuilder::try_from(config).map_err(|error| {
            StoreError::ReadOnly(format!(
                "{place}: {error}; mend the certificates or tokens in the kubeconfig"
            ))
        })?;
        Ok(Self::with_client(builder.with_layer(&limit::Limit(limit::BEGIN)).build(), place, Pace::default()))
    }

    fn with_client(client: Client, place: String, pace: Pace) -> Self {
        let shared = Arc::new(Shared {
            client,
            place,
            mirror: Mirror::default(),
            served: std::sync::Mutex::default(),
            pace,
        });
        let watches = tokio::spawn(discover::keep(Arc::clone(&shared)));
        Self { shared, _watches: Arc::new(Watches(watches)) }
    }

    /// What speaks to the API server.
    pub fn client(&self) -> Client {
        self.shared.client.clone()
    }

    /// Writes statuses back. See [`status::Writer`].
    pub fn status_writer(&self) -> status::Writer {
        status::Writer::new(self.clone())
    }

    /// The kinds that are watched now.
    pub fn kinds(&self) -> Vec<Kind> {
        self.shared.served().keys().copied().collect()
    }
}

impl Shared {
    fn served(&self) -> std::sync::MutexGuard<'_, BTreeMap<Kind, ApiResource>> {
        self.served.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How a kind is called at this server.
    fn resource(&self, kind: Kind) -> Option<ApiResource> {
        self.served().get(&kind).cloned()
    }

    /// Where an object is.
    fn api(&self, key: &Key) -> Option<(Api<DynamicObject>, ApiResource)> {
        let resource = self.resource(key.kind)?;
        let client = self.client.clone();
        let api = if key.kind.namespaced() {
            Api::namespaced_with(client, &key.namespace, &resource)
        } else {
            Api::all_with(client, &resource)
        };
        Some((api, resource))
    }

    fn unavailable(&self, what: &str, error: &kube::Error) -> StoreError {
        StoreError::Unavailable {
            reason: format!("{}: {what}: {}", self.place, words(error)),
            unknown: false,
        }
    }

    /// One object as it is now, by a consistent read.
    async fn read(&self, key: &Key) -> Result<Option<DynamicObject>, StoreError> {
        let Some((api, _)) = self.api(key) else { return Ok(None) };
        match tokio::time::timeout(REQUEST, api.get_opt(&key.name)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(self.unavailable(&format!("get {key}"), &error)),
            Err(_) => Err(StoreError::Unavailable {
                reason: format!("{}: get {key}: no answer within {REQUEST:?}", self.place),
                unknown: false,
            }),
        }
    }
}

/// An error of the client in words: what the server said, and what lies under "service error".
fn words(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let reason = if status.reason.is_empty() { "error" } else { &status.reason };
        return format!("{} ({reason}, {})", status.message, status.code);
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[tonic::async_trait]
impl Store for Kubernetes {
    async fn list(&self) -> Result<Listing, StoreError> {
        let mirror = &self.shared.mirror;
        if tokio::time::timeout(SYNC, mirror.synced()).await.is_err() {
            let reason = format!("{}: {}", self.shared.place, mirror.missing());
            return Err(StoreError::Unavailable { reason, unknown: false });
        }
        Ok(mirror.listing())
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let Some(found) = self.shared.read(key).await? else { return Ok(None) };
        let cleaned = clean::clean(key.kind, found, false).map_err(|reason| StoreError::Corrupt {
            place: format!("{}: {key}", self.shared.place),
            reason,
        })?;
        Ok(cleaned.map(|it| Record { key: it.key, revision: it.revision, json: it.json }))
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        Ok(self.commit_each(writes).await?.revision)
    }

    async fn commit_each(&self, writes: Vec<Write>) -> Result<Committed, StoreError> {
        commit::commit(&self.shared, writes).await
    }

    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        // The stream keeps the watches alive that feed it.
        let watches = Arc::clone(&self._watches);
        let stream = Mirror::watch(Arc::clone(&self.shared), revision)?;
        Ok(Box::pin(futures_util::StreamExt::map(stream, move |change| {
            let _ = &watches;
            change
        })))
    }

    fn describe(&self) -> String {
        self.shared.place.clone()
    }
}
