//! A store in memory: for development, and the model that the others are tested against.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast;

use super::{Change, Expect, Listing, Record, Store, StoreError, Write};
use crate::model::Key;

/// How many commits a watcher can be behind.
const HISTORY: usize = 4096;

/// What is kept, in memory alone.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<State>,
    news: broadcast::Sender<Vec<Change>>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Key, (u64, Bytes)>,
    history: VecDeque<Vec<Change>>,
    /// Changes up to this revision are forgotten.
    forgotten: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { state: Mutex::default(), news: broadcast::channel(HISTORY).0 }
    }
}

impl Memory {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whether an object is as a write expects it.
pub(crate) fn judge(write: &Write, found: Option<u64>) -> Result<(), StoreError> {
    let conflict = |found: String| Err(StoreError::Conflict { key: Box::new(write.key.clone()), found });
    match (write.expect, found) {
        (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
        (Expect::Revision(wanted), Some(found)) if wanted == found => Ok(()),
        (Expect::Absent, Some(found)) => conflict(format!("it exists already, at version {found}")),
        (Expect::Revision(wanted), Some(found)) => {
            conflict(format!("it is at version {found}, not {wanted}; get it again and repeat the change"))
        }
        (Expect::Revision(wanted), None) => {
            conflict(format!("version {wanted} was given, but it does not exist"))
        }
    }
}

#[tonic::async_trait]
impl Store for Memory {
    async fn list(&self) -> Result<Listing, StoreError> {
        let state = self.state();
        let records = state
            .objects
            .iter()
            .map(|(key, (revision, json))| Record {
                key: key.clone(),
                revision: *revision,
                json: json.clone(),
            })
            .collect();
        Ok(Listing { revision: state.revision, records })
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let state = self.state();
        Ok(state.objects.get(key).map(|(revision, json)| Record {
            key: key.clone(),
            revision: *revision,
            json: json.clone(),
        }))
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        let mut state = self.state();
        for write in &writes {
            judge(write, state.objects.get(&write.key).map(|(revision, _)| *revision))?;
        }
        if writes.is_empty() {
            return Ok(state.revision);
        }
        state.revision += 1;
        let (revision, count) = (state.revision, writes.len());
        let mut changes = Vec::with_capacity(count);
        for (index, Write { key, json, .. }) in writes.into_iter().enumerate() {
            match &json {
                Some(json) => state.objects.insert(key.clone(), (revision, json.clone())),
                None => state.objects.remove(&key),
            };
            changes.push(Change { revision, key, json, more: index + 1 < count });
        }
        state.history.push_back(changes.clone());
        if state.history.len() > HISTORY
            && let Some(oldest) = state.history.pop_front()
        {
            state.forgotten = oldest.first().map_or(state.forgotten, |change| change.revision);
        }
        // Under the lock, so that watchers see commits in order. No receiver is no error.
        let _ = self.news.send(changes);
        Ok(revision)
    }

    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        let state = self.state();
        if revision < state.forgotten {
            return Err(StoreError::Compacted { revision, oldest: state.forgotten });
        }
        let receiver = self.news.subscribe();
        let past: Vec<_> = state
            .history
            .iter()
            .flatten()
            .filter(|change| change.revision > revision)
            .cloned()
            .map(Ok)
            .collect();
        let news = stream::unfold(Some(receiver), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(changes) => Some((changes.into_iter().map(Ok).collect::<Vec<_>>(), Some(receiver))),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Some((vec![Err(StoreError::Compacted { revision: 0, oldest: 0 })], None))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        Ok(stream::iter(past).chain(news.flat_map(stream::iter)).boxed())
    }

    fn describe(&self) -> String {
        "memory (nothing survives a restart)".into()
    }
}
