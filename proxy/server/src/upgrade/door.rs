//! The socket of `--upgrade-socket`: where an upgrade is asked for.
//!
//! A caller writes one line, a [`Call`], and reads lines, each an [`Answer`], of which the last one says what came of it.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot};

use super::old::{Next, Progress, Request, UpgradeError, attempt};
use crate::control::Control;

/// Callers at a time; others wait in the kernel's queue.
const CALLERS: usize = 8;
/// How long a caller may take to say what it wants, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// No call is longer, bytes.
const LONGEST: u64 = 16 << 10;
/// No process may take longer until it is ready.
const LONGEST_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a caller wants.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    /// What is to be run: an absolute path in the file system of the proxy.
    pub(super) binary: PathBuf,
    /// How long it may take until it is ready.
    pub(super) timeout_ms: u64,
}

/// What a caller is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The upgrade got so far.
    Step(String),
    /// It is done.
    Done(String),
    /// It is not, and why.
    Failed(String),
}

/// Listens on the socket of `--upgrade-socket`, if there is one; or takes over the one that the process before listened on.
///
/// # Errors
/// Another process listens there, or the path cannot be used.
pub(crate) fn bind(control: &Control) -> anyhow::Result<Option<UnixListener>> {
    let Some(path) = &control.options.upgrade_socket else { return Ok(None) };
    let place = format!("upgrade {}", path.display());
    let listener = match control.listeners.inherited.take(&place, 1).pop_front() {
        Some(socket) => std::os::unix::net::UnixListener::from(socket),
        None => open(path).with_context(|| format!("--upgrade-socket {}", path.display()))?,
    };
    listener.set_nonblocking(true)?;
    control.upgrade.lend_also(place, &listener)?;
    Ok(Some(UnixListener::from_std(listener)?))
}

/// A socket for this user alone. One that is left of an earlier process is replaced, one that is in use is not.
fn open(path: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("another process listens there: give each proxy a socket of its own");
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Who took over, and what is to be dropped when this process serves nobody new any more: then the caller is told.
pub(crate) type Handed = (Next, oneshot::Sender<()>);

/// Serves callers for ever. Who took over is told by `done`.
pub(crate) async fn serve(listener: UnixListener, control: Arc<Control>, done: UnboundedSender<Handed>) {
    let slots = Arc::new(Semaphore::new(CALLERS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the upgrade socket cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (control, done) = (control.clone(), done.clone());
        tokio::task::spawn_local(async move {
            answer(stream, &control, &done).await;
            drop(slot);
        });
    }
}

/// Answers one caller.
async fn answer(stream: UnixStream, control: &Arc<Control>, done: &UnboundedSender<Handed>) {
    let mut caller = Caller { stream };
    let call = match caller.call().await {
        Ok(call) => call,
        Err(error) => {
            tracing::warn!("a caller of the upgrade socket is refused: {error:#}");
            return caller.tell(&Answer::Failed(format!("{error:#}"))).await;
        }
    };
    let limit = Duration::from_millis(call.timeout_ms).min(LONGEST_LIMIT);
    let request = Request { binary: call.binary, limit };
    let stats = &control.server_stats;
    match upgrade(control, request, &mut caller).await {
        Ok(next) => {
            stats.upgrades().inc();
            let text = format!("process {} serves; this one finishes what it has begun", next.pid());
            tracing::info!("upgrade: {text}");
            let (closing, closed) = oneshot::channel();
            let _ = done.send((next, closing));
            // It is dropped, and nothing is sent.
            let _ = closed.await;
            caller.tell(&Answer::Done(text)).await;
        }
        Err(error) => {
            stats.upgrades_failed().inc();
            tracing::error!("no upgrade, this process goes on: {error}");
            caller.tell(&Answer::Failed(error.to_string())).await;
        }
    }
}

/// Carries out what a caller wants, and tells it how far that is.
async fn upgrade(
    control: &Arc<Control>,
    request: Request,
    caller: &mut Caller,
) -> Result<Next, UpgradeError> {
    let busy = control.upgrade.begin().ok_or(UpgradeError::Busy)?;
    let mut progress = attempt(control.clone(), request).await?;
    loop {
        match progress.recv().await {
            Some(Progress::Step(text)) => caller.tell(&Answer::Step(text)).await,
            Some(Progress::Over(outcome)) => {
                if outcome.is_ok() {
                    busy.for_good();
                }
                return outcome;
            }
            None => return Err(UpgradeError::Resources("the thread of the upgrade ended".into())),
        }
    }
}

/// Who asks for an upgrade.
struct Caller {
    stream: UnixStream,
}

impl Caller {
    /// What it wants, if it may want anything: it runs a binary with what we may do, so it is root or the same user.
    async fn call(&mut self) -> anyhow::Result<Call> {
        let uid = self.stream.peer_cred().context("who asks is not known")?.uid();
        let ours = rustix::process::geteuid().as_raw();
        if uid != 0 && uid != ours {
            bail!("uid {uid} may not upgrade this process: its own uid {ours} and root may");
        }
        let mut line = Vec::new();
        let mut reader = BufReader::new((&mut self.stream).take(LONGEST));
        let read = tokio::time::timeout(PATIENCE, reader.read_until(b'\n', &mut line));
        read.await.context("nothing was asked for in time")??;
        let call: Call = serde_json::from_slice(&line)
            .context("what is wanted is not understood: use `outrider upgrade`")?;
        if !call.binary.is_absolute() {
            bail!("{} is no absolute path", call.binary.display());
        }
        Ok(call)
    }

    /// Tells it something. One that does not listen changes nothing.
    async fn tell(&mut self, answer: &Answer) {
        let Ok(mut line) = serde_json::to_vec(answer) else { return };
        line.push(b'\n');
        let written = tokio::time::timeout(PATIENCE, self.stream.write_all(&line)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::debug!("who asked for the upgrade does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_is_replaced_and_one_in_use_is_not() {
        let dir = std::env::temp_dir().join(format!("outrider-upgrade-{}", std::process::id()));
        let path = dir.join("upgrade.sock");
        let first = open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(open(&path).unwrap_err().to_string().contains("another process"));
        drop(first);
        open(&path).unwrap();
        // What is no socket is not ours to remove.
        let file = dir.join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(open(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
