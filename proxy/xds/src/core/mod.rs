//! The protocol without I/O: subscriptions, versions, nonces and the state of each resource, on one stream.
//!
//! Nothing here waits, sends or knows the time: the caller says what came in ([`Core::receive`]), what the consumer
//! wants ([`Core::subscribe`], [`Core::verdict`]) and what time it is, and takes out requests
//! ([`Core::next_request`]), events ([`Core::next_event`]) and the next moment to look at the clock
//! ([`Core::next_deadline`]).
//!
//! Behaviour follows the xDS protocol document, and Envoy where that leaves room:
//!
//! - Requests are made when they are taken, from the state at that moment: what waits is a flag for each kind and one
//!   answer for each response, so nothing piles up behind a slow control plane.
//! - An answer (ACK or NACK) goes before a change of a subscription, and carries the change with it.
//! - State of the world: `version_info` is the last version that was taken whole. A response of which one resource was
//!   refused is a NACK with the version before, although its good resources are in force: so the control plane knows
//!   that the client is not at the new version, and sends it again to a client that comes back. A changed subscription
//!   is not sent between a response and its answer, because it would carry a nonce that is stale.
//! - State of the world: there are control planes (go-control-plane is one) that answer a NACK with the same response at
//!   once. From its second refusal on the NACK waits, so that the two do not turn as fast as they can. (Envoy's do.)
//! - Delta: `initial_resource_versions` names what was accepted, resource by resource.
//! - A response to a stream that is gone is decided as any other, but not answered. The next stream's first request of
//!   its kind waits for that, because it says what is in force.

mod adopt;
mod receive;
mod request;
mod resource;
mod status;
mod subscription;
mod timers;
mod view;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::pb::google::rpc::Status as RpcStatus;

use crate::{Event, Kind, Refusal, Token};

pub use receive::{Ignored, Response};
pub use request::Request;
pub use view::{ErrorState, KindView, ResourceView, Status};

use subscription::Subscription;
use timers::Timers;

/// How long the NACK of a version waits that was refused before; twice as long each time, up to [`HOLD_MOST`].
const HOLD: Duration = Duration::from_millis(50);

/// See [`HOLD`].
const HOLD_MOST: Duration = Duration::from_secs(1);

/// The time: for timers, and for people.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Never goes back.
    pub instant: Instant,
    /// What `last_updated` shows.
    pub wall: SystemTime,
}

impl Now {
    /// The time now.
    pub fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// What a core has to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Incremental or state of the world.
    pub delta: bool,
    /// Who we are.
    pub node: Node,
    /// Say so in the first request of a stream only.
    pub node_once: bool,
}

/// The state of one stream and of everything that is subscribed to on it.
#[derive(Debug)]
pub struct Core {
    options: Options,
    kinds: BTreeMap<Kind, Subscription>,
    /// `Some` while there is a stream.
    stream: Option<Stream>,
    /// Counts responses and subscriptions, so that older decisions do not override newer ones.
    sequence: u64,
    /// Counts control planes: versions of one mean nothing to the next.
    server: u64,
    outstanding: BTreeMap<Token, Outstanding>,
    events: VecDeque<Event>,
    timers: Timers,
    control_plane: Arc<str>,
}

/// What belongs to one stream and ends with it.
#[derive(Debug, Default)]
struct Stream {
    epoch: u64,
    node_sent: bool,
    answers: VecDeque<Answer>,
    /// Kinds whose subscription is to be (re)sent, each once, oldest first.
    changed: VecDeque<Kind>,
}

/// An ACK or NACK that waits to be taken.
#[derive(Debug)]
struct Answer {
    kind: Kind,
    nonce: String,
    /// State of the world: the version in force.
    version: Arc<str>,
    error: Option<RpcStatus>,
}

/// A response that the consumer has not decided.
#[derive(Debug)]
struct Outstanding {
    kind: Kind,
    epoch: u64,
    nonce: String,
    version: Arc<str>,
    server: u64,
    resources: Vec<Decided>,
    /// What the core refused itself.
    refused: Vec<Refusal>,
}

/// What a verdict on a resource decides: its own entry, or one of an alias.
#[derive(Debug)]
struct Decided {
    entry: Arc<str>,
    resource: Arc<str>,
    version: Arc<str>,
}

impl Core {
    /// A core without subscriptions and without a stream.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            kinds: BTreeMap::new(),
            stream: None,
            sequence: 0,
            server: 0,
            outstanding: BTreeMap::new(),
            events: VecDeque::new(),
            timers: Timers::default(),
            control_plane: Arc::from(""),
        }
    }

    /// Asks for the resource `name`. When it has not come after `timeout` (not 0), the consumer is told once.
    /// Asking for what is asked for already changes nothing.
    pub fn subscribe(&mut self, now: Now, kind: Kind, name: &str, timeout: Duration) {
        let sequence = self.next_sequence();
        let sub = self.kinds.entry(kind).or_insert_with(|| Subscription::new(kind));
        if !sub.request(name, sequence) {
            return;
        }
        if !timeout.is_zero() && sub.entry(name).is_some_and(|entry| entry.version.is_none()) {
            self.timers.start_fetch(kind, Some(name.into()), now.instant.checked_add(timeout));
        }
        self.mark_changed(kind);
    }

    /// Asks for all resources of `kind` that the control plane has for this node.
    pub fn subscribe_all(&mut self, now: Now, kind: Kind, timeout: Duration) {
        let sub = self.kinds.entry(kind).or_insert_with(|| Subscription::new(kind));
        if !sub.request_all() {
            return;
        }
        if !timeout.is_zero() {
            self.timers.start_fetch(kind, None, now.instant.checked_add(timeout));
        }
        self.mark_changed(kind);
    }

    /// Gives up the resource `name`. What is known of it is forgotten, unless the subscription to all covers it.
    pub fn unsubscribe(&mut self, kind: Kind, name: &str) {
        let Some(sub) = self.kinds.get_mut(&kind) else { return };
        if !sub.give_up(name) {
            return;
        }
        let name: Arc<str> = name.into();
        self.timers.stop_fetch(kind, Some(&name));
        if self.kinds.get(&kind).is_none_or(|sub| sub.entry(&name).is_none()) {
            self.timers.stop_ttl(kind, &name);
        }
        self.mark_changed(kind);
    }

    /// Gives up the subscription to all of `kind`; resources that are asked for by name stay.
    ///
    /// In state of the world an empty list cannot be taken back once it was sent: the control plane goes on sending,
    /// and it is left out here. Ask for all again on a new stream only.
    pub fn unsubscribe_all(&mut self, kind: Kind) {
        let Some(sub) = self.kinds.get_mut(&kind) else { return };
        let Some(dropped) = sub.give_up_all() else { return };
        self.timers.stop_fetch(kind, None);
        for name in dropped {
            self.timers.stop_ttl(kind, &name);
        }
        self.mark_changed(kind);
    }

    /// Holds back requests and answers of `kind` until as many [`Core::resume`]s.
    pub fn pause(&mut self, kind: Kind) {
        self.kinds.entry(kind).or_insert_with(|| Subscription::new(kind)).paused += 1;
    }

    /// Ends one [`Core::pause`].
    pub fn resume(&mut self, kind: Kind) {
        if let Some(sub) = self.kinds.get_mut(&kind) {
            sub.paused = sub.paused.saturating_sub(1);
        }
    }

    /// A stream is open. With `same_server` it is known to be the control plane of the stream before, and hears the
    /// versions that we have; versions of one control plane mean nothing to another.
    pub fn connected(&mut self, same_server: bool) {
        let epoch = self.next_sequence();
        let mut stream = Stream { epoch, ..Stream::default() };
        if !same_server {
            self.server += 1;
        }
        for (kind, sub) in &mut self.kinds {
            sub.stream_ended();
            if !same_server {
                sub.other_server();
            }
            if sub.wants_anything() {
                stream.changed.push_back(*kind);
            }
        }
        self.stream = Some(stream);
    }

    /// The stream is gone. What it delivered is still to be decided; nothing of that will be answered.
    pub fn disconnected(&mut self) {
        self.stream = None;
        for (kind, sub) in &mut self.kinds {
            sub.stream_ended();
            self.timers.stop_hold(*kind);
        }
    }

    /// Decides an update: `refusals` name what of it is not taken, everything else counts as in force. Tokens that are
    /// not (any more) waiting are ignored.
    pub fn verdict(&mut self, now: Now, token: Token, refusals: Vec<Refusal>) {
        let Some(update) = self.outstanding.remove(&token) else { return };
        let Some(sub) = self.kinds.get_mut(&update.kind) else { return };
        sub.undecided = sub.undecided.saturating_sub(1);
        let newest = sub.decide(now, token, &update, &refusals, update.server == self.server);
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.epoch == update.epoch) else { return };
        sub.in_flight = sub.in_flight.saturating_sub(1);
        if !newest {
            // A newer response was answered already: this nonce is stale.
            return;
        }
        sub.nonce.clone_from(&update.nonce);
        if !self.options.delta && sub.repeats > 0 {
            let wait = HOLD.saturating_mul(1 << (sub.repeats - 1).min(8)).min(HOLD_MOST);
            sub.holding = true;
            self.timers.start_hold(update.kind, now.instant.checked_add(wait));
        }
        let mut refused = update.refused;
        refused.extend(refusals);
        stream.answers.push_back(Answer {
            kind: update.kind,
            nonce: update.nonce,
            version: sub.version.clone(),
            error: status::of(update.kind, &refused),
        });
    }

    /// The next event, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Is there an event to take?
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Queues an event that is not of the protocol, in order with the others.
    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// When [`Core::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Lets timers fire that are due.
    pub fn tick(&mut self, now: Now) {
        while let Some((kind, timer)) = self.timers.pop(now.instant) {
            let Some(sub) = self.kinds.get_mut(&kind) else { continue };
            match timer {
                timers::Timer::Fetch(name) => {
                    if let Some(name) = &name {
                        sub.timed_out(name);
                    }
                    self.events.push_back(Event::FetchTimedOut { kind, name });
                }
                timers::Timer::Hold => sub.holding = false,
                timers::Timer::Ttl(name) => {
                    let sequence = self.sequence + 1;
                    self.sequence = sequence;
                    if sub.gone(&name, sequence) {
                        self.events.push_back(Event::Expired { kind, name });
                    }
                }
            }
        }
    }

    /// What the control plane calls itself; empty before it said so.
    pub fn control_plane(&self) -> &Arc<str> {
        &self.control_plane
    }

    /// How many requests wait to be taken (`control_plane.pending_requests`).
    pub fn pending(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.answers.len() + stream.changed.len())
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn mark_changed(&mut self, kind: Kind) {
        if let Some(stream) = &mut self.stream
            && !stream.changed.contains(&kind)
        {
            stream.changed.push_back(kind);
        }
    }
}
