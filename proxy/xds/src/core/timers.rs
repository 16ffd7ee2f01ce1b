//! `initial_fetch_timeout` and TTL: what is due when.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crate::Kind;

/// A timer of one resource, or (without a name) of the subscription to all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// `initial_fetch_timeout`.
    Fetch(Option<Arc<str>>),
    /// The resource's own time to live.
    Ttl(Arc<str>),
    /// A repeated NACK waits.
    Hold,
}

/// All running timers; each exists at most once.
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, Kind, Timer)>,
    running: HashMap<(Kind, Timer), Instant>,
}

impl Timers {
    /// Starts the wait for the first delivery; a moment beyond the end of time is for ever.
    pub(super) fn start_fetch(&mut self, kind: Kind, name: Option<Arc<str>>, at: Option<Instant>) {
        self.start(kind, Timer::Fetch(name), at);
    }

    /// The first delivery came, or nobody waits for it.
    pub(super) fn stop_fetch(&mut self, kind: Kind, name: Option<&Arc<str>>) {
        self.stop(kind, Timer::Fetch(name.cloned()));
    }

    /// Nobody waits any more for a first delivery of `kind`. Returns for what it was waited.
    pub(super) fn stop_fetches(&mut self, kind: Kind) -> Vec<Option<Arc<str>>> {
        let of_kind = self.running.keys().filter(|(of, _)| *of == kind);
        let fetch = |(_, timer): &(Kind, Timer)| match timer {
            Timer::Fetch(name) => Some(name.clone()),
            _ => None,
        };
        let names: Vec<_> = of_kind.filter_map(fetch).collect();
        for name in &names {
            self.stop_fetch(kind, name.as_ref());
        }
        names
    }

    /// Starts a resource's life anew.
    pub(super) fn start_ttl(&mut self, kind: Kind, name: Arc<str>, at: Option<Instant>) {
        self.start(kind, Timer::Ttl(name), at);
    }

    /// The resource is gone, or lives without a limit.
    pub(super) fn stop_ttl(&mut self, kind: Kind, name: &Arc<str>) {
        self.stop(kind, Timer::Ttl(name.clone()));
    }

    /// Starts the wait of a NACK that says nothing new.
    pub(super) fn start_hold(&mut self, kind: Kind, at: Option<Instant>) {
        self.start(kind, Timer::Hold, at);
    }

    /// There is nothing left that waits.
    pub(super) fn stop_hold(&mut self, kind: Kind) {
        self.stop(kind, Timer::Hold);
    }

    /// When the next timer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _, _)| *at)
    }

    /// Takes out a timer that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Kind, Timer)> {
        if self.next()? > now {
            return None;
        }
        let (_, kind, timer) = self.order.pop_first()?;
        self.running.remove(&(kind, timer.clone()));
        Some((kind, timer))
    }

    fn start(&mut self, kind: Kind, timer: Timer, at: Option<Instant>) {
        self.stop(kind, timer.clone());
        if let Some(at) = at {
            self.order.insert((at, kind, timer.clone()));
            self.running.insert((kind, timer), at);
        }
    }

    fn stop(&mut self, kind: Kind, timer: Timer) {
        // Most resources have no timer: do not build keys for them.
        if self.running.is_empty() {
            return;
        }
        if let Some(at) = self.running.remove(&(kind, timer.clone())) {
            self.order.remove(&(at, kind, timer));
        }
    }
}
