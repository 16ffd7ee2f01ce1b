//! Connections that leave HTTP: WebSocket and its kin, and CONNECT.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use outrider_net::io::IoStream;
use outrider_upstream::PendingTunnel;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::hcm::conn::Conn;
use crate::hcm::timer::Timer;
use crate::stats::HcmStats;
use crate::stream::{Abort, Stream, StreamGuard};

const BUFFER: usize = 16 * 1024;

/// An upgrade that both sides agreed on, before its bytes flow.
#[derive(Debug)]
pub(crate) struct PendingUpgrade {
    guard: StreamGuard,
    upstream: Box<PendingTunnel>,
}

impl PendingUpgrade {
    pub(crate) const fn new(guard: StreamGuard, upstream: Box<PendingTunnel>) -> Self {
        Self { guard, upstream }
    }

    /// Relays between the client's `io` and the upstream until one of them ends, or `conn` has to.
    pub(crate) async fn run_h1(self, conn: &Rc<Conn>, io: IoStream) {
        let mut relay = pin!(self.run(io));
        let mut terminated = pin!(conn.drain.clone().terminated());
        let mut drain = conn.drain.clone();
        let mut timer = Timer::new();
        let mut watched = false;
        poll_fn(|cx| {
            // HTTP has left the connection: its limits and its listener's have not.
            conn.register(cx);
            if relay.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let changed = drain.take_change();
            if (!std::mem::replace(&mut watched, true) || changed) && terminated.as_mut().poll(cx).is_ready()
            {
                conn.local_close.set(true);
                return Poll::Ready(());
            }
            timer.poll(cx, conn, |now| conn.tick(now)).map(|_| conn.local_close.set(true))
        })
        .await;
    }

    /// The same for an HTTP/2 stream that becomes a tunnel.
    pub(crate) async fn run_h2(self, downstream: hyper::upgrade::OnUpgrade) {
        if let Ok(io) = downstream.await {
            self.run(TokioIo::new(io)).await;
        }
    }

    async fn run(self, downstream: impl AsyncRead + AsyncWrite + Unpin) {
        let Self { guard, upstream } = self;
        let stream = guard.stream();
        let stats = &stream.hcm.shared.stats;
        let _active = Active::new(stats);
        match upstream.open().await {
            Some(tunnel) => {
                if relay(stream, downstream, tunnel).await == Relayed::UpstreamEnded {
                    stream.response_complete();
                    stream.request_complete();
                }
            }
            None => stream.response_broken(),
        }
    }
}

/// An upgrade counts as active for as long as this is there: what relays it may be dropped at any time.
struct Active<'a>(&'a HcmStats);

impl<'a> Active<'a> {
    fn new(stats: &'a HcmStats) -> Self {
        stats.downstream_cx_upgrades_total().inc();
        stats.downstream_cx_upgrades_active().inc();
        Self(stats)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.downstream_cx_upgrades_active().dec();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Relayed {
    /// The client went away, or the stream's time was over.
    ClientEnded,
    /// The upstream closed, and all it sent was delivered.
    UpstreamEnded,
}

/// One direction.
struct Half {
    buffer: Box<[u8]>,
    filled: usize,
    sent: usize,
    ended: bool,
}

impl Half {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), filled: 0, sent: 0, ended: false }
    }

    /// Moves bytes from `from` to `to` as long as both can. Ready when `from` has ended and `to` has it all.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        mut count: impl FnMut(usize),
    ) -> Poll<std::io::Result<()>> {
        loop {
            while let Some(rest) = self.buffer.get(self.sent..self.filled).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                    n => self.sent += n,
                }
            }
            if self.ended {
                return Pin::new(to).poll_flush(cx);
            }
            let mut buf = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Pending => {
                    // What was written must not wait for more.
                    let _ = Pin::new(to).poll_flush(cx)?;
                    return Poll::Pending;
                }
                Poll::Ready(result) => result?,
            }
            (self.filled, self.sent) = (buf.filled().len(), 0);
            self.ended = self.filled == 0;
            count(self.filled);
        }
    }
}

/// Envoy's HTTP codecs know no half-closed connection: the first end ends both.
async fn relay(
    stream: &Stream,
    mut downstream: impl AsyncRead + AsyncWrite + Unpin,
    mut upstream: impl AsyncRead + AsyncWrite + Unpin,
) -> Relayed {
    let (mut up, mut down) = (Half::new(), Half::new());
    let ended = poll_fn(|cx| {
        if stream.aborted().is_some() {
            return Poll::Ready(Relayed::ClientEnded);
        }
        stream.register(cx);
        if let Poll::Ready(result) =
            down.poll(cx, &mut upstream, &mut downstream, |n| stream.response_frame(n))
        {
            return Poll::Ready(if result.is_ok() { Relayed::UpstreamEnded } else { Relayed::ClientEnded });
        }
        match up.poll(cx, &mut downstream, &mut upstream, |n| stream.request_frame(n)) {
            Poll::Ready(_) => Poll::Ready(Relayed::ClientEnded),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    // A client that leaves takes the upstream's connection with it, unfinished as it is.
    if ended == Relayed::UpstreamEnded {
        let _ = poll_fn(|cx| Pin::new(&mut upstream).poll_shutdown(cx)).await;
    }
    // One that is refused hears no good-bye: it may be one that takes nothing.
    if stream.aborted() != Some(Abort::Refused) {
        let _ = poll_fn(|cx| Pin::new(&mut downstream).poll_shutdown(cx)).await;
    }
    ended
}
