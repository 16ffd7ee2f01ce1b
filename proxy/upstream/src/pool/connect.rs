//! Making connections: socket, TLS, codec.

use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use arc_swap::ArcSwap;
use outrider_config::model::{SocketAddress, SocketOptionState, UpstreamTls};
use outrider_core::stream::{Address, Protocol, SourceAddress, TlsInfo};
use outrider_net::io::IoStream;
use outrider_net::sockopt;
use outrider_net::tls::{AlpnDefault, ClientTls, TlsError, TlsTarget};
use socket2::SockRef;
use tokio::net::{TcpSocket, UnixStream};

use super::io::{Counted, Token, next_id};
use super::key::PoolProtocol;
use super::lease::Held;
use super::{ConnMeta, Pool};
use crate::breaker::Resource;
use crate::cluster::ClusterShared;
use crate::error::PoolErrorKind;
use crate::host::Host;
use crate::parked;

/// Why a connection could not be made.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(super) kind: PoolErrorKind,
    pub(super) details: String,
}

/// What of a connection follows who wants it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted<'a> {
    /// The name that TLS sends and verifies.
    pub(super) authority: Option<&'a str>,
    /// Where it comes from.
    pub(super) source: Option<SourceAddress>,
}

/// Tells the pool that a connection ended, however it did.
pub(super) struct Gone {
    pool: Weak<Pool>,
    id: u64,
}

impl Pool {
    /// Begins connections until every waiting request has one that it can hope for.
    pub(super) fn connect_for_pending(self: &Rc<Self>) {
        while self.pending.borrow().len() > self.hoped_for() && self.begin() {}
    }

    /// How many requests the connections that are being made will serve.
    fn hoped_for(&self) -> usize {
        let multiplexed = match self.key.protocol {
            PoolProtocol::Http1 => false,
            PoolProtocol::Http2 => true,
            PoolProtocol::Auto => self.last_protocol.get() == Some(Protocol::Http2),
        };
        let each = if multiplexed { self.stream_limit() } else { 1 };
        (self.connecting.get() as usize).saturating_mul(each)
    }

    /// Begins a connection, where the breakers allow one.
    fn begin(self: &Rc<Self>) -> bool {
        let cluster = self.cluster.borrow().clone();
        let breakers = cluster.breakers().of(self.key.high);
        if host_is_full(&cluster, self) || breakers.take(Resource::Connections).is_err() {
            cluster.stats().upstream_cx_overflow().inc();
            if self.connections.get() > 0 {
                return false;
            }
            // A pool without any connection always gets one, or its requests would wait for ever.
            breakers.take_anyway(Resource::Connections);
        }
        self.connections.set(self.connections.get() + 1);
        self.connecting.set(self.connecting.get() + 1);
        match self.key.protocol {
            PoolProtocol::Http1 => cluster.stats().upstream_cx_http1_total().inc(),
            PoolProtocol::Http2 => cluster.stats().upstream_cx_http2_total().inc(),
            PoolProtocol::Auto => {}
        }
        let token = Token::begin((*cluster).clone(), self.state.clone(), self.key.high);
        let gone = Gone { pool: Rc::downgrade(self), id: next_id() };
        tokio::task::spawn_local(self.clone().establish(token, gone));
        true
    }

    async fn establish(self: Rc<Self>, token: Token, gone: Gone) {
        let cluster = token.cluster.clone();
        let host = self.host.borrow().clone();
        let wanted = Wanted { authority: self.key.name.as_deref(), source: self.key.source };
        let alpn = match self.key.protocol {
            PoolProtocol::Http1 => AlpnDefault::Http1,
            PoolProtocol::Http2 => AlpnDefault::Http2,
            PoolProtocol::Auto => AlpnDefault::Auto,
        };
        let parked = match self.key.protocol {
            // They come from this process's own address.
            PoolProtocol::Http1 if wanted.source.is_none() => parked::take(&cluster, &host),
            _ => None,
        };
        let inherited = parked.is_some();
        let opened = match parked {
            Some(io) => Ok((io, None)),
            None => open(&cluster, &host, wanted, alpn).await,
        };
        self.connecting.set(self.connecting.get().saturating_sub(1));
        let outcome = match opened {
            Ok((io, tls)) => {
                token.connected();
                let meta = self.meta(&gone, &token, &io, tls, &host);
                self.start(Counted::new(io, token), meta, gone).await
            }
            Err(failure) => {
                token.connect_failed(failure.kind);
                drop(token);
                // The requests are failed before the pool notices the end, which would connect anew for them.
                self.fail_pending(&self.error(failure.kind, &failure.details));
                return;
            }
        };
        match outcome {
            Ok(held) => {
                if let (true, Held::Http1(conn)) = (inherited, &held) {
                    // It is not new: what comes on it now answers nothing.
                    conn.rest();
                }
                self.welcome(held);
            }
            Err(failure) => self.fail_pending(&self.error(failure.kind, &failure.details)),
        }
    }

    fn meta(
        &self,
        gone: &Gone,
        token: &Token,
        io: &IoStream,
        tls: Option<Rc<TlsInfo>>,
        host: &Host,
    ) -> ConnMeta {
        let protocol = match self.key.protocol {
            PoolProtocol::Http1 => Protocol::Http11,
            PoolProtocol::Http2 => Protocol::Http2,
            PoolProtocol::Auto => {
                let h2 = tls.as_ref().is_some_and(|tls| tls.alpn.as_deref() == Some("h2"));
                let stats = token.cluster.stats();
                if h2 {
                    stats.upstream_cx_http2_total().inc()
                } else {
                    stats.upstream_cx_http1_total().inc()
                }
                if h2 { Protocol::Http2 } else { Protocol::Http11 }
            }
        };
        self.last_protocol.set(Some(protocol));
        ConnMeta {
            id: gone.id,
            protocol,
            local: io.local_addr(),
            remote: host.address.clone(),
            tls,
            since: std::time::Instant::now(),
            requests: std::cell::Cell::new(0),
            life: token.life.clone(),
        }
    }

    async fn start(self: &Rc<Self>, io: Counted, meta: ConnMeta, gone: Gone) -> Result<Held, Failure> {
        match meta.protocol {
            Protocol::Http2 => self.start_http2(io, meta, gone).await.map(Held::Http2),
            _ => self.start_http1(io, meta, gone).await.map(Held::Http1),
        }
    }

    /// Takes a new connection in and gives it to those who wait.
    fn welcome(self: &Rc<Self>, held: Held) {
        match held {
            Held::Http1(conn) => self.idle.borrow_mut().push(conn),
            Held::Http2(conn) => self.shared.borrow_mut().push(conn),
        }
        self.serve_pending();
        self.keep_swept();
        // The new connection may carry fewer streams than was hoped.
        self.connect_for_pending();
        if self.draining.get() {
            self.drain();
        }
    }

    fn gone(self: &Rc<Self>, id: u64) {
        self.connections.set(self.connections.get().saturating_sub(1));
        let idle = take_where(&mut self.idle.borrow_mut(), |conn| conn.meta.id == id);
        let shared = take_where(&mut self.shared.borrow_mut(), |conn| conn.meta.id == id);
        drop((idle, shared));
        if !self.pending.borrow().is_empty() {
            self.connect_for_pending();
        }
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.gone(self.id);
        }
    }
}

/// A stream to `host`, TLS done where the cluster has it. Takes `connect_timeout` at most.
pub(super) async fn open(
    cluster: &ClusterShared,
    host: &Host,
    wanted: Wanted<'_>,
    alpn: AlpnDefault,
) -> Result<(IoStream, Option<Rc<TlsInfo>>), Failure> {
    open_to(cluster, host, &host.address, wanted, alpn).await
}

/// The same to another address of `host`, for its health checks.
pub(crate) async fn open_at(
    cluster: &ClusterShared,
    host: &Host,
    address: &Address,
    alpn: AlpnDefault,
) -> Result<IoStream, Failure> {
    open_to(cluster, host, address, Wanted::default(), alpn).await.map(|(io, _)| io)
}

async fn open_to(
    cluster: &ClusterShared,
    host: &Host,
    address: &Address,
    wanted: Wanted<'_>,
    alpn: AlpnDefault,
) -> Result<(IoStream, Option<Rc<TlsInfo>>), Failure> {
    let opening = async {
        let io = socket(cluster, address, wanted.source).await?;
        match cluster.tls_for(host) {
            None => Ok((io, None)),
            Some(context) => secure(cluster, host, context, wanted, alpn, io).await,
        }
    };
    match tokio::time::timeout(cluster.config.connect_timeout, opening).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure { kind: PoolErrorKind::ConnectTimeout, details: String::new() }),
    }
}

async fn secure(
    cluster: &ClusterShared,
    host: &Host,
    context: (&ArcSwap<ClientTls>, &Arc<UpstreamTls>),
    wanted: Wanted<'_>,
    alpn: AlpnDefault,
    io: IoStream,
) -> Result<(IoStream, Option<Rc<TlsInfo>>), Failure> {
    let failed = |details: String| Failure { kind: PoolErrorKind::TlsFailed, details };
    let (tls, config) = context;
    let http = &cluster.config.http;
    let by_authority = wanted.authority.filter(|name| http.auto_sni && !is_ip(name));
    let by_host = Some(&*host.hostname).filter(|name| config.auto_host_sni && !name.is_empty());
    let sni = by_authority.or(by_host);
    let verify_name = if http.auto_san_validation && alpn != AlpnDefault::None {
        // Without a name to verify against nothing is verified: closed, not open.
        Some(wanted.authority.ok_or_else(|| failed("TLS_error:no authority to verify against".into()))?)
    } else if config.auto_sni_san_validation {
        sni.or(Some(&*config.sni).filter(|name| !name.is_empty()))
    } else {
        None
    };
    let target = TlsTarget { sni, verify_name, alpn: Some(alpn) };
    let tls = tls.load_full();
    match tls.connect(io, &target).await {
        Ok((io, info)) => Ok((io, Some(Rc::new(info)))),
        Err(TlsError::Closed(_)) => {
            Err(Failure { kind: PoolErrorKind::ConnectFailed, details: String::new() })
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn socket(
    cluster: &ClusterShared,
    address: &Address,
    source: Option<SourceAddress>,
) -> Result<IoStream, Failure> {
    match address {
        Address::Ip(address) => tcp(cluster, *address, source).await,
        Address::Pipe(path) => unix(path).await,
    }
}

async fn tcp(
    cluster: &ClusterShared,
    address: SocketAddr,
    source: Option<SourceAddress>,
) -> Result<IoStream, Failure> {
    let local = |error: io::Error| Failure {
        kind: PoolErrorKind::LocalConnectFailed,
        details: format!("immediate connect error: {}", text_of(&error)),
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(local)?;
    let config = &cluster.config;
    if !config.socket_options.is_empty() {
        let socket = SockRef::from(&socket);
        sockopt::apply(&socket, &config.socket_options, SocketOptionState::Prebind).map_err(local)?;
    }
    if let Some(keepalive) = &config.keepalive {
        sockopt::apply_keepalive(&SockRef::from(&socket), keepalive).map_err(local)?;
    }
    let fits =
        |bind: &&SocketAddress| matches!(bind, SocketAddress::Ip(ip) if ip.is_ipv4() == address.is_ipv4());
    let bind = match source {
        Some(source) => {
            impersonate(&SockRef::from(&socket), source).map_err(local)?;
            Some(SocketAddr::new(source.ip, 0))
        }
        None => match config.bind.iter().chain(&config.bind_other).find(fits) {
            Some(SocketAddress::Ip(bind)) => Some(*bind),
            _ => None,
        },
    };
    if let Some(bind) = bind {
        if bind.port() == 0 {
            // Connections to different places may have the same port: there are few for one source.
            sockopt::set_late_port(&SockRef::from(&socket)).map_err(local)?;
        }
        if let Err(error) = socket.bind(bind) {
            cluster.stats().bind_errors().inc();
            let details = format!("failed to bind to {bind}: {}", text_of(&error));
            return Err(Failure { kind: PoolErrorKind::LocalConnectFailed, details });
        }
        if !config.socket_options.is_empty() {
            let socket = SockRef::from(&socket);
            sockopt::apply(&socket, &config.socket_options, SocketOptionState::Bound).map_err(local)?;
        }
    }
    match socket.connect(address).await {
        Ok(stream) => Ok(IoStream::from_tcp(stream)),
        Err(error) => Err(connect_failure(&error, &address)),
    }
}

/// Lets the socket have an address that is not the host's, with the mark by which answers come back.
fn impersonate(socket: &SockRef<'_>, source: SourceAddress) -> io::Result<()> {
    if source.mark != 0 {
        socket.set_mark(source.mark)?;
    }
    if source.ip.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

async fn unix(path: &Arc<str>) -> Result<IoStream, Failure> {
    let connected = match path.strip_prefix('@') {
        None => UnixStream::connect(&**path).await,
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let connect = || {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream)
            };
            connect()
        }
    };
    connected.map(IoStream::from_unix).map_err(|error| connect_failure(&error, path))
}

fn connect_failure(error: &io::Error, remote: &dyn std::fmt::Display) -> Failure {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut};

    // What the kernel says at once, before it sends anything, Envoy calls immediate. Of Unix sockets
    // everything is.
    let text = text_of(error);
    let later = matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | TimedOut)
        && !remote.to_string().contains('/');
    let details = if later {
        format!("delayed connect error: {text}")
    } else {
        format!("immediate connect error: {text}|remote address:{remote}")
    };
    Failure { kind: PoolErrorKind::ConnectFailed, details }
}

/// The error's text as `strerror` has it.
fn text_of(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

fn is_ip(name: &str) -> bool {
    name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok()
}

fn host_is_full(cluster: &ClusterShared, pool: &Pool) -> bool {
    use std::sync::atomic::Ordering::Relaxed;

    let most = cluster.config.per_host_max_connections;
    most.is_some_and(|most| pool.state.cx_active.load(Relaxed) >= most)
}

fn take_where<T>(list: &mut Vec<T>, is: impl FnMut(&T) -> bool) -> Option<T> {
    let index = list.iter().position(is)?;
    Some(list.remove(index))
}
