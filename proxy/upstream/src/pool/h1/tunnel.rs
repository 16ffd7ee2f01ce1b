//! A connection that has left HTTP.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pool::connect::Gone;
use crate::pool::io::Counted;

/// The transport of a connection behind an upgrade, with what was read too far.
pub(crate) struct Tunnelled {
    io: Counted,
    ahead: Bytes,
    // Tells the pool when it is dropped.
    _gone: Gone,
}

impl Tunnelled {
    pub(super) const fn new(io: Counted, gone: Gone, ahead: Bytes) -> Self {
        Self { io, ahead, _gone: gone }
    }

    /// The socket of a plain TCP connection on which nothing is under way.
    pub(in crate::pool) fn into_socket(self) -> Option<OwnedFd> {
        let Self { io, ahead, _gone } = self;
        if !ahead.is_empty() {
            return None;
        }
        let stream = io.into_inner().into_tcp().ok()?;
        Some(stream.into_std().ok()?.into())
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..n).unwrap_or_default());
        self.ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
