//! A connection (or a stream of one) in the hands of one request.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::request::Parts;
use outrider_core::stream::{Address, Protocol, TlsInfo};

use super::http1::Http1Conn;
use super::http2::Http2Conn;
use super::{ConnMeta, Pool, Unanswered, Version, request};
use crate::body::Outbound;
use crate::breaker::Resource;
use crate::error::{SendError, SendErrorKind};
use crate::host::Host;
use crate::incoming::Incoming;

/// How often a request is sent anew on another connection because the first closed before any of it was sent.
const RESENDS: u32 = 3;

/// A connection for one request.
#[derive(Debug)]
pub struct Lease {
    guard: LeaseGuard,
}

/// What the response's body holds on to. Dropped after the response's end it gives an HTTP/1 connection
/// back to the pool; dropped before it closes the connection. An h2 stream is reset by the drop of its body.
pub struct LeaseGuard {
    pool: Rc<Pool>,
    cluster: Version,
    held: Option<Held>,
    finished: bool,
}

/// A connection out of the pool.
pub(super) enum Held {
    Http1(Http1Conn),
    Http2(Rc<Http2Conn>),
}

impl Held {
    fn meta(&self) -> &Rc<ConnMeta> {
        match self {
            Self::Http1(conn) => &conn.meta,
            Self::Http2(conn) => &conn.meta,
        }
    }
}

impl Lease {
    pub(super) fn new(pool: Rc<Pool>, cluster: Version, held: Held) -> Self {
        let meta = held.meta();
        meta.requests.set(meta.requests.get().saturating_add(1));
        let life = &meta.life;
        life.active.store(life.active.load(Relaxed) + 1, Relaxed);
        life.served.store(meta.requests.get(), Relaxed);
        pool.state.rq_total.fetch_add(1, Relaxed);
        pool.state.rq_active.fetch_add(1, Relaxed);
        Self { guard: LeaseGuard { pool, cluster, held: Some(held), finished: false } }
    }

    /// What the connection speaks.
    pub fn protocol(&self) -> Protocol {
        self.meta().map_or(Protocol::Http11, |meta| meta.protocol)
    }

    /// Our address on it.
    pub fn local(&self) -> Option<&Address> {
        self.meta().map(|meta| &meta.local)
    }

    /// The address it goes to.
    pub fn remote(&self) -> Option<&Address> {
        self.meta().map(|meta| &meta.remote)
    }

    /// Its TLS session.
    pub fn tls(&self) -> Option<&Rc<TlsInfo>> {
        self.meta().and_then(|meta| meta.tls.as_ref())
    }

    /// Its number (`%UPSTREAM_CONNECTION_ID%`).
    pub fn connection_id(&self) -> u64 {
        self.meta().map_or(0, |meta| meta.id)
    }

    /// How many requests it has carried, this one included.
    pub fn requests(&self) -> u32 {
        self.meta().map_or(0, |meta| meta.requests.get())
    }

    /// The host.
    pub fn host(&self) -> Arc<Host> {
        self.guard.pool.host.borrow().clone()
    }

    /// Sends `request` and waits for the response's head. The request's target may be absolute, or a path
    /// with a `host` header: it is brought into the form that the connection's protocol needs. Hop-by-hop
    /// headers are the caller's to remove. A connection that closed before any of the request was sent is
    /// replaced by another of the same pool: the lease's connection may differ afterwards.
    ///
    /// # Errors
    /// See [`SendErrorKind`].
    pub async fn send(
        &mut self,
        request: impl Into<Outbound>,
    ) -> Result<http::Response<Incoming>, SendError> {
        let mut request = request.into();
        for _ in 0..RESENDS {
            self.prepare(&mut request.parts);
            let sent = match &mut self.guard.held {
                Some(Held::Http1(conn)) => conn.send(request).await,
                Some(Held::Http2(conn)) => conn.send(request).await,
                None => return Err(not_sent(request)),
            };
            request = match sent {
                Ok(response) => return Ok(response),
                Err(Unanswered::Unsent(request)) => request,
                Err(Unanswered::Failed(error)) => {
                    if error.kind() == SendErrorKind::ProtocolError {
                        self.guard.cluster.stats().upstream_cx_protocol_error().inc();
                    }
                    return Err(SendError::sent(error));
                }
            };
            match self.guard.pool.clone().acquire().await {
                Ok(fresh) => *self = fresh,
                Err(error) => {
                    return Err(SendError { pool: Some(Box::new(error)), ..not_sent(request) });
                }
            }
        }
        Err(not_sent(request))
    }

    /// The guard, for the response's body.
    pub fn into_guard(self) -> LeaseGuard {
        self.guard
    }

    fn meta(&self) -> Option<&Rc<ConnMeta>> {
        self.guard.held.as_ref().map(Held::meta)
    }

    fn prepare(&self, request: &mut Parts) {
        match self.protocol() {
            Protocol::Http2 => request::for_http2(request, self.tls().is_some()),
            _ => {
                let absolute = self.guard.cluster.config.http.http1.send_fully_qualified_url;
                request::for_http1(request, absolute, self.tls().is_some());
            }
        }
    }
}

impl LeaseGuard {
    pub(super) const fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Tells that the response was read to its end: a connection whose codec is not quite done yet is then
    /// waited for instead of closed.
    pub fn finished(&mut self) {
        self.finished = true;
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let life = &held.meta().life;
        life.active.store(life.active.load(Relaxed).saturating_sub(1), Relaxed);
        let pool = &self.pool;
        pool.state.rq_active.fetch_sub(1, Relaxed);
        self.cluster.breakers().of(pool.key.high).give(Resource::Requests);
        self.cluster.stats().upstream_rq_active().dec();
        match held {
            Held::Http1(conn) => pool.release_http1(conn, self.finished),
            Held::Http2(conn) => pool.release_http2(&conn),
        }
    }
}

impl std::fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseGuard").field("pool", &self.pool).finish_non_exhaustive()
    }
}

fn not_sent(request: Outbound) -> SendError {
    SendError { kind: SendErrorKind::NotSent, request: Some(Box::new(request)), cause: None, pool: None }
}
