//! `--state-dir`: the last good configuration of the control planes, kept on disk for a start without them.
//!
//! What is in force is written, away from the control thread, after it changed: never secrets, and no resource that
//! holds one. It is read only when a control plane does not answer at the start ([`crate::dynamic`]), so that a start
//! with one is neither slower nor ever stale.

mod file;
mod writer;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use outrider_core::stats::Registry;
use outrider_xds::Kind;
use tokio::sync::watch;

use crate::dynamic::lock;

pub(crate) use file::{Item, Kept, NAME, Node, read, set_aside};
pub(crate) use writer::run;

outrider_core::stat_struct! {
    /// `server.outrider.`
    pub(crate) struct KeepStats {
        counters { state_written, state_write_failed, state_rejected }
        gauges { state_restored, state_bytes, state_left_out }
        histograms {}
    }
}

/// What of the configuration comes from disk, and whether what is in force may be written.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) stats: KeepStats,
    /// All that a whole configuration needs has come since the start, and it is the control planes' own.
    whole: watch::Sender<bool>,
    /// What is wanted and did not come in time, or was refused when it came first: the file keeps what it has of these.
    missing: Mutex<HashSet<(Kind, Arc<str>)>>,
    /// When that was written which is in force in the place of a control plane's.
    restored: Mutex<Option<SystemTime>>,
}

impl Keep {
    pub(crate) fn new(registry: &Registry) -> Self {
        let stats = KeepStats::new(registry.scope("server.outrider."));
        Self {
            stats,
            whole: watch::Sender::new(false),
            missing: Mutex::default(),
            restored: Mutex::new(None),
        }
    }

    /// Whether what is in force is whole: then it may be written.
    pub(crate) fn set_whole(&self, whole: bool) {
        self.whole.send_if_modified(|before| std::mem::replace(before, whole) != whole);
    }

    /// `name` is wanted and is not in force; `*` stands for all of `kind`, a namespace for all that are in it.
    pub(crate) fn misses(&self, kind: Kind, name: &Arc<str>) {
        lock(&self.missing).insert((kind, name.clone()));
    }

    /// `name` came, or is wanted no more.
    pub(crate) fn misses_no_more(&self, kind: Kind, name: &Arc<str>) {
        let mut missing = lock(&self.missing);
        if !missing.is_empty() {
            missing.remove(&(kind, name.clone()));
            missing.remove(&(kind, ALL.into()));
            if let Some(namespace) = kind.namespace(name) {
                missing.remove(&(kind, namespace.into()));
            }
        }
    }

    /// What was kept at this time is in force; `None`: a control plane's is.
    pub(crate) fn set_restored(&self, kept_at: Option<SystemTime>) {
        *lock(&self.restored) = kept_at;
        self.stats.state_restored().set(u64::from(kept_at.is_some()));
    }

    /// Since when the configuration from disk is, if it is in force.
    pub(crate) fn restored(&self) -> Option<SystemTime> {
        *lock(&self.restored)
    }
}

/// In the place of a name: all.
pub(crate) const ALL: &str = "*";

/// How a file is called in logs and in `/generations`.
pub(crate) fn label(dir: &Path) -> Arc<str> {
    dir.join(NAME).display().to_string().into()
}
