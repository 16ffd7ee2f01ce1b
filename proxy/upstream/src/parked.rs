//! Idle connections that pass from one process to the next, over which hosts are reached without connecting anew.
//!
//! The next process keeps them by cluster and address until one of its pools wants a connection there, or for a short while:
//! nobody watches them meanwhile. Only those are passed on that hold nothing but their socket: HTTP/1.1 without TLS.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use outrider_core::stream::Address;
use outrider_net::io::IoStream;
use tokio::net::TcpStream;

use crate::cluster::ClusterShared;
use crate::host::Host;

/// So many are kept at a time; more are closed.
const MOST: usize = 4096;

/// Whether there is any, so that connecting takes no lock where there never was one.
static ANY: AtomicBool = AtomicBool::new(false);
static PARKED: LazyLock<Mutex<Parked>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Parked {
    by_place: HashMap<String, Vec<OwnedFd>>,
    count: usize,
}

/// An idle connection, for the process after this one.
#[derive(Debug)]
pub struct Idle {
    /// Where it leads, in words that the next process finds it by.
    pub place: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// Keeps a connection of the process before this one, for whichever worker wants it.
pub fn park(idle: Idle) {
    let mut parked = lock();
    if parked.count < MOST {
        parked.count += 1;
        parked.by_place.entry(idle.place).or_default().push(idle.socket);
        ANY.store(true, Relaxed);
    }
}

/// Closes those that nobody wanted: how many.
pub fn close_parked() -> usize {
    ANY.store(false, Relaxed);
    let parked = std::mem::take(&mut *lock());
    parked.count
}

/// What a connection of `cluster` to `address` is known by. `None` where the next process would have to know more of it, as
/// requests on it or its age are limited. What sockets of the cluster are set up with is part of it.
pub(crate) fn place(cluster: &ClusterShared, address: SocketAddr) -> Option<String> {
    let config = &cluster.config;
    let limited =
        config.http.max_requests_per_connection > 0 || config.http.max_connection_duration.is_some();
    (!limited).then(|| {
        format!(
            "{} {address} {:?} {:?} {:?} {:?}",
            config.name, config.bind, config.bind_other, config.socket_options, config.keepalive
        )
    })
}

/// A connection to `host` that was parked and still lives, where TLS has no part in it.
pub(crate) fn take(cluster: &ClusterShared, host: &Host) -> Option<IoStream> {
    if !ANY.load(Relaxed) || cluster.tls_for(host).is_some() {
        return None;
    }
    let Address::Ip(address) = host.address else { return None };
    let place = place(cluster, address)?;
    loop {
        let socket = lock().take(&place)?;
        if let Some(io) = alive(socket) {
            return Some(io);
        }
    }
}

impl Parked {
    fn take(&mut self, place: &str) -> Option<OwnedFd> {
        let socket = self.by_place.get_mut(place)?.pop()?;
        self.count = self.count.saturating_sub(1);
        Some(socket)
    }
}

/// The stream, if its peer is silent: one that closes, or that says what nobody asked for, is of no use.
fn alive(socket: OwnedFd) -> Option<IoStream> {
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true).ok()?;
    match stream.peek(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        _ => return None,
    }
    TcpStream::from_std(stream).ok().map(IoStream::from_tcp)
}

fn lock() -> MutexGuard<'static, Parked> {
    PARKED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream as StdStream};

    use super::*;

    #[tokio::test]
    async fn only_silent_connections_are_of_use() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let near = StdStream::connect(listener.local_addr().unwrap()).unwrap();
            (near, listener.accept().unwrap().0)
        };
        let (near, _far) = pair();
        assert!(alive(near.into()).is_some());
        let (near, far) = pair();
        drop(far);
        // What the peer did is here when a blocking look says so.
        near.peek(&mut [0]).unwrap();
        assert!(alive(near.into()).is_none(), "a connection that was closed is used");
        let (near, mut far) = pair();
        far.write_all(b"HTTP/1.1 408 Request Timeout\r\n").unwrap();
        near.peek(&mut [0]).unwrap();
        assert!(alive(near.into()).is_none(), "an answer without a request is taken for one");
    }

    #[test]
    fn they_are_kept_by_place_and_closed_in_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = || OwnedFd::from(StdStream::connect(listener.local_addr().unwrap()).unwrap());
        park(Idle { place: "here".into(), socket: socket() });
        park(Idle { place: "there".into(), socket: socket() });
        assert!(lock().take("nowhere").is_none());
        assert!(lock().take("here").is_some());
        assert!(lock().take("here").is_none());
        assert_eq!(close_parked(), 1);
        assert!(lock().take("there").is_none());
    }
}
