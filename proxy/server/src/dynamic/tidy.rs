//! Giving back what only a push needed: a large one is decoded and converted by way of many times its own size.

use std::time::Duration;

use tokio::time::Instant;

/// From this many bytes of resources on the memory is worth the search for it.
const LARGE: usize = 1 << 20;
/// How long no more must come.
const QUIET: Duration = Duration::from_secs(1);

/// What was pushed since memory was last given back.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    bytes: usize,
    due: Option<Instant>,
}

impl Tidy {
    /// Resources of this many bytes in all came.
    pub(super) fn pushed(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= LARGE {
            self.due = Some(Instant::now() + QUIET);
        }
    }

    /// When to look.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.due
    }

    /// Whether memory is to be given back now; true once for each large push.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            *self = Self::default();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_when_a_large_push_is_over() {
        let mut tidy = Tidy::default();
        tidy.pushed(LARGE - 1);
        assert_eq!(tidy.next(), None, "small pushes are let be");
        tidy.pushed(1);
        let due = tidy.next().expect("a time");
        assert!(!tidy.is_due(due - Duration::from_millis(1)));
        tidy.pushed(1);
        let later = tidy.next().expect("a time");
        assert!(later >= due, "it waits for the last of it");
        assert!(tidy.is_due(later) && !tidy.is_due(later), "once");
    }
}
