//! `outrider shepherd`: what is left of the first process when its work has passed on to others.
//!
//! Whoever started it knows this process and no other: it passes signals on to the processes that serve, whose parent it is,
//! and ends when the last of them has ended, with its code.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{SignalKind, signal};

use super::{children, forward};

/// Replaces this process by a shepherd, which needs no more than a few pages. Returns only when that cannot be: after it was
/// one itself, its exit code.
///
/// # Errors
/// As [`run`].
pub(crate) fn turn_into(binary: &Path) -> anyhow::Result<u8> {
    for binary in [binary, Path::new("/proc/self/exe")] {
        let error = Command::new(binary).arg("shepherd").exec();
        tracing::warn!(%error, "{} cannot be run as a shepherd", binary.display());
    }
    run()
}

/// Passes signals on until no child is left. The exit code of the last one.
///
/// # Errors
/// Signals cannot be received.
pub fn run() -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the shepherd's runtime cannot be made")?.block_on(watch())
}

async fn watch() -> anyhow::Result<u8> {
    let listen = |kind| signal(kind).context("signals cannot be received");
    let mut child = listen(SignalKind::child())?;
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    let mut usr1 = listen(SignalKind::user_defined1())?;
    let mut hup = listen(SignalKind::hangup())?;
    // As the first process of a container, or by what it was before, it gets the orphans of those that serve.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("no subreaper")?;
    let mut code = 0;
    loop {
        if let Left::Nobody = reap(&mut code) {
            return Ok(code);
        }
        let signal = tokio::select! {
            _ = child.recv() => continue,
            _ = term.recv() => Signal::TERM,
            _ = int.recv() => Signal::INT,
            _ = usr1.recv() => Signal::USR1,
            _ = hup.recv() => Signal::HUP,
        };
        tracing::debug!(?signal, children = children().len(), "passed on");
        forward(signal);
    }
}

/// Whether there are children.
enum Left {
    Some,
    Nobody,
}

/// Takes note of all children that have ended; the last one's code stays in `code`.
fn reap(code: &mut u8) -> Left {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((_, status))) => *code = code_of(status),
            Ok(None) => return Left::Some,
            Err(Errno::INTR) => {}
            Err(_) => return Left::Nobody,
        }
    }
}

/// The exit code that stands for how a process ended: as shells have it, a signal counts from 128 on.
fn code_of(status: WaitStatus) -> u8 {
    let signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
