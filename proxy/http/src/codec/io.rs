//! The transport under a codec: it counts, and for HTTP/1 it sees what hyper does not tell.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use outrider_net::io::IoStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::hcm::conn::Conn;

/// A connection's bytes, counted.
#[derive(Debug)]
pub(crate) struct CountedIo {
    io: IoStream,
    conn: Rc<Conn>,
}

impl CountedIo {
    pub(crate) const fn new(io: IoStream, conn: Rc<Conn>) -> Self {
        Self { io, conn }
    }

    pub(crate) fn into_inner(self) -> IoStream {
        self.io
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.conn.h1.write_blocked.set(result.is_pending());
        if let Poll::Ready(Ok(n)) = &result {
            self.conn.hcm.shared.stats.downstream_cx_tx_bytes_total().add(*n as u64);
        }
        result
    }
}

impl AsyncRead for CountedIo {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, buf)) {
            self.conn.info.reset.set(error.kind() == io::ErrorKind::ConnectionReset);
            return Poll::Ready(Err(error));
        }
        let new = buf.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            self.conn.hcm.shared.stats.downstream_cx_rx_bytes_total().add(new.len() as u64);
            if self.conn.h1.in_codec.get() && self.conn.active() == 0 {
                self.conn.read_head_bytes(new);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountedIo {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.conn.h1.takes_auto_reply() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(result)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.conn.h1.takes_auto_reply() {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if self.conn.active() == 0 {
            self.conn.h1.response_pending.set(false);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.conn.h1.in_codec.get() {
            // The driver decides how an HTTP/1 connection is closed.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
