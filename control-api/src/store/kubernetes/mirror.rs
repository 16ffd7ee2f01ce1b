//! What the server told, in memory: the objects, and the last changes for those who watch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::sync::watch;

use super::Shared;
use super::clean::Cleaned;
use crate::model::{Key, Kind};
use crate::store::image::{BYTES, size_of_change};
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

#[derive(Debug)]
struct State {
    entries: BTreeMap<Key, Entry>,
    /// The last changes. Their positions follow each other: the first one has `floor + 1`.
    history: VecDeque<Change>,
    /// The position before the first change in `history`: up to it all is forgotten.
    floor: u64,
    /// About how many bytes `history` holds.
    bytes: usize,
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
        Self { state: Mutex::new(State::new(epoch())), news: watch::Sender::new(0) }
    }
}

/// Where a process begins to count changes: above all that an older one gave out, and elsewhere than others that start now. So
/// what was given out by another process is not in the range of this one, and is told to be unknown.
fn epoch() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs() & u64::from(u32::MAX);
    (seconds << 31) | (RandomState::new().hash_one(0) >> 33)
}

impl State {
    fn new(floor: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            history: VecDeque::new(),
            floor,
            bytes: 0,
            feeds: BTreeMap::new(),
            discovered: None,
            synced: false,
            statuses: BTreeSet::new(),
        }
    }

    /// The position of the last change.
    fn position(&self) -> u64 {
        self.floor + self.history.len() as u64
    }

    fn put(&mut self, feed: Feed, it: Cleaned) {
        let old = self.entries.get(&it.key);
        if old.is_some_and(|old| old.revision >= it.revision) {
            return;
        }
        if old.map_or(it.status != 0, |old| old.status != it.status) {
            self.statuses.insert(it.key.clone());
        }
        let Cleaned { key, revision, json, status, ours } = it;
        self.change(key.clone(), revision, Some(json.clone()));
        self.entries.insert(key, Entry { feed, revision, json, status, ours });
    }

    /// Takes an object away that a feed told of, unless what is there is newer, or of another feed: a Secret that was deleted
    /// and made anew with another type comes by the other feed, and nothing says which of the two is heard first.
    fn delete(&mut self, feed: Feed, key: &Key, revision: Option<u64>) {
        let goes = |entry: &Entry| entry.feed == feed && revision.is_none_or(|it| entry.revision <= it);
        if self.entries.get(key).is_some_and(goes) {
            self.entries.remove(key);
            self.statuses.remove(key);
            self.change(key.clone(), revision.unwrap_or_default(), None);
        }
    }

    fn replace(&mut self, feed: Feed, all: Vec<Cleaned>) {
        let there: BTreeSet<&Key> = all.iter().map(|it| &it.key).collect();
        let had =
            |(key, entry): (&Key, &Entry)| (entry.feed == feed && !there.contains(key)).then(|| key.clone());
        let gone: Vec<Key> = self.entries.iter().filter_map(had).collect();
        for key in gone {
            // At which revision it went is not known any more.
            self.delete(feed, &key, None);
        }
        for it in all {
            self.put(feed, it);
        }
    }

    fn change(&mut self, key: Key, version: u64, json: Option<Bytes>) {
        self.bytes += size_of_change(&key, json.as_deref());
        let revision = self.position() + 1;
        self.history.push_back(Change { revision, key, version, json, more: false });
        while self.history.len() > 1
            && (self.history.len() > HISTORY || self.bytes > BYTES)
            && let Some(oldest) = self.history.pop_front()
        {
            self.bytes -= size_of_change(&oldest.key, oldest.json.as_deref());
            self.floor = oldest.revision;
        }
    }

    /// Notes the first moment at which there was a picture of all kinds. What came before it is nobody's news.
    fn settle(&mut self) {
        if !self.synced && self.discovered == Some(Ok(())) && self.feeds.values().all(Result::is_ok) {
            self.synced = true;
            self.floor = self.position();
            self.history.clear();
            self.bytes = 0;
        }
    }

    /// The next changes after a position.
    fn after(&self, position: u64) -> Result<Vec<Change>, StoreError> {
        if position < self.floor || position > self.position() {
            return Err(StoreError::Compacted { revision: position, oldest: self.floor });
        }
        let from = usize::try_from(position - self.floor).unwrap_or(usize::MAX);
        Ok(self.history.iter().skip(from).take(BATCH).cloned().collect())
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
            state.replace(feed, all);
            state.feeds.insert(feed, Ok(()));
            state.settle();
        });
    }

    /// An object came or changed.
    pub(super) fn put(&self, feed: Feed, it: Cleaned) {
        self.with(|state| state.put(feed, it));
    }

    /// An object went, at this revision if that can be read.
    pub(super) fn delete(&self, feed: Feed, key: &Key, revision: Option<u64>) {
        self.with(|state| state.delete(feed, key, revision));
    }

    /// All feeds that there are.
    pub(super) fn feeds(&self) -> Vec<Feed> {
        self.state().feeds.keys().copied().collect()
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

    /// The position of the last change.
    pub(super) fn position(&self) -> u64 {
        self.state().position()
    }

    /// All objects.
    pub(super) fn listing(&self) -> Listing {
        let state = self.state();
        let record = |(key, entry): (&Key, &Entry)| Record {
            key: key.clone(),
            revision: entry.revision,
            json: entry.json.clone(),
        };
        Listing { revision: state.position(), records: state.entries.iter().map(record).collect() }
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

    /// The changes after a position.
    pub(super) fn watch(
        shared: Arc<Shared>,
        revision: u64,
    ) -> Result<impl Stream<Item = Result<Change, StoreError>> + Send + 'static, StoreError> {
        let news = shared.mirror.news();
        shared.mirror.state().after(revision)?;
        let batches = stream::unfold(Some((shared, news, revision)), |at| async move {
            let (shared, mut news, position) = at?;
            loop {
                let batch = shared.mirror.state().after(position);
                match batch {
                    Err(error) => return Some((vec![Err(error)], None)),
                    Ok(batch) if !batch.is_empty() => {
                        let position = position + batch.len() as u64;
                        return Some((batch.into_iter().map(Ok).collect(), Some((shared, news, position))));
                    }
                    Ok(_) if news.changed().await.is_err() => return None,
                    Ok(_) => {}
                }
            }
        });
        Ok(batches.flat_map(stream::iter))
    }
}

#[cfg(test)]
mod tests;
