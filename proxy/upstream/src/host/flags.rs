//! What is found out about a host's health, besides what the configuration says.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// It fails its health checks, or was not checked yet.
pub(crate) const FAILED_ACTIVE: u32 = 1;
/// Outlier detection took it out.
pub(crate) const FAILED_OUTLIER: u32 = 1 << 1;
/// Its health checks ask for less.
pub(crate) const DEGRADED_ACTIVE: u32 = 1 << 2;
/// It does not count before its first check.
pub(crate) const PENDING_ACTIVE: u32 = 1 << 3;
/// It said by a header that it is not well, and does not count until it is.
pub(crate) const EXCLUDED: u32 = 1 << 4;
/// It fails its health checks for want of an answer.
pub(crate) const ACTIVE_TIMEOUT: u32 = 1 << 5;
/// Discovery took it away, and it stays for as long as its checks are good.
pub(crate) const PENDING_REMOVAL: u32 = 1 << 6;
/// A response told that it is not well; its checks have not heard of it yet.
pub(crate) const TOLD: u32 = 1 << 7;
/// The discovery of the very cluster listed it.
pub(crate) const LISTED: u32 = 1 << 8;

/// What a check says of a host, whichever cluster of its name asks.
pub(crate) const CHECKED: u32 = FAILED_ACTIVE | DEGRADED_ACTIVE | PENDING_ACTIVE | EXCLUDED | ACTIVE_TIMEOUT;

/// Those that active checks find out.
pub(crate) const ACTIVE: u32 = CHECKED | PENDING_REMOVAL;

/// Some of these, as several threads set and read them.
#[derive(Debug, Default)]
pub(crate) struct Flags(AtomicU32);

impl Flags {
    /// Begins with those of `flags` that are set in `other`.
    pub(crate) fn of(other: &Self, flags: u32) -> Self {
        Self(AtomicU32::new(other.0.load(Relaxed) & flags))
    }

    /// Whether any of `flags` is set.
    pub(crate) fn has(&self, flags: u32) -> bool {
        self.0.load(Relaxed) & flags != 0
    }

    /// Whether all of `flags` are set.
    pub(crate) fn has_all(&self, flags: u32) -> bool {
        self.0.load(Relaxed) & flags == flags
    }

    /// Sets `flags` or takes them away. Returns whether that changed anything. Requests draw from what is published:
    /// [`crate::ClusterShared::renew_health`] is to follow.
    pub(crate) fn set(&self, flags: u32, on: bool) -> bool {
        let before = if on { self.0.fetch_or(flags, Relaxed) } else { self.0.fetch_and(!flags, Relaxed) };
        before & flags != if on { flags } else { 0 }
    }
}
