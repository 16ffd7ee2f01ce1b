//! One stream as a state machine without I/O: requests and views go in, responses come out when they are due.
//!
//! Rules: at most one response of a type is on its way, so a slow client gets the newest state and never a queue; what is used
//! goes before what uses it (a route table waits until the clusters were taken); a cluster goes when the routes that named it have
//! been replaced. <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::subscription::{Difference, Look, Outstanding, Subscription};
use super::wish::Wish;
use crate::engine::{Since, View};
use crate::translate::names::endpoints_of;
use crate::translate::{Resource, Type};

/// How long listeners and routes wait for the client to take its clusters. A client that warms clusters answers late.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a cluster that is gone waits for the routes to be replaced.
const FAREWELL: Duration = Duration::from_secs(30);
/// The same where the client refused what should replace the routes: they are in force on its side, but not for ever on ours, or
/// what is gone would pile up.
const LAST_FAREWELL: Duration = Duration::from_secs(3600);
/// How many bytes of resources one delta response has at most, but for a single resource that is larger: as long as a client reads, its
/// response is in memory, and a thousand may be told everything at once.
const CHUNK: usize = 64 << 10;

/// A response that is to be sent now.
#[derive(Debug)]
pub struct Due {
    /// The type.
    pub kind: Type,
    /// Its nonce.
    pub nonce: String,
    /// A version for the whole, for state of the world.
    pub version: String,
    /// Resources.
    pub resources: Vec<Arc<Resource>>,
    /// Names that are gone (delta).
    pub removed: Vec<Arc<str>>,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    delta: bool,
    types: [Subscription; Type::ALL.len()],
    nonce: u64,
    view: View,
    generation: u64,
    /// The last generation at which nothing was due nor on its way.
    settled: u64,
    /// Since when clusters are held back.
    holding: Option<Instant>,
}

impl Session {
    /// A new stream, in delta or in state of the world.
    pub fn new(delta: bool) -> Self {
        Self {
            delta,
            types: std::array::from_fn(|_| Subscription::default()),
            nonce: 0,
            view: View::default(),
            generation: 0,
            settled: 0,
            holding: None,
        }
    }

    fn of(&mut self, kind: Type) -> &mut Subscription {
        match self.types.get_mut(kind.index()) {
            Some(subscription) => subscription,
            None => unreachable!("an index is below the number of types"),
        }
    }

    pub(super) fn at(&self, kind: Type) -> &Subscription {
        match self.types.get(kind.index()) {
            Some(subscription) => subscription,
            None => unreachable!("an index is below the number of types"),
        }
    }

    /// Takes a request.
    ///
    /// # Errors
    /// When the client asks for more than a stream may.
    pub fn request(
        &mut self,
        kind: Type,
        nonce: &str,
        refused: Option<&str>,
        wish: Wish,
        now: Instant,
    ) -> Result<(), String> {
        let (delta, view) = (self.delta, self.view.clone());
        let subscription = self.of(kind);
        let first = !subscription.asked;
        let latest = subscription.answered(nonce, refused, now);
        if !latest && !delta && !nonce.is_empty() && subscription.outstanding.is_some() {
            // It answers something older than what is on its way; the answer to that will say all again.
            return Ok(());
        }
        subscription.asked = true;
        wish.take(kind, subscription, &view, first)
    }

    /// Takes a new view.
    pub fn update(&mut self, view: View, generation: u64, since: &Since, now: Instant) {
        let old = std::mem::replace(&mut self.view, view);
        self.generation = generation;
        if let Since::Endpoints { names, .. } = since {
            self.of(Type::Endpoints).look.at(names.iter().cloned());
            return;
        }
        for kind in Type::ALL {
            self.of(kind).look = Look::All;
        }
        // Clusters that are gone stay until listeners and routes do not name them any more.
        let waits = self.at(Type::Listener).asked || self.at(Type::Route).asked;
        let view = self.view.clone();
        let clusters = self.of(Type::Cluster);
        clusters.held.retain(|name, _| view.get(Type::Cluster, name).is_none());
        if waits {
            let gone = clusters.sent.keys().filter(|name| view.get(Type::Cluster, name).is_none());
            let held: Vec<_> = gone.filter_map(|name| old.get(Type::Cluster, name).cloned()).collect();
            clusters.held.extend(held.into_iter().map(|it| (Arc::clone(&it.name), it)));
        }
        if self.at(Type::Cluster).held.is_empty() {
            self.holding = None;
        } else {
            self.holding.get_or_insert(now);
        }
    }

    /// What is to be sent now, one response after the other. `None`: nothing, until a request, a view or [`Session::wake`].
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        // Nothing is known yet: that must not look like "there is nothing".
        if self.generation == 0 {
            return None;
        }
        loop {
            for kind in Type::ALL {
                let subscription = self.at(kind);
                let something = subscription.look != Look::None || subscription.answer;
                if !subscription.asked
                    || !something
                    || subscription.outstanding.is_some()
                    || self.waits(kind, now)
                {
                    continue;
                }
                if let Some(due) = self.response(kind, now) {
                    return Some(due);
                }
            }
            if !self.release(now) {
                break;
            }
        }
        if self.idle() {
            self.settled = self.generation;
        }
        None
    }

    /// When [`Session::due`] may have something although nothing came in.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let clusters = self.at(Type::Cluster).outstanding.as_ref().map(|it| it.since + PATIENCE);
        let endpoints = self.at(Type::Endpoints).outstanding.as_ref().map(|it| it.since + PATIENCE);
        let farewell = self.holding.map(|since| since + FAREWELL);
        let last = self.holding.map(|since| since + LAST_FAREWELL);
        let listeners = self.at(Type::Listener).outstanding.as_ref().map(|it| it.since + PATIENCE);
        [clusters, endpoints, listeners, farewell, last].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Whether listeners or routes must wait for what they use.
    fn waits(&self, kind: Type, now: Instant) -> bool {
        if !matches!(kind, Type::Listener | Type::Route) {
            return false;
        }
        let busy = |kind: Type| {
            let it = self.at(kind);
            it.asked && it.outstanding.as_ref().is_some_and(|it| now < it.since + PATIENCE)
        };
        busy(Type::Cluster) || busy(Type::Endpoints) || (kind == Type::Route && busy(Type::Listener))
    }

    /// Lets clusters go that nothing names any more; says whether it did.
    fn release(&mut self, now: Instant) -> bool {
        let Some(since) = self.holding else { return false };
        let replaced = |kind: Type| {
            let it = self.at(kind);
            !it.asked || (it.look == Look::None && it.outstanding.is_none() && it.refusals.is_empty())
        };
        let done = replaced(Type::Listener) && replaced(Type::Route);
        let refused = [Type::Listener, Type::Route].iter().any(|kind| !self.at(*kind).refusals.is_empty());
        // A table that was refused leaves the old one in force, which names the old clusters.
        let patience = if refused { LAST_FAREWELL } else { FAREWELL };
        let free = done || now >= since + patience;
        if free {
            self.holding = None;
            let clusters = self.of(Type::Cluster);
            clusters.held.clear();
            clusters.look = Look::All;
        }
        free
    }

    fn response(&mut self, kind: Type, now: Instant) -> Option<Due> {
        let (delta, view) = (self.delta, self.view.clone());
        let full = !delta && matches!(kind, Type::Cluster | Type::Listener);
        let subscription = self.of(kind);
        let mut difference = subscription.due(kind, &view, delta);
        let answer = std::mem::take(&mut subscription.answer);
        // A first question in state of the world is answered as soon as there is something to say; clusters and listeners
        // even when there is nothing, since "none" is an answer there.
        if difference.is_empty() && !(answer && (delta || full)) {
            subscription.look = Look::None;
            return None;
        }
        let left = if delta { difference.cut(CHUNK) } else { Look::None };
        if kind == Type::Cluster {
            // A cluster that changed is warmed anew, and the client waits for its endpoints again.
            let again: BTreeSet<_> = difference.changed.iter().map(|it| endpoints_of(&it.name)).collect();
            let endpoints = self.of(Type::Endpoints);
            endpoints.sent.retain(|name, _| !again.contains(name));
            endpoints.look.at(again);
        }
        self.nonce += 1;
        let number = self.nonce;
        let subscription = self.of(kind);
        subscription.note(&difference, delta);
        subscription.look = left;
        let Difference { mut changed, removed } = difference;
        if full {
            changed = subscription.everything(kind, &view);
            // Clusters that are held are among them, perhaps of a version that the client had not had.
            subscription.has_now(&changed);
        }
        let version = subscription.version();
        subscription.sent_at = Some(now);
        subscription.version_sent.clone_from(&version);
        let resources = changed.iter().map(|it| (Arc::clone(&it.name), it.version)).collect();
        subscription.outstanding = Some(Outstanding { number, since: now, resources });
        Some(Due { kind, nonce: number.to_string(), version, resources: changed, removed })
    }

    /// Whether the client has taken all there is.
    fn idle(&self) -> bool {
        let idle =
            |it: &Subscription| it.look == Look::None && it.outstanding.is_none() && it.refusals.is_empty();
        self.types.iter().all(|it| !it.asked || idle(it))
    }

    /// The last generation that the client has whole, and the one it should have.
    pub fn generations(&self) -> (u64, u64) {
        (self.settled, self.generation)
    }

    /// Whether it is a delta stream.
    pub fn is_delta(&self) -> bool {
        self.delta
    }

    /// What it should have.
    pub fn view(&self) -> &View {
        &self.view
    }
}
