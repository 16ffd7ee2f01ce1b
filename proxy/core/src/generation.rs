//! The number of the configuration in force.
//!
//! Each change that is applied gets a number, from 1 for the bootstrap. It is one value for the whole process, so that
//! a request can note the generation that it was routed in by a single relaxed load: no lock, no pointer to follow.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bootstrap's.
pub const FIRST: u64 = 1;

static IN_FORCE: AtomicU64 = AtomicU64::new(FIRST);

/// The generation in force.
#[inline]
pub fn current() -> u64 {
    IN_FORCE.load(Ordering::Relaxed)
}

/// Says that `number` is in force. After what belongs to it was published: who reads the number sees that too.
pub fn set(number: u64) {
    IN_FORCE.store(number, Ordering::Release);
}
