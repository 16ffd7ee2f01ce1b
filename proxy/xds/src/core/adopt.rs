//! What the consumer has from an earlier life of the process.

use std::sync::Arc;

use super::Core;
use super::subscription::Subscription;
use crate::{Event, Kind};

impl Core {
    /// How many answers wait to be taken.
    pub(crate) fn unsent(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.answers.len())
    }

    /// Whether the consumer has decided all that came of `kind`.
    pub(crate) fn is_decided(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_none_or(|sub| sub.undecided == 0)
    }

    /// What did not come so far will not: who waits for it with a time limit is told now.
    pub(crate) fn end_waits(&mut self, kind: Kind) {
        let Some(sub) = self.kinds.get_mut(&kind) else { return };
        for name in self.timers.stop_fetches(kind) {
            if let Some(name) = &name {
                sub.timed_out(name);
            }
            self.events.push_back(Event::FetchTimedOut { kind, name });
        }
    }

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
