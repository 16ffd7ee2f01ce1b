//! `--state-dir`: the last good configuration of the control planes, kept on disk for a start without them.
//!
//! What is in force is written, away from the control thread, after it changed: never secrets, and no resource that
//! holds one. It is read only when a control plane does not answer at the start ([`crate::dynamic`]), so that a start
//! with one is neither slower nor ever stale.

mod file;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use outrider_core::stats::Registry;

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
    /// All that a whole configuration needs has come since the start.
    whole: AtomicBool,
    /// When that was written which is in force in the place of a control plane's.
    restored: Mutex<Option<SystemTime>>,
}

impl Keep {
    pub(crate) fn new(registry: &Registry) -> Self {
        let stats = KeepStats::new(registry.scope("server.outrider."));
        Self { stats, whole: AtomicBool::new(false), restored: Mutex::new(None) }
    }

    /// What is in force is whole: it may be written.
    pub(crate) fn is_whole(&self) {
        self.whole.store(true, Relaxed);
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

/// How a file is called in logs and in `/generations`.
pub(crate) fn label(dir: &Path) -> Arc<str> {
    dir.join(NAME).display().to_string().into()
}
