//! What the consumer has from an earlier life of the process.

use std::sync::Arc;

use super::Core;
use super::subscription::Subscription;
use crate::Kind;

impl Core {
    /// Whether `name` is asked for (by its name, or as one of all) and has not come.
    pub fn awaits(&self, kind: Kind, name: &str) -> bool {
        self.kinds.get(&kind).is_some_and(|sub| sub.awaits(name))
    }

    /// The consumer has `name` from an earlier life: it counts as here, in no version of this control plane. So that
    /// one sends it again, or says that it is gone: in delta because the first request of the next stream names it, in
    /// state of the world because the response leaves it out. Does nothing for what is not awaited.
    pub fn adopt(&mut self, kind: Kind, name: &Arc<str>) {
        let sequence = self.next_sequence();
        let Some(sub) = self.kinds.get_mut(&kind).filter(|sub| sub.awaits(name)) else { return };
        sub.adopt(name, sequence);
        self.timers.stop_fetch(kind, Some(name));
    }
}

impl Subscription {
    fn awaits(&self, name: &str) -> bool {
        use super::Status::{Requested, TimedOut};
        match self.entry(name) {
            Some(entry) => self.wants(name) && matches!(entry.status, Requested | TimedOut),
            None => self.all,
        }
    }
}
