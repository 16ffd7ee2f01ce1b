//! HTTP/1 on hyper, and what Envoy does beyond it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outrider_core::LocalReply;
use outrider_core::reply::details;
use outrider_net::io::IoStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Codec;
use super::io::CountedIo;
use crate::hcm::conn::{Conn, Ending};
use crate::hcm::serve;
use crate::hcm::timer::Timer;
use crate::local_reply;
use crate::upgrade::PendingUpgrade;

/// What a connection keeps beside hyper's state. Only `codec` and `cut_off` mean something for HTTP/2.
#[derive(Debug, Default)]
pub(crate) struct H1State {
    pub(crate) codec: Cell<Option<Codec>>,
    /// Streams were cut off by the connection's end.
    pub(crate) cut_off: Cell<bool>,
    /// hyper's HTTP/1 runs on the transport.
    pub(crate) in_codec: Cell<bool>,
    /// A response's bytes may be in hyper's buffer.
    pub(crate) response_pending: Cell<bool>,
    /// The transport took no more.
    pub(crate) write_blocked: Cell<bool>,
    /// hyper wrote a reply of its own, which was thrown away.
    pub(crate) auto_reply: Cell<bool>,
    /// When the first byte of the head that is being read came.
    pub(crate) head_started: Cell<Option<Instant>>,
    /// How much of it came.
    pub(crate) head_bytes: Cell<usize>,
    /// The head that was read last has Content-Length and Transfer-Encoding.
    pub(crate) two_lengths: Cell<bool>,
    /// The head that was read last has Content-Length twice.
    pub(crate) length_twice: Cell<bool>,
    /// The request line that was read last has a fragment.
    pub(crate) fragment: Cell<bool>,
    /// A response told the client that the connection ends.
    pub(crate) response_closes: Cell<bool>,
    /// The last request was not complete when its response was.
    pub(crate) request_cut: Cell<bool>,
    /// The connection leaves HTTP.
    pub(crate) upgrade: RefCell<Option<Box<PendingUpgrade>>>,
}

impl H1State {
    /// Whether what hyper writes now is its own answer to a malformed request: nothing else can be.
    #[inline]
    pub(crate) fn takes_auto_reply(&self) -> bool {
        self.in_codec.get() && !self.response_pending.get() && {
            self.auto_reply.set(true);
            true
        }
    }

    /// Whether nothing is lost when hyper's state is thrown away.
    pub(crate) fn can_hibernate(&self) -> bool {
        !self.response_pending.get() && !self.write_blocked.get() && self.head_bytes.get() == 0
    }
}

impl Conn {
    /// `new` bytes of a request's head arrived. Notes what hyper drops silently and Envoy refuses; a head cut
    /// into pieces may get by, and is then served as hyper understands it, which is safe.
    pub(crate) fn read_head_bytes(&self, new: &[u8]) {
        let h1 = &self.h1;
        if h1.head_bytes.get() == 0 && self.hcm.shared.config.request_headers_timeout.is_some() {
            let now = Instant::now();
            h1.head_started.set(Some(now));
            self.want(now);
        }
        h1.head_bytes.set(h1.head_bytes.get() + new.len());
        let line_end = memchr::memchr(b'\n', new).unwrap_or(new.len());
        let line = new.get(..line_end).unwrap_or_default().trim_ascii_end();
        let request_line = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
        h1.fragment.set(request_line && memchr::memchr(b'#', line).is_some());
        h1.two_lengths.set(false);
        h1.length_twice.set(false);
        let (coding, lengths) = self.hcm.framing(new);
        if coding || lengths > 1 {
            let head_end = memchr::memmem::find(new, b"\r\n\r\n").unwrap_or(new.len());
            let head = new.get(..head_end).unwrap_or_default();
            let count =
                |name: &[u8]| head.windows(name.len()).filter(|part| part.eq_ignore_ascii_case(name)).count();
            let lengths = count(b"\ncontent-length:");
            h1.two_lengths.set(lengths > 0 && coding && count(b"\ntransfer-encoding:") > 0);
            h1.length_twice.set(lengths > 1);
        }
    }
}

enum Outcome {
    Done(hyper::Result<()>),
    Ended(Ending),
}

/// Serves HTTP/1 on `io`. Gives the transport back when the connection goes to sleep; `None` when it ended.
pub(crate) async fn serve(conn: &Rc<Conn>, io: IoStream) -> Option<IoStream> {
    let h1 = &conn.h1;
    h1.in_codec.set(true);
    h1.head_bytes.set(0);
    let service = service_fn({
        let conn = conn.clone();
        move |request| serve::request(conn.clone(), request)
    });
    let counted = TokioIo::new(CountedIo::new(io, conn.clone()));
    let mut http = conn.hcm.h1.serve_connection(counted, service);
    let outcome = {
        let mut timer = Timer::new();
        let mut terminated = std::pin::pin!(conn.drain.clone().terminated());
        let mut drain = conn.drain.clone();
        let mut watched = false;
        poll_fn(|cx| {
            conn.begin_turn();
            conn.register(cx);
            if let Poll::Ready(result) = Pin::new(&mut http).poll(cx) {
                return Poll::Ready(Outcome::Done(result));
            }
            let changed = drain.take_change();
            let look = !std::mem::replace(&mut watched, true) || changed;
            if changed {
                // The end of the process closes what is idle now.
                conn.want(std::time::Instant::now());
            }
            if look && terminated.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Outcome::Ended(Ending::Terminated));
            }
            // A stream whose time is over wakes this task: it runs when hyper does.
            timer.poll(cx, conn, |now| conn.tick(now)).map(Outcome::Ended)
        })
        .await
    };
    let cut_off = conn.active() > 0;
    if matches!(outcome, Outcome::Ended(_)) {
        conn.local_close.set(true);
    }
    h1.in_codec.set(false);
    // Dropping hyper's state ends the streams; they ask whether the connection is there.
    let sleeping = matches!(outcome, Outcome::Ended(Ending::Hibernate));
    conn.gone.set(!sleeping);
    let parts = http.into_parts();
    drop(parts.service);
    let mut io = parts.io.into_inner().into_inner();
    if let Some(upgrade) = h1.upgrade.take() {
        io.set_prefix(parts.read_buf);
        Box::pin(upgrade.run_h1(conn, io)).await;
        return None;
    }
    match outcome {
        Outcome::Ended(Ending::Hibernate) => {
            conn.local_close.set(false);
            io.set_prefix(parts.read_buf);
            return Some(io);
        }
        Outcome::Ended(Ending::HeaderTimeout) => {
            conn.hcm.shared.stats.downstream_rq_header_timeout().inc();
            let reply = LocalReply::new(http::StatusCode::REQUEST_TIMEOUT, details::REQUEST_HEADER_TIMEOUT)
                .body("request header timeout");
            refuse(conn, &mut io, reply).await;
        }
        Outcome::Ended(_) => {
            h1.cut_off.set(cut_off);
            let _ = io.shutdown().await;
        }
        Outcome::Done(Err(error))
            if error.is_parse() || error.is_parse_too_large() || h1.auto_reply.get() =>
        {
            let too_large = h1.head_bytes.get() >= conn.hcm.shared.max_head_bytes();
            let both = h1.two_lengths.get() && !conn.hcm.shared.config.http1.allow_chunked_length;
            let reply = local_reply::codec_error(&error, too_large, both, &parts.read_buf);
            refuse(conn, &mut io, reply).await;
        }
        Outcome::Done(Err(_)) => {
            h1.cut_off.set(cut_off);
            if h1.head_bytes.get() > 0 && !cut_off {
                serve::head_cut_off(conn);
            }
        }
        Outcome::Done(Ok(())) => {
            let ours = conn.draining.get() || h1.request_cut.get() || h1.response_closes.get();
            conn.local_close.set(ours);
            if h1.request_cut.get() {
                delayed_close(conn, &mut io).await;
            } else {
                let _ = io.shutdown().await;
            }
        }
    }
    None
}

/// Answers a request that never became a stream, and closes.
async fn refuse(conn: &Rc<Conn>, io: &mut IoStream, reply: LocalReply) {
    conn.local_close.set(true);
    let bytes = serve::refused(conn, &reply);
    conn.hcm.shared.stats.downstream_cx_tx_bytes_total().add(bytes.len() as u64);
    if io.write_all(&bytes).await.is_ok() && io.flush().await.is_ok() {
        delayed_close(conn, io).await;
    }
}

/// Closes our side, then reads on for a while: a close with unread bytes would reset the connection, and the
/// client could lose the response.
async fn delayed_close(conn: &Conn, io: &mut IoStream) {
    let _ = io.shutdown().await;
    let Some(timeout) = conn.hcm.shared.config.delayed_close_timeout else { return };
    let drain = async {
        let mut sink = [0_u8; 1024];
        while io.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    };
    if tokio::time::timeout(timeout, drain).await.is_err() {
        conn.hcm.shared.stats.downstream_cx_delayed_close_timeout().inc();
    }
}
