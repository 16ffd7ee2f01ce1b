//! HTTP/2 connections: many requests at once.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrider_config::model::Http2Keepalive;
use outrider_core::rng::{self, Rng};

use super::connect::{Failure, Gone};
use super::io::Counted;
use super::{ConnMeta, Pool, Unanswered, h2, http1};
use crate::body::{Outbound, UpstreamBody};
use crate::cluster::ClusterShared;
use crate::error::PoolErrorKind;
use crate::incoming::Incoming;

/// Streams at once where neither side says otherwise: Envoy's default.
const DEFAULT_STREAMS: u32 = 1024;
/// Streams at once before the peer has said how many it takes: the least that RFC 9113 recommends.
const INITIAL_STREAMS: usize = 100;

type Connection = http2::Connection<TokioIo<Counted>, UpstreamBody, LocalExec>;

/// An HTTP/2 connection. Dropped by the pool and by its last stream, it closes gracefully.
pub(super) struct Http2Conn {
    codec: Codec,
    pub(super) meta: Rc<ConnMeta>,
    pub(super) idle_since: Cell<Instant>,
    streams: Cell<u32>,
}

enum Codec {
    Own(h2::Sender),
    /// Where pings keep the connection alive: hyper has the clockwork for it.
    Hyper {
        sender: RefCell<http2::SendRequest<UpstreamBody>>,
        // Asked for the peer's limit, which may change at any time.
        connection: Rc<RefCell<Option<Connection>>>,
    },
}

/// What may be under way on a connection, bytes.
struct Windows {
    stream: u32,
    connection: u32,
    send_buffer: usize,
}

impl Windows {
    fn of(cluster: &ClusterShared) -> Self {
        let options = &cluster.config.http.http2;
        let limit = u32::try_from(cluster.config.per_connection_buffer_limit).unwrap_or(u32::MAX);
        // What a peer may send unread is what we may have to hold: by default no more than the buffer limit
        // for a stream (Envoy's larger window is bounded by that limit too), and some streams' worth in all.
        let stream = limit.clamp(65_535, 1 << 24);
        let connection = stream.saturating_mul(16).clamp(1 << 20, 1 << 24);
        Self {
            stream: options.initial_stream_window_size.unwrap_or(stream),
            connection: options.initial_connection_window_size.unwrap_or(connection),
            send_buffer: limit.clamp(16_384, 1 << 20) as usize,
        }
    }
}

/// Runs the codec's tasks on the worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExec;

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Drives a connection that others look into between its polls.
struct Driver(Rc<RefCell<Option<Connection>>>);

impl Future for Driver {
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut *self.0.borrow_mut() {
            Some(connection) => ready!(Pin::new(connection).poll(cx)),
            None => Ok(()),
        };
        // Requests that it has not looked at go back to their senders when it is dropped.
        let ended = self.0.borrow_mut().take();
        drop(ended);
        Poll::Ready(outcome)
    }
}

impl Http2Conn {
    /// Sends `request` and waits for the response's head.
    pub(super) async fn send(&self, request: Outbound) -> Result<http::Response<Incoming>, Unanswered> {
        match &self.codec {
            Codec::Own(sender) => h2::exchange(sender, request).await,
            Codec::Hyper { sender, .. } => {
                // Rare, and large: it stays out of the futures of others.
                let sending = Box::pin(sender.borrow_mut().try_send_request(request.into()));
                Unanswered::of_hyper(sending.await)
            }
        }
    }

    /// Whether it takes no more requests: it has ended, or its peer said GOAWAY.
    fn is_closed(&self) -> bool {
        match &self.codec {
            Codec::Own(sender) => sender.is_closed(),
            Codec::Hyper { sender, .. } => sender.borrow().is_closed(),
        }
    }

    /// Streams that the peer lets us have at a time; 0 when the connection has ended.
    fn peer_limit(&self) -> usize {
        match &self.codec {
            Codec::Own(sender) => sender.peer_limit(),
            // It is borrowed only while it is polled, and then its limit was seen a moment ago.
            Codec::Hyper { connection, .. } => connection.try_borrow().map_or(usize::MAX, |connection| {
                connection.as_ref().map_or(0, Connection::current_max_send_streams)
            }),
        }
    }

    /// Takes a stream's place, if there is one.
    fn enter(&self, configured: u32) -> bool {
        let streams = self.streams.get();
        let peer = self.peer_limit();
        if streams >= configured || streams as usize >= peer {
            return false;
        }
        self.streams.set(streams + 1);
        true
    }

    /// Whether we drive it ourselves.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self.codec, Codec::Own(_))
    }

    /// Gives a stream's place back.
    pub(super) fn leave(&self) {
        self.streams.set(self.streams.get().saturating_sub(1));
        if self.streams.get() == 0 {
            self.idle_since.set(Instant::now());
        }
    }

    /// Whether nothing runs on it.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }
}

impl Pool {
    pub(super) async fn start_http2(
        self: &Rc<Self>,
        io: Counted,
        meta: ConnMeta,
        gone: Gone,
    ) -> Result<Rc<Http2Conn>, Failure> {
        let own = self.cluster.borrow().config.http.http2.keepalive.is_none();
        let codec = if own {
            Codec::Own(self.start_own2(io, gone).await?)
        } else {
            self.start_hyper2(io, gone).await?
        };
        Ok(Rc::new(Http2Conn {
            codec,
            meta: Rc::new(meta),
            idle_since: Cell::new(Instant::now()),
            streams: Cell::new(0),
        }))
    }

    async fn start_own2(self: &Rc<Self>, io: Counted, gone: Gone) -> Result<h2::Sender, Failure> {
        let cluster = self.cluster.borrow().clone();
        let windows = Windows::of(&cluster);
        let mut builder = ::h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(INITIAL_STREAMS)
            .initial_window_size(windows.stream)
            .initial_connection_window_size(windows.connection)
            .max_header_list_size(http1::MAX_HEAD as u32)
            .max_send_buffer_size(windows.send_buffer);
        if let Some(size) = cluster.config.http.http2.hpack_table_size {
            builder.header_table_size(size);
        }
        let failed =
            |error: ::h2::Error| Failure { kind: PoolErrorKind::ConnectFailed, details: error.to_string() };
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        tokio::task::spawn_local(async move {
            let _gone = gone;
            if let Err(error) = connection.await {
                tracing::debug!(cluster = %cluster.config.name, %error, "upstream connection ended");
            }
        });
        Ok(h2::Sender::new(sender))
    }

    async fn start_hyper2(self: &Rc<Self>, io: Counted, gone: Gone) -> Result<Codec, Failure> {
        let builder = self.http2_builder();
        let failed =
            |error: hyper::Error| Failure { kind: PoolErrorKind::ConnectFailed, details: error.to_string() };
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(failed)?;
        let connection = Rc::new(RefCell::new(Some(connection)));
        let driver = Driver(connection.clone());
        let cluster = self.cluster.borrow().clone();
        tokio::task::spawn_local(async move {
            let _gone = gone;
            if let Err(error) = driver.await {
                tracing::debug!(cluster = %cluster.config.name, %error, "upstream connection ended");
            }
        });
        Ok(Codec::Hyper { sender: RefCell::new(sender), connection })
    }

    fn http2_builder(&self) -> http2::Builder<LocalExec> {
        let cluster = self.cluster.borrow();
        let options = &cluster.config.http.http2;
        let windows = Windows::of(&cluster);
        let mut builder = http2::Builder::new(LocalExec);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(windows.stream)
            .initial_connection_window_size(windows.connection)
            .max_header_list_size(http1::MAX_HEAD as u32)
            .max_send_buf_size(windows.send_buffer);
        if let Some(size) = options.hpack_table_size {
            builder.header_table_size(size);
        }
        if let Some(keepalive) = &options.keepalive {
            keep_alive(&mut builder, keepalive);
        }
        builder
    }

    /// Streams that we open at most on one connection.
    pub(super) fn stream_limit(&self) -> usize {
        let cluster = self.cluster.borrow();
        let limit = cluster.config.http.http2.max_concurrent_streams.unwrap_or(DEFAULT_STREAMS);
        let per_connection = cluster.config.http.max_requests_per_connection;
        let limit = if per_connection > 0 { limit.min(per_connection) } else { limit };
        limit.max(1) as usize
    }

    /// A stream's place on a connection that is alive and has room.
    pub(super) fn take_shared(&self) -> Option<Rc<Http2Conn>> {
        let limit = u32::try_from(self.stream_limit()).unwrap_or(u32::MAX);
        let mut shared = self.shared.borrow_mut();
        let mut index = 0;
        while let Some(conn) = shared.get(index) {
            // A closed one, or one that has served enough: it ends when its last stream does.
            if conn.is_closed() || !self.usable(&conn.meta) {
                shared.swap_remove(index);
                continue;
            }
            if conn.enter(limit) {
                return Some(conn.clone());
            }
            index += 1;
        }
        None
    }

    /// Takes a stream's place back.
    pub(super) fn release_http2(self: &Rc<Self>, conn: &Http2Conn) {
        conn.leave();
        if !self.pending.borrow().is_empty() {
            self.serve_pending();
        }
    }
}

fn keep_alive(builder: &mut http2::Builder<LocalExec>, keepalive: &Http2Keepalive) {
    let interval = keepalive.interval.or(keepalive.connection_idle_interval);
    let Some(interval) = interval else { return };
    let jitter = keepalive.interval_jitter_percent.clamp(0.0, 100.0) / 100.0;
    let share = rng::with(|rng| rng.below(1 << 20)) as f64 / f64::from(1 << 20);
    let interval = interval + Duration::from_secs_f64(interval.as_secs_f64() * jitter * share);
    builder
        .keep_alive_interval(interval)
        .keep_alive_timeout(keepalive.timeout)
        .keep_alive_while_idle(keepalive.interval.is_some());
}
