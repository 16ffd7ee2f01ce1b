//! A request on its way out: head and body, as far as the transport takes them.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::head::{self, Framing};
use crate::body::UpstreamBody;

/// Pieces of a body up to this are copied behind what goes before them; larger ones go out as they are.
const COPIED: usize = 4 * 1024;
/// No more is gathered before it is written.
const GATHERED: usize = 32 * 1024;

thread_local! {
    /// Where heads are put together: most of them go out in one write, and nothing is kept.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why a request did not get out as a whole.
#[derive(Debug)]
pub(super) enum Failed {
    /// The transport took no more.
    Transport,
    /// The body broke off.
    Body,
}

/// What is to be written, and where more of it comes from.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Bytes that the transport has not taken yet.
    waiting: Vec<u8>,
    /// A large piece of the body behind them.
    large: Bytes,
    body: UpstreamBody,
    framing: Framing,
    /// A chunk's end is to be written before anything else.
    open_chunk: bool,
    trailers: bool,
    title_case: bool,
    done: bool,
}

impl Outgoing {
    /// Nothing.
    pub(super) const fn none() -> Self {
        Self {
            waiting: Vec::new(),
            large: Bytes::new(),
            body: UpstreamBody::Empty,
            framing: Framing::None,
            open_chunk: false,
            trailers: false,
            title_case: false,
            done: true,
        }
    }

    /// Begins a request without a body whose head is `head`: nothing is kept when `io` takes it at once.
    pub(super) fn bare(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        write_head: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Failed> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            write_head(scratch);
            let written = match Pin::new(&mut *io).poll_write(cx, scratch) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Failed::Transport),
                Poll::Ready(Ok(written)) => written,
                Poll::Pending => 0,
            };
            // A TLS session may have taken more than its transport has.
            self.done = written == scratch.len() && Pin::new(io).poll_flush(cx).is_ready();
            if !self.done {
                self.waiting.extend_from_slice(scratch.get(written..).unwrap_or_default());
            }
            Ok(())
        })
    }

    /// Begins a request with a body. Trailers are written if `trailers`.
    pub(super) fn begin(
        &mut self,
        write_head: impl FnOnce(&mut Vec<u8>),
        body: UpstreamBody,
        framing: Framing,
        trailers: bool,
        title_case: bool,
    ) {
        self.waiting.clear();
        write_head(&mut self.waiting);
        (self.body, self.framing) = (body, framing);
        (self.trailers, self.title_case) = (trailers, title_case);
        self.open_chunk = false;
        self.done = false;
    }

    /// Whether all of it is out.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Writes what can be written.
    pub(super) fn poll(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        loop {
            let mut ended = false;
            while self.large.is_empty() && self.waiting.len() < GATHERED {
                match self.gather(cx) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => {
                        ended = true;
                        break;
                    }
                    Poll::Ready(Err(failed)) => return Poll::Ready(Err(failed)),
                    Poll::Pending => break,
                }
            }
            if self.waiting.is_empty() && self.large.is_empty() {
                if !ended {
                    let _ = Pin::new(io).poll_flush(cx);
                    return Poll::Pending;
                }
                ready!(Pin::new(io).poll_flush(cx)).map_err(|_| Failed::Transport)?;
                *self = Self::none();
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write(io, cx)).map_err(|_| Failed::Transport)?;
        }
    }

    fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let slices = [IoSlice::new(&self.waiting), IoSlice::new(&self.large)];
        let written = match ready!(Pin::new(io).poll_write_vectored(cx, &slices))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => written,
        };
        let before = written.min(self.waiting.len());
        self.waiting.drain(..before);
        self.large.advance((written - before).min(self.large.len()));
        Poll::Ready(Ok(()))
    }

    /// Takes the body's next piece; `false` when it has none any more.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Failed>> {
        if matches!(self.body, UpstreamBody::Empty) && self.framing == Framing::None {
            return Poll::Ready(Ok(false));
        }
        if self.framing == Framing::Length(0) {
            self.body = UpstreamBody::Empty;
            self.framing = Framing::None;
            return Poll::Ready(Ok(false));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.data(data);
                    if self.body.is_end_stream() {
                        return Poll::Ready(self.end(None));
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().ok().filter(|_| self.trailers);
                    return Poll::Ready(self.end(trailers.as_ref()));
                }
            },
            Some(Err(_)) => return Poll::Ready(Err(Failed::Body)),
            None => return Poll::Ready(self.end(None)),
        }
        Poll::Ready(Ok(true))
    }

    fn data(&mut self, mut data: Bytes) {
        match &mut self.framing {
            Framing::None => return,
            Framing::Length(left) => {
                // What goes beyond the length would be read as another request.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
            }
            Framing::Chunked if data.is_empty() => return,
            Framing::Chunked => {
                self.close_chunk();
                // Writing to a vector cannot fail.
                let _ = io::Write::write_fmt(&mut self.waiting, format_args!("{:X}\r\n", data.len()));
                self.open_chunk = true;
            }
        }
        if data.len() <= COPIED {
            self.waiting.extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    fn close_chunk(&mut self) {
        if std::mem::take(&mut self.open_chunk) {
            self.waiting.extend_from_slice(b"\r\n");
        }
    }

    fn end(&mut self, trailers: Option<&http::HeaderMap>) -> Result<bool, Failed> {
        match self.framing {
            // The peer would wait for the rest for ever.
            Framing::Length(left) if left > 0 => return Err(Failed::Body),
            Framing::Chunked => {
                self.close_chunk();
                self.waiting.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    head::write_trailers(trailers, self.title_case, &mut self.waiting);
                }
                self.waiting.extend_from_slice(b"\r\n");
            }
            Framing::Length(_) | Framing::None => {}
        }
        self.body = UpstreamBody::Empty;
        self.framing = Framing::None;
        Ok(false)
    }
}
