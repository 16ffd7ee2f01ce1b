//! The life of a connection: what it counts while it is open, byte by byte and at its end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Instant;

use outrider_net::io::IoStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::breaker::Resource;
use crate::cluster::ClusterShared;
use crate::error::PoolErrorKind;
use crate::host::HostState;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The next connection's number.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Relaxed)
}

/// What both the pool and the stream know of a connection. One thread writes it: no ordering needed.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Requests on it now.
    pub(crate) active: AtomicU32,
    /// Requests that it has carried.
    pub(crate) served: AtomicU32,
    /// The peer ended it, or it broke.
    pub(crate) ended_by_peer: AtomicBool,
}

/// A connection's place in the breakers and gauges, from the begin of its connect to its close.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) cluster: Arc<ClusterShared>,
    pub(crate) life: Arc<Life>,
    pub(crate) begun: Instant,
    host: Arc<HostState>,
    high: bool,
}

impl Token {
    /// Begins to count a connection whose place in the breaker was taken before.
    pub(crate) fn begin(cluster: Arc<ClusterShared>, host: Arc<HostState>, high: bool) -> Self {
        let stats = cluster.stats();
        stats.upstream_cx_total().inc();
        stats.upstream_cx_active().inc();
        host.cx_total.fetch_add(1, Relaxed);
        host.cx_active.fetch_add(1, Relaxed);
        Self { cluster, life: Arc::default(), begun: Instant::now(), host, high }
    }

    /// Counts a connect that failed.
    pub(crate) fn connect_failed(&self, kind: PoolErrorKind) {
        let stats = self.cluster.stats();
        stats.upstream_cx_connect_fail().inc();
        match kind {
            PoolErrorKind::ConnectTimeout => stats.upstream_cx_connect_timeout().inc(),
            PoolErrorKind::LocalConnectFailed => {}
            _ => self.life.ended_by_peer.store(true, Relaxed),
        }
        self.host.cx_connect_fail.fetch_add(1, Relaxed);
    }

    /// Counts a connect that succeeded.
    pub(crate) fn connected(&self) {
        let ms = self.begun.elapsed().as_millis() as u64;
        self.cluster.stats().upstream_cx_connect_ms().record(ms);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.cluster.breakers().of(self.high).give(Resource::Connections);
        self.host.cx_active.fetch_sub(1, Relaxed);
        let stats = self.cluster.stats();
        stats.upstream_cx_active().dec();
        stats.upstream_cx_length_ms().record(self.begun.elapsed().as_millis() as u64);
        stats.upstream_cx_destroy().inc();
        let served = self.life.served.load(Relaxed);
        if served > 0 {
            stats.upstream_rq_per_cx().record(served.into());
        }
        let busy = self.life.active.load(Relaxed) > 0;
        let remote = self.life.ended_by_peer.load(Relaxed);
        if remote {
            stats.upstream_cx_destroy_remote().inc();
        } else {
            stats.upstream_cx_destroy_local().inc();
        }
        if busy {
            stats.upstream_cx_destroy_with_active_rq().inc();
            if remote {
                stats.upstream_cx_destroy_remote_with_active_rq().inc();
            } else {
                stats.upstream_cx_destroy_local_with_active_rq().inc();
            }
        }
    }
}

/// A stream that counts its bytes.
#[derive(Debug)]
pub(crate) struct Counted {
    io: IoStream,
    token: Token,
}

impl Counted {
    pub(crate) const fn new(io: IoStream, token: Token) -> Self {
        Self { io, token }
    }

    /// The stream, which is somebody else's from now on.
    pub(crate) fn into_inner(self) -> IoStream {
        self.io
    }

    fn sent(&self, outcome: &Poll<io::Result<usize>>) {
        match outcome {
            Poll::Ready(Ok(n)) => {
                self.token.cluster.stats().upstream_cx_tx_bytes_total().add(*n as u64);
            }
            Poll::Ready(Err(_)) => self.token.life.ended_by_peer.store(true, Relaxed),
            Poll::Pending => {}
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.io).poll_read(cx, buf);
        match &outcome {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                let n = buf.filled().len() - before;
                self.token.cluster.stats().upstream_cx_rx_bytes_total().add(n as u64);
            }
            Poll::Ready(_) => self.token.life.ended_by_peer.store(true, Relaxed),
            Poll::Pending => {}
        }
        outcome
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.sent(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.sent(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        AsyncWrite::is_write_vectored(&self.io)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.io), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.io), cx)
    }
}
