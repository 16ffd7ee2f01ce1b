//! Connections, accepted and through their handshakes.

use std::collections::HashMap;
use std::future::Future as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::Tls;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// See [`Bounds::introduction`].
const INTRODUCTION: Duration = Duration::from_secs(15);
/// How long accepting rests when there are no file descriptors left.
const REST: Duration = Duration::from_millis(100);

/// Who is at the other end.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Their address.
    pub address: Option<SocketAddr>,
    /// Their certificate in DER, verified.
    pub certificate: Option<Arc<[u8]>>,
    /// A request of this connection was let through: it may stay. Set by the guard.
    pub introduced: Arc<AtomicBool>,
    /// The certificate with those above it, as they were sent.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// It is the mesh's authority alone that speaks for the certificate: it says which workload this is, and nothing else.
    pub workload: bool,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of all; more wait in the kernel.
    pub connections: usize,
    /// Of one address (of IPv6: one network of 64 bits); more are closed.
    pub of_one: usize,
    /// How long one may be open before somebody on it has said who they are, and may do something here.
    pub introduction: Duration,
}

impl Bounds {
    /// These bounds, with the time for an introduction that there is everywhere.
    pub fn new(connections: usize, of_one: usize) -> Self {
        Self { connections, of_one, introduction: INTRODUCTION }
    }
}

/// One connection. It counts against the limits until it is dropped.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    peer: Peer,
    /// When it is closed, unless somebody was let through; `None`: somebody was.
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

/// How many of something each address has.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<IpAddr, usize>>);

impl Addresses {
    /// A place among those of an address; `None`: there are `most` already.
    pub(super) fn place(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Place> {
        let address = group(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { addresses: Arc::clone(self), address })
    }
}

/// What counts as one address: a host has many of IPv6.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// Counts as one of its address until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

impl Connection {
    /// Whether it is open too long for a connection on which nobody was let through. Wakes the task when it will be.
    fn overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = &mut self.deadline else { return false };
        if self.peer.introduced.load(Ordering::Relaxed) {
            self.deadline = None;
            return false;
        }
        deadline.as_mut().poll(cx).is_ready()
    }
}

#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Accepts connections within bounds. Ends (and closes the socket) when it is dropped.
pub fn incoming(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    bounds: Bounds,
) -> impl Stream<Item = io::Result<Connection>> + Unpin + Send + 'static {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(accept(listener, tls, bounds, sender));
    ReceiverStream::new(receiver)
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    bounds: Bounds,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let limit = Arc::new(Semaphore::new(bounds.connections.min(Semaphore::MAX_PERMITS)));
    let addresses = Arc::new(Addresses::default());
    loop {
        let one = async {
            let permit = Arc::clone(&limit).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = sender.closed() => return,
            one = one => one,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let Some(place) = addresses.place(address.ip(), bounds.of_one) else {
            tracing::debug!(peer = %address, most = bounds.of_one, "closed: too many connections of one address");
            continue;
        };
        // Without it answers wait for acknowledgements.
        let _ = socket.set_nodelay(true);
        let (tls, sender) = (tls.clone(), sender.clone());
        tokio::spawn(async move {
            let Some((socket, peer)) = handshake(socket, address, tls).await else { return };
            let deadline = Some(Box::pin(tokio::time::sleep(bounds.introduction)));
            let connection = Connection { socket, peer, deadline, _permit: permit, _place: place };
            // A server that is gone wants no connections.
            let _ = sender.send(Ok(connection)).await;
        });
    }
}

async fn handshake(socket: TcpStream, peer: SocketAddr, tls: Option<Arc<Tls>>) -> Option<(Socket, Peer)> {
    let plain = Peer { address: Some(peer), ..Peer::default() };
    let Some(tls) = tls else { return Some((Socket::Plain(socket), plain)) };
    let acceptor = TlsAcceptor::from(tls.config());
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain: Arc<[CertificateDer<'static>]> =
                chain.iter().map(|it| it.clone().into_owned()).collect();
            let certificate = chain.first().map(|leaf| Arc::<[u8]>::from(leaf.as_ref()));
            let workload = !chain.is_empty() && !tls.is_client(&chain);
            let peer = Peer { certificate, chain, workload, ..plain };
            Some((Socket::Tls(Box::new(stream)), peer))
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "a TLS handshake took too long");
            None
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.overdue(cx) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nobody on it said who they are",
            )));
        }
        match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Socket::Tls(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_share_and_no_more() {
        let addresses = Arc::new(Addresses::default());
        let place = |text: &str| addresses.place(text.parse().unwrap(), 2);
        let first = (place("10.0.0.1").unwrap(), place("::ffff:10.0.0.1").unwrap());
        assert!(place("10.0.0.1").is_none());
        assert!(place("10.0.0.2").is_some(), "another one is not concerned");
        let second = (place("2001:db8::1").unwrap(), place("2001:db8::ffff:1").unwrap());
        assert!(place("2001:db8::2").is_none(), "one host has a whole network");
        assert!(place("2001:db8:0:1::1").is_some());
        drop((first, second));
        assert!(addresses.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_connection_on_which_nobody_is_let_through_is_closed() {
        use tokio::io::AsyncReadExt as _;
        use tokio_stream::StreamExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections =
            incoming(listener, None, Bounds { introduction: Duration::ZERO, ..Bounds::new(8, 8) });
        let _clients =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let mut first = connections.next().await.unwrap().unwrap();
        let mut second = connections.next().await.unwrap().unwrap();
        second.peer.introduced.store(true, Ordering::Relaxed);
        let error = first.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let silent = futures_util::poll!(std::pin::pin!(second.read_u8()));
        assert!(silent.is_pending(), "who was let through may be silent");
    }
}
