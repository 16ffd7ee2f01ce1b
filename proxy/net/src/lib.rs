//! Sockets, listeners, listener filters, filter-chain match and TLS.

pub mod drain;
pub mod handler;
pub mod io;
pub mod listener;
pub mod sockopt;
pub mod tls;
