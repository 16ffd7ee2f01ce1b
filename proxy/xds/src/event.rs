//! What the client tells its consumer, and what the consumer answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::Kind;

/// Names one update; given back with the verdict on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(crate) u64);

impl Token {
    /// Names no update of a control plane: a verdict on it is heard by nobody.
    pub const NONE: Self = Self(0);
}

/// What happened on a stream.
#[derive(Debug, Clone)]
pub enum Event {
    /// A stream is open and its first requests are on their way. Whether the control plane answers shows in the first
    /// update; `control_plane.connected_state` is 1 from here on.
    Connected {
        /// Which of the configured services it is.
        service: usize,
    },
    /// The stream ended or could not be opened. Subscriptions and accepted versions stay.
    Disconnected {
        /// Which of the configured services it was.
        service: usize,
        /// Why, in words: the connection's error, or the gRPC status of the stream.
        why: String,
        /// How many attempts in a row had no answer, this one included; 0 when this stream had one.
        attempt: u32,
        /// When the next attempt will be made.
        retry_in: Duration,
    },
    /// A file that stands in the place of a control plane cannot be read; what was read before stays.
    Unreadable {
        /// Why: the file's name, and what is wrong with it.
        why: String,
    },
    /// The control plane sent resources. Each update must be answered once by a verdict: requests that depend on it
    /// wait for that.
    Update(Update),
    /// `initial_fetch_timeout` passed without the resource; the subscription stays.
    FetchTimedOut {
        /// The kind.
        kind: Kind,
        /// The name; `None` for the subscription to all.
        name: Option<Arc<str>>,
    },
    /// The TTL of a resource ran out without a heartbeat: it is gone until it is sent anew.
    Expired {
        /// The kind.
        kind: Kind,
        /// The name.
        name: Arc<str>,
    },
}

/// One response: what it sets, and what it takes away.
#[derive(Debug, Clone)]
pub struct Update {
    /// The kind.
    pub kind: Kind,
    /// To give back with the verdict.
    pub token: Token,
    /// `version_info`, or `system_version_info` in delta.
    pub version: Arc<str>,
    /// Resources that are subscribed to, each name once. Those that nobody asked for, and heartbeats, are left out.
    pub resources: Vec<Resource>,
    /// Names that are gone: removed by name in delta; known before and now left out where a state-of-the-world
    /// response is whole. May hold names whose last version was refused.
    pub removed: Vec<Arc<str>>,
    /// Aliases that the control plane knows no resource for (VHDS on demand).
    pub unresolved: Vec<Arc<str>>,
    /// The response listed all there is of this kind (state of the world, clusters, listeners and scoped routes).
    /// What it left out is in `removed` already.
    pub whole: bool,
    /// What the client refused itself (undecodable, of another type, named twice). Part of the NACK in any case.
    pub refused: Vec<Refusal>,
    /// The control plane's own name (`control_plane.identifier`), empty when it gave none.
    pub control_plane: Arc<str>,
}

/// One resource of an update, not decoded beyond its name.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Its name: the wrapper's, or the one inside the message.
    pub name: Arc<str>,
    /// Its version; in state of the world the response's.
    pub version: Arc<str>,
    /// The message, encoded (`Any.value`).
    pub body: Bytes,
    /// Other names that it answers to (VHDS).
    pub aliases: Vec<Arc<str>>,
    /// How long it lives without a heartbeat. The client keeps the time and says [`Event::Expired`].
    pub ttl: Option<Duration>,
}

/// Why one resource of an update is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The resource's name; its place in the response (`#3`) when it could not be read.
    pub name: String,
    /// The field at fault; empty when it is the resource as a whole.
    pub path: String,
    /// The reason.
    pub reason: String,
}

impl Refusal {
    /// A refusal of `name` for `reason` at `path` (may be empty).
    pub fn new(name: impl Into<String>, path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), path: path.into(), reason: reason.into() }
    }
}
