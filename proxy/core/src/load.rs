//! How busy a worker is: so that it can tell when memory that it needed for a crowd is worth giving back.

use std::cell::Cell;

/// Fewer connections than this are not worth the trouble.
const CROWD: u32 = 32;

thread_local! {
    static BUSY: Cell<u32> = const { Cell::new(0) };
    static PEAK: Cell<u32> = const { Cell::new(0) };
}

/// A connection of this thread that holds buffers; it counts as busy until this is dropped.
#[derive(Debug)]
pub struct Busy(());

/// Counts a connection that takes buffers.
#[must_use]
pub fn busy() -> Busy {
    let now = BUSY.get() + 1;
    BUSY.set(now);
    if now > PEAK.get() {
        PEAK.set(now);
    }
    Busy(())
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(BUSY.get().saturating_sub(1));
    }
}

/// Whether a crowd has left this thread since this was last asked: fewer than half are busy of those that were at the
/// peak. Steady traffic never looks like that, whatever its churn.
pub fn crowd_has_left() -> bool {
    let (busy, peak) = (BUSY.get(), PEAK.get());
    let left = peak.saturating_sub(busy) >= CROWD && busy <= peak / 2;
    if left {
        PEAK.set(busy);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_leaves_once_and_churn_is_no_crowd() {
        let crowd: Vec<Busy> = (0..100).map(|_| busy()).collect();
        assert!(!crowd_has_left());
        for _ in 0..1000 {
            drop(busy());
        }
        assert!(!crowd_has_left());
        drop(crowd);
        assert!(crowd_has_left());
        assert!(!crowd_has_left(), "it is told once");
        let few: Vec<Busy> = (0..10).map(|_| busy()).collect();
        drop(few);
        assert!(!crowd_has_left());
    }
}
