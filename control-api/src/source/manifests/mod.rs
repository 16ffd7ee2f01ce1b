//! A folder of manifests that is followed.
//!
//! The system's notices of changes only wake the reader: what has changed it finds out by looking. So whatever editors, `git`,
//! `kubectl cp` or the kubelet's links do, what counts is what is there once it is quiet.

mod folder;
mod scan;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use folder::{Folder, News};
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Input, Inputs, Origin, Problems};

/// How long it must be quiet before files are read.
const QUIET: Duration = Duration::from_millis(100);
/// How long a folder that is never quiet is left unread.
const LONGEST: Duration = Duration::from_secs(1);
/// How often it is looked at though nothing was noticed: file systems over a network tell nobody.
const LOOK: Duration = Duration::from_secs(10);
/// The same where the system gives no notices.
const LOOK_WITHOUT_NOTICES: Duration = Duration::from_secs(1);

/// Why a folder cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{dir}: the folder of manifests cannot be read: {error}")]
pub struct FolderError {
    dir: String,
    error: io::Error,
}

/// Tells all manifests of a folder, then follows it until the engine is gone.
///
/// Bad files and objects are in `problems`; the others apply.
///
/// # Errors
/// When the folder cannot be read. Once it is followed, that is a problem, and what was known stays.
pub async fn start(dir: &Path, inputs: Inputs, problems: Problems) -> Result<JoinHandle<()>, FolderError> {
    let failed = |error: io::Error| FolderError { dir: dir.display().to_string(), error };
    let root = dir.to_owned();
    let first = tokio::task::spawn_blocking(move || {
        let mut reader = Reader::new(root);
        // Watched first, so that nothing is missed in between.
        let scan = scan::scan(&reader.root)?;
        reader.follow(&scan.folders);
        let scan = scan::scan(&reader.root)?;
        let news = reader.folder.update(&reader.root, Ok(scan));
        Ok((reader, news))
    });
    let (reader, News { changes, problems: found }) =
        first.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
    let objects: Vec<_> = changes.into_iter().filter_map(|(_, object)| object).collect();
    tracing::info!(dir = %dir.display(), objects = objects.len(), problems = found.len(), "manifests read");
    problems.set(Origin::Manifests, found);
    Ok(tokio::spawn(async move {
        if inputs.send(Input::Reset { origin: Origin::Manifests, revision: 0, objects }).await.is_ok() {
            run(reader, inputs, problems).await;
        }
    }))
}

async fn run(mut reader: Reader, inputs: Inputs, problems: Problems) {
    let wake = Arc::clone(&reader.wake);
    loop {
        let look = match (reader.folder.unsettled(), reader.notices()) {
            (true, _) => QUIET,
            (false, true) => LOOK,
            (false, false) => LOOK_WITHOUT_NOTICES,
        };
        tokio::select! {
            () = inputs.closed() => return,
            () = tokio::time::sleep(look) => {}
            () = wake.notified() => settle(&wake).await,
        }
        let Ok((back, News { changes, problems: found })) = tokio::task::spawn_blocking(move || {
            let news = reader.look();
            (reader, news)
        })
        .await
        else {
            return tracing::error!("reading manifests failed half way; the folder is no longer followed");
        };
        reader = back;
        problems.set(Origin::Manifests, found);
        if !changes.is_empty() {
            tracing::info!(changes = changes.len(), "manifests changed");
            let input = Input::Changes { origin: Origin::Manifests, revision: 0, changes };
            if inputs.send(input).await.is_err() {
                return;
            }
        }
    }
}

/// Waits until it is quiet, but not for ever.
async fn settle(wake: &Notify) {
    let end = Instant::now() + LONGEST;
    while Instant::now() < end && tokio::time::timeout(QUIET, wake.notified()).await.is_ok() {}
}

/// Reads the folder, and has the system tell when to.
struct Reader {
    root: PathBuf,
    /// The real folder above the root.
    above: Option<PathBuf>,
    folder: Folder,
    wake: Arc<Notify>,
    /// `None` when the system gives no notices.
    watcher: Option<RecommendedWatcher>,
    /// What is watched: folders, with what tells one from its successor of the same name.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Some folder cannot be watched.
    blind: bool,
}

impl Reader {
    fn new(root: PathBuf) -> Self {
        let wake = Arc::new(Notify::new());
        let notify = Arc::clone(&wake);
        // A path such as `.` or `..` says nothing about where it is.
        let here = match root.file_name() {
            Some(_) => std::path::absolute(&root),
            None => root.canonicalize(),
        }
        .unwrap_or_else(|_| root.clone());
        let above = here.parent().and_then(|parent| parent.canonicalize().ok());
        let beside = above.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error (notices were lost) is a reason to look, too.
            if event.map_or(true, |event| concerns(&event, beside.as_deref(), &here)) {
                notify.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "no notices of changed manifests; the folder is looked at each second");
            })
            .ok();
        Self { root, above, folder: Folder::default(), wake, watcher, watched: BTreeMap::new(), blind: false }
    }

    fn notices(&self) -> bool {
        self.watcher.is_some() && !self.blind
    }

    /// Looks at the folder, and reads what has changed.
    fn look(&mut self) -> News {
        let mut found = scan::scan(&self.root);
        // What came into a new folder before it was watched must be seen, too.
        if let Ok(scan) = &found
            && self.follow(&scan.folders)
        {
            found = scan::scan(&self.root);
        }
        self.folder.update(&self.root, found)
    }

    /// Watches these folders and no others. Whether there are new ones among them.
    fn follow(&mut self, folders: &BTreeMap<PathBuf, (u64, u64)>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let mut wanted = folders.clone();
        // The folder itself may be replaced, and be it by a link to another one.
        if let Some(above) = &self.above {
            wanted.entry(above.clone()).or_insert((0, 0));
        }
        self.watched.retain(|path, id| {
            let stays = wanted.get(path) == Some(id);
            if !stays {
                // It is gone already, mostly.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        let mut new = false;
        let was_blind = std::mem::take(&mut self.blind);
        for (path, id) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    new = true;
                    self.watched.insert(path, id);
                }
                Err(error) => {
                    self.blind = true;
                    if !was_blind {
                        let path = path.display();
                        tracing::warn!(%path, %error, "no notices of changes here; it is looked at each second");
                    }
                }
            }
        }
        new
    }
}

/// Whether a notice is of interest: reading is not, nor what happens beside the root.
fn concerns(event: &Event, above: Option<&Path>, root: &Path) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    let beside = |path: &PathBuf| path.parent() == above && path.file_name() != root.file_name();
    event.paths.is_empty() || !event.paths.iter().all(beside)
}
