//! A listener on one worker: accept loops, and the registry for the `use_original_dst` hand-over.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use outrider_config::model::SocketAddress;
use outrider_core::stream::Address;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

use super::accepted::Accepted;
use super::admitted::Admitted;
use super::connection;
use super::inherited::place;
use super::silent::Silent;
use super::sockets::Bound;
use super::{Lent, ListenerShared, WorkerSockets};
use crate::drain::DrainWatch;
use crate::handler::{ConnectionHandler, HandlerFactory};

/// How long accepting rests after the process ran out of files, unless a connection closes before.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// How often that is logged.
const EXHAUSTED_LOG: Duration = Duration::from_secs(10);

outrider_core::stat_struct! {
    /// `listener.<address>.worker_<n>.`
    pub(super) struct PerWorkerStats {
        counters { downstream_cx_total }
        gauges { downstream_cx_active }
        histograms {}
    }
}

/// The listeners of one worker, found by address for the `use_original_dst` hand-over.
#[derive(Debug, Default)]
pub struct WorkerListeners {
    worker: usize,
    by_address: RefCell<HashMap<SocketAddr, Rc<LocalListener>>>,
    pub(super) admitted: Admitted,
    pub(super) silent: RefCell<Silent>,
    /// Rings when a connection of this worker closes: files may be had again.
    closed: Notify,
    exhausted: Cell<Option<Instant>>,
}

/// A listener as one worker has it.
pub(super) struct LocalListener {
    pub shared: Arc<ListenerShared>,
    /// Beside `shared.chains`.
    pub handlers: Vec<Rc<dyn ConnectionHandler>>,
    /// Beside `shared.chains`.
    pub drains: Vec<DrainWatch>,
    pub siblings: Rc<WorkerListeners>,
    pub worker_stats: PerWorkerStats,
}

/// A listener on one worker. Dropping it stops accepting; connections go on.
#[derive(Debug)]
pub struct WorkerListener {
    current: Rc<Current>,
    stop: Vec<Rc<Notify>>,
    // With the place of each; the accept loops own them.
    sockets: Vec<(String, Weak<Listening>)>,
}

/// What a listener's accept loops admit connections to: an update of the listener replaces it under them.
type Current = RefCell<Rc<LocalListener>>;

enum Listening {
    Tcp(TcpListener, Option<SocketAddr>),
    Unix(UnixListener, Address),
}

impl WorkerListeners {
    /// No listeners yet. `worker` is the worker's number, as in the stats' names.
    pub fn new(worker: usize) -> Rc<Self> {
        Rc::new(Self { worker, ..Self::default() })
    }

    /// The listener of `address`: its very address, else the wildcard of its port (for IPv4 also the IPv6
    /// wildcard that takes IPv4).
    pub(super) fn find(&self, address: &Address) -> Option<Rc<LocalListener>> {
        let address = address.ip()?;
        let listeners = self.by_address.borrow();
        let wildcard = |ip: IpAddr| listeners.get(&SocketAddr::new(ip, address.port()));
        let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let found = match listeners.get(&address) {
            Some(found) => Some(found),
            None if address.is_ipv4() => wildcard(v4).or_else(|| {
                let takes_v4 = |one: &&Rc<LocalListener>| {
                    one.shared.config.addresses.iter().any(|address| address.ipv4_compat)
                };
                wildcard(v6).filter(takes_v4)
            }),
            None => wildcard(v6),
        };
        found.cloned()
    }

    /// A connection has closed.
    pub(super) fn connection_closed(&self) {
        if self.exhausted.get().is_some() {
            self.closed.notify_waiters();
        }
    }
}

impl WorkerListener {
    /// Registers the listener in `siblings` and spawns its accept loops on the current local runtime.
    /// A socket that the runtime refuses (no more epoll watches) is logged and not accepted on.
    pub fn start(
        shared: Arc<ListenerShared>,
        sockets: WorkerSockets,
        factory: &dyn HandlerFactory,
        siblings: &Rc<WorkerListeners>,
    ) -> Self {
        let local = LocalListener::new(shared, factory, siblings);
        local.register();
        let current = Rc::new(RefCell::new(local.clone()));
        let (mut stop, mut watched) = (Vec::new(), Vec::new());
        for (index, socket) in sockets.sockets.into_iter().enumerate() {
            match listening(socket) {
                Ok(socket) => {
                    let (socket, notify) = (Rc::new(socket), Rc::new(Notify::new()));
                    watched.push((place(&local.shared.config, index), Rc::downgrade(&socket)));
                    stop.push(notify.clone());
                    tokio::task::spawn_local(accept_loop(current.clone(), socket, notify));
                }
                Err(error) => {
                    tracing::error!(listener = &*local.shared.config.name, %error, "cannot watch a socket");
                }
            }
        }
        Self { current, stop, sockets: watched }
    }

    /// Puts `shared` in the place of what the listener was: its sockets and their queues stay, new connections are
    /// for the new one. `factory` gives the handlers, and tells those of the chains that were there of their successors.
    pub fn replace(&self, shared: Arc<ListenerShared>, factory: &dyn HandlerFactory) {
        let before = self.current.borrow().clone();
        before.unregister();
        let local = LocalListener::new(shared, factory, &before.siblings);
        local.register();
        *self.current.borrow_mut() = local;
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<outrider_config::model::Listener> {
        self.current.borrow().shared.config.clone()
    }

    /// Duplicates of its sockets that are open, for the process after this one.
    ///
    /// # Errors
    /// The process has no more files.
    pub fn lend(&self) -> io::Result<Vec<Lent>> {
        let mut lent = Vec::new();
        for (place, socket) in &self.sockets {
            if let Some(socket) = socket.upgrade() {
                lent.push(Lent { place: place.clone(), socket: socket.as_fd().try_clone_to_owned()? });
            }
        }
        Ok(lent)
    }

    /// Takes what waits to be accepted, then closes the listening sockets; connections go on.
    pub fn stop_accepting(&self) {
        self.current.borrow().unregister();
        for stop in &self.stop {
            stop.notify_one();
        }
    }
}

impl Drop for WorkerListener {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}

impl LocalListener {
    fn new(
        shared: Arc<ListenerShared>,
        factory: &dyn HandlerFactory,
        siblings: &Rc<WorkerListeners>,
    ) -> Rc<Self> {
        let worker_scope = shared.stats.scope().child(&format!("worker_{}.", siblings.worker));
        let chains = || shared.chains.iter().map(|chain| &*chain.config);
        Rc::new(Self {
            handlers: chains().map(|chain| factory.handler(chain)).collect(),
            drains: chains().map(|chain| factory.drain(chain)).collect(),
            siblings: siblings.clone(),
            worker_stats: PerWorkerStats::new(worker_scope),
            shared,
        })
    }

    /// Lets others hand connections over to it.
    fn register(self: &Rc<Self>) {
        for address in &self.shared.config.addresses {
            if let SocketAddress::Ip(ip) = address.address {
                self.siblings.by_address.borrow_mut().insert(ip, self.clone());
            }
        }
    }

    fn unregister(self: &Rc<Self>) {
        self.siblings.by_address.borrow_mut().retain(|_, other| !Rc::ptr_eq(other, self));
    }
}

impl fmt::Debug for LocalListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalListener").field("name", &self.shared.config.name).finish_non_exhaustive()
    }
}

impl Listening {
    async fn accept(&self) -> io::Result<(Accepted, Address, Address)> {
        match self {
            Self::Tcp(listener, fixed) => {
                let (stream, remote) = listener.accept().await?;
                let local = match fixed {
                    Some(local) => *local,
                    None => stream.local_addr()?,
                };
                Ok((Accepted::Tcp(stream), Address::Ip(canonical(local)), Address::Ip(canonical(remote))))
            }
            Self::Unix(listener, local) => {
                let (stream, remote) = listener.accept().await?;
                Ok((Accepted::Unix(stream), local.clone(), crate::io::unix_address(&remote)))
            }
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

fn listening(socket: Bound) -> io::Result<Listening> {
    Ok(match socket {
        Bound::Tcp(listener, fixed) => Listening::Tcp(TcpListener::from_std(listener)?, fixed),
        Bound::Unix(listener, address) => Listening::Unix(UnixListener::from_std(listener)?, address),
    })
}

/// An IPv4 address that came in IPv6 clothes, as Envoy shows it: without them.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn accept_loop(current: Rc<Current>, socket: Rc<Listening>, stop: Rc<Notify>) {
    let mut stopped = pin!(stop.notified());
    let mut in_turn = 0;
    loop {
        let next = {
            let mut accept = pin!(socket.accept());
            poll_fn(|cx| match stopped.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => accept.as_mut().poll(cx).map(Some),
            })
            .await
        };
        let local = current.borrow().clone();
        match next {
            None => break,
            Some(Ok((socket, address, remote))) => {
                connection::admit(&local, socket, address, remote);
                in_turn += 1;
                let most = local.shared.config.max_accepts_per_event;
                if most > 0 && in_turn >= most {
                    in_turn = 0;
                    tokio::task::yield_now().await;
                }
            }
            Some(Err(error)) => after_failure(&local, &error).await,
        }
    }
    let local = current.borrow().clone();
    let Some(socket) = Rc::into_inner(socket) else { return };
    // Clients whose handshake with the kernel is done would see a reset when the socket closes.
    if let Err(error) = admit_waiting(&local, socket)
        && error.kind() != io::ErrorKind::WouldBlock
    {
        tracing::debug!(listener = &*local.shared.config.name, %error, "accept failed at the end");
    }
}

/// Admits all that wait in the accept queue. Asks the kernel and not the runtime, which may not have heard of
/// the last ones yet. Ends with an error: `WouldBlock` when none is left.
fn admit_waiting(local: &Rc<LocalListener>, socket: Listening) -> io::Result<()> {
    match socket {
        Listening::Tcp(listener, _) => {
            let listener = listener.into_std()?;
            loop {
                let (stream, remote) = listener.accept()?;
                stream.set_nonblocking(true)?;
                let address = Address::Ip(canonical(stream.local_addr()?));
                let socket = Accepted::Tcp(TcpStream::from_std(stream)?);
                connection::admit(local, socket, address, Address::Ip(canonical(remote)));
            }
        }
        Listening::Unix(listener, address) => {
            let listener = listener.into_std()?;
            loop {
                let (stream, remote) = listener.accept()?;
                stream.set_nonblocking(true)?;
                let socket = Accepted::Unix(UnixStream::from_std(stream)?);
                connection::admit(local, socket, address.clone(), crate::io::unix_address(&remote.into()));
            }
        }
    }
}

/// Rests after an accept that failed: for want of files or memory until a connection closes or a while has
/// passed; after anything else (the client went away) only so that others get their turn.
async fn after_failure(local: &LocalListener, error: &io::Error) {
    let wanting = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    if !error.raw_os_error().is_some_and(|code| wanting.contains(&code)) {
        tracing::debug!(listener = &*local.shared.config.name, %error, "accept failed");
        tokio::task::yield_now().await;
        return;
    }
    let siblings = &local.siblings;
    let logged = siblings.exhausted.get();
    if logged.is_none_or(|at| at.elapsed() >= EXHAUSTED_LOG) {
        siblings.exhausted.set(Some(Instant::now()));
        tracing::warn!(listener = &*local.shared.config.name, %error, "cannot accept; waiting for room");
    }
    let mut closed = pin!(siblings.closed.notified());
    let mut pause = pin!(tokio::time::sleep(EXHAUSTED_PAUSE));
    poll_fn(|cx| match closed.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => pause.as_mut().poll(cx),
    })
    .await;
}
