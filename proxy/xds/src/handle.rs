//! The consumer's end of a stream.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_core::stats::Scope;
use outrider_proto::pb::envoy::config::core::v3::Node;
use tokio::sync::mpsc;

use crate::Kind;
use crate::backoff::Schedule;
use crate::config::StreamConfig;
use crate::core::{KindView, Now, Options, Status};
use crate::event::{Event, Refusal, Token};
use crate::limit::Bucket;
use crate::stream::{ControlPlaneStats, Driver, Shared};
use crate::transport::Connector;

/// How many events wait for the consumer. While one more waits, nothing is read from the control plane.
pub(crate) const QUEUE: usize = 8;

/// Says what is wanted on a stream, and what came of it. Cloning gives another handle to the same stream.
/// Everything takes effect at once, whether there is a connection or not.
#[derive(Clone)]
pub struct Handle(pub(crate) Rc<Shared>);

/// Starts a task on this thread's local runtime that keeps a stream as `config` says. It ends when the receiver is
/// dropped or [`Handle::close`] is called. Each stream has a connection of its own.
///
/// `scope` is that of the stats `connected_state`, `pending_requests` and `rate_limit_enforced`
/// (`control_plane.`).
///
/// # Panics
///
/// Outside of a local runtime or `LocalSet`, as [`tokio::task::spawn_local`].
pub fn spawn(
    config: StreamConfig,
    node: Node,
    connector: Rc<dyn Connector>,
    scope: Scope,
) -> (Handle, mpsc::Receiver<Event>) {
    let options = Options { delta: config.delta, node, node_once: config.set_node_on_first_message_only };
    let shared = Rc::new(Shared::new(options));
    let (events, receiver) = mpsc::channel(QUEUE);
    let driver = Driver {
        schedule: RefCell::new(Schedule::new(config.backoff, config.services.len())),
        bucket: RefCell::new(config.rate_limit.map(|limit| Bucket::new(limit, Instant::now()))),
        stats: ControlPlaneStats::new(scope),
        config,
        connector,
        shared: shared.clone(),
        events,
    };
    tokio::task::spawn_local(driver.run());
    (Handle(shared), receiver)
}

impl Handle {
    /// Asks for the resource `name`. If it has not come after `initial_fetch_timeout` (0: for ever), there is one
    /// [`Event::FetchTimedOut`], and the subscription stays. Asking again for the same changes nothing.
    pub fn subscribe(&self, kind: Kind, name: &str, initial_fetch_timeout: Duration) {
        self.0.core.borrow_mut().subscribe(Now::read(), kind, name, initial_fetch_timeout);
        self.0.wake();
    }

    /// Asks for all resources of `kind`. The first [`Event::Update`] of the kind says that the state is complete,
    /// also when it is empty.
    pub fn subscribe_all(&self, kind: Kind, initial_fetch_timeout: Duration) {
        self.0.core.borrow_mut().subscribe_all(Now::read(), kind, initial_fetch_timeout);
        self.0.wake();
    }

    /// Gives up the resource `name`. Updates that are already queued may still hold it.
    ///
    /// Asked for again, it is sent again. In state of the world there is one gap, which the protocol leaves: when both
    /// requests cross a response, the control plane hears neither (their nonce is stale) and sees no change.
    pub fn unsubscribe(&self, kind: Kind, name: &str) {
        self.0.core.borrow_mut().unsubscribe(kind, name);
        self.0.wake();
    }

    /// Gives up [`Handle::subscribe_all`].
    pub fn unsubscribe_all(&self, kind: Kind) {
        self.0.core.borrow_mut().unsubscribe_all(kind);
        self.0.wake();
    }

    /// Answers an update: everything that `refusals` do not name is in force. Without refusals (and without any of
    /// the client's own) this is an ACK. To be given for each update, soon and in order: requests of the kind, and of
    /// kinds that depend on it, wait for it. It says that the resources are good, not that they are warm.
    pub fn verdict(&self, token: Token, refusals: Vec<Refusal>) {
        self.0.core.borrow_mut().verdict(Now::read(), token, refusals);
        self.0.wake();
    }

    /// Holds requests and answers of `kind` back until as many [`Handle::resume`]s.
    pub fn pause(&self, kind: Kind) {
        self.0.core.borrow_mut().pause(kind);
    }

    /// Ends one [`Handle::pause`].
    pub fn resume(&self, kind: Kind) {
        self.0.core.borrow_mut().resume(kind);
        self.0.wake();
    }

    /// Is there a stream?
    pub fn connected(&self) -> bool {
        self.0.connected.get()
    }

    /// What the control plane calls itself (`control_plane.identifier`); empty before it said so.
    pub fn control_plane(&self) -> Arc<str> {
        self.0.core.borrow().control_plane().clone()
    }

    /// All that is known of `kind`; `None` when it was never subscribed to here.
    pub fn view(&self, kind: Kind) -> Option<KindView> {
        self.0.core.borrow().view(kind)
    }

    /// Where one resource stands.
    pub fn status(&self, kind: Kind, name: &str) -> Option<Status> {
        self.0.core.borrow().status(kind, name)
    }

    /// Whether `name` is asked for (by its name, or as one of all) and has not come.
    pub fn awaits(&self, kind: Kind, name: &str) -> bool {
        self.0.core.borrow().awaits(kind, name)
    }

    /// Says that the consumer has `name` from an earlier life: see [`crate::core::Core::adopt`]. Best said while there is no stream;
    /// where there is one, [`Handle::reconnect`] makes the control plane hear of it.
    pub fn adopt(&self, kind: Kind, name: &Arc<str>) {
        self.0.core.borrow_mut().adopt(kind, name);
        self.0.wake();
    }

    /// Ends the stream, if there is one, and opens another after the back-off.
    pub fn reconnect(&self) {
        if self.connected() {
            self.0.reconnect.set(true);
            self.0.wake();
        }
    }

    /// Ends the stream for good.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.wake();
    }
}
