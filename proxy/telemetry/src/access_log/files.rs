//! Log files: a buffer for each worker and file, and one thread that writes.
//!
//! A worker hands its buffer over when it is large enough or when the flush interval ends
//! ([`flush_local`]); a disk that does not keep up loses entries, which are counted, and never memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use outrider_config::model::LogSink;
use outrider_core::stat_struct;
use outrider_core::stats::Registry;

/// Entries waiting to be written beyond this are dropped, in bytes.
const MAX_WAITING: u64 = 64 << 20;

stat_struct! {
    /// Envoy's `filesystem.` stats, the parts that have a meaning here, and what was dropped.
    struct FileStats {
        counters { write_buffered, write_completed, write_failed, write_dropped, reopen_failed }
        gauges {}
        histograms {}
    }
}

/// The index of a file in every worker's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(usize);

/// All log files of the process and the thread that writes them. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct LogFiles(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ids: Mutex<HashMap<LogSink, FileId>>,
    writer: Mutex<Option<Sender<Command>>>,
    waiting: Arc<AtomicU64>,
    min_size: usize,
    stats: Arc<FileStats>,
}

/// A log file could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("access log {path:?} cannot be opened for appending: {source}")]
pub struct LogFileError {
    /// The file.
    pub path: String,
    /// Why.
    pub source: std::io::Error,
}

#[derive(Debug)]
enum Command {
    Open(FileId, Target),
    Write(FileId, Vec<u8>),
    Reopen,
    /// Everything sent before is written when this is answered.
    Sync(Sender<()>),
}

#[derive(Debug)]
enum Target {
    File(Arc<str>, File),
    Stdout,
    Stderr,
}

struct Local {
    owner: LogFiles,
    sender: Sender<Command>,
    buffers: Vec<Vec<u8>>,
}

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

impl Default for LogFiles {
    fn default() -> Self {
        Self::new(&Registry::new(), 64 << 10)
    }
}

impl LogFiles {
    /// No file yet; buffers of `min_size` bytes are handed over without waiting for the interval.
    pub fn new(registry: &Registry, min_size: u64) -> Self {
        Self(Arc::new(Inner {
            ids: Mutex::default(),
            writer: Mutex::default(),
            waiting: Arc::default(),
            min_size: usize::try_from(min_size).unwrap_or(usize::MAX).max(1),
            stats: Arc::new(FileStats::new(registry.scope("filesystem."))),
        }))
    }

    /// The id of `sink`, opened if it is new.
    pub(super) fn open(&self, sink: &LogSink) -> Result<FileId, LogFileError> {
        let mut ids = self.0.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = ids.get(sink) {
            return Ok(*id);
        }
        let target = match sink {
            LogSink::Stdout => Target::Stdout,
            LogSink::Stderr => Target::Stderr,
            LogSink::File(path) => Target::File(path.clone(), open(path)?),
        };
        let id = FileId(ids.len());
        ids.insert(sink.clone(), id);
        self.send(Command::Open(id, target));
        Ok(id)
    }

    /// Opens all files anew, after they were moved away (SIGUSR1, `POST /reopen_logs`).
    pub fn reopen(&self) {
        self.send(Command::Reopen);
    }

    /// Waits until what was handed over is written. For the end of the process.
    pub fn sync(&self) {
        flush_local();
        let (done, wait) = channel();
        self.send(Command::Sync(done));
        let _ = wait.recv();
    }

    fn send(&self, command: Command) {
        let _ = self.sender().send(command);
    }

    fn sender(&self) -> Sender<Command> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer
            .get_or_insert_with(|| {
                let (sender, receiver) = channel();
                let (stats, waiting) = (self.0.stats.clone(), self.0.waiting.clone());
                let thread = std::thread::Builder::new().name("access-log".into()).stack_size(128 << 10);
                if let Err(error) = thread.spawn(move || write_all(&receiver, &stats, &waiting)) {
                    tracing::error!(%error, "no thread for access logs: they are not written");
                }
                sender
            })
            .clone()
    }

    /// Lets `write` append an entry to this worker's buffer of `file`.
    pub(super) fn append(&self, file: FileId, write: impl FnOnce(&mut Vec<u8>)) {
        LOCAL.with_borrow_mut(|local| {
            if local.as_ref().is_some_and(|local| !Arc::ptr_eq(&local.owner.0, &self.0)) {
                *local = None;
            }
            let local = local.get_or_insert_with(|| Local {
                owner: self.clone(),
                sender: self.sender(),
                buffers: Vec::new(),
            });
            if local.buffers.len() <= file.0 {
                local.buffers.resize_with(file.0 + 1, Vec::new);
            }
            let buffer = &mut local.buffers[file.0];
            let before = buffer.len();
            write(buffer);
            self.0.stats.write_buffered().inc();
            if self.0.waiting.load(Relaxed) > MAX_WAITING {
                buffer.truncate(before);
                self.0.stats.write_dropped().inc();
            } else if buffer.len() >= self.0.min_size {
                hand_over(&local.sender, file, buffer, &self.0.waiting);
            }
        });
    }
}

/// Hands the calling thread's buffers to the writer: each worker calls it once a flush interval.
pub fn flush_local() {
    LOCAL.with_borrow_mut(|local| {
        let Some(local) = local else { return };
        for (index, buffer) in local.buffers.iter_mut().enumerate().filter(|(_, buffer)| !buffer.is_empty()) {
            hand_over(&local.sender, FileId(index), buffer, &local.owner.0.waiting);
        }
    });
}

fn hand_over(sender: &Sender<Command>, file: FileId, buffer: &mut Vec<u8>, waiting: &AtomicU64) {
    waiting.fetch_add(buffer.len() as u64, Relaxed);
    let _ = sender.send(Command::Write(file, std::mem::take(buffer)));
}

fn open(path: &Arc<str>) -> Result<File, LogFileError> {
    let file = File::options().create(true).append(true).open(&**path);
    file.map_err(|source| LogFileError { path: path.to_string(), source })
}

/// The writer thread.
fn write_all(commands: &Receiver<Command>, stats: &FileStats, waiting: &AtomicU64) {
    let mut targets: HashMap<usize, Target> = HashMap::new();
    while let Ok(command) = commands.recv() {
        match command {
            Command::Open(id, target) => drop(targets.insert(id.0, target)),
            Command::Write(id, bytes) => {
                let _ = waiting
                    .fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_sub(bytes.len() as u64)));
                let written = match targets.get_mut(&id.0) {
                    Some(Target::File(_, file)) => file.write_all(&bytes),
                    Some(Target::Stdout) => {
                        std::io::stdout().write_all(&bytes).and_then(|()| std::io::stdout().flush())
                    }
                    Some(Target::Stderr) => std::io::stderr().write_all(&bytes),
                    None => Ok(()),
                };
                if written.is_ok() { stats.write_completed().inc() } else { stats.write_failed().inc() }
            }
            Command::Reopen => {
                for target in targets.values_mut() {
                    let Target::File(path, file) = target else { continue };
                    match open(path) {
                        Ok(new) => *file = new,
                        Err(error) => {
                            stats.reopen_failed().inc();
                            tracing::warn!(%error, "the old file stays in use");
                        }
                    }
                }
            }
            Command::Sync(done) => drop(done.send(())),
        }
    }
}
