//! The embedded store: one file that survives a crash, in a directory of this machine.
//!
//! All that is in the file is in memory too, so reads and watches ask no disk and go on when it fails. One thread writes; the
//! commits that wait for it go to the disk together.

mod file;
mod guard;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};

use super::image::{self, Commit, Image, Memento, State};
use super::{Change, Listing, Record, Store, StoreError, Write};
use crate::model::Key;

/// How many commits go to the disk together at most.
const TOGETHER: usize = 256;
/// How many commits wait at most before callers do.
const WAITING: usize = 1024;
/// How long a file that could not be opened again is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// The file's name in its directory.
const FILE: &str = "state.redb";

/// A store in a directory.
#[derive(Debug)]
pub struct Redb {
    dir: PathBuf,
    image: Arc<Image>,
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<thread::JoinHandle<()>>,
}

/// One commit that is asked for.
struct Job {
    writes: Vec<Write>,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<u64, StoreError>>;

impl Redb {
    /// Opens the store in a directory; both are made when there are none.
    ///
    /// The directory and all in it are for the owner alone, as there are secrets in it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the file is damaged, of another program or of a newer version: it stays as it is, to the
    /// byte. [`StoreError::Unavailable`] when it cannot be read or written, or another process uses it.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        match tokio::task::spawn_blocking(move || Self::open_now(dir)).await {
            Ok(opened) => opened,
            Err(error) => Err(StoreError::Unavailable {
                reason: format!("opening the store was given up: {error}"),
                unknown: false,
            }),
        }
    }

    fn open_now(dir: PathBuf) -> Result<Self, StoreError> {
        let lock = file::lock(&dir)?;
        let path = dir.join(FILE);
        let (store, state) = open_file(&path)?;
        let memento = Memento::of(state.forgotten, &state.history);
        let image = Image::new(state);
        let (jobs, queue) = mpsc::channel(WAITING);
        let writer = Writer { path, lock, image: Arc::clone(&image), memento, store: Ok(store) };
        let writer = thread::Builder::new().name("store".into()).spawn(move || writer.run(queue)).map_err(
            |error| StoreError::Unavailable {
                reason: format!("cannot start a thread: {error}"),
                unknown: false,
            },
        )?;
        Ok(Self { dir, image, jobs: Some(jobs), writer: Some(writer) })
    }
}

impl Drop for Redb {
    fn drop(&mut self) {
        // What waits is still written: then the file is closed and another process may have it.
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Opens the file. Damage can make redb panic, which is damage told in another way.
fn open_file(path: &Path) -> Result<(file::Store, State), StoreError> {
    catch_unwind(|| file::Store::open(path)).unwrap_or_else(|_| {
        Err(StoreError::Corrupt {
            place: path.display().to_string(),
            reason: "damaged: reading it failed half way; nothing was changed; restore a backup, or move the file \
                     away to start anew"
                .into(),
        })
    })
}

#[tonic::async_trait]
impl Store for Redb {
    async fn list(&self) -> Result<Listing, StoreError> {
        Ok(self.image.list())
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.image.get(key))
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        let gone = |unknown| StoreError::Unavailable {
            reason: format!("{}: the store is closed", self.describe()),
            unknown,
        };
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(|| gone(false))?;
        jobs.send(Job { writes, answer }).await.map_err(|_| gone(false))?;
        answered.await.map_err(|_| gone(true))?
    }

    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        self.image.watch(revision)
    }

    fn describe(&self) -> String {
        format!("redb in {}", self.dir.display())
    }
}

/// The thread that writes.
struct Writer {
    path: PathBuf,
    lock: file::Lock,
    image: Arc<Image>,
    memento: Memento,
    /// The file, or since when it cannot be written and why.
    store: Result<file::Store, (Instant, StoreError)>,
}

/// Commits that go to the disk together.
#[derive(Default)]
struct Batch {
    commits: Vec<Commit>,
    /// Revisions of what the batch writes.
    written: HashMap<Key, Option<u64>>,
    /// Who is answered, and how when the batch is written.
    answers: Vec<(Answer, Result<u64, StoreError>)>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            // Before anything is judged: what a file that had failed really holds may be newer than what is known of it.
            if let Err(error) = self.ready() {
                let _ = job.answer.send(Err(error));
                continue;
            }
            let mut batch = Batch::default();
            self.judge(&mut batch, job);
            while batch.answers.len() < TOGETHER
                && let Ok(job) = queue.try_recv()
            {
                self.judge(&mut batch, job);
            }
            let outcome = if batch.commits.is_empty() { Ok(()) } else { self.write(batch.commits) };
            for (answer, judged) in batch.answers {
                // A conflict may be one with a commit of this batch: when that did not happen, neither did the conflict.
                let told = match &outcome {
                    Ok(()) => judged,
                    Err(error) => Err(error.clone()),
                };
                let _ = answer.send(told);
            }
        }
        // Closes the file before anyone else may open it.
        drop(self.store);
        drop(self.lock);
    }

    fn judge(&self, batch: &mut Batch, job: Job) {
        let state = self.image.state();
        let found = |key: &Key| match batch.written.get(key) {
            Some(revision) => *revision,
            None => state.objects.get(key).map(|(revision, _)| *revision),
        };
        let last = batch.commits.last().map_or(state.revision, |commit| commit.revision);
        let judged = image::plan(job.writes, found).map(|effects| {
            if effects.is_empty() {
                return last;
            }
            let revision = last + 1;
            for (key, json) in &effects {
                batch.written.insert(key.clone(), json.is_some().then_some(revision));
            }
            batch.commits.push(Commit { revision, effects });
            revision
        });
        batch.answers.push((job.answer, judged));
    }

    /// Writes a batch, then lets everyone see it.
    fn write(&mut self, commits: Vec<Commit>) -> Result<(), StoreError> {
        let Ok(store) = &self.store else { return Err(self.closed()) };
        let mut memento = self.memento.clone();
        let mut forgotten = 0;
        for commit in &commits {
            forgotten = memento.note(commit);
        }
        let written = catch_unwind(AssertUnwindSafe(|| store.write(&commits, forgotten)))
            .unwrap_or_else(|_| Err(self.unavailable("writing failed half way", true)));
        match written {
            Ok(()) => {
                self.memento = memento;
                self.image.apply(commits, forgotten);
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Opens the file again when it had failed.
    fn ready(&mut self) -> Result<(), StoreError> {
        match &self.store {
            Ok(_) => Ok(()),
            Err((since, error)) if since.elapsed() < AGAIN => Err(error.clone()),
            Err(_) => self.reopen(),
        }
    }

    /// Finds out what became of a batch that failed.
    fn failed(&mut self, error: StoreError) -> StoreError {
        let before = self.image.state().revision;
        tracing::error!(store = %self.path.display(), %error, "a write failed; reads go on");
        // Closes it: it takes no more writes after a failure.
        self.store = Err((Instant::now(), error.clone()));
        let unknown = match catch_unwind(AssertUnwindSafe(|| self.reopen())) {
            Ok(Ok(())) => self.image.state().revision != before,
            _ => true,
        };
        match error {
            StoreError::Unavailable { reason, .. } => {
                let outcome =
                    if unknown { "it is not known whether it was written" } else { "nothing was written" };
                StoreError::Unavailable { reason: format!("{reason}; {outcome}; reads go on"), unknown }
            }
            error => error,
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        match open_file(&self.path) {
            Ok((store, state)) => {
                self.memento = Memento::of(state.forgotten, &state.history);
                if state.revision != self.image.state().revision {
                    self.image.replace(state);
                }
                self.store = Ok(store);
                Ok(())
            }
            Err(error) => {
                self.store = Err((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn closed(&self) -> StoreError {
        self.unavailable("it is closed after a failure", false)
    }

    fn unavailable(&self, what: &str, unknown: bool) -> StoreError {
        StoreError::Unavailable { reason: format!("{}: {what}", self.path.display()), unknown }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::Expect;
    use super::*;
    use crate::model::Kind;

    /// A commit reached the disk, its caller was told that nobody knows, and the file could not be opened for a moment. What comes next
    /// is judged by what the file holds, not by what was known before.
    #[tokio::test]
    async fn after_a_failure_commits_are_judged_by_what_the_file_holds() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::new(Kind::Service, "shop", "web");
        let put = |expect, json: &'static str| {
            vec![Write { key: key.clone(), expect, json: Some(Bytes::from_static(json.as_bytes())) }]
        };
        let store = Redb::open(dir.path()).await.unwrap();
        let first = store.commit(put(Expect::Absent, "{\"n\":1}")).await.unwrap();
        drop(store);

        let lock = file::lock(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let (file, state) = open_file(&path).unwrap();
        let (memento, image) = (Memento::of(state.forgotten, &state.history), Image::new(state));
        // The commit that nobody knows of.
        let unknown = Commit {
            revision: first + 1,
            effects: vec![(key.clone(), Some(Bytes::from_static(b"{\"n\":2}")))],
        };
        file.write(&[unknown], 0).unwrap();
        drop(file);
        let error = StoreError::Unavailable { reason: "the disk was away".into(), unknown: true };
        let failed = Err((Instant::now().checked_sub(AGAIN).unwrap(), error));
        let (jobs, queue) = mpsc::channel(WAITING);
        let writer = Writer { path, lock, image: Arc::clone(&image), memento, store: failed };
        let writer = Some(thread::spawn(move || writer.run(queue)));
        let store = Redb { dir: dir.path().to_owned(), image, jobs: Some(jobs), writer };

        let stale = store.commit(put(Expect::Revision(first), "{\"n\":3}")).await;
        assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
        let last = store.commit(put(Expect::Revision(first + 1), "{\"n\":4}")).await.unwrap();
        assert_eq!(last, first + 2);
    }
}
