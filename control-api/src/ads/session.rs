//! One stream as a state machine without I/O: requests and views go in, responses come out when they are due.
//!
//! Rules: at most one response of a type is on its way, so a slow client gets the newest state and never a queue; what is used
//! goes before what uses it (a route table waits until the clusters were taken); a cluster goes when the routes that named it have
//! been replaced. <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh64::xxh64;

use super::subscription::{Difference, Look, Outstanding, Subscription};
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
/// How many bytes of resources one delta response has at most, but for a single resource that is larger. The buffers under a stream
/// keep the size of the largest message that went through them, and there are a thousand streams.
const CHUNK: usize = 128 << 10;
/// How many names a stream may ask for in one type.
const NAMES: usize = 100_000;

/// What a client wants, in either protocol.
#[derive(Debug)]
pub enum Wish {
    /// State of the world: these names and no others; empty in the first request: all there is (clusters and listeners).
    Whole {
        /// The names.
        names: Vec<String>,
    },
    /// Delta.
    Change {
        /// Names to add; `*` is all.
        subscribe: Vec<String>,
        /// Names to leave.
        unsubscribe: Vec<String>,
        /// What a client that comes back has.
        known: HashMap<String, String>,
    },
}

/// A wish whose names are shared.
enum Named {
    Whole(Vec<Arc<str>>),
    Change { subscribe: Vec<Arc<str>>, unsubscribe: Vec<String>, known: HashMap<Arc<str>, String> },
}

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

/// How far a type is, for people.
#[derive(Clone, Debug, Default)]
pub struct TypeReport {
    /// The client asked for it.
    pub asked: bool,
    /// It has been sent so many resources.
    pub resources: usize,
    /// A response is on its way.
    pub outstanding: bool,
    /// Something is to be looked at.
    pub pending: bool,
    /// The last version sent.
    pub version_sent: String,
    /// The last version acknowledged.
    pub version_acked: String,
    /// The client's words about what it refused.
    pub refused: Option<String>,
    /// When the last response went out.
    pub sent_at: Option<Instant>,
    /// When the last acknowledgement came.
    pub acked_at: Option<Instant>,
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

    fn at(&self, kind: Type) -> &Subscription {
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
        let delta = self.delta;
        let wish = self.named(kind, wish);
        let subscription = self.of(kind);
        let first = !subscription.asked;
        let latest = subscription.outstanding.as_ref().is_some_and(|it| it.nonce == nonce);
        if latest {
            subscription.outstanding = None;
            match refused {
                Some(words) => subscription.refused = Some(shortened(words)),
                None => {
                    subscription.refused = None;
                    subscription.version_acked = subscription.version_sent.clone();
                    subscription.acked_at = Some(now);
                }
            }
        } else if !delta && !nonce.is_empty() && subscription.outstanding.is_some() {
            // It answers something older than what is on its way; the answer to that will say all again.
            return Ok(());
        }
        subscription.asked = true;
        match wish {
            Named::Whole(names) => whole(kind, subscription, names, first),
            Named::Change { subscribe, unsubscribe, known } => {
                change(kind, subscription, subscribe, unsubscribe, known, first);
            }
        }
        if subscription.names.len() > NAMES {
            return Err(format!("more than {NAMES} names of {} on one stream", kind.message()));
        }
        Ok(())
    }

    /// The names of a wish. A resource that is there lends its own: a name is kept once, not once for each stream.
    fn named(&self, kind: Type, wish: Wish) -> Named {
        let name = |text: String| -> Arc<str> {
            self.view.get(kind, &text).map_or_else(|| text.as_str().into(), |it| Arc::clone(&it.name))
        };
        match wish {
            Wish::Whole { names } => Named::Whole(names.into_iter().map(name).collect()),
            Wish::Change { subscribe, unsubscribe, known } => Named::Change {
                subscribe: subscribe.into_iter().map(name).collect(),
                unsubscribe,
                known: known.into_iter().map(|(text, version)| (name(text), version)).collect(),
            },
        }
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
            !it.asked || (it.look == Look::None && it.outstanding.is_none() && it.refused.is_none())
        };
        let done = replaced(Type::Listener) && replaced(Type::Route);
        let refused = self.at(Type::Listener).refused.is_some() || self.at(Type::Route).refused.is_some();
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
        let delta = self.delta;
        let mut difference = self.at(kind).difference(kind, &self.view, delta);
        let full = !delta && matches!(kind, Type::Cluster | Type::Listener);
        let answer = std::mem::take(&mut self.of(kind).answer);
        // A first question in state of the world is answered as soon as there is something to say; clusters and listeners
        // even when there is nothing, since "none" is an answer there.
        if difference.is_empty() && !(answer && (delta || full)) {
            self.of(kind).look = Look::None;
            return None;
        }
        let more = delta && chunk(&mut difference);
        if kind == Type::Cluster {
            // A cluster that changed is warmed anew, and the client waits for its endpoints again.
            let again: BTreeSet<_> = difference.changed.iter().map(|it| endpoints_of(&it.name)).collect();
            let endpoints = self.of(Type::Endpoints);
            endpoints.sent.retain(|name, _| !again.contains(name));
            endpoints.look.at(again);
        }
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let subscription = self.of(kind);
        subscription.note(&difference, delta);
        if more {
            subscription.look = Look::All;
        } else {
            subscription.look = Look::None;
        }
        let version = version_of(subscription);
        subscription.outstanding = Some(Outstanding { nonce: nonce.clone(), since: now });
        subscription.sent_at = Some(now);
        subscription.version_sent.clone_from(&version);
        let Difference { mut changed, removed } = difference;
        if full {
            changed = self.everything(kind);
        }
        Some(Due { kind, nonce, version, resources: changed, removed })
    }

    /// All that the client wants of a type, for a response in state of the world.
    fn everything(&self, kind: Type) -> Vec<Arc<Resource>> {
        let subscription = self.at(kind);
        let held = subscription.held.values().filter(|it| subscription.wants(&it.name)).cloned();
        if subscription.wildcard {
            self.view.all(kind).cloned().chain(held).collect()
        } else {
            subscription
                .names
                .iter()
                .filter_map(|name| self.view.get(kind, name).cloned())
                .chain(held)
                .collect()
        }
    }

    fn idle(&self) -> bool {
        self.types.iter().all(|it| !it.asked || (it.look == Look::None && it.outstanding.is_none()))
    }

    /// The last generation that the client has whole, and the one it should have.
    pub fn generations(&self) -> (u64, u64) {
        (self.settled, self.generation)
    }

    /// Whether it is a delta stream.
    pub fn is_delta(&self) -> bool {
        self.delta
    }

    /// What it has been sent of a type: names and versions, and whether the response was acknowledged.
    pub fn sent(&self, kind: Type) -> Vec<(Arc<str>, u64, bool)> {
        let subscription = self.at(kind);
        let acked = subscription.outstanding.is_none() && subscription.refused.is_none();
        let mut out: Vec<_> = subscription
            .sent
            .iter()
            .filter(|(_, it)| **it != 0)
            .map(|(name, it)| (Arc::clone(name), *it, acked))
            .collect();
        out.sort();
        out
    }

    /// What it should have.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// How far a type is.
    pub fn report(&self, kind: Type) -> TypeReport {
        let it = self.at(kind);
        TypeReport {
            asked: it.asked,
            resources: it.count(),
            outstanding: it.outstanding.is_some(),
            pending: it.asked && it.look != Look::None,
            version_sent: it.version_sent.clone(),
            version_acked: it.version_acked.clone(),
            refused: it.refused.clone(),
            sent_at: it.sent_at,
            acked_at: it.acked_at,
        }
    }
}

/// Takes the names of a request in state of the world.
fn whole(kind: Type, subscription: &mut Subscription, names: Vec<Arc<str>>, first: bool) {
    let by_default = matches!(kind, Type::Cluster | Type::Listener) && (first || subscription.wildcard);
    let wildcard = (names.is_empty() && by_default) || names.iter().any(|name| &**name == "*");
    let names: BTreeSet<Arc<str>> = names.into_iter().filter(|name| &**name != "*").collect();
    if !first && names == subscription.names && wildcard == subscription.wildcard {
        return;
    }
    // What was left is forgotten, so that it is sent when it is asked for again.
    if !wildcard {
        subscription.sent.retain(|name, _| names.contains(name));
        subscription.look.at(names.difference(&subscription.names).cloned());
    } else {
        subscription.look = Look::All;
    }
    // In state of the world each response about clusters or listeners is all there is, whatever changed of the names.
    subscription.answer |= first || matches!(kind, Type::Cluster | Type::Listener);
    subscription.names = names;
    subscription.wildcard = wildcard;
}

/// Takes the changes of a delta request.
fn change(
    kind: Type,
    subscription: &mut Subscription,
    subscribe: Vec<Arc<str>>,
    unsubscribe: Vec<String>,
    known: HashMap<Arc<str>, String>,
    first: bool,
) {
    if first {
        subscription.wildcard = subscribe.is_empty() && matches!(kind, Type::Cluster | Type::Listener);
        let parse = |text: &str| u64::from_str_radix(text, 16).ok().filter(|version| *version != 0);
        // A version of somebody else's is one that differs from all of ours.
        subscription.sent =
            known.into_iter().map(|(name, version)| (name, parse(&version).unwrap_or(u64::MAX))).collect();
        subscription.answer = true;
    }
    if first && subscription.wildcard {
        subscription.look = Look::All;
    }
    for name in unsubscribe {
        if name == "*" {
            subscription.wildcard = false;
            let names = &subscription.names;
            subscription.sent.retain(|name, _| names.contains(name));
        } else {
            subscription.names.remove(name.as_str());
            if !subscription.wildcard {
                subscription.sent.remove(name.as_str());
            }
        }
    }
    for name in subscribe {
        if &*name == "*" {
            subscription.wildcard = true;
            subscription.look = Look::All;
            continue;
        }
        // Asking again for what one has means that one wants it again.
        if !first {
            subscription.sent.remove(&name);
        }
        subscription.look.at([Arc::clone(&name)]);
        subscription.names.insert(name);
    }
}

/// Cuts a difference down to a response of bearable size; says whether something was left.
fn chunk(difference: &mut Difference) -> bool {
    let mut size = 0;
    let fit = difference.changed.iter().take_while(|resource| {
        size += resource.body.len();
        size <= CHUNK
    });
    let fit = fit.count().max(1);
    if fit >= difference.changed.len() {
        return false;
    }
    difference.changed.truncate(fit);
    true
}

/// A version of all that a client has of a type: the same resources, the same text.
fn version_of(subscription: &Subscription) -> String {
    let sum = subscription
        .sent
        .iter()
        .fold(0u64, |sum, (name, version)| sum.wrapping_add(xxh64(name.as_bytes(), *version)));
    format!("{sum:016x}")
}

/// A client's words, so far as they are kept.
fn shortened(words: &str) -> String {
    const MOST: usize = 4096;
    if words.len() <= MOST {
        return words.to_owned();
    }
    let mut end = MOST;
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", words.get(..end).unwrap_or_default())
}
