//! Listening sockets, bound on the control thread and handed to workers.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use outrider_config::model::{Listener, ListenerAddress, SocketAddress, SocketOptionState};
use outrider_core::stream::Address;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::inherited::place;
use super::{BindError, Inherited, ListenerShared};
use crate::sockopt;

/// Binds the sockets of listeners.
#[derive(Debug)]
pub struct Sockets {}

/// One worker's sockets of a listener: one for each address.
#[derive(Debug)]
pub struct WorkerSockets {
    pub(super) sockets: Vec<Bound>,
    pub(super) addresses: Vec<SocketAddr>,
}

/// A bound socket, not yet known to a runtime.
#[derive(Debug)]
pub(super) enum Bound {
    /// With the address that accepted connections have, unless it is a wildcard.
    Tcp(std::net::TcpListener, Option<SocketAddr>),
    /// With its address.
    Unix(std::os::unix::net::UnixListener, Address),
}

impl Sockets {
    /// [Opens](Self::open) the sockets and listens.
    ///
    /// # Errors
    /// An address cannot be listened on; nothing stays bound.
    pub fn bind(
        listener: &ListenerShared,
        workers: usize,
        inherited: &Inherited,
    ) -> Result<Vec<WorkerSockets>, BindError> {
        let sets = Self::open(listener, workers, inherited)?;
        Self::listen(listener, &sets)?;
        Ok(sets)
    }

    /// Binds every address of `listener` for `workers` workers, so that nobody else takes it; clients are turned away until
    /// [`Self::listen`]. None is bound when `bind_to_port` is false; the workers get empty sets then. Where the process
    /// before this one had an address open, its sockets (`inherited`) are taken in the place of new ones: they listen already.
    ///
    /// # Errors
    /// An address cannot be had; nothing stays bound.
    pub fn open(
        listener: &ListenerShared,
        workers: usize,
        inherited: &Inherited,
    ) -> Result<Vec<WorkerSockets>, BindError> {
        let config = listener.config();
        let mut sets = Self::none(workers);
        if !config.bind_to_port {
            return Ok(sets);
        }
        for (index, address) in config.addresses.iter().enumerate() {
            let before = inherited.take(&place(config, index), workers);
            bind_address(config, address, &mut sets, before)
                .map_err(|source| bind_error(config, address, source))?;
        }
        Ok(sets)
    }

    /// Sets without a socket, for listeners that nobody is to reach by a port.
    pub fn none(workers: usize) -> Vec<WorkerSockets> {
        (0..workers).map(|_| WorkerSockets { sockets: Vec::new(), addresses: Vec::new() }).collect()
    }

    /// Lets clients in on sockets that [`Self::open`] made for `listener`.
    ///
    /// # Errors
    /// Another process listens on an address since.
    pub fn listen(listener: &ListenerShared, sets: &[WorkerSockets]) -> Result<(), BindError> {
        let config = listener.config();
        for set in sets {
            for (socket, address) in set.sockets.iter().zip(&config.addresses) {
                socket.listen(config, address).map_err(|source| bind_error(config, address, source))?;
            }
        }
        Ok(())
    }
}

impl Bound {
    fn listen(&self, config: &Listener, address: &ListenerAddress) -> io::Result<()> {
        let socket = match self {
            Self::Tcp(socket, _) => SockRef::from(socket),
            Self::Unix(socket, _) => SockRef::from(socket),
        };
        socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
        let options = address.socket_options.as_deref().unwrap_or(&config.socket_options);
        sockopt::apply(&socket, options, SocketOptionState::Listening)
    }
}

impl WorkerSockets {
    /// The IP addresses bound (with the port the kernel chose where the configuration says 0).
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn bind_error(config: &Listener, address: &ListenerAddress, source: io::Error) -> BindError {
    BindError {
        listener: config.name.clone(),
        address: address.address.to_string(),
        hint: hint(&source),
        source,
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another process listens there: stop it, or give the listener another port)"
        }
        io::ErrorKind::AddrNotAvailable => {
            " (no interface has this address: use one of this host's, 0.0.0.0, or set freebind)"
        }
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE; Unix sockets a directory that can be written)"
        }
        _ => "",
    }
}

fn bind_address(
    config: &Listener,
    address: &ListenerAddress,
    sets: &mut [WorkerSockets],
    before: VecDeque<OwnedFd>,
) -> io::Result<()> {
    match &address.address {
        SocketAddress::Ip(ip) => bind_ip(config, address, *ip, sets, before),
        SocketAddress::Pipe { path, mode } => bind_pipe(config, address, (&**path, *mode), sets, before),
        SocketAddress::Name { .. } => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "a listener needs an IP address, not a name"))
        }
    }
}

fn bind_ip(
    config: &Listener,
    address: &ListenerAddress,
    mut ip: SocketAddr,
    sets: &mut [WorkerSockets],
    before: VecDeque<OwnedFd>,
) -> io::Result<()> {
    let mut before: VecDeque<_> = before.into_iter().map(Socket::from).collect();
    if before.iter().any(|socket| !fits(socket, address, ip)) {
        tracing::info!(address = %ip, "the sockets of the process before do not fit: others are opened");
        before.clear();
    }
    let inherits = !before.is_empty();
    let mut shared: Option<std::net::TcpListener> = None;
    for set in sets {
        let listener = match (before.pop_front(), &shared) {
            (Some(socket), _) => std::net::TcpListener::from(adopt_ip(config, address, socket)?),
            (None, Some(first)) => first.try_clone()?,
            (None, None) => std::net::TcpListener::from(open_ip(config, address, ip)?),
        };
        // The kernel chose the port for the first socket; the others join it there.
        ip = listener.local_addr()?;
        // Where fewer sockets came than there are workers, these share them: a further one would be a queue more.
        if (inherits || !config.reuse_port) && shared.is_none() {
            shared = Some(listener.try_clone()?);
        }
        set.addresses.push(ip);
        set.sockets.push(Bound::Tcp(listener, (!ip.ip().is_unspecified()).then_some(ip)));
    }
    Ok(())
}

fn open_ip(config: &Listener, address: &ListenerAddress, ip: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(ip), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    if ip.is_ipv6() {
        socket.set_only_v6(!address.ipv4_compat)?;
    }
    if config.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if config.freebind == Some(true) {
        if ip.is_ipv4() { socket.set_freebind_v4(true)? } else { socket.set_freebind_v6(true)? }
    }
    set_always(config, address, ip, &socket)?;
    let options = address.socket_options.as_deref().unwrap_or(&config.socket_options);
    sockopt::apply(&SockRef::from(&socket), options, SocketOptionState::Prebind)?;
    socket.bind(&ip.into())?;
    set_bound(config, address, &socket)?;
    Ok(socket)
}

/// Whether a socket that another process bound is one that we would have made for `ip`: what cannot be changed is as wanted.
fn fits(socket: &Socket, address: &ListenerAddress, ip: SocketAddr) -> bool {
    let Some(bound) = socket.local_addr().ok().and_then(|bound| bound.as_socket()) else { return false };
    let same_port = ip.port() == 0 || ip.port() == bound.port();
    let same_kind = socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    let v6_as_wanted = || socket.only_v6().is_ok_and(|only| only != address.ipv4_compat);
    bound.ip() == ip.ip() && same_port && same_kind && (ip.is_ipv4() || v6_as_wanted())
}

/// Sets what can still be set on a socket that another process bound, and that is as ours would be for the rest.
fn adopt_ip(config: &Listener, address: &ListenerAddress, socket: Socket) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    let options = address.socket_options.as_deref().unwrap_or(&config.socket_options);
    let set = set_always(config, address, bound, &socket)
        .and_then(|()| sockopt::apply(&SockRef::from(&socket), options, SocketOptionState::Prebind));
    if let Err(error) = set {
        // It has them from the process before, unless the configuration changed with the process: some may be set only
        // before a socket is bound, or by who may more than we.
        tracing::debug!(address = %bound, %error, "an option of an inherited socket is left as it is");
    }
    set_bound(config, address, &socket)?;
    Ok(socket)
}

/// Options that can be set at any time.
fn set_always(
    config: &Listener,
    address: &ListenerAddress,
    ip: SocketAddr,
    socket: &Socket,
) -> io::Result<()> {
    if let Some(transparent) = config.transparent {
        if ip.is_ipv4() {
            socket.set_ip_transparent_v4(transparent)?;
        } else {
            socket.set_ip_transparent_v6(transparent)?;
        }
    }
    // Accepted sockets inherit these two: no system call for each connection.
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = address.keepalive.as_ref().or(config.keepalive.as_ref()) {
        sockopt::apply_keepalive(&SockRef::from(socket), keepalive)?;
    }
    Ok(())
}

/// Options of sockets that are bound.
fn set_bound(config: &Listener, address: &ListenerAddress, socket: &Socket) -> io::Result<()> {
    let options = address.socket_options.as_deref().unwrap_or(&config.socket_options);
    sockopt::apply(&SockRef::from(socket), options, SocketOptionState::Bound)?;
    if let Some(queue) = config.tcp_fast_open {
        sockopt::set(
            &SockRef::from(socket),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            &i32::try_from(queue).unwrap_or(i32::MAX).to_ne_bytes(),
        )?;
    }
    Ok(())
}

fn bind_pipe(
    config: &Listener,
    address: &ListenerAddress,
    (path, mode): (&str, u32),
    sets: &mut [WorkerSockets],
    mut before: VecDeque<OwnedFd>,
) -> io::Result<()> {
    // All workers share one socket, so those of the process before are one: its file is in its place.
    let socket = match before.pop_front() {
        Some(socket) => {
            let socket = Socket::from(socket);
            socket.set_nonblocking(true)?;
            socket
        }
        None => open_pipe(config, address, path)?,
    };
    if mode != 0 && !path.starts_with('@') {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    let options = address.socket_options.as_deref().unwrap_or(&config.socket_options);
    sockopt::apply(&SockRef::from(&socket), options, SocketOptionState::Bound)?;
    let name: Arc<str> = path.into();
    for set in sets {
        let clone = std::os::unix::net::UnixListener::from(OwnedFd::from(socket.try_clone()?));
        set.sockets.push(Bound::Unix(clone, Address::Pipe(name.clone())));
    }
    Ok(())
}

fn open_pipe(config: &Listener, address: &ListenerAddress, path: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let options = address.socket_options.as_deref().unwrap_or(&config.socket_options);
    sockopt::apply(&SockRef::from(&socket), options, SocketOptionState::Prebind)?;
    match path.strip_prefix('@') {
        Some(name) => {
            let name = rustix::net::SocketAddrUnix::new_abstract_name(name.as_bytes())?;
            rustix::net::bind(&socket, &name)?;
        }
        None => {
            // What a process before us left there; Envoy unlinks it too.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            socket.bind(&SockAddr::unix(path)?)?;
        }
    }
    Ok(socket)
}
