//! Runtime files are read anew when something is moved over their root: a new symbolic link, as a rule.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::control::Control;

/// Reads the runtime's files anew whenever they change. Ends at once when there are none. Control runtime.
pub(crate) async fn watch(control: Arc<Control>) {
    let roots: Vec<_> = control.runtime.disks().into_iter().map(|disk| disk.symlink_root).collect();
    if roots.is_empty() {
        return;
    }
    let mut moves = match Moves::new(roots.iter().map(|root| Path::new(&**root))) {
        Ok(moves) => moves,
        Err(error) => {
            tracing::error!("changes of the runtime's files will not be seen: {error:#}");
            return;
        }
    };
    // What changed before the watch began.
    control.runtime.reload();
    while let Ok(()) = moves.next().await {
        tracing::info!("the runtime's files changed");
        control.runtime.reload();
    }
}

/// Watches directories for files that are moved over certain names.
struct Moves {
    fd: AsyncFd<OwnedFd>,
    names: HashMap<i32, HashSet<Vec<u8>>>,
}

impl Moves {
    fn new<'a>(paths: impl Iterator<Item = &'a Path>) -> anyhow::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut names: HashMap<i32, HashSet<Vec<u8>>> = HashMap::new();
        for path in paths {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
            let number = inotify::add_watch(&fd, directory, WatchFlags::MOVED_TO)
                .with_context(|| format!("{} cannot be watched", directory.display()))?;
            names.entry(number).or_default().insert(name.to_vec());
        }
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd stays the same for as long as it is there"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, names })
    }

    /// Waits for the next move over one of the names.
    async fn next(&mut self) -> std::io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut hit = false;
            let mut reader = Reader::new(ready.get_inner(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(std::ffi::CStr::to_bytes).unwrap_or_default();
                        hit |= self.names.get(&event.wd()).is_some_and(|names| names.contains(name));
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if hit {
                return Ok(());
            }
        }
    }
}
