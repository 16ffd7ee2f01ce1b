//! One direction of a session: bytes from one stream to the other, with nothing held while none flow.
//!
//! Small messages go through a buffer that all sessions of the worker share: one read and one write each.
//! Once reads come in large, plain TCP goes on by splice(2), which moves pages without copying them, and
//! falls back to the buffer when the flow gets thin. Nothing is read while something waits to be written:
//! that is the back-pressure.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use outrider_net::io::IoStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pipe::Pipe;

const SCRATCH: usize = 64 * 1024;
/// A read of this much begins a bulk flow.
const BULK: usize = 32 * 1024;
/// A splice of less than this ends it.
const THIN: usize = 8 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// One direction of a session.
#[derive(Debug)]
pub(crate) struct Direction {
    /// The most that is read while something waits to be written, bytes.
    limit: usize,
    /// What was read and could not be written at once.
    rest: Option<Box<Rest>>,
    pipe: Option<Box<Pipe>>,
    bulk: bool,
    /// Splice was refused on these sockets.
    no_splice: bool,
    needs_flush: bool,
    state: State,
    /// Bytes taken from the reading side.
    pub(crate) bytes: u64,
    /// How often writing had to wait.
    pub(crate) paused: u32,
}

#[derive(Debug)]
struct Rest {
    bytes: Box<[u8]>,
    at: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reader has ended; its end is still to be passed on.
    Ended,
    /// It was passed on.
    Done,
}

/// Which of a direction's sides failed.
#[derive(Debug)]
pub(crate) enum Failed {
    Read(io::Error),
    Write(io::Error),
}

impl Direction {
    /// A direction that holds at most `limit` bytes (the writing side's `per_connection_buffer_limit_bytes`; 0 is
    /// no limit of its own).
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            limit: if limit == 0 { usize::MAX } else { limit },
            rest: None,
            pipe: None,
            bulk: false,
            no_splice: false,
            needs_flush: false,
            state: State::Open,
            bytes: 0,
            paused: 0,
        }
    }

    /// Whether the end has been passed on.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Moves what can be moved. `Ready` when the end has been passed on.
    ///
    /// # Errors
    /// One of the sides failed.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut IoStream,
        to: &mut IoStream,
    ) -> Poll<Result<(), Failed>> {
        loop {
            if self.rest.is_some() || self.needs_flush {
                ready!(self.poll_rest(cx, to)).map_err(Failed::Write)?;
            }
            if self.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty()) {
                ready!(self.poll_drain(cx, to)).map_err(Failed::Write)?;
                continue;
            }
            match self.state {
                State::Open => {}
                State::Ended => {
                    // A peer that is gone needs no telling: all it was to get has been written.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Done;
                    return Poll::Ready(Ok(()));
                }
                State::Done => return Poll::Ready(Ok(())),
            }
            if self.bulk && from.as_tcp().is_some() && to.as_tcp().is_some() && !from.has_prefix() {
                ready!(self.poll_fill(cx, from))?;
            } else {
                ready!(self.poll_copy(cx, from, to))?;
            }
        }
    }

    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut IoStream,
        to: &mut IoStream,
    ) -> Poll<Result<(), Failed>> {
        BUFFER.with_borrow_mut(|buffer| {
            let most = buffer.len().min(self.limit);
            let mut buf = ReadBuf::new(buffer.get_mut(..most).unwrap_or_default());
            match ready!(AsyncRead::poll_read(Pin::new(from), cx, &mut buf)) {
                // A TLS peer that went without close_notify, as many do: what it sent still counts.
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Err(Failed::Read(error)));
                }
                _ => {}
            }
            let bytes = buf.filled();
            if bytes.is_empty() {
                self.state = State::Ended;
                return Poll::Ready(Ok(()));
            }
            self.bytes += bytes.len() as u64;
            self.bulk = bytes.len() >= BULK && !self.no_splice;
            self.needs_flush = to.is_tls();
            let written = match AsyncWrite::poll_write(Pin::new(to), cx, bytes) {
                Poll::Ready(written) => written.map_err(Failed::Write)?,
                Poll::Pending => 0,
            };
            let left = bytes.get(written..).unwrap_or_default();
            if !left.is_empty() {
                self.paused += 1;
                self.rest = Some(Box::new(Rest { bytes: left.into(), at: 0 }));
            }
            Poll::Ready(Ok(()))
        })
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>, to: &mut IoStream) -> Poll<io::Result<()>> {
        while let Some(rest) = &mut self.rest {
            let left = rest.bytes.get(rest.at..).unwrap_or_default();
            if left.is_empty() {
                self.rest = None;
                break;
            }
            let written = ready!(AsyncWrite::poll_write(Pin::new(&mut *to), cx, left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.at += written;
        }
        if self.needs_flush {
            ready!(AsyncWrite::poll_flush(Pin::new(to), cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Fills the empty pipe from `from`. When there is nothing to fill it with, the pipe goes back.
    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &IoStream) -> Poll<Result<(), Failed>> {
        let Some(socket) = from.as_tcp() else { return Poll::Ready(Ok(())) };
        loop {
            match socket.poll_read_ready(cx) {
                Poll::Ready(ready) => ready.map_err(Failed::Read)?,
                Poll::Pending => {
                    if let Some(pipe) = self.pipe.take() {
                        pipe.give_back();
                    }
                    return Poll::Pending;
                }
            }
            let pipe = match &mut self.pipe {
                Some(pipe) => pipe,
                None => match Pipe::take() {
                    Ok(pipe) => self.pipe.insert(Box::new(pipe)),
                    // No file left for a pipe: copying needs none.
                    Err(_) => {
                        self.bulk = false;
                        return Poll::Ready(Ok(()));
                    }
                },
            };
            match pipe.fill(socket, self.limit) {
                Ok(0) => {
                    self.state = State::Ended;
                    self.release_pipe();
                    return Poll::Ready(Ok(()));
                }
                Ok(n) => {
                    self.bytes += n as u64;
                    self.bulk = n >= THIN;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    (self.bulk, self.no_splice) = (false, true);
                    self.release_pipe();
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(Failed::Read(error))),
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &IoStream) -> Poll<io::Result<()>> {
        let (Some(pipe), Some(socket)) = (&mut self.pipe, to.as_tcp()) else { return Poll::Ready(Ok(())) };
        let mut waited = false;
        while !pipe.is_empty() {
            if socket.poll_write_ready(cx)?.is_pending() {
                self.paused += u32::from(waited);
                return Poll::Pending;
            }
            match pipe.drain(socket) {
                Ok(_) => waited = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => waited = true,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.bulk {
            self.release_pipe();
        }
        Poll::Ready(Ok(()))
    }

    fn release_pipe(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}
