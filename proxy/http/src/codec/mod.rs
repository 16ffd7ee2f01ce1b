//! From a connection's first byte to its codec.

pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod io;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use outrider_config::model::CodecType;
use outrider_core::stream::Protocol;
use outrider_net::handler::Downstream;
use outrider_net::io::IoStream;
use tokio::io::{AsyncRead, ReadBuf};

use crate::hcm::HcmWorker;
use crate::hcm::conn::{Conn, Ending, Tick};
use crate::hcm::review;
use crate::hcm::timer::Timer;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves `downstream` until it ends. Before its first byte, and while it sleeps, it has no codec and no buffer.
pub(crate) async fn serve(hcm: Rc<HcmWorker>, downstream: Downstream) {
    let Downstream { stream: mut io, info, drain, .. } = downstream;
    let conn = Conn::new(hcm, info, drain);
    review::enter(&conn);
    let guard = ConnGuard(conn.clone());
    let mut codec = None;
    loop {
        let Some(kind) = first_bytes(&conn, &mut io, codec).await else { break };
        if codec.is_none() {
            codec = Some(kind);
            count_codec(&conn, kind);
        }
        let busy = outrider_core::load::busy();
        // The codecs' futures are large; an idle connection's must not be.
        let rest = match kind {
            Codec::H1 => Box::pin(h1::serve(&conn, io)).await,
            Codec::H2 => Box::pin(h2::serve(&conn, io)).await,
        };
        drop(busy);
        match rest {
            Some(sleeping) => io = sleeping,
            None => break,
        }
    }
    drop(guard);
}

/// The codec of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    H1,
    H2,
}

struct ConnGuard(Rc<Conn>);

impl Drop for ConnGuard {
    fn drop(&mut self) {
        let conn = &self.0;
        review::leave(conn);
        let stats = &conn.hcm.shared.stats;
        match conn.h1.codec.get() {
            Some(Codec::H1) => stats.downstream_cx_http1_active().dec(),
            Some(Codec::H2) => stats.downstream_cx_http2_active().dec(),
            None => {}
        }
        conn.finish(conn.h1.cut_off.get());
    }
}

fn count_codec(conn: &Conn, codec: Codec) {
    conn.h1.codec.set(Some(codec));
    let stats = &conn.hcm.shared.stats;
    match codec {
        Codec::H1 => {
            stats.downstream_cx_http1_total().inc();
            stats.downstream_cx_http1_active().inc();
        }
        Codec::H2 => {
            conn.protocol.set(Protocol::Http2);
            stats.downstream_cx_http2_total().inc();
            stats.downstream_cx_http2_active().inc();
        }
    }
}

/// Waits for the first bytes, puts them back before the rest, and says which codec they are for. `None` when the
/// client went away or the connection's time was over first.
async fn first_bytes(conn: &Conn, io: &mut IoStream, known: Option<Codec>) -> Option<Codec> {
    let known = known.or(match conn.hcm.shared.config.codec {
        CodecType::Http1 => Some(Codec::H1),
        CodecType::Http2 => Some(Codec::H2),
        CodecType::Auto => match conn.info.tls.as_ref().and_then(|tls| tls.alpn.as_deref()) {
            Some("h2") => Some(Codec::H2),
            Some("http/1.1" | "http/1.0") => Some(Codec::H1),
            _ => None,
        },
    });
    let mut timer = Timer::new();
    let mut terminated = std::pin::pin!(conn.drain.clone().terminated());
    let mut drain = conn.drain.clone();
    let mut watched = false;
    let mut read = Vec::new();
    poll_fn(|cx| {
        conn.register(cx);
        loop {
            let before = read.len();
            match conn.hcm.read_scratch(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                Pin::new(&mut *io).poll_read(cx, &mut buf).map_ok(|()| read.extend_from_slice(buf.filled()))
            }) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(())) if read.len() == before => return Poll::Ready(None),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(codec) = known.or_else(|| detect(&read)) {
                io.set_prefix(Bytes::from(std::mem::take(&mut read)));
                return Poll::Ready(Some(codec));
            }
        }
        let changed = drain.take_change();
        let look = !std::mem::replace(&mut watched, true) || changed;
        if changed {
            // The end of the process closes what is idle now.
            conn.want(std::time::Instant::now());
        }
        if look && terminated.as_mut().poll(cx).is_ready() {
            conn.local_close.set(true);
            return Poll::Ready(None);
        }
        timer
            .poll(cx, conn, |now| match conn.tick(now) {
                Tick::End(Ending::Hibernate) => Tick::Wait(now + std::time::Duration::from_secs(3600)),
                other => other,
            })
            .map(|_ending| {
                conn.local_close.set(true);
                None
            })
    })
    .await
}

/// HTTP/2 when the bytes begin as its preface; `None` while they could still become it.
fn detect(read: &[u8]) -> Option<Codec> {
    let common = read.len().min(PREFACE.len());
    match (read.get(..common) == PREFACE.get(..common), common == PREFACE.len()) {
        (true, true) => Some(Codec::H2),
        (true, false) => None,
        (false, _) => Some(Codec::H1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_told_from_http1_as_early_as_possible() {
        assert_eq!(detect(b"G"), Some(Codec::H1));
        assert_eq!(detect(b"PRI"), None);
        assert_eq!(detect(b"PRO"), Some(Codec::H1));
        assert_eq!(detect(b"PRI * HTTP/1.1\r\n"), Some(Codec::H1));
        assert_eq!(detect(PREFACE), Some(Codec::H2));
        assert_eq!(detect(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"), Some(Codec::H2));
    }
}
