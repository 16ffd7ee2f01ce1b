//! What the server told, in memory: the objects, and the last changes for those who watch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::sync::watch;

use super::Shared;
use super::clean::Cleaned;
use crate::model::{Key, Kind};
use crate::store::{Change, Listing, Record, StoreError};

/// How many changes one who watches can be behind.
const HISTORY: usize = 8192;
/// How many changes are handed over at once.
const BATCH: usize = 256;

/// One watch: a kind, and of secrets one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Feed {
    pub(super) kind: Kind,
    /// A field selector; empty: all.
    pub(super) fields: &'static str,
}

#[derive(Debug)]
struct Entry {
    feed: Feed,
    revision: u64,
    json: Bytes,
    status: u64,
    ours: bool,
}

#[derive(Debug, Default)]
struct State {
    /// The greatest revision seen.
    revision: u64,
    entries: BTreeMap<Key, Entry>,
    /// Changes, each with the greatest revision seen when it came.
    history: VecDeque<(u64, Change)>,
    /// How many changes were forgotten: the number of the first one in `history`.
    first: u64,
    /// The greatest revision seen before the first one in `history`.
    floor: u64,
    /// Feeds: whether they have told all there is, and what keeps them from it.
    feeds: BTreeMap<Feed, Result<(), String>>,
    /// The server was asked which kinds it serves; the error where it did not answer.
    discovered: Option<Result<(), String>>,
    /// There was a picture of all kinds once. Kinds that come later are changes.
    synced: bool,
    /// Objects whose status changed and that nobody asked about since.
    statuses: BTreeSet<Key>,
}

/// What the server told.
#[derive(Debug)]
pub(super) struct Mirror {
    state: Mutex<State>,
    /// Counts all that happens.
    news: watch::Sender<u64>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { state: Mutex::default(), news: watch::Sender::new(0) }
    }
}

impl State {
    fn put(&mut self, feed: Feed, it: Cleaned) {
        let old = self.entries.get(&it.key);
        if old.is_some_and(|old| old.revision >= it.revision) {
            return;
        }
        if old.map_or(it.status != 0, |old| old.status != it.status) {
            self.statuses.insert(it.key.clone());
        }
        let Cleaned { key, revision, json, status, ours } = it;
        self.change(revision, key.clone(), Some(json.clone()));
        self.entries.insert(key, Entry { feed, revision, json, status, ours });
    }

    fn delete(&mut self, key: &Key, revision: u64) {
        if self.entries.remove(key).is_some() {
            self.statuses.remove(key);
            self.change(revision, key.clone(), None);
        }
    }

    fn change(&mut self, revision: u64, key: Key, json: Option<Bytes>) {
        self.revision = self.revision.max(revision);
        self.history.push_back((self.revision, Change { revision, key, json, more: false }));
        if self.history.len() > HISTORY
            && let Some((revision, _)) = self.history.pop_front()
        {
            self.first += 1;
            self.floor = revision;
        }
    }

    /// Notes the first moment at which there was a picture of all kinds. What came before it is nobody's news.
    fn settle(&mut self) {
        if !self.synced && self.discovered == Some(Ok(())) && self.feeds.values().all(Result::is_ok) {
            self.synced = true;
            self.first += self.history.len() as u64;
            self.history.clear();
            self.floor = self.revision;
        }
    }

    /// The number of the first change that one who saw `revision` has not surely seen.
    fn cursor(&self, revision: u64) -> Result<u64, StoreError> {
        if revision < self.floor || revision > self.revision {
            return Err(StoreError::Compacted { revision, oldest: self.floor });
        }
        if revision == self.floor {
            return Ok(self.first);
        }
        let before = self.history.partition_point(|(seen, _)| *seen < revision);
        match self.history.get(before) {
            // A revision that was never the greatest here: it was given out by somebody else.
            Some((seen, _)) if *seen == revision => Ok(self.first + before as u64 + 1),
            _ => Err(StoreError::Compacted { revision, oldest: self.floor }),
        }
    }
}

impl Mirror {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let done = work(&mut self.state());
        self.news.send_modify(|count| *count += 1);
        done
    }

    /// A feed was started.
    pub(super) fn begin(&self, feed: Feed) {
        self.with(|state| {
            state.feeds.entry(feed).or_insert_with(|| Err("not listed yet".into()));
        });
    }

    /// What the server said about the kinds it serves.
    pub(super) fn discovered(&self, outcome: Result<(), String>) {
        self.with(|state| {
            if state.discovered != Some(Ok(())) {
                state.discovered = Some(outcome);
            }
            state.settle();
        });
    }

    /// What keeps a feed from its first picture. Later troubles change nothing: what was known stays.
    pub(super) fn trouble(&self, feed: Feed, reason: String) {
        self.with(|state| {
            if let Some(Err(known)) = state.feeds.get_mut(&feed) {
                *known = reason;
            }
        });
    }

    /// All that a feed has: what it had and is not in it is gone.
    pub(super) fn replace(&self, feed: Feed, all: Vec<Cleaned>) {
        self.with(|state| {
            let there: BTreeSet<&Key> = all.iter().map(|it| &it.key).collect();
            let had = |(key, entry): (&Key, &Entry)| {
                (entry.feed == feed && !there.contains(key)).then(|| key.clone())
            };
            let gone: Vec<Key> = state.entries.iter().filter_map(had).collect();
            for key in gone {
                // When it went is not known any more.
                let revision = state.revision;
                state.delete(&key, revision);
            }
            for it in all {
                state.put(feed, it);
            }
            state.feeds.insert(feed, Ok(()));
            state.settle();
        });
    }

    /// An object came or changed.
    pub(super) fn put(&self, feed: Feed, it: Cleaned) {
        self.with(|state| state.put(feed, it));
    }

    /// An object went.
    pub(super) fn delete(&self, key: &Key, revision: u64) {
        self.with(|state| state.delete(key, revision));
    }

    /// A kind is no longer served: its objects are gone.
    pub(super) fn end(&self, feed: Feed) {
        self.replace(feed, Vec::new());
        self.with(|state| {
            state.feeds.remove(&feed);
            state.settle();
        });
    }

    /// Waits until there is a picture of all kinds that are served.
    pub(super) async fn synced(&self) {
        self.until(|state| state.synced).await;
    }

    async fn until(&self, done: impl Fn(&State) -> bool) {
        let mut news = self.news.subscribe();
        while !done(&self.state()) {
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until it shows what was written: an object at this revision or later, or that it is gone.
    pub(super) async fn shows(&self, written: &[(Key, Option<u64>)], limit: Duration) -> bool {
        let shown = |state: &State| {
            written.iter().all(|(key, revision)| match (state.entries.get(key), revision) {
                (Some(entry), Some(revision)) => entry.revision >= *revision,
                (None, Some(_)) => false,
                (found, None) => found.is_none(),
            })
        };
        tokio::time::timeout(limit, self.until(shown)).await.is_ok()
    }

    /// Which kinds there is no picture of, and why.
    pub(super) fn missing(&self) -> String {
        let state = self.state();
        match &state.discovered {
            None => "it did not answer which kinds it serves".into(),
            Some(Err(reason)) => reason.clone(),
            Some(Ok(())) => {
                let missing = |(feed, state): (&Feed, &Result<(), String>)| {
                    Some(format!("{} cannot be listed: {}", feed.kind, state.as_ref().err()?))
                };
                state.feeds.iter().filter_map(missing).collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// The greatest revision seen.
    pub(super) fn revision(&self) -> u64 {
        self.state().revision
    }

    /// All objects.
    pub(super) fn listing(&self) -> Listing {
        let state = self.state();
        let record = |(key, entry): (&Key, &Entry)| Record {
            key: key.clone(),
            revision: entry.revision,
            json: entry.json.clone(),
        };
        Listing { revision: state.revision, records: state.entries.iter().map(record).collect() }
    }

    /// The hash of an object's status; `None` when it is not there.
    pub(super) fn status(&self, key: &Key) -> Option<u64> {
        Some(self.state().entries.get(key)?.status)
    }

    /// Objects whose status has an entry of ours.
    pub(super) fn ours(&self) -> Vec<Key> {
        self.state().entries.iter().filter(|(_, entry)| entry.ours).map(|(key, _)| key.clone()).collect()
    }

    /// Objects whose status changed since this was called last.
    pub(super) fn take_statuses(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.state().statuses)
    }

    /// Tells whenever something happened.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The changes after a revision.
    pub(super) fn watch(
        shared: Arc<Shared>,
        revision: u64,
    ) -> Result<impl Stream<Item = Result<Change, StoreError>> + Send + 'static, StoreError> {
        let cursor = shared.mirror.state().cursor(revision)?;
        let news = shared.mirror.news();
        let batches = stream::unfold(Some((shared, news, cursor)), |at| async move {
            let (shared, mut news, cursor) = at?;
            loop {
                let batch: Result<Vec<Change>, StoreError> = {
                    let state = shared.mirror.state();
                    match cursor.checked_sub(state.first) {
                        Some(skip) => {
                            let from = usize::try_from(skip).unwrap_or(usize::MAX);
                            Ok(state
                                .history
                                .iter()
                                .skip(from)
                                .take(BATCH)
                                .map(|(_, it)| it.clone())
                                .collect())
                        }
                        None => Err(StoreError::Compacted { revision: 0, oldest: state.floor }),
                    }
                };
                match batch {
                    Err(error) => return Some((vec![Err(error)], None)),
                    Ok(batch) if !batch.is_empty() => {
                        let cursor = cursor + batch.len() as u64;
                        return Some((batch.into_iter().map(Ok).collect(), Some((shared, news, cursor))));
                    }
                    Ok(_) if news.changed().await.is_err() => return None,
                    Ok(_) => {}
                }
            }
        });
        Ok(batches.flat_map(stream::iter))
    }
}
