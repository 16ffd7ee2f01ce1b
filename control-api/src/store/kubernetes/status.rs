//! Statuses, from what the engine found out to the objects in Kubernetes.
//!
//! Any number of control planes may do this at once, without a leader: each reads the object first, and writes only when what it
//! would say is not there already (times apart), under the resource version that it read. So the first one writes, and the others
//! find nothing to do. Where somebody keeps changing it back (two releases at once during a roll-out that do not agree) the pauses
//! between writes to that object double.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::api::PostParams;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::merge::{merge, same};
use super::{Kubernetes, MANAGER, REQUEST, clean, words};
pub use crate::model::CONTROLLER;
use crate::model::{Key, Kind};
use crate::restart::restarted;

/// What is to be said: by object, the JSON of its `status`.
pub type Statuses = Arc<BTreeMap<Key, Value>>;

/// Requests a second, reads and writes each.
const RATE: u32 = 50;
/// How long news are gathered before something is written.
const GATHER: Duration = Duration::from_millis(200);
/// The pause after a failure, and the first one after somebody changed back what was written; both double.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(120);
/// How often a write is repeated when the object changes under it.
const REPEATS: usize = 4;

/// Writes statuses back.
#[derive(Debug)]
pub struct Writer {
    kubernetes: Kubernetes,
    done: BTreeMap<Key, Done>,
    /// When the next request may be sent.
    next: Instant,
}

/// What was found or written last at an object.
#[derive(Clone, Copy, Debug)]
struct Done {
    /// The hash of what was said; 0 for nothing.
    said: u64,
    /// The hash of the status that the server had then.
    there: u64,
    /// Writes and failures in a row without a rest.
    times: u32,
    /// When it may be looked at again.
    after: Instant,
    /// It has to be done again.
    failed: bool,
}

/// What became of one object.
enum Outcome {
    /// The server has it now, under this hash.
    There { status: u64, wrote: bool },
    /// The object, or its kind, is gone.
    Gone,
}

impl Writer {
    pub(super) fn new(kubernetes: Kubernetes) -> Self {
        Self { kubernetes, done: BTreeMap::new(), next: Instant::now() }
    }

    /// Keeps the statuses in Kubernetes as `statuses` says, until its sender is gone.
    ///
    /// Only objects in the map, and those that carry an entry of ours from before, are touched. A map that is empty at first is
    /// one that nobody has filled yet: nothing is taken away before the first change.
    pub async fn run(self, statuses: watch::Receiver<Statuses>) {
        let kubernetes = self.kubernetes;
        let what = format!("{}: writing statuses back", kubernetes.shared.place);
        restarted(&what, kubernetes.shared.pace.fault, || {
            Self::new(kubernetes.clone()).follow(statuses.clone())
        })
        .await;
    }

    async fn follow(mut self, mut statuses: watch::Receiver<Statuses>) {
        if statuses.borrow().is_empty() && statuses.changed().await.is_err() {
            return;
        }
        let mut news = self.kubernetes.shared.mirror.news();
        let mut all = true;
        let mut before: Option<Statuses> = None;
        // When something has to be tried again. News in between look at other objects: the time stays until all are looked at.
        let mut wake: Option<Instant> = None;
        loop {
            let said = statuses.borrow_and_update().clone();
            // What is to be said may have changed while news were gathered.
            all |= before.replace(Arc::clone(&said)).is_none_or(|before| !Arc::ptr_eq(&before, &said));
            news.mark_unchanged();
            let found = self.round(&said, all).await;
            wake = wake.filter(|_| !all).into_iter().chain(found).min();
            all = false;
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = statuses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    all = true;
                }
                _ = news.changed() => {}
                () = sleep => all = true,
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Brings everything up to date that is not. Gives when something has to be tried again.
    pub(super) async fn round(&mut self, said: &Statuses, all: bool) -> Option<Instant> {
        let mirror = &self.kubernetes.shared.mirror;
        let changed = mirror.take_statuses();
        let work: BTreeSet<Key> =
            if all { said.keys().cloned().chain(mirror.ours()).collect() } else { changed };
        if all {
            // Of objects that are gone nothing is to be remembered.
            self.done.retain(|key, _| self.kubernetes.shared.mirror.status(key).is_some());
        }
        let mut wake: Option<Instant> = None;
        for key in work {
            let value = said.get(&key);
            let hash = value.map_or(0, clean::hash);
            let Some(there) = self.kubernetes.shared.mirror.status(&key) else {
                self.done.remove(&key);
                continue;
            };
            let before = self.done.get(&key).copied();
            if value.is_none() && before.is_none() && !all {
                continue;
            }
            if before.is_some_and(|it| it.said == hash && it.there == there && !it.failed) {
                continue;
            }
            if let Some(it) = before
                && it.after > Instant::now()
            {
                wake = Some(wake.map_or(it.after, |at| at.min(it.after)));
                continue;
            }
            let done = self.one(&key, value, hash, before).await;
            match done {
                Some(done) => {
                    if done.failed {
                        wake = Some(wake.map_or(done.after, |at| at.min(done.after)));
                    }
                    self.done.insert(key, done);
                }
                None => _ = self.done.remove(&key),
            }
        }
        wake
    }

    /// The objects of which something is remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> Vec<Key> {
        self.done.keys().cloned().collect()
    }

    async fn one(
        &mut self,
        key: &Key,
        value: Option<&Value>,
        hash: u64,
        before: Option<Done>,
    ) -> Option<Done> {
        let now = Instant::now();
        let rested =
            before.is_none_or(|it| now.saturating_duration_since(it.after) > LONGEST || it.said != hash);
        let times = if rested { 0 } else { before.map_or(0, |it| it.times) };
        let pause = |times: u32| (PAUSE * 2u32.saturating_pow(times.min(8))).min(LONGEST);
        match self.write(key, value).await {
            Ok(Outcome::Gone) => None,
            Ok(Outcome::There { status, wrote: false }) => {
                Some(Done { said: hash, there: status, times, after: now, failed: false })
            }
            Ok(Outcome::There { status, wrote: true }) => {
                let after = if times == 0 { now } else { now + pause(times) };
                Some(Done { said: hash, there: status, times: times + 1, after, failed: false })
            }
            Err(reason) => {
                if times == 0 {
                    tracing::warn!("{key}: its status cannot be written: {reason}; trying again");
                }
                let there = before.map_or(0, |it| it.there);
                Some(Done { said: hash, there, times: times + 1, after: now + pause(times), failed: true })
            }
        }
    }

    /// Reads, compares, and writes when there is a difference.
    async fn write(&mut self, key: &Key, ours: Option<&Value>) -> Result<Outcome, String> {
        let Some((api, _)) = self.kubernetes.shared.api(key) else { return Ok(Outcome::Gone) };
        let mut last = String::new();
        for _ in 0..REPEATS {
            self.turn().await;
            let found = self.kubernetes.shared.read(key).await.map_err(|error| error.to_string())?;
            let Some(mut found) = found else { return Ok(Outcome::Gone) };
            let current = found.data.get("status").cloned();
            let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            let merged = merge(current.as_ref(), ours, &time);
            if same(&merged, current.as_ref().unwrap_or(&Value::Object(serde_json::Map::new()))) {
                return Ok(Outcome::There { status: current.as_ref().map_or(0, clean::hash), wrote: false });
            }
            if let Some(map) = found.data.as_object_mut() {
                map.insert("status".into(), merged);
            }
            found.metadata.managed_fields = None;
            self.turn().await;
            let params = PostParams { dry_run: false, field_manager: Some(MANAGER.into()) };
            let answer = api.replace_status(&key.name, &params, &found);
            match tokio::time::timeout(REQUEST, answer).await {
                Ok(Ok(written)) => {
                    let status = written.data.get("status").map_or(0, clean::hash);
                    return Ok(Outcome::There { status, wrote: true });
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => last = status.message.clone(),
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(Outcome::Gone),
                Ok(Err(error)) => return Err(words(&error)),
                Err(_) => return Err(format!("no answer within {REQUEST:?}")),
            }
        }
        Err(last)
    }

    /// Waits for its turn, so that the server is asked no more than [`RATE`] times a second.
    async fn turn(&mut self) {
        tokio::time::sleep_until(self.next).await;
        self.next = self.next.max(Instant::now()) + Duration::from_secs(1) / RATE;
    }
}

/// The kinds whose status is written.
pub const KINDS: &[Kind] = &[
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::BackendTlsPolicy,
    Kind::TrafficPolicy,
    Kind::ExternalService,
    Kind::PeerPolicy,
    Kind::AuthorizationPolicy,
    Kind::Telemetry,
    Kind::Revocation,
];
