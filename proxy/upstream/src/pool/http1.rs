//! HTTP/1.1 connections: one request at a time, idle ones last in first out.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use http::Response;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use outrider_config::model::HeaderCase;
use outrider_core::stream::Address;
use tokio::task::AbortHandle;

use super::connect::{Failure, Gone};
use super::h1::{Connection, Rules, Sent, Tunnelled};
use super::io::Counted;
use super::key::PoolProtocol;
use super::{ConnMeta, Pool, Unanswered};
use crate::body::{Outbound, UpstreamBody};
use crate::error::PoolErrorKind;
use crate::incoming::Incoming;
use crate::parked::{self, Idle};

/// The longest head of a response, bytes: Envoy's default `max_response_headers_kb`.
pub(super) const MAX_HEAD: usize = 60 * 1024;

/// An HTTP/1.1 connection that nobody else uses. Dropped, it closes: gracefully when it is idle.
pub(super) struct Http1Conn {
    pub(super) meta: Rc<ConnMeta>,
    pub(super) idle_since: Instant,
    codec: Codec,
}

enum Codec {
    Own(Rc<Connection>),
    /// Where the case of header names is to be kept: hyper alone knows what the client wrote.
    Hyper(HyperConn),
}

struct HyperConn {
    sender: http1::SendRequest<UpstreamBody>,
    // Nothing was sent on it yet. It takes a request before its task has ever run, and has said so.
    fresh: bool,
    task: AbortHandle,
}

impl HyperConn {
    fn takes_more(&self) -> bool {
        self.fresh || self.sender.is_ready()
    }
}

impl Http1Conn {
    /// Sends `request` and waits for the response's head.
    pub(super) async fn send(&mut self, request: Outbound) -> Result<Response<Incoming>, Unanswered> {
        let connection = match &mut self.codec {
            Codec::Own(connection) => connection,
            Codec::Hyper(conn) => {
                conn.fresh = false;
                // Rare, and large: it stays out of the futures of others.
                let sending = Box::pin(conn.sender.try_send_request(request.into()));
                return Unanswered::of_hyper(sending.await);
            }
        };
        let mut unsent = Some(request);
        poll_fn(|cx| {
            if let Some(request) = unsent.take() {
                match connection.begin(request, cx) {
                    // It looked for bytes a moment ago, and is woken when there are some.
                    Sent::Wholly => return std::task::Poll::Pending,
                    Sent::Begun => {}
                    Sent::Not(request) => {
                        return std::task::Poll::Ready(Err(Unanswered::Unsent(request)));
                    }
                }
            }
            connection.poll_response(cx).map_err(Unanswered::Failed)
        })
        .await
    }

    /// Whether we drive it ourselves.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self.codec, Codec::Own(_))
    }

    /// Its transport, for a tunnel.
    pub(super) fn tunnel(&self) -> Option<Tunnelled> {
        match &self.codec {
            Codec::Own(connection) => connection.take_transport(),
            Codec::Hyper(_) => None,
        }
    }

    /// Takes it for a request; `false` when it has ended.
    fn take(&self) -> bool {
        match &self.codec {
            Codec::Own(connection) => connection.take(),
            // The peer may have closed it since: its task knows, and the sender knows its task.
            Codec::Hyper(conn) => !conn.sender.is_closed() && conn.takes_more(),
        }
    }

    /// Leaves it to itself; `false` when it has ended.
    pub(super) fn rest(&self) -> bool {
        match &self.codec {
            Codec::Own(connection) => connection.rest(),
            Codec::Hyper(_) => true,
        }
    }

    fn is_ready(&self) -> bool {
        match &self.codec {
            Codec::Own(connection) => connection.is_ready(),
            Codec::Hyper(conn) => conn.takes_more(),
        }
    }

    /// Waits until the codec has done the little that is left; `false` when it cannot.
    async fn settle(&mut self) -> bool {
        match &mut self.codec {
            Codec::Own(connection) => {
                poll_fn(|cx| connection.poll_settled(cx)).await && connection.is_ready()
            }
            Codec::Hyper(conn) => conn.sender.ready().await.is_ok(),
        }
    }
}

impl Drop for Http1Conn {
    fn drop(&mut self) {
        match &self.codec {
            Codec::Own(connection) => connection.close(),
            // An idle one closes when its sender is gone.
            Codec::Hyper(conn) if conn.takes_more() || conn.sender.is_closed() => {}
            Codec::Hyper(conn) => conn.task.abort(),
        }
    }
}

impl Pool {
    pub(super) async fn start_http1(
        self: &Rc<Self>,
        io: Counted,
        meta: ConnMeta,
        gone: Gone,
    ) -> Result<Http1Conn, Failure> {
        let cluster = self.cluster.borrow().clone();
        let http = &cluster.config.http;
        let codec = if http.http1.header_case == HeaderCase::Preserve {
            Codec::Hyper(self.start_hyper1(io, gone).await?)
        } else {
            let rules = Rules {
                title_case: http.http1.header_case == HeaderCase::ProperWords,
                trailers: http.http1.enable_trailers,
                most_fields: http.max_headers_count as usize,
            };
            Codec::Own(Connection::start(io, gone, rules))
        };
        Ok(Http1Conn { meta: Rc::new(meta), idle_since: Instant::now(), codec })
    }

    async fn start_hyper1(self: &Rc<Self>, io: Counted, gone: Gone) -> Result<HyperConn, Failure> {
        let cluster = self.cluster.borrow().clone();
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEAD).preserve_header_case(true);
        // 100 is hyper's own limit, and kept on the stack.
        if cluster.config.http.max_headers_count != 100 {
            builder.max_headers(cluster.config.http.max_headers_count as usize);
        }
        let failed =
            |error: hyper::Error| Failure { kind: PoolErrorKind::ConnectFailed, details: error.to_string() };
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(failed)?;
        let task = tokio::task::spawn_local(async move {
            let _gone = gone;
            if let Err(error) = connection.with_upgrades().await {
                if error.is_parse() {
                    cluster.stats().upstream_cx_protocol_error().inc();
                }
                tracing::debug!(cluster = %cluster.config.name, %error, "upstream connection ended");
            }
        });
        Ok(HyperConn { sender, fresh: true, task: task.abort_handle() })
    }

    /// The idle connection that was used last and is alive.
    pub(super) fn take_idle(&self) -> Option<Http1Conn> {
        loop {
            let conn = self.idle.borrow_mut().pop()?;
            if conn.take() {
                return Some(conn);
            }
        }
    }

    /// Takes idle connections that can pass to another process out of the pool: those without TLS.
    pub(super) fn lend_idle(&self) -> Vec<Idle> {
        let cluster = self.cluster.borrow().clone();
        if self.key.protocol != PoolProtocol::Http1 || cluster.tls_for(&self.host.borrow()).is_some() {
            return Vec::new();
        }
        let mut lent = Vec::new();
        while let Some(conn) = self.take_idle() {
            let Address::Ip(address) = conn.meta.remote else { continue };
            let Some(place) = parked::place(&cluster, address) else { continue };
            let socket = conn.tunnel().and_then(Tunnelled::into_socket);
            lent.extend(socket.map(|socket| Idle { place, socket }));
        }
        lent
    }

    /// Takes a connection back after a request. `finished`: the response was read to its end.
    pub(super) fn release_http1(self: &Rc<Self>, mut conn: Http1Conn, finished: bool) {
        if conn.is_ready() {
            self.idle_again(conn);
        } else if finished {
            // The codec has a little left to do: its end of the request, the last chunk's trailer.
            let pool = self.clone();
            tokio::task::spawn_local(async move {
                if conn.settle().await {
                    pool.idle_again(conn);
                }
            });
        }
    }

    fn idle_again(self: &Rc<Self>, mut conn: Http1Conn) {
        if !self.usable(&conn.meta) || (self.draining.get() && self.pending.borrow().is_empty()) {
            return;
        }
        if !conn.rest() {
            return;
        }
        conn.idle_since = Instant::now();
        self.idle.borrow_mut().push(conn);
        if !self.pending.borrow().is_empty() {
            self.serve_pending();
        }
    }
}
