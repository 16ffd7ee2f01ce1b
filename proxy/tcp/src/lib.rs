//! The `tcp_proxy` network filter: bytes from a client to a cluster and back.

mod connect;
mod direction;
mod pipe;
mod proxy;
mod relay;
mod session;

pub use proxy::{TcpProxyError, TcpProxyShared, TcpProxyWorker};
