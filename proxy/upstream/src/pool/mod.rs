//! Connection pools of one worker.

mod connect;
pub(crate) mod h1;
pub(crate) mod h2;
mod http1;
mod http2;
mod io;
mod key;
mod lease;
mod queue;
mod request;
mod sweep;
pub(crate) mod tcp;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use outrider_core::stream::{Address, Protocol, TlsInfo};

pub use h1::fuzz;
pub use lease::{Lease, LeaseGuard};
pub use tcp::TcpLease;
pub use tunnel::{PendingTunnel, Tunnel};

pub(crate) use connect::open_at;
pub(crate) use http2::LocalExec;
pub(crate) use key::Pools;

use crate::body::{Outbound, UpstreamBody};
use crate::breaker::Resource;
use crate::cluster::ClusterShared;
use crate::error::{PoolError, PoolErrorKind};
use crate::host::{Host, HostState};
use crate::incoming::{Incoming, IncomingError};
use http1::Http1Conn;
use http2::Http2Conn;
use key::PoolKey;
use lease::Held;
use queue::Waiter;

/// A version of a cluster. What a request took from its breakers it gives back to the same ones, although an
/// update may have put another version in its place meanwhile; the count of this `Rc` is not shared by workers.
pub(super) type Version = Rc<Arc<ClusterShared>>;

/// The connections of one worker to one host, alike in all that matters.
pub(crate) struct Pool {
    key: PoolKey,
    // Replaced when an update changes the cluster's limits or the host's address.
    cluster: RefCell<Version>,
    host: RefCell<Arc<Host>>,
    state: Arc<HostState>,
    idle: RefCell<Vec<Http1Conn>>,
    shared: RefCell<Vec<Rc<Http2Conn>>>,
    pending: RefCell<VecDeque<Rc<Waiter>>>,
    connecting: Cell<u32>,
    // Connecting, busy, shared and idle ones.
    connections: Cell<u32>,
    // What ALPN agreed on last; a guess at what the next connection will be.
    last_protocol: Cell<Option<Protocol>>,
    draining: Cell<bool>,
    sweeping: Cell<bool>,
}

/// What is known of a connection.
#[derive(Debug)]
pub(crate) struct ConnMeta {
    pub(crate) id: u64,
    pub(crate) protocol: Protocol,
    pub(crate) local: Address,
    pub(crate) remote: Address,
    pub(crate) tls: Option<Rc<TlsInfo>>,
    pub(crate) since: std::time::Instant,
    pub(crate) requests: Cell<u32>,
    pub(crate) life: Arc<io::Life>,
}

/// A request that a connection brought no response to.
pub(super) enum Unanswered {
    /// None of it was sent: here it is.
    Unsent(Outbound),
    /// It may have been sent.
    Failed(IncomingError),
}

impl Unanswered {
    fn of_hyper(
        sent: Result<
            http::Response<hyper::body::Incoming>,
            hyper::client::conn::TrySendError<http::Request<UpstreamBody>>,
        >,
    ) -> Result<http::Response<Incoming>, Self> {
        let mut error = match sent {
            Ok(response) => return Ok(response.map(Incoming::hyper)),
            Err(error) => error,
        };
        match error.take_message() {
            Some(request) => Err(Self::Unsent(request.into())),
            None => {
                let error = error.into_error();
                Err(Self::Failed(IncomingError::of_hyper(error)))
            }
        }
    }
}

impl Pool {
    /// A connection for one request.
    pub(crate) async fn acquire(self: Rc<Self>) -> Result<Lease, PoolError> {
        // Those who wait go first.
        if self.pending.borrow().is_empty()
            && let Some(lease) = self.take_ready()
        {
            return lease;
        }
        self.enqueue()?.await
    }

    /// A connection that is ready for one more request; `Err` when there is one but `max_requests` is reached.
    fn take_ready(self: &Rc<Self>) -> Option<Result<Lease, PoolError>> {
        let held = self.take_idle().map(Held::Http1).or_else(|| self.take_shared().map(Held::Http2))?;
        Some(self.attach(held))
    }

    /// Makes `held` the lease of a request.
    fn attach(self: &Rc<Self>, held: Held) -> Result<Lease, PoolError> {
        let cluster = self.cluster.borrow().clone();
        let stats = cluster.stats();
        if cluster.breakers().of(self.key.high).take(Resource::Requests).is_err() {
            // Not a pending_overflow (measured on Envoy 1.40).
            stats.upstream_rq_active_overflow().inc();
            self.put_back(held);
            return Err(self.error(PoolErrorKind::Overflow, ""));
        }
        stats.upstream_rq_total().inc();
        stats.upstream_rq_active().inc();
        Ok(Lease::new(self.clone(), cluster, held))
    }

    fn put_back(self: &Rc<Self>, held: Held) {
        match held {
            Held::Http1(conn) if conn.rest() => self.idle.borrow_mut().push(conn),
            Held::Http1(_) => {}
            Held::Http2(conn) => conn.leave(),
        }
    }

    /// Whether a connection that has served `meta.requests` may serve another one.
    fn usable(&self, meta: &ConnMeta) -> bool {
        let cluster = self.cluster.borrow();
        let http = &cluster.config.http;
        if http.max_requests_per_connection > 0 && meta.requests.get() >= http.max_requests_per_connection {
            cluster.stats().upstream_cx_max_requests().inc();
            return false;
        }
        if http.max_connection_duration.is_some_and(|longest| meta.since.elapsed() >= longest) {
            cluster.stats().upstream_cx_max_duration_reached().inc();
            return false;
        }
        true
    }

    fn error(&self, kind: PoolErrorKind, details: &str) -> PoolError {
        PoolError { kind, details: details.into(), host: self.host.borrow().clone() }
    }

    /// Finishes what runs and takes no more connections into the pool.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        // Dropping a connection's sender closes it gracefully once nothing runs on it.
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        drop(idle);
        let shared = std::mem::take(&mut *self.shared.borrow_mut());
        drop(shared);
    }

    /// Its connections.
    pub(crate) fn open(&self) -> u64 {
        self.connections.get().into()
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_spent(&self) -> bool {
        self.connections.get() == 0 && self.pending.borrow().is_empty()
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("host", &self.host.borrow().address).finish_non_exhaustive()
    }
}
