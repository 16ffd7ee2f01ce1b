//! A process from its start until it takes over, or is ended.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::FLAG;
use super::old::{Trouble, UpgradeError};
use super::wire::WireError;
use crate::dynamic::lock;

/// What is kept of what it says, bytes: the last of it.
const LAST_WORDS: usize = 4 << 10;
/// How long a process that said good-bye may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How often it is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// A process that is not ready yet.
pub(super) struct Starting {
    pub(super) child: Child,
    said: Arc<Mutex<VecDeque<u8>>>,
}

impl Starting {
    /// Starts it, with our own arguments and one end of `link`.
    pub(super) fn spawn(binary: &Path, link: OwnedFd) -> Result<Self, UpgradeError> {
        let failed = |source| UpgradeError::Run { binary: binary.to_owned(), source };
        // Orphans of the next process become our children, and the shepherd's after us.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|errno| failed(errno.into()))?;
        let arguments: Vec<OsString> = std::env::args_os().skip(1).filter(|given| given != FLAG).collect();
        let mut command = Command::new(binary);
        command.args(arguments).arg(FLAG).stdin(Stdio::from(link)).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let said = Arc::<Mutex<VecDeque<u8>>>::default();
        if let Some(stderr) = child.stderr.take() {
            let said = said.clone();
            let thread = std::thread::Builder::new().name("upgrade-log".into());
            if let Err(error) = thread.spawn(move || pass_on(stderr, &said)) {
                tracing::warn!(%error, "what the next process logs while it starts is lost");
            }
        }
        Ok(Self { child, said })
    }

    /// Ends it. Why it did not take over.
    pub(super) fn end(mut self, trouble: Trouble, limit: Duration) -> UpgradeError {
        let gone = matches!(trouble, Trouble::Wire(WireError::Gone));
        let ended = if gone { ends(&mut self.child) } else { None };
        if ended.is_none() {
            // It may have ended by itself.
            let _ = self.child.kill();
            if let Err(error) = self.child.wait() {
                tracing::error!(%error, "the process that was to take over cannot be waited for");
            }
        }
        let said = self.last_words();
        match (trouble, ended) {
            (_, Some(status)) => UpgradeError::Ended { status, said },
            (Trouble::Draining, None) => UpgradeError::Draining,
            (Trouble::Wire(WireError::Slow), None) => UpgradeError::Slow { limit, said },
            (Trouble::Wire(source), None) => UpgradeError::Talk { source, said },
        }
    }

    /// What it said last, for the end of a message.
    fn last_words(&self) -> String {
        // What was written is on its way; the reader has ended when it holds nothing of this any more.
        let begun = Instant::now();
        while Arc::strong_count(&self.said) > 1 && begun.elapsed() < ENDS_WITHIN {
            std::thread::sleep(LOOK);
        }
        let bytes: Vec<u8> = lock(&self.said).iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        match text.trim() {
            "" => "; it said nothing".into(),
            text => format!("; it said last:\n{text}"),
        }
    }
}

/// How a process ended that said good-bye, if it does so soon.
pub(super) fn ends(child: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < ENDS_WITHIN {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(LOOK);
    }
    None
}

/// Copies what a process says to our own standard error, and keeps the last of it.
fn pass_on(mut stderr: ChildStderr, said: &Mutex<VecDeque<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        let bytes = buffer.get(..count).unwrap_or_default();
        let _ = io::stderr().write_all(bytes);
        let mut said = lock(said);
        said.extend(bytes);
        let old = said.len().saturating_sub(LAST_WORDS);
        drop(said.drain(..old));
    }
}
