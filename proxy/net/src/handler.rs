//! The seam between listeners and network filters.

use std::any::Any;
use std::cell::RefCell;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use outrider_config::model;
use outrider_core::{ConnInfo, Metadata, StreamInfo};

use crate::drain::DrainWatch;
use crate::io::IoStream;

/// A future that stays on its worker.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Where a handler whose connection is one session (TCP) leaves what is known of it, for the listener's log.
pub type SessionSlot = Rc<RefCell<Option<Box<StreamInfo>>>>;

/// A downstream connection after listener filters, filter-chain match and TLS handshake.
#[derive(Debug)]
pub struct Downstream {
    /// Its bytes.
    pub stream: IoStream,
    /// What is known of it.
    pub info: Rc<ConnInfo>,
    /// Tells when to finish.
    pub drain: DrainWatch,
    /// Soft limit of what is buffered for it, in bytes.
    pub buffer_limit: usize,
    /// Present where the listener logs its connections.
    pub session: Option<SessionSlot>,
    /// What filters said of the connection (dynamic metadata); `None` where none said anything.
    pub metadata: Option<Box<Metadata>>,
}

/// What decides who gets in, from what is known of a connection when it begins: the filters in front of a chain's last.
pub trait Entry: Debug + Send + Sync {
    /// Whether `conn`, which is open, would be let in now. Counts nothing.
    ///
    /// # Errors
    /// It would not; by the reason it is counted.
    fn admits(&self, conn: &Rc<ConnInfo>) -> Result<(), &'static str>;
}

/// The network filter that ends a filter chain, on one worker.
pub trait ConnectionHandler {
    /// Serves `downstream` until it ends.
    fn handle(self: Rc<Self>, downstream: Downstream) -> LocalFuture<()>;

    /// An update put `next` in its place: what begins on its open connections from now on is for `next`, where the
    /// filter can do that.
    fn succeeded_by(&self, next: &Rc<dyn ConnectionHandler>) {
        let _ = next;
    }

    /// A connection of this chain ended as `info` says: a filter in front refused it.
    fn refused(&self, info: &StreamInfo) {
        let _ = info;
    }

    /// Itself, for [`succeeded_by`](Self::succeeded_by) to find out what the successor is.
    fn as_any(self: Rc<Self>) -> Rc<dyn Any>;
}

/// Makes the handlers of a worker.
pub trait HandlerFactory {
    /// The handler for the connections of `chain`. What could fail was done before, on the control thread.
    fn handler(&self, chain: &model::FilterChain) -> Rc<dyn ConnectionHandler>;

    /// Tells the connections of `chain` when to finish.
    fn drain(&self, chain: &model::FilterChain) -> DrainWatch;
}
