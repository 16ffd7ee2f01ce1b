//! The file of the embedded store: how it is made, opened, judged, read and written.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition,
};

use super::guard::Guard;
use crate::model::{Key, Kind};
use crate::store::StoreError;
use crate::store::image::{Commit, State};

/// The version of what is written here: tables and their content.
const FORMAT: u64 = 1;
/// What redb may cache: reads are answered from memory, so this is for writing alone.
const CACHE: usize = 8 << 20;

/// `format`, `revision` (of the last commit) and `forgotten` (what the log no longer has).
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// (kind, namespace, name) to revision and JSON.
const OBJECTS: TableDefinition<'_, (&str, &str, &str), (u64, &[u8])> = TableDefinition::new("objects");
/// (revision, place in the commit) to (kind, namespace, name) and JSON; without JSON: deleted.
const LOG: TableDefinition<'_, (u64, u32), Logged<'_>> = TableDefinition::new("log");

/// A change in the log.
type Logged<'a> = (&'a str, &'a str, &'a str, Option<&'a [u8]>);

const KEEP: &str = "nothing was changed; restore a backup, or move the file away to start anew";

/// How long the lock of another process is waited for: one that was told to stop may still be closing its file, and a child that is
/// just being started holds what its parent held until it runs its own program.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the lock is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Whether something that another process holds is to be tried again, after a pause.
fn wait_until(end: Instant) -> bool {
    let more = Instant::now() < end;
    if more {
        std::thread::sleep(LOOK);
    }
    more
}

/// What keeps other processes out of a directory as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Makes the directory if there is none, and locks it.
pub(super) fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let failed = |what: &str, error: io::Error| unavailable(format!("{}: {what}: {error}", dir.display()));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| failed("cannot make the data directory", error))?;
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed("cannot write to the data directory", error))?;
    let end = Instant::now() + PATIENCE;
    let locked = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if wait_until(end) => {}
            locked => break locked,
        }
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who it is only helps; that it is held is known.
            let _ = (&file).take(64).read_to_string(&mut holder);
            let holder = holder.trim();
            let holder =
                if holder.is_empty() { "another process".into() } else { format!("process {holder}") };
            return Err(unavailable(format!(
                "{}: {holder} uses this data directory; stop it, or give this one another --data-dir",
                dir.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(failed("cannot lock the data directory", error)),
    }
    // For the message above alone, so a full disk is no reason to stop.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Lock { _file: file })
}

fn unavailable(reason: String) -> StoreError {
    StoreError::Unavailable { reason, unknown: false }
}

/// An open file.
#[derive(Debug)]
pub(super) struct Store {
    db: Database,
    path: PathBuf,
}

impl Store {
    /// Opens a file, which is made when there is none, and reads all that is in it.
    pub(super) fn open(path: &Path) -> Result<(Self, State), StoreError> {
        let problem = Problems(path);
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path)?;
                OpenOptions::new().read(true).write(true).open(path)
            }
            file => file,
        }
        .map_err(|error| problem.io("cannot open it", &error))?;
        let meta = file.metadata().map_err(|error| problem.io("cannot look at it", &error))?;
        if meta.len() == 0 {
            return Err(problem.corrupt("the file is empty"));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            // There are secrets in it.
            file.set_permissions(fs::Permissions::from_mode(0o600))
                .map_err(|error| problem.io("cannot make it private (mode 0600)", &error))?;
        }
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        let end = Instant::now() + PATIENCE;
        let (guard, db) = loop {
            let file = file.try_clone().map_err(|error| problem.io("cannot open it twice", &error))?;
            let guard = Guard::new(file).map_err(|error| problem.database(error))?;
            match builder.create_with_backend(guard.clone()) {
                Err(DatabaseError::DatabaseAlreadyOpen) if wait_until(end) => {}
                opened => break (guard, opened.map_err(|error| problem.database(error))?),
            }
        };
        let store = Self { db, path: path.to_owned() };
        let state = store.load()?;
        guard.release().map_err(|error| problem.io("cannot write to it", &error))?;
        Ok((store, state))
    }

    /// Reads everything, and believes nothing.
    fn load(&self) -> Result<State, StoreError> {
        let problem = Problems(&self.path);
        let read = self.db.begin_read().map_err(|error| problem.redb(error))?;
        let meta = read.open_table(META).map_err(|error| problem.redb(error))?;
        let number = |name: &str| match meta.get(name) {
            Ok(Some(number)) => Ok(number.value()),
            Ok(None) => Err(problem.corrupt(&format!("it is no store of this program: it has no {name}"))),
            Err(error) => Err(problem.redb(error)),
        };
        let format = number("format")?;
        if format != FORMAT {
            return Err(StoreError::Corrupt {
                place: self.path.display().to_string(),
                reason: format!(
                    "its format is {format}, which another version of this program wrote; this one knows format \
                     {FORMAT}; nothing was changed: start the version that wrote it"
                ),
            });
        }
        let (revision, forgotten) = (number("revision")?, number("forgotten")?);
        let mut objects = BTreeMap::new();
        let table = read.open_table(OBJECTS).map_err(|error| problem.redb(error))?;
        for entry in table.iter().map_err(|error| problem.redb(error))? {
            let (key, value) = entry.map_err(|error| problem.redb(error))?;
            let (at, json) = value.value();
            if at > revision {
                return Err(
                    problem.corrupt(&format!("an object is of revision {at}, which is still to come"))
                );
            }
            objects.insert(problem.key(key.value())?, (at, Bytes::copy_from_slice(json)));
        }
        let mut history = VecDeque::<Commit>::new();
        let log = read.open_table(LOG).map_err(|error| problem.redb(error))?;
        for entry in log.iter().map_err(|error| problem.redb(error))? {
            let (place, change) = entry.map_err(|error| problem.redb(error))?;
            let (at, _) = place.value();
            if at > revision || at <= forgotten {
                return Err(problem.corrupt(&format!("its log has revision {at}, which cannot be")));
            }
            let (kind, namespace, name, json) = change.value();
            let effect = (problem.key((kind, namespace, name))?, json.map(Bytes::copy_from_slice));
            match history.back_mut().filter(|last| last.revision == at) {
                Some(last) => last.effects.push(effect),
                None => history.push_back(Commit { revision: at, effects: vec![effect] }),
            }
        }
        Ok(State { revision, objects, history, forgotten })
    }

    /// Writes commits in one transaction that is on the disk when this returns.
    pub(super) fn write(&self, commits: &[Commit], forgotten: u64) -> Result<(), StoreError> {
        let problem = Problems(&self.path);
        let mut write = self.db.begin_write().map_err(|error| problem.redb(error))?;
        write.set_durability(Durability::Immediate).map_err(|error| problem.redb(error))?;
        // In one phase, a damaged last commit would silently be taken back when the file is opened after a crash.
        write.set_two_phase_commit(true);
        {
            let mut objects = write.open_table(OBJECTS).map_err(|error| problem.redb(error))?;
            let mut log = write.open_table(LOG).map_err(|error| problem.redb(error))?;
            let mut meta = write.open_table(META).map_err(|error| problem.redb(error))?;
            for Commit { revision, effects } in commits {
                for (index, (key, json)) in (0_u32..).zip(effects) {
                    let at = (key.kind.name(), &*key.namespace, &*key.name);
                    match json {
                        Some(json) => objects.insert(at, (*revision, &**json)).map(drop),
                        None => objects.remove(at).map(drop),
                    }
                    .map_err(|error| problem.redb(error))?;
                    log.insert((*revision, index), (at.0, at.1, at.2, json.as_deref()))
                        .map_err(|error| problem.redb(error))?;
                }
                meta.insert("revision", revision).map_err(|error| problem.redb(error))?;
            }
            log.retain_in((0, 0)..=(forgotten, u32::MAX), |_, _| false)
                .map_err(|error| problem.redb(error))?;
            meta.insert("forgotten", forgotten).map_err(|error| problem.redb(error))?;
        }
        write.commit().map_err(|error| problem.redb(error))
    }
}

/// Makes an empty store. It comes into being whole: whoever is killed half way leaves nothing under the file's name.
fn make(path: &Path) -> Result<(), StoreError> {
    let problem = Problems(path);
    let new = path.with_extension("new");
    let failed = |error: io::Error| problem.io("cannot make it", &error);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    let backend = redb::backends::FileBackend::new(file).map_err(|error| problem.database(error))?;
    let db = Builder::new()
        .set_cache_size(CACHE)
        .create_with_backend(backend)
        .map_err(|error| problem.database(error))?;
    let write = db.begin_write().map_err(|error| problem.redb(error))?;
    {
        let mut meta = write.open_table(META).map_err(|error| problem.redb(error))?;
        for (name, value) in [("format", FORMAT), ("revision", 0), ("forgotten", 0)] {
            meta.insert(name, value).map_err(|error| problem.redb(error))?;
        }
        write.open_table(OBJECTS).map_err(|error| problem.redb(error))?;
        write.open_table(LOG).map_err(|error| problem.redb(error))?;
    }
    write.commit().map_err(|error| problem.redb(error))?;
    db.close().map_err(|error| problem.database(error))?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    // The directory, and its own entry above it: it may have been made a moment ago.
    for dir in [Some(dir), dir.canonicalize().ok().as_deref().and_then(Path::parent)].into_iter().flatten() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// Turns what redb says into what an operator is told.
struct Problems<'p>(&'p Path);

impl Problems<'_> {
    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt {
            place: self.0.display().to_string(),
            reason: format!("damaged: {what}; {KEEP}"),
        }
    }

    fn io(&self, what: &str, error: &io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt("it ends too early"),
            io::ErrorKind::InvalidData => self.corrupt(&error.to_string()),
            _ => unavailable(format!("{}: {what}: {error}", self.0.display())),
        }
    }

    fn database(&self, error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => unavailable(format!(
                "{}: another process has it open; stop it, or give this one another --data-dir",
                self.0.display()
            )),
            DatabaseError::UpgradeRequired(version) => self.corrupt(&format!(
                "its file format is redb's version {version}, which this program does not read"
            )),
            error => self.redb(error),
        }
    }

    fn redb(&self, error: impl Into<redb::Error>) -> StoreError {
        let place = || self.0.display();
        match error.into() {
            redb::Error::Io(error) => self.io("cannot read or write it", &error),
            redb::Error::Corrupted(what) => self.corrupt(&what),
            error @ (redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_)) => {
                self.corrupt(&format!("it is no store of this program: {error}"))
            }
            redb::Error::ValueTooLarge(size) => {
                StoreError::Unfit(format!("{}: an object of {size} bytes is too large", place()))
            }
            error => unavailable(format!("{}: {error}", place())),
        }
    }

    fn key(&self, (kind, namespace, name): (&str, &str, &str)) -> Result<Key, StoreError> {
        let Some(known) = Kind::ALL.iter().copied().find(|known| known.name() == kind) else {
            return Err(StoreError::Corrupt {
                place: self.0.display().to_string(),
                reason: format!(
                    "{kind} {namespace}/{name} is of a kind that this version does not know; nothing was changed: \
                     start the version that wrote it, or restore a backup"
                ),
            });
        };
        Ok(Key::new(known, namespace, name))
    }
}
