//! Watch: what is there, then what changes, from the published world.
//!
//! A watcher sees states, not each step: what changes several times before it can be sent is sent once. So however slow a
//! watcher is, what waits for it is bounded; one that takes nothing for half a minute is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use xxhash_rust::xxh64::xxh64;

use super::auth::Identity;
use super::read::{Selection, shown, status_of};
use super::{ControlService, VISIBLE, error, from_manifests, identity, revision_of};
use crate::engine::{Engine, Snapshot};
use crate::model::{Key, Object};
use crate::pb::{self, watch_response::Type};
use crate::store::{Change, StoreError};

/// How many may watch at a time.
pub(super) const WATCHERS: usize = 1024;
/// Events that wait for a watcher.
const QUEUE: usize = 64;
/// How long a watcher may take nothing while events wait.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// How often a watcher is told how far it is when nothing that it watches changes.
const BOOKMARK: Duration = Duration::from_secs(30);

/// The events of a watcher.
pub(super) type Events = Pin<Box<dyn futures_util::Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

/// Changes since the version that a watcher resumes at.
type History = BoxStream<'static, Result<Change, StoreError>>;

/// What a watcher has of an object.
struct Known {
    object: Arc<Object>,
    status: u64,
}

/// Why a watcher ends.
enum End {
    /// It went away.
    Gone,
    /// It is told this.
    Told(Status),
}

struct Watcher {
    engine: Arc<Engine>,
    who: Identity,
    selection: Selection,
    /// What it has been told of, and what was there when it resumed.
    seen: BTreeMap<Key, Known>,
    /// What it was told of when it resumed, without the store's history.
    told: BTreeSet<Key>,
    /// All changes up to this revision were sent.
    token: u64,
    /// The last one that it was given.
    given: u64,
    /// The world that `seen` is of.
    snapshot: Arc<Snapshot>,
    sender: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    _permit: OwnedSemaphorePermit,
}

impl ControlService {
    pub(super) async fn do_watch(&self, request: Request<pb::WatchRequest>) -> Result<Events, Status> {
        let who = identity(&request)?;
        let request = request.into_inner();
        let selection = Selection::new(&request.kind, &request.namespace, &request.label_selector)?;
        let resume = revision_of(&request.resource_version)?;
        let permit = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{WATCHERS} watchers are there already; try again later"))
        })?;
        let engine = Arc::clone(&self.parts.engine);
        let news = engine.news();
        let mut snapshot = engine.snapshot();
        let (mut history, mut told) = (None, BTreeSet::new());
        if let Some(resume) = resume {
            if snapshot.revision < resume {
                let _ = tokio::time::timeout(VISIBLE, engine.applied(resume)).await;
                snapshot = engine.snapshot();
            }
            if snapshot.revision < resume {
                return Err(Status::out_of_range(format!(
                    "version {resume} is not known here (the newest is {}): list anew",
                    snapshot.revision
                )));
            }
            // Manifests have no history. What of them is gone is remembered for a while.
            let Some(gone) = snapshot.gone.since(resume) else {
                return Err(Status::out_of_range(format!(
                    "what changed in the manifests of this control plane since version {resume} is not known: list anew"
                )));
            };
            told.extend(gone.filter(|key| selection.has_key(key)).cloned());
            if snapshot.revision > resume {
                let opened = self.parts.store.watch(resume).await;
                history = Some(opened.map_err(|error| error::of_store(&error))?);
            }
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let last = Arc::new(Mutex::new(None));
        let mut watcher = Watcher {
            engine,
            who,
            selection,
            seen: BTreeMap::new(),
            told,
            token: resume.unwrap_or(snapshot.revision),
            given: resume.unwrap_or(0),
            snapshot,
            sender,
            _permit: permit,
        };
        let (slot, leaving) = (Arc::clone(&last), self.parts.leaving.clone());
        tokio::spawn(async move {
            if let Err(End::Told(status)) = watcher.run((news, leaving), history, resume.is_none()).await {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
            }
        });
        let end = stream::once(async move { last.lock().unwrap_or_else(PoisonError::into_inner).take() });
        Ok(ReceiverStream::new(receiver).chain(end.filter_map(|it| async move { it.map(Err) })).boxed())
    }
}

impl Watcher {
    async fn run(
        &mut self,
        (mut news, mut leaving): (watch::Receiver<u64>, watch::Receiver<bool>),
        mut history: Option<History>,
        initial: bool,
    ) -> Result<(), End> {
        let snapshot = Arc::clone(&self.snapshot);
        for object in self.selection.of(&snapshot) {
            let known = Known { object: Arc::clone(object), status: mark(&snapshot, &object.key) };
            self.seen.insert(object.key.clone(), known);
        }
        if initial {
            let objects: Vec<_> = self.seen.values().map(|known| Arc::clone(&known.object)).collect();
            for object in objects {
                let json = shown(&snapshot, &object, &self.who);
                // Without a version: who resumes in the midst of the list would miss the rest of it.
                self.send(Type::Added, json.to_string(), None).await?;
            }
            self.bookmark().await?;
        } else {
            self.unversioned().await?;
        }
        // History is needed up to the world that `seen` was taken from; later changes are seen there.
        let caught_up = self.snapshot.revision;
        let mut ended = std::pin::pin!(self.who.ended());
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + BOOKMARK, BOOKMARK);
        loop {
            let past = async {
                match &mut history {
                    Some(history) => history.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.sender.closed() => return Err(End::Gone),
                change = past => {
                    let done = match change {
                        None => true,
                        Some(Ok(change)) if change.revision > caught_up => true,
                        Some(Ok(change)) => {
                            self.past(&change).await?;
                            change.revision == caught_up && !change.more
                        }
                        Some(Err(error)) => return Err(End::Told(error::of_store(&error))),
                    };
                    if done {
                        (history, self.told) = (None, BTreeSet::new());
                        self.token = self.snapshot.revision.max(self.token);
                    }
                }
                () = leave(&mut leaving) => {
                    return Err(End::Told(Status::unavailable("this control plane shuts down; watch another")));
                }
                status = &mut ended => return Err(End::Told(status)),
                // The engine lives as long as this watcher.
                Ok(()) = news.changed() => {
                    self.changes(history.is_none()).await?;
                    tokio::time::sleep(GATHER).await;
                }
                _ = ticks.tick() => {
                    if history.is_none() && self.token > self.given {
                        self.bookmark().await?;
                    }
                }
            }
        }
    }

    /// What may have changed before the watcher came back without a trace in the store's history: manifests, and statuses.
    async fn unversioned(&mut self) -> Result<(), End> {
        let may_differ = |known: &Known| from_manifests(&known.object) || known.status != 0;
        let changed = self.seen.iter().filter(|(_, known)| may_differ(known)).map(|(key, _)| key.clone());
        self.told.extend(changed.collect::<Vec<_>>());
        for key in self.told.clone() {
            let (kind, json) = self.now(&key);
            self.send(kind, json.to_string(), None).await?;
        }
        Ok(())
    }

    /// An object that changed before the watcher came back, as it is now. Of what is gone, or does not match, it is not known
    /// whether it ever matched: a watcher that has it must hear that it has it no more, others can tell that they never had.
    fn now(&self, key: &Key) -> (Type, Value) {
        match self.seen.get(key) {
            Some(known) => (Type::Modified, shown(&self.snapshot, &known.object, &self.who)),
            None => (Type::Deleted, tombstone(key)),
        }
    }

    /// Something that changed before the watcher came back: told as it is now.
    async fn past(&mut self, change: &Change) -> Result<(), End> {
        if !change.more {
            self.token = change.revision;
        }
        if !self.selection.has_key(&change.key) || self.told.contains(&change.key) {
            return Ok(());
        }
        let (kind, json) = self.now(&change.key);
        let token = (self.token > self.given).then_some(self.token);
        self.send(kind, json.to_string(), token).await
    }

    /// What differs between what was sent and what is published. `whole`: nothing older is still to be told.
    async fn changes(&mut self, whole: bool) -> Result<(), End> {
        let snapshot = self.engine.snapshot();
        let mut events = Vec::new();
        let mut seen = BTreeMap::new();
        // With endpoints alone no status changes.
        let same = Arc::ptr_eq(&self.snapshot.context.attachments, &snapshot.context.attachments);
        for object in self.selection.of(&snapshot) {
            let old = self.seen.remove(&object.key);
            let known = old.as_ref().filter(|_| same).map(|old| old.status);
            let status = known.unwrap_or_else(|| mark(&snapshot, &object.key));
            let kind = match &old {
                None => Some(Type::Added),
                Some(old) if old.status != status || differ(&old.object, object) => Some(Type::Modified),
                Some(_) => None,
            };
            events.extend(kind.map(|kind| (kind, Arc::clone(object))));
            seen.insert(object.key.clone(), Known { object: Arc::clone(object), status });
        }
        let gone = std::mem::replace(&mut self.seen, seen);
        let old = std::mem::replace(&mut self.snapshot, Arc::clone(&snapshot));
        let gone = gone.into_values().map(|known| (Type::Deleted, known.object));
        let mut events = gone.chain(events).peekable();
        while let Some((kind, object)) = events.next() {
            let world = if kind == Type::Deleted { &old } else { &snapshot };
            let json = shown(world, &object, &self.who).to_string();
            // Only with the last of them everything up to here was sent.
            if whole && events.peek().is_none() {
                self.token = self.token.max(snapshot.revision);
            }
            let token = (self.token > self.given).then_some(self.token);
            self.send(kind, json, token).await?;
        }
        if whole {
            self.token = self.token.max(snapshot.revision);
        }
        Ok(())
    }

    async fn bookmark(&mut self) -> Result<(), End> {
        self.send(Type::Bookmark, String::new(), Some(self.token)).await
    }

    async fn send(&mut self, kind: Type, json: String, token: Option<u64>) -> Result<(), End> {
        // Without news the last one holds: nothing, while the list is not complete.
        let version = token.or(Some(self.given).filter(|given| *given > 0));
        let event = pb::WatchResponse {
            r#type: kind.into(),
            json,
            resource_version: version.map(|it| it.to_string()).unwrap_or_default(),
        };
        match self.sender.send_timeout(Ok(event), PATIENCE).await {
            Ok(()) => {
                self.given = version.unwrap_or(self.given);
                Ok(())
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(End::Gone),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                Err(End::Told(Status::resource_exhausted(format!(
                    "events waited {PATIENCE:?} for this watcher and it took none; watch again from version {}",
                    self.given
                ))))
            }
        }
    }
}

/// Waits until this control plane leaves.
async fn leave(leaving: &mut watch::Receiver<bool>) {
    if leaving.wait_for(|leaving| *leaving).await.is_err() {
        std::future::pending().await
    }
}

/// A number that differs where the status does.
fn mark(snapshot: &Snapshot, key: &Key) -> u64 {
    status_of(snapshot, key).map_or(0, |status| xxh64(status.to_string().as_bytes(), 1))
}

fn differ(old: &Arc<Object>, new: &Arc<Object>) -> bool {
    if Arc::ptr_eq(old, new) || (old.revision == new.revision && new.revision > 0) {
        return false;
    }
    old.revision != new.revision || old.to_json() != new.to_json()
}

/// All that is known of an object that was deleted while nobody watched.
fn tombstone(key: &Key) -> Value {
    let mut meta = json!({ "name": &*key.name });
    if key.kind.namespaced()
        && let Some(map) = meta.as_object_mut()
    {
        map.insert("namespace".to_owned(), (*key.namespace).into());
    }
    json!({ "apiVersion": key.kind.api_version(), "kind": key.kind.name(), "metadata": meta })
}
