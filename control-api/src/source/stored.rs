//! Tells the engine what a store has: all of it once, then each commit.
//!
//! When the store cannot be reached, nothing is told: what was known stays in force. A record that cannot be read is a problem,
//! and its last good version stays.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use super::backoff::Backoff;
use super::{Input, Inputs, Origin, Problems};
use crate::model::{Key, Object, Problem, read_json};
use crate::restart::restarted;
use crate::store::{Change, Listing, SharedStore, StoreError};

/// How long to wait after a fault of ours.
const FAULT: Duration = Duration::from_secs(1);

/// Follows a store until the engine is gone.
pub fn start(store: SharedStore, inputs: Inputs, problems: Problems) -> JoinHandle<()> {
    tokio::spawn(async move {
        let place = store.describe();
        let what = format!("following {place}");
        let follow = || {
            let reader = Reader { place: place.clone(), problems: problems.clone(), ..Reader::default() };
            Follower {
                store: Arc::clone(&store),
                inputs: inputs.clone(),
                reader,
                backoff: Backoff::default(),
            }
            .run()
        };
        // That the engine is gone is the only way to end.
        let _ = restarted(&what, FAULT, follow).await;
    })
}

/// The engine is gone.
struct Gone;

struct Follower {
    store: SharedStore,
    inputs: Inputs,
    reader: Reader,
    backoff: Backoff,
}

impl Follower {
    async fn run(mut self) -> Result<(), Gone> {
        loop {
            let mut revision = self.list().await?;
            // Until the store has forgotten what came after.
            while !matches!(self.watch(&mut revision).await?, StoreError::Compacted { .. }) {}
            tracing::info!(store = %self.reader.place, revision, "the store no longer knows what changed since; listing anew");
            self.pause().await?;
        }
    }

    async fn pause(&mut self) -> Result<(), Gone> {
        let wait = self.backoff.next();
        tokio::select! {
            () = self.inputs.closed() => Err(Gone),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// Tells all there is, as soon as the store gives it.
    async fn list(&mut self) -> Result<u64, Gone> {
        loop {
            match self.store.list().await {
                Ok(listing) => {
                    let revision = listing.revision;
                    let mut reader = std::mem::take(&mut self.reader);
                    let read = tokio::task::spawn_blocking(move || {
                        let objects = reader.all(listing);
                        (reader, objects)
                    });
                    let (reader, objects) = match read.await {
                        Ok(read) => read,
                        // A fault is told and mended where faults of this task are.
                        Err(error) => match error.try_into_panic() {
                            Ok(panic) => std::panic::resume_unwind(panic),
                            // The runtime is going down.
                            Err(_) => return Err(Gone),
                        },
                    };
                    self.reader = reader;
                    self.tell(Input::Reset { origin: Origin::Store, revision, objects }).await?;
                    return Ok(revision);
                }
                Err(error) => {
                    tracing::warn!(store = %self.reader.place, %error, "cannot list; what is known stays in force");
                    self.pause().await?;
                }
            }
        }
    }

    /// Tells each commit after a revision, until the watch ends; gives the reason.
    async fn watch(&mut self, revision: &mut u64) -> Result<StoreError, Gone> {
        let error = match self.store.watch(*revision).await {
            Err(error) => error,
            Ok(mut changes) => {
                let mut commit = Vec::new();
                loop {
                    let next = tokio::select! {
                        () = self.inputs.closed() => return Err(Gone),
                        next = changes.next() => next,
                    };
                    match next {
                        Some(Ok(change)) => {
                            let (at, more) = (change.revision, change.more);
                            commit.extend(self.reader.change(change));
                            if more {
                                continue;
                            }
                            self.reader.report();
                            let changes = std::mem::take(&mut commit);
                            self.tell(Input::Changes { origin: Origin::Store, revision: at, changes })
                                .await?;
                            *revision = at;
                            self.backoff.reset();
                        }
                        Some(Err(error)) => break error,
                        None => {
                            break StoreError::Unavailable {
                                reason: "the watch ended".into(),
                                unknown: false,
                            };
                        }
                    }
                }
            }
        };
        if !matches!(error, StoreError::Compacted { .. }) {
            let place = &self.reader.place;
            tracing::warn!(store = %place, %error, revision, "cannot watch; what is known stays in force");
            self.pause().await?;
        }
        Ok(error)
    }

    async fn tell(&self, input: Input) -> Result<(), Gone> {
        self.inputs.send(input).await.map_err(|_| Gone)
    }
}

/// Reads records, and remembers the last good version of each.
#[derive(Default)]
struct Reader {
    place: String,
    /// The revision and JSON of the last good version.
    good: HashMap<Key, (u64, Bytes)>,
    bad: BTreeMap<Key, Vec<Problem>>,
    problems: Problems,
}

impl Reader {
    /// Everything, with the last good version of what cannot be read.
    fn all(&mut self, listing: Listing) -> Vec<Object> {
        self.bad.clear();
        let mut before = std::mem::take(&mut self.good);
        let mut objects = Vec::with_capacity(listing.records.len());
        for record in listing.records {
            let (key, good) = (record.key.clone(), before.remove(&record.key));
            let object = self.read(record.key, record.revision, record.json).or_else(|| {
                let (revision, json) = good?;
                let object = decode(&self.place, &key, revision, &json).ok()?;
                self.good.insert(key, (revision, json));
                Some(object)
            });
            objects.extend(object);
        }
        self.report();
        objects
    }

    /// One change; `None` when it cannot be read, so that what was there stays.
    fn change(&mut self, change: Change) -> Option<(Key, Option<Object>)> {
        let Some(json) = change.json else {
            self.good.remove(&change.key);
            self.bad.remove(&change.key);
            return Some((change.key, None));
        };
        let object = self.read(change.key.clone(), change.version, json)?;
        Some((change.key, Some(object)))
    }

    fn read(&mut self, key: Key, revision: u64, json: Bytes) -> Option<Object> {
        match decode(&self.place, &key, revision, &json) {
            Ok(object) => {
                self.bad.remove(&key);
                self.good.insert(key, (revision, json));
                Some(object)
            }
            Err(problems) => {
                self.bad.insert(key, problems);
                None
            }
        }
    }

    fn report(&self) {
        self.problems.set(Origin::Store, self.bad.values().flatten().cloned().collect());
    }
}

/// Reads a record, which must be what its key says.
fn decode(place: &str, key: &Key, revision: u64, json: &[u8]) -> Result<Object, Vec<Problem>> {
    let problem = |reason: String| {
        vec![Problem { source: place.into(), object: key.to_string(), field: String::new(), reason }]
    };
    let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
    // A fault of ours in reading one object is a problem of that one, and not the end of all.
    let read = catch_unwind(AssertUnwindSafe(|| read_json(place, json, namespace)));
    match read
        .unwrap_or_else(|_| Err(problem("reading it failed, which is a fault of this control plane".into())))
    {
        Ok(Some(object)) if object.key == *key => Ok(Object { revision, source: "".into(), ..object }),
        Ok(Some(object)) => {
            Err(problem(format!("the content is {}; delete it and apply it anew", object.key)))
        }
        Ok(None) => Err(problem("the content is of a kind that does not concern a control plane".into())),
        Err(problems) => Err(problems),
    }
}
