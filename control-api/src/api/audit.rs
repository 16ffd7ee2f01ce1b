//! The audit log: who changed what, one JSON object in a line.
//!
//! A write leaves two lines with one `id`: `requested` before it is done, and `done` or `failed` after. If the first cannot be
//! written, nothing is done. What is refused leaves one line. No content of objects is ever in it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::Serialize;
use tokio::sync::Semaphore;
use tonic::Status;

use super::auth::{Identity, Throttle};

/// Where lines go.
#[derive(Debug)]
pub struct Audit {
    sink: Mutex<Sink>,
    /// Lines that wait for the disk: those that come while it is busy are written, and waited for, as one.
    open: Mutex<Open>,
    /// Whose turn it is to write, of the tasks that wait.
    turn: tokio::sync::Mutex<()>,
    /// Where that is, for people.
    place: String,
    next: AtomicU64,
    /// Tells the lines of one run from those of another.
    run: i64,
    /// How many lines about refusals there were in this second.
    refusals: Refusals,
    /// What is left of the refusals that may wait to be written while nobody waits for them.
    room: Arc<Semaphore>,
}

/// How many refusals may wait for the disk; of more than these the log alone has a word.
const WAITING: usize = 64;
/// How many identities are told apart in one second. More of them count as one.
const IDENTITIES: usize = 1024;

/// Counts refusals in a second, of each identity for itself and of all strangers together.
#[derive(Debug, Default)]
struct Refusals {
    strangers: Throttle,
    known: Mutex<(i64, HashMap<String, Throttle>)>,
}

impl Refusals {
    /// Whether there is room for one more line about somebody.
    fn admits(&self, who: Option<&str>, now: i64) -> bool {
        let Some(who) = who else { return self.strangers.admits(now) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != now {
            *known = (now, HashMap::new());
        }
        let who = if known.1.len() < IDENTITIES || known.1.contains_key(who) { who } else { "" };
        known.1.entry(who.to_owned()).or_default().admits(now)
    }
}

#[derive(Debug)]
enum Sink {
    Stderr,
    File {
        path: PathBuf,
        file: File,
        /// The last write failed: half a line may be there.
        torn: bool,
    },
    /// For tests.
    Memory(Vec<Vec<u8>>),
    /// For tests: a full disk.
    Broken,
}

/// Lines that nobody writes yet, and what becomes of them.
#[derive(Debug, Default)]
struct Open {
    lines: Vec<u8>,
    outcome: Arc<Outcome>,
}

/// What became of the lines of one write.
type Outcome = OnceLock<Result<(), (io::ErrorKind, String)>>;

/// One line.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    time: String,
    id: String,
    stage: &'static str,
    verb: String,
    who: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<String>,
    peer: Option<SocketAddr>,
    dry_run: bool,
    /// What it is about.
    pub objects: Vec<Item>,
    /// The store's revision after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// One object in a line.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// As in `HTTPRoute shop/web`.
    pub object: String,
    /// What becomes of it, or became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
}

/// How long a reason may be in a line.
const LONGEST_REASON: usize = 2048;

impl Entry {
    /// A line about somebody who wants to do something.
    pub fn new(who: Option<&Identity>, peer: Option<SocketAddr>, verb: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            who: who.map(|it| it.name.to_string()),
            role: who.map(|it| it.role.name()),
            how: who.map(|it| it.how.to_string()),
            peer: who.and_then(|it| it.peer).or(peer),
            ..Self::default()
        }
    }

    /// Says that nothing is stored.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// The line of a request that was refused.
    pub fn refused(&self, status: &Status) -> Self {
        self.ended("refused", Some(status))
    }

    /// The line of the end of a write.
    pub fn ended(&self, stage: &'static str, status: Option<&Status>) -> Self {
        Self {
            stage,
            code: status.map(|it| format!("{:?}", it.code())),
            reason: status.map(|it| it.message().chars().take(LONGEST_REASON).collect()),
            ..self.clone()
        }
    }
}

impl Audit {
    /// Lines to a file, which is made when there is none. It may be moved away at any time; a new one is made then.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn file(path: &Path) -> io::Result<Self> {
        let sink = Sink::File { path: path.to_owned(), file: open(path)?, torn: false };
        Ok(Self::of(sink, path.display().to_string()))
    }

    /// Lines to standard error.
    pub fn stderr() -> Self {
        Self::of(Sink::Stderr, "standard error".to_owned())
    }

    /// Lines to memory, for tests.
    pub fn memory() -> Self {
        Self::of(Sink::Memory(Vec::new()), "memory".to_owned())
    }

    /// A log that takes nothing, for tests.
    pub fn broken() -> Self {
        Self::of(Sink::Broken, "a full disk".to_owned())
    }

    fn of(sink: Sink, place: String) -> Self {
        let run = chrono::Utc::now().timestamp_micros();
        let room = Arc::new(Semaphore::new(WAITING));
        let (sink, next) = (Mutex::new(sink), AtomicU64::new(1));
        Self {
            sink,
            open: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            place,
            next,
            run,
            refusals: Refusals::default(),
            room,
        }
    }

    /// What was written to memory.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        match &*locked(&self.sink) {
            Sink::Memory(writes) => writes
                .iter()
                .flat_map(|bytes| bytes.split(|byte| *byte == b'\n'))
                .filter_map(|line| serde_json::from_slice(line).ok())
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Says that a write is about to be done. The entry that comes back is for [`Audit::end`].
    ///
    /// # Errors
    /// When the line cannot be written: then nothing may be done.
    pub async fn begin(self: &Arc<Self>, entry: &Entry) -> Result<Entry, Status> {
        let id = format!("{:x}-{}", self.run, self.next.fetch_add(1, Ordering::Relaxed));
        let entry = Entry { id, stage: "requested", ..entry.clone() };
        self.write(entry.clone()).await.map_err(|error| {
            Status::unavailable(format!(
                "nothing was changed, because the audit log cannot be written ({}: {error}); make room or mend its \
                 permissions, then repeat",
                self.place
            ))
        })?;
        Ok(entry)
    }

    /// Says how a write ended. It is done by now: that its line is lost can only be told in the log.
    pub async fn end(self: &Arc<Self>, entry: &Entry, result: Result<(), &Status>) {
        let stage = if result.is_ok() { "done" } else { "failed" };
        self.note(entry.ended(stage, result.err())).await;
    }

    /// Says that something was done that changes nothing in the store, before anybody gets it: one line.
    ///
    /// # Errors
    /// When the line cannot be written: then nothing may be given out.
    pub async fn record(self: &Arc<Self>, entry: Entry) -> Result<(), Status> {
        let id = format!("{:x}-{}", self.run, self.next.fetch_add(1, Ordering::Relaxed));
        self.write(Entry { id, ..entry.ended("done", None) }).await.map_err(|error| {
            Status::unavailable(format!(
                "nothing is given out, because the audit log cannot be written ({}: {error}); make room or mend its permissions, \
                 then repeat",
                self.place
            ))
        })
    }

    /// Says that something was refused before anything was done. Of one identity's refusals in a second the first few are told.
    pub async fn refuse(self: &Arc<Self>, entry: &Entry, status: &Status) {
        if self.refusals.admits(entry.who.as_deref(), chrono::Utc::now().timestamp()) {
            self.note(entry.refused(status)).await;
        }
    }

    /// As [`Audit::refuse`], from where nobody may wait for a disk. Must be called in a runtime.
    pub fn refuse_soon(self: &Arc<Self>, entry: &Entry, status: &Status) {
        if !self.refusals.admits(entry.who.as_deref(), chrono::Utc::now().timestamp()) {
            return;
        }
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            tracing::warn!(place = self.place, "the audit log is slow: a line about a refusal is left out");
            return;
        };
        let (this, entry) = (Arc::clone(self), entry.refused(status));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = this.write_now(&entry) {
                tracing::error!(place = this.place, %error, "a line of the audit log is lost");
            }
            drop(place);
        });
    }

    async fn note(self: &Arc<Self>, entry: Entry) {
        if let Err(error) = self.write(entry).await {
            tracing::error!(place = self.place, %error, "a line of the audit log is lost");
        }
    }

    async fn write(self: &Arc<Self>, entry: Entry) -> io::Result<()> {
        let this = Arc::clone(self);
        // A task of its own: who goes away takes no line along.
        let written = tokio::spawn(async move {
            let outcome = this.queue(&entry)?;
            // Whoever waits keeps no thread from others that have work.
            let turn = this.turn.lock().await;
            if outcome.get().is_none() {
                let (writer, mine) = (Arc::clone(&this), Arc::clone(&outcome));
                tokio::task::spawn_blocking(move || writer.flush(&mine)).await.map_err(io::Error::other)?;
            }
            drop(turn);
            told(&outcome)
        });
        written.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Writes a line, and waits until the disk has it. Whoever finds the disk free writes for all that wait, so that it is waited for once,
    /// however many they are; the time of a line is when it was said.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn write_now(&self, entry: &Entry) -> io::Result<()> {
        let outcome = self.queue(entry)?;
        self.flush(&outcome);
        told(&outcome)
    }

    /// Puts a line to those that wait for the disk.
    fn queue(&self, entry: &Entry) -> io::Result<Arc<Outcome>> {
        let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let mut line = serde_json::to_vec(&Entry { time, ..entry.clone() })?;
        line.push(b'\n');
        let mut open = locked(&self.open);
        open.lines.append(&mut line);
        Ok(Arc::clone(&open.outcome))
    }

    /// Writes all lines that wait, unless somebody has written the one whose outcome this is.
    fn flush(&self, mine: &Outcome) {
        let mut sink = locked(&self.sink);
        // Lines are taken, and their outcome is said, while the sink is held: without one, that line is still among those that wait.
        if mine.get().is_none() {
            let Open { lines, outcome } = std::mem::take(&mut *locked(&self.open));
            let written = sink.write(lines).map_err(|error| (error.kind(), error.to_string()));
            let _ = outcome.set(written);
        }
    }
}

/// What became of a line that was flushed.
fn told(outcome: &Outcome) -> io::Result<()> {
    match outcome.get() {
        Some(Ok(())) => Ok(()),
        Some(Err((kind, text))) => Err(io::Error::new(*kind, text.clone())),
        None => Err(io::Error::other("whoever wrote it did not come to an end")),
    }
}

impl Sink {
    /// Writes whole lines, and waits until the disk has them.
    fn write(&mut self, mut lines: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(&lines),
            Self::Memory(writes) => {
                writes.push(lines);
                Ok(())
            }
            Self::Broken => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Self::File { path, file, torn } => {
                if moved(path, file) {
                    (*file, *torn) = (open(path)?, false);
                }
                if *torn {
                    lines.insert(0, b'\n');
                }
                let written = file.write_all(&lines).and_then(|()| file.sync_data());
                *torn = written.is_err();
                written
            }
        }
    }
}

fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Whether the file is no longer where it was opened.
fn moved(path: &Path, file: &File) -> bool {
    let place = |it: std::fs::Metadata| (it.dev(), it.ino());
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(here)) => place(there) != place(here),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_wait_are_written_as_one_and_each_is_told_what_became_of_it() {
        const LINES: usize = 8;
        let audit = Arc::new(Audit::memory());
        // A disk that is busy.
        let busy = locked(&audit.sink);
        let writers: Vec<_> = (0..LINES)
            .map(|_| {
                let audit = Arc::clone(&audit);
                std::thread::spawn(move || audit.write_now(&Entry::new(None, None, "issue")))
            })
            .collect();
        let waiting = || locked(&audit.open).lines.iter().filter(|byte| **byte == b'\n').count();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while waiting() < LINES {
            assert!(std::time::Instant::now() < deadline, "only {} lines came", waiting());
            std::thread::yield_now();
        }
        assert!(writers.iter().all(|it| !it.is_finished()), "one was told before the disk had its line");
        drop(busy);
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
        assert_eq!(audit.lines().len(), LINES);
        let sink = locked(&audit.sink);
        let Sink::Memory(writes) = &*sink else { panic!() };
        assert_eq!(writes.len(), 1, "the disk was waited for more than once");
    }

    #[test]
    fn a_disk_that_is_full_is_told_to_each() {
        let audit = Audit::broken();
        for _ in 0..2 {
            let error = audit.write_now(&Entry::new(None, None, "issue")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn refusals_of_anybody_fill_no_disk() {
        let refusals = Refusals::default();
        let lines = |who: Option<&str>| (0..1000).filter(|_| refusals.admits(who, 7)).count();
        assert_eq!((lines(None), lines(Some("ci")), lines(Some("jane"))), (10, 10, 10));
        let others: usize = (0..5000).map(|index| lines(Some(&format!("c{index}")))).sum();
        assert!(others <= 10 * (IDENTITIES + 1), "{others}");
        assert!(refusals.admits(Some("ci"), 8));
    }
}
