//! The `tcp_proxy` network filter: bytes from a client to a cluster and back. And the filters in front of it, or of the
//! connection manager, that let connections in.

mod connect;
mod direction;
mod gate;
mod pipe;
mod proxy;
mod relay;
mod session;

pub use gate::{GateSlot, GatedWorker, Gates};
pub use proxy::{TcpProxyError, TcpProxyShared, TcpProxyWorker};
