//! Port leases: a port that a test hands to a proxy stays its own until the lease is dropped.
//!
//! A lease is a socket bound, with `SO_REUSEADDR`, to port 0 and never listening. While it lives the kernel gives
//! the port to nobody who asks for any port, in any process, and yet the proxy (which sets `SO_REUSEADDR` as every
//! server does) can bind and listen on it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// A leased port on 127.0.0.1.
#[derive(Debug)]
pub struct Lease {
    port: u16,
    _socket: Socket,
}

impl Lease {
    /// Leases a free port.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn new() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).context("no free port to lease")?;
        let bound = socket.local_addr()?.as_socket().context("a lease is an IP address")?;
        Ok(Self { port: bound.port(), _socket: socket })
    }

    /// The leased port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}
