//! Directories into which files are moved, which is how files that somebody reads are replaced.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// How often a directory is looked for that cannot be watched.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Directories that are watched for moves into them, never files for writes: so nobody reads one that is half written.
#[derive(Debug)]
pub struct Moves {
    directories: Vec<PathBuf>,
    watch: Option<AsyncFd<OwnedFd>>,
}

impl Moves {
    /// Watches `directories` from now on; one that cannot be watched is tried again every few seconds.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, as [`AsyncFd::new`].
    pub fn of(directories: Vec<PathBuf>) -> Self {
        let mut moves = Self { directories, watch: None };
        moves.open();
        moves
    }

    fn open(&mut self) {
        match watch(self.directories.iter().map(PathBuf::as_path)) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => tracing::warn!(directories = ?self.directories, "cannot be watched: {error}"),
        }
    }

    /// Returns when something was moved into one of them, or when that may have happened without having been seen. Nothing
    /// is lost when nobody waits any more.
    pub async fn next(&mut self) {
        loop {
            if self.watch.is_none() {
                tokio::time::sleep(LOOK_AGAIN).await;
                self.open();
                if self.watch.is_some() {
                    return;
                }
                continue;
            }
            match moved(self.watch.as_ref(), None).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(directories = ?self.directories, "no longer watched: {error}");
                    self.watch = None;
                }
            }
        }
    }
}

/// Watches for moves into these.
pub(crate) fn watch<'a>(directories: impl Iterator<Item = &'a Path>) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    for directory in directories {
        inotify::add_watch(&fd, directory, WatchFlags::MOVED_TO)?;
    }
    #[expect(
        deprecated,
        reason = "what took its place is unsafe for descriptors that are closed or replaced while they are \
                  registered; this one belongs to the AsyncFd alone"
    )]
    AsyncFd::new(fd)
}

/// Waits for a move to `name`, or to any name. Returns whether there was one among what happened.
pub(crate) async fn moved(watch: Option<&AsyncFd<OwnedFd>>, name: Option<&OsStr>) -> std::io::Result<bool> {
    let Some(watch) = watch else { return std::future::pending().await };
    let mut ready = watch.readable().await?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch.get_ref(), &mut buffer);
    let mut found = false;
    loop {
        match reader.next() {
            Ok(event) => {
                if event.events().contains(inotify::ReadFlags::IGNORED) {
                    return Err(std::io::Error::other("the directory is gone"));
                }
                // When events were lost, this may have been one of them.
                let lost = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                let to = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                found |= lost || name.is_none_or(|name| to == Some(name));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                ready.clear_ready();
                return Ok(found);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
