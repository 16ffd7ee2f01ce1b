//! Objects and their last changes in memory: what a store that lives in this process answers reads and watches from.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;

use super::{Change, Expect, Listing, Record, StoreError, Write};
use crate::model::Key;

/// How many commits a watcher can be behind.
const COMMITS: usize = 4096;

/// How many bytes of changes are remembered for watchers that are behind. The last commit is always remembered.
pub(super) const BYTES: usize = 16 << 20;

/// How many commits a watcher gets at a time.
const AT_A_TIME: usize = 64;

/// What a commit does, once it is judged: `None` deletes.
pub(super) type Effect = (Key, Option<Bytes>);

/// Whether an object is as a write expects it.
pub(crate) fn judge(write: &Write, found: Option<u64>) -> Result<(), StoreError> {
    match (write.expect, found) {
        (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
        (Expect::Revision(wanted), Some(found)) if wanted == found => Ok(()),
        _ => Err(conflict(write, found)),
    }
}

/// What to say when an object is not as a write expects it.
pub(super) fn conflict(write: &Write, found: Option<u64>) -> StoreError {
    let found = match (write.expect, found) {
        (Expect::Revision(wanted), Some(found)) => {
            format!("it is at version {found}, not {wanted}; get it again and repeat the change")
        }
        (Expect::Revision(wanted), None) => format!("version {wanted} was given, but it does not exist"),
        (_, Some(found)) => format!("it exists already, at version {found}"),
        (_, None) => "it came and went".to_owned(),
    };
    StoreError::Conflict { key: Box::new(write.key.clone()), found }
}

/// Refuses a commit that writes one object twice: which of the two watchers would see is nobody's guess.
pub(super) fn once_each(writes: &[Write]) -> Result<(), StoreError> {
    let mut seen = HashSet::with_capacity(writes.len());
    match writes.iter().find(|write| !seen.insert(&write.key)) {
        Some(twice) => {
            Err(StoreError::Unfit(format!("{} is twice in one commit; write each object once", twice.key)))
        }
        None => Ok(()),
    }
}

/// Judges all writes of a commit. What it leaves to do may be nothing: what does not exist need not be deleted.
pub(super) fn plan(
    writes: Vec<Write>,
    found: impl Fn(&Key) -> Option<u64>,
) -> Result<Vec<Effect>, StoreError> {
    once_each(&writes)?;
    let mut effects = Vec::with_capacity(writes.len());
    for write in writes {
        let found = found(&write.key);
        judge(&write, found)?;
        if write.json.is_some() || found.is_some() {
            effects.push((write.key, write.json));
        }
    }
    Ok(effects)
}

/// One commit that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    /// The revision it made.
    pub revision: u64,
    /// What it changed.
    pub effects: Vec<Effect>,
}

impl Commit {
    /// About how many bytes it holds.
    fn size(&self) -> usize {
        self.effects.iter().map(|(key, json)| size_of_change(key, json.as_deref())).sum()
    }
}

/// About how many bytes of memory a remembered change holds.
pub(super) fn size_of_change(key: &Key, json: Option<&[u8]>) -> usize {
    128 + key.namespace.len() + key.name.len() + json.map_or(0, <[u8]>::len)
}

/// Decides which commits are forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Memento {
    sizes: VecDeque<(u64, usize)>,
    total: usize,
    forgotten: u64,
}

impl Memento {
    /// After the changes of these commits, when those up to `forgotten` are forgotten already.
    pub(super) fn of(forgotten: u64, commits: &VecDeque<Commit>) -> Self {
        let mut out = Self { forgotten, ..Self::default() };
        for commit in commits {
            out.note(commit);
        }
        out
    }

    /// One more commit; gives the revision up to which commits are to be forgotten.
    pub(super) fn note(&mut self, commit: &Commit) -> u64 {
        let size = commit.size();
        self.sizes.push_back((commit.revision, size));
        self.total += size;
        while self.sizes.len() > 1 && (self.sizes.len() > COMMITS || self.total > BYTES) {
            if let Some((revision, size)) = self.sizes.pop_front() {
                self.total -= size;
                self.forgotten = revision;
            }
        }
        self.forgotten
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Of the last commit.
    pub revision: u64,
    /// Revision and content.
    pub objects: BTreeMap<Key, (u64, Bytes)>,
    /// The last commits, oldest first.
    pub history: VecDeque<Commit>,
    /// Commits up to this revision are forgotten.
    pub forgotten: u64,
}

/// The state, and who waits for its next revision.
#[derive(Debug)]
pub(super) struct Image {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

impl Image {
    pub(super) fn new(state: State) -> Arc<Self> {
        Arc::new(Self { revision: watch::channel(state.revision).0, state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other state in the place of all there is.
    pub(super) fn replace(&self, state: State) {
        let revision = state.revision;
        *self.state() = state;
        self.revision.send_replace(revision);
    }

    /// Does what was planned.
    pub(super) fn apply(&self, commits: Vec<Commit>, forgotten: u64) {
        let mut state = self.state();
        for commit in commits {
            state.revision = commit.revision;
            for (key, json) in &commit.effects {
                match json {
                    Some(json) => state.objects.insert(key.clone(), (commit.revision, json.clone())),
                    None => state.objects.remove(key),
                };
            }
            state.history.push_back(commit);
        }
        while state.history.front().is_some_and(|oldest| oldest.revision <= forgotten) {
            state.history.pop_front();
        }
        state.forgotten = forgotten;
        let revision = state.revision;
        drop(state);
        self.revision.send_replace(revision);
    }

    pub(super) fn list(&self) -> Listing {
        let state = self.state();
        let record = |(key, (revision, json)): (&Key, &(u64, Bytes))| Record {
            key: key.clone(),
            revision: *revision,
            json: json.clone(),
        };
        Listing { revision: state.revision, records: state.objects.iter().map(record).collect() }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Record> {
        let state = self.state();
        let (revision, json) = state.objects.get(key)?;
        Some(Record { key: key.clone(), revision: *revision, json: json.clone() })
    }

    /// The changes after a revision: those that are remembered, then those that come.
    pub(super) fn watch(
        self: &Arc<Self>,
        after: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        let state = self.state();
        // A revision that is still to come is of another life of this store: a backup was restored, say.
        if after < state.forgotten || after > state.revision {
            return Err(StoreError::Compacted { revision: after, oldest: state.forgotten });
        }
        drop(state);
        let watcher =
            Watcher { image: Arc::downgrade(self), news: self.revision.subscribe(), after: Some(after) };
        Ok(stream::unfold(watcher, Watcher::next).flat_map(stream::iter).boxed())
    }
}

/// Where a watcher is.
struct Watcher {
    image: Weak<Image>,
    news: watch::Receiver<u64>,
    /// `None` when there is nothing more to say.
    after: Option<u64>,
}

impl Watcher {
    async fn next(mut self) -> Option<(Vec<Result<Change, StoreError>>, Self)> {
        loop {
            let after = self.after?;
            self.news.borrow_and_update();
            let found = self.image.upgrade()?.since(after);
            match found {
                Ok((changes, _)) if changes.is_empty() => self.news.changed().await.ok()?,
                Ok((changes, last)) => {
                    self.after = Some(last);
                    return Some((changes.into_iter().map(Ok).collect(), self));
                }
                Err(error) => {
                    self.after = None;
                    return Some((vec![Err(error)], self));
                }
            }
        }
    }
}

impl Image {
    /// The next changes after a revision, and the revision they lead to.
    fn since(&self, after: u64) -> Result<(Vec<Change>, u64), StoreError> {
        let state = self.state();
        if after < state.forgotten {
            return Err(StoreError::Compacted { revision: after, oldest: state.forgotten });
        }
        let from = state.history.partition_point(|commit| commit.revision <= after);
        let (mut changes, mut last) = (Vec::new(), after);
        for commit in state.history.iter().skip(from).take(AT_A_TIME) {
            last = commit.revision;
            let count = commit.effects.len();
            changes.extend(commit.effects.iter().enumerate().map(|(index, (key, json))| Change {
                revision: last,
                key: key.clone(),
                version: last,
                json: json.clone(),
                more: index + 1 < count,
            }));
        }
        Ok((changes, last))
    }
}
