//! Servers that say who they are, and where a connection was going. They live as long as the process.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Socket, Type};

use crate::world::{Namespace, PROXY};

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It says its name and who asks.
    App(&'static str),
    /// It says where the connection was going before it was redirected.
    Redirected(&'static str),
    /// It says where the connection is going still.
    Transparent(&'static str),
}

/// A listener; it is closed when this goes.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens on all addresses of a family. The proxy's listeners belong to its user.
pub(crate) fn listen(namespace: &Namespace, v6: bool, port: u16, kind: Kind) -> Result<Server> {
    let owner = if matches!(kind, Kind::Redirected(_)) { (PROXY, PROXY) } else { (0, 0) };
    let socket = namespace.as_owner(owner, || open(v6, port, kind))??;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((stream, _)) = socket.accept() {
                std::thread::spawn(move || drop(answer(stream, kind)));
            }
        }
    });
    Ok(Server { stop, thread: Some(thread) })
}

fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn open(v6: bool, port: u16, kind: Kind) -> io::Result<Socket> {
    let socket = Socket::new(if v6 { Domain::IPV6 } else { Domain::IPV4 }, Type::STREAM, None)?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    if matches!(kind, Kind::Transparent(_)) {
        if v6 {
            socket.set_ip_transparent_v6(true)?;
        } else {
            socket.set_ip_transparent_v4(true)?;
        }
    }
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    socket.bind(&SocketAddr::new(any(v6), port).into())?;
    socket.listen(64)?;
    Ok(socket)
}

fn answer(stream: Socket, kind: Kind) -> io::Result<()> {
    stream.set_read_timeout(Some(crate::world::LIMIT))?;
    let peer = stream.peer_addr()?.as_socket().map(|it| it.ip());
    let v6 = peer.is_some_and(|it| it.is_ipv6());
    let (name, to) = match kind {
        Kind::App(name) => (name, None),
        Kind::Redirected(name) => {
            let original = if v6 { stream.original_dst_v6() } else { stream.original_dst_v4() };
            (name, Some(original?))
        }
        Kind::Transparent(name) => (name, Some(stream.local_addr()?)),
    };
    let mut stream = TcpStream::from(stream);
    let peer = peer.map(|it| it.to_string()).unwrap_or_default();
    let to = to.and_then(|it| it.as_socket()).map(|it| format!(" to {it}")).unwrap_or_default();
    stream.read_exact(&mut [0])?;
    write!(stream, "{name}{to} from {peer}")
}

/// Answers each datagram that comes to this address with a name.
pub(crate) fn datagrams(namespace: &Namespace, address: IpAddr, port: u16, name: &'static str) -> Result<()> {
    let socket = namespace.inside(|| UdpSocket::bind((address, port)))??;
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), peer);
        }
    });
    Ok(())
}
