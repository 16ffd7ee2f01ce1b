//! The seam between listeners and network filters.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use outrider_config::model;
use outrider_core::{ConnInfo, StreamInfo};

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
}

/// The network filter that ends a filter chain, on one worker.
pub trait ConnectionHandler {
    /// Serves `downstream` until it ends.
    fn handle(self: Rc<Self>, downstream: Downstream) -> LocalFuture<()>;
}

/// Makes the handlers of a worker.
pub trait HandlerFactory {
    /// The handler for `filter`. What could fail was done before, on the control thread.
    fn handler(&self, filter: &model::NetworkFilter) -> Rc<dyn ConnectionHandler>;
}
