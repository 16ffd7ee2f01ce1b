//! Whether the process was told to fail its health checks (`POST /healthcheck/fail`). One value for the whole process,
//! which a request reads by a single load.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static FAILED: AtomicBool = AtomicBool::new(false);

/// Whether health checks are to fail.
#[inline]
pub fn has_failed() -> bool {
    FAILED.load(Relaxed)
}

/// Has health checks fail, or pass again.
pub fn set_failed(failed: bool) {
    FAILED.store(failed, Relaxed);
}
