//! Live upgrade: another process takes over the listening sockets, and this one finishes what it has begun.
//!
//! `outrider upgrade` asks for it on the socket of `--upgrade-socket` (`door`). The old process (`old`) starts the new
//! binary with its own arguments and `--take-over`, gives it all that it listens on over a socket pair (`wire`), and goes on
//! serving. The new one (`new`) reads the configuration, warms its clusters and says when it is ready; only then does it let
//! clients in, and the old one stops to. Until then nothing has changed: whatever goes wrong, the new one is ended and the
//! old one goes on.
//!
//! The first process of all keeps its place as the parent of those that follow: it becomes their `shepherd` when its last
//! connection has gone, so that whoever started it (a container's runtime, a supervisor) still has the process that it knows.

pub mod client;
pub(crate) mod door;
pub(crate) mod new;
pub(crate) mod old;
pub mod shepherd;
mod starting;
mod wire;

use std::io;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use outrider_net::listener::Lent;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::dynamic::lock;
use new::TakeOver;

/// The flag with which a process is started to take over.
pub(crate) const FLAG: &str = "--take-over";

/// What a process has to do with the one before it and the one after it.
#[derive(Debug)]
pub(crate) struct Upgrade {
    /// How many processes there were before this one.
    pub(crate) epoch: u64,
    /// The process before this one.
    parent: Option<u32>,
    /// What it gave, until the start takes it.
    before: Mutex<Option<TakeOver>>,
    /// The identity agent, which passes on what it has.
    agent: Mutex<Option<outrider_identity::Running>>,
    /// Listening sockets that no worker has.
    own: Mutex<Vec<Lent>>,
    /// Workers may let clients in.
    admit: watch::Sender<bool>,
    /// Somebody is being started.
    busy: AtomicBool,
}

impl Default for Upgrade {
    /// Of a process that nobody was before.
    fn default() -> Self {
        Self {
            epoch: 0,
            parent: None,
            before: Mutex::default(),
            agent: Mutex::default(),
            own: Mutex::default(),
            admit: watch::Sender::new(true),
            busy: AtomicBool::new(false),
        }
    }
}

impl Upgrade {
    /// Of a process that takes over: nobody is let in before it is ready.
    pub(crate) fn after(before: TakeOver) -> Self {
        Self {
            epoch: before.hello.epoch,
            parent: Some(before.hello.pid),
            before: Mutex::new(Some(before)),
            admit: watch::Sender::new(false),
            ..Self::default()
        }
    }

    /// The process before this one, for whoever asks first.
    pub(crate) fn before(&self) -> Option<TakeOver> {
        lock(&self.before).take()
    }

    /// Says when workers may let clients in.
    pub(crate) fn admit(&self) -> watch::Receiver<bool> {
        self.admit.subscribe()
    }

    /// From now on they may.
    pub(crate) fn let_in(&self) {
        self.admit.send_replace(true);
    }

    /// Keeps the agent, to pass on what it has.
    pub(crate) fn set_agent(&self, agent: outrider_identity::Running) {
        *lock(&self.agent) = Some(agent);
    }

    /// Lets go of what the next process has now: it alone is behind these sockets. The agent ends.
    pub(crate) fn let_go(&self) {
        lock(&self.own).clear();
        if let Some(agent) = lock(&self.agent).take() {
            agent.stop();
        }
    }

    /// Keeps a duplicate of a socket that no worker has, to pass it on.
    ///
    /// # Errors
    /// The process has no more files.
    pub(crate) fn lend_also(&self, place: String, socket: &impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        lock(&self.own).push(Lent { place, socket });
        Ok(())
    }

    /// Processes whose sockets are no application's: the one before this one, and those that it started.
    pub(crate) fn relatives(&self) -> Vec<u32> {
        let children = children().into_iter().map(|child| child.as_raw_nonzero().get().unsigned_abs());
        self.parent.into_iter().chain(children).collect()
    }

    /// The right to start another process, if nobody has it.
    fn begin(&self) -> Option<Busy<'_>> {
        let free = self.busy.compare_exchange(false, true, Relaxed, Relaxed).is_ok();
        // None is made where it is not free: dropped, it would set free what somebody else has.
        if free { Some(Busy(&self.busy)) } else { None }
    }
}

/// Somebody is being started, for as long as there is this.
struct Busy<'a>(&'a AtomicBool);

impl Busy<'_> {
    /// Nobody else begins: this process has handed over.
    fn for_good(self) {
        std::mem::forget(self);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// The place of the admin interface's socket.
pub(crate) fn admin_place(address: &outrider_config::model::SocketAddress) -> String {
    format!("admin {address}")
}

/// Passes a signal on to all processes whose parent this one is.
pub(crate) fn forward(signal: Signal) {
    for child in children() {
        // One that has ended meanwhile needs none.
        let _ = kill_process(child, signal);
    }
}

/// The processes whose parent this one is and that run.
pub(crate) fn children() -> Vec<Pid> {
    let ours = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        parent(&stat) == Some(ours)
    })
    .filter_map(Pid::from_raw)
    .collect()
}

/// The parent in a line of `/proc/PID/stat` of a process that runs (proc(5)).
fn parent(stat: &str) -> Option<u32> {
    // The name before may hold anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // A dead one waits for its parent to ask.
    (!matches!(state, "Z" | "X")).then_some(parent)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_line_of_proc_tells_the_parent_whatever_the_name() {
        assert_eq!(parent("7 (out) rider) S 3 7 7 0"), Some(3));
        assert_eq!(parent("7 (outrider) Z 3 7 7 0"), None);
        assert_eq!(parent("7 (outrider"), None);
        assert_eq!(parent(""), None);
    }

    #[test]
    fn children_are_found_while_they_run() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(children().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children().contains(&pid));
    }

    #[test]
    fn one_upgrade_at_a_time() {
        let upgrade = Upgrade::default();
        let first = upgrade.begin();
        assert!(first.is_some());
        assert!(upgrade.begin().is_none());
        assert!(upgrade.begin().is_none(), "who was refused has set it free");
        drop(first);
        assert!(upgrade.begin().is_some());
    }
}
