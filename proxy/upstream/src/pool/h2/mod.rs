//! HTTP/2 towards upstreams. Requests hand their frames to the connection's state themselves; a task for each
//! connection moves bytes, and nothing else stands between.

mod send;
mod tunnel;
mod upload;

pub(crate) use send::Receiver;
pub(super) use send::{Sender, exchange};
pub(crate) use tunnel::H2Tunnel;
