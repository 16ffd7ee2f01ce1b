//! HTTP/1.1 towards upstreams. The task of a request drives the connection itself: nothing is handed to another
//! task and back, and between requests a connection holds no buffer.

mod chunked;
mod conn;
pub mod fuzz;
mod head;
mod outgoing;
mod tunnel;

pub(crate) use conn::Connection;
pub(super) use conn::{Rules, Sent};
pub(super) use tunnel::Tunnelled;
