//! Connections that leave HTTP, whatever they spoke before.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::h1::Tunnelled;
use super::h2::H2Tunnel;
use super::lease::{Held, Lease, LeaseGuard};
use crate::incoming::Incoming;

/// The upstream side of an upgrade whose response said yes, before its bytes flow.
pub struct PendingTunnel {
    source: Option<Source>,
    guard: LeaseGuard,
}

enum Source {
    Http1(Tunnelled),
    Http2(Box<H2Tunnel>),
    Hyper(hyper::upgrade::OnUpgrade),
}

/// An upgraded connection. It holds its lease, and gives it back when it is dropped.
pub struct Tunnel {
    io: Io,
    _guard: LeaseGuard,
}

enum Io {
    Http1(Tunnelled),
    Http2(Box<H2Tunnel>),
    Hyper(TokioIo<hyper::upgrade::Upgraded>),
}

impl Lease {
    /// Takes the connection out of HTTP. `response` is the one that accepted the upgrade.
    pub fn into_tunnel(self, response: &mut Response<Incoming>) -> PendingTunnel {
        let guard = self.into_guard();
        let source = match guard.held() {
            Some(Held::Http1(conn)) if conn.is_own() => conn.tunnel().map(Source::Http1),
            Some(Held::Http2(conn)) if conn.is_own() => response.body_mut().take_tunnel().map(Source::Http2),
            _ => Some(Source::Hyper(hyper::upgrade::on(response))),
        };
        PendingTunnel { source, guard }
    }
}

impl std::fmt::Debug for PendingTunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingTunnel").field("lease", &self.guard).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl PendingTunnel {
    /// Waits until the connection is free of HTTP; `None` when it is gone.
    pub async fn open(self) -> Option<Tunnel> {
        let io = match self.source? {
            Source::Http1(io) => Io::Http1(io),
            Source::Http2(io) => Io::Http2(io),
            Source::Hyper(upgrade) => Io::Hyper(TokioIo::new(upgrade.await.ok()?)),
        };
        Some(Tunnel { io, _guard: self.guard })
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Http1(io) => Pin::new(io).poll_read(cx, buf),
            Io::Http2(io) => Pin::new(io).poll_read(cx, buf),
            Io::Hyper(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Http1(io) => Pin::new(io).poll_write(cx, buf),
            Io::Http2(io) => Pin::new(io).poll_write(cx, buf),
            Io::Hyper(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Http1(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Http2(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Hyper(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Http1(io) => io.is_write_vectored(),
            Io::Http2(io) => io.is_write_vectored(),
            Io::Hyper(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Http1(io) => Pin::new(io).poll_flush(cx),
            Io::Http2(io) => Pin::new(io).poll_flush(cx),
            Io::Hyper(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Http1(io) => Pin::new(io).poll_shutdown(cx),
            Io::Http2(io) => Pin::new(io).poll_shutdown(cx),
            Io::Hyper(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
