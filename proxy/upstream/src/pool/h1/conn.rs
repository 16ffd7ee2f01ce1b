//! A connection: one request and its response at a time.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::chunked::{Decoder, Piece};
use super::head::{self, Extent, Framing};
use super::outgoing::{Failed, Outgoing};
use super::tunnel::Tunnelled;
use crate::body::Outbound;
use crate::error::SendErrorKind;
use crate::incoming::{Incoming, IncomingError};
use crate::pool::connect::Gone;
use crate::pool::http1::MAX_HEAD;
use crate::pool::io::Counted;

/// What a worker reads a head into; what is more comes with the next read.
const SCRATCH: usize = 16 * 1024;
/// Bytes that a read of a body asks for at least and at most.
const READ_LEAST: usize = 8 * 1024;
const READ_MOST: usize = 64 * 1024;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// What a connection of a cluster is told of the protocol.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Rules {
    pub(in crate::pool) title_case: bool,
    pub(in crate::pool) trailers: bool,
    /// Header fields of a response at most.
    pub(in crate::pool) most_fields: usize,
}

/// What came of a request that was to be sent.
pub(in crate::pool) enum Sent {
    /// All of it is out.
    Wholly,
    /// It goes out.
    Begun,
    /// The connection has ended: none of it was sent.
    Not(Outbound),
}

/// A connection. Shared by the pool or a lease, by the response's body, and by the task that watches it.
pub(crate) struct Connection {
    inner: RefCell<Inner>,
    rules: Rules,
    /// Wakes the task that watches it while it is idle.
    watcher: RefCell<Option<Waker>>,
    /// A request has it.
    busy: Cell<bool>,
    /// It has just been made: what comes on it now comes in answer to its first request, or as if it did.
    fresh: Cell<bool>,
}

struct Inner {
    /// `None` once it is closed.
    transport: Option<Transport>,
    out: Outgoing,
    method: Method,
    /// The beginning of a head whose end has not come.
    partial: BytesMut,
    /// Read, and not looked at yet.
    ahead: Bytes,
    body: Body,
    /// How much the next read of a body asks for.
    read_size: usize,
    keep_alive: bool,
    /// The request's header map, emptied: the response's headers go into it.
    spare: Option<HeaderMap>,
}

struct Transport {
    io: Counted,
    // Dropped with the transport: tells the pool.
    _gone: Gone,
}

/// Where the response stands.
enum Body {
    /// Its head has not come.
    Head,
    Length(u64),
    Chunked(Box<Decoder>),
    Close,
    Done,
}

impl Connection {
    pub(in crate::pool) fn start(io: Counted, gone: Gone, rules: Rules) -> Rc<Self> {
        let connection = Rc::new(Self {
            inner: RefCell::new(Inner {
                transport: Some(Transport { io, _gone: gone }),
                out: Outgoing::none(),
                method: Method::GET,
                partial: BytesMut::new(),
                ahead: Bytes::new(),
                body: Body::Done,
                read_size: READ_LEAST,
                keep_alive: true,
                spare: None,
            }),
            rules,
            watcher: RefCell::default(),
            busy: Cell::new(false),
            fresh: Cell::new(true),
        });
        tokio::task::spawn_local(Watch(Rc::downgrade(&connection)));
        connection
    }

    /// Whether it can take a request: open, and nothing of an earlier one is left.
    pub(in crate::pool) fn is_ready(&self) -> bool {
        let inner = self.inner.borrow();
        inner.transport.is_some()
            && inner.keep_alive
            && inner.out.is_done()
            && matches!(inner.body, Body::Done)
            && inner.ahead.is_empty()
    }

    /// Lets the watching task look after it: the peer may close it. `false` when it has.
    pub(in crate::pool) fn rest(&self) -> bool {
        self.busy.set(false);
        self.fresh.set(false);
        let watcher = self.watcher.borrow().clone();
        // Before its first turn the task has left no waker: it looks when it has its turn.
        let Some(watcher) = watcher else { return true };
        self.poll_idle(&mut Context::from_waker(&watcher)).is_pending()
    }

    /// Takes it for a request. `false` when the peer has closed it.
    pub(in crate::pool) fn take(&self) -> bool {
        self.busy.set(true);
        self.inner.borrow().transport.is_some()
    }

    /// Closes it. What runs on it is cut off.
    pub(in crate::pool) fn close(&self) {
        let transport = self.inner.borrow_mut().transport.take();
        if let Some(mut transport) = transport {
            // A TLS peer is told once; nobody waits until it has heard.
            let _ = Pin::new(&mut transport.io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
        let watcher = self.watcher.borrow_mut().take();
        if let Some(watcher) = watcher {
            watcher.wake();
        }
    }

    /// Looks whether the peer closes an idle connection, or sends what nobody asked for. Ready when it has ended.
    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        let Some(transport) = &mut inner.transport else { return Poll::Ready(()) };
        let mut byte = [0_u8; 1];
        let mut buf = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut transport.io).poll_read(cx, &mut buf)).ok();
        drop(inner);
        self.close();
        Poll::Ready(())
    }

    /// Begins to send `request`.
    pub(in crate::pool) fn begin(&self, request: Outbound, cx: &mut Context<'_>) -> Sent {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let Some(transport) = &mut inner.transport else { return Sent::Not(request) };
        // The peer may have closed it since it was last looked at.
        let mut byte = [0_u8; 1];
        let mut buf = ReadBuf::new(&mut byte);
        let fresh = self.fresh.replace(false);
        if let Poll::Ready(read) = Pin::new(&mut transport.io).poll_read(cx, &mut buf) {
            let early = buf.filled();
            if fresh && read.is_ok() && !early.is_empty() {
                // It speaks before it is asked: the response's head begins with this, and is judged as such.
                inner.partial.extend_from_slice(early);
            } else {
                let ended = inner.transport.take();
                // The pool hears of it when nothing is borrowed.
                inner.keep_alive = false;
                drop_later(ended);
                return Sent::Not(request);
            }
        }
        let Outbound { mut parts, body } = request;
        let framing = head::frame(&mut parts, &body);
        let title_case = self.rules.title_case;
        let outcome = if framing == Framing::None {
            inner.out.bare(&mut transport.io, cx, |out| head::write(&parts, title_case, out))
        } else {
            let write = |out: &mut Vec<u8>| head::write(&parts, title_case, out);
            inner.out.begin(write, body, framing, self.rules.trailers, title_case);
            Ok(())
        };
        if outcome.is_err() {
            // The response that never comes says so.
            inner.keep_alive = false;
        }
        inner.body = Body::Head;
        inner.read_size = READ_LEAST;
        parts.headers.clear();
        inner.spare = Some(std::mem::take(&mut parts.headers));
        inner.method = std::mem::take(&mut parts.method);
        if inner.keep_alive && inner.out.is_done() { Sent::Wholly } else { Sent::Begun }
    }

    /// Sends the rest of the request, and reads the response's head.
    pub(in crate::pool) fn poll_response(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Incoming>, IncomingError>> {
        let sending = self.poll_request(cx);
        if let Poll::Ready(Err(Failed::Body)) = sending {
            return Poll::Ready(Err(IncomingError::new(SendErrorKind::LocalReset)));
        }
        // A transport that takes no more may still bring the answer that explains it.
        let head = ready!(self.poll_head(cx))?;
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        inner.keep_alive &= head.keep_alive;
        let incoming = match head.extent {
            Extent::Length(0) | Extent::Upgrade => {
                inner.body = Body::Done;
                Incoming::empty()
            }
            Extent::Length(length) if length <= inner.ahead.len() as u64 => {
                inner.body = Body::Done;
                // The length is at most that of the buffer.
                Incoming::full(inner.ahead.split_to(usize::try_from(length).unwrap_or(0)))
            }
            Extent::Length(length) => {
                inner.body = Body::Length(length);
                Incoming::http1(self.clone())
            }
            Extent::Chunked => {
                inner.body = Body::Chunked(Box::new(Decoder::new()));
                Incoming::http1(self.clone())
            }
            Extent::Close => {
                inner.body = Body::Close;
                Incoming::http1(self.clone())
            }
        };
        if !inner.out.is_done() && !matches!(inner.body, Body::Done) {
            // Nobody polls the request for the client while its response waits for the client.
            tokio::task::spawn_local(Pump(self.clone()));
        }
        Poll::Ready(Ok(response.map(|()| incoming)))
    }

    fn poll_request(&self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.out.is_done() {
            return Poll::Ready(Ok(()));
        }
        let Some(transport) = &mut inner.transport else { return Poll::Ready(Err(Failed::Transport)) };
        inner.out.poll(&mut transport.io, cx)
    }

    fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<head::Head, IncomingError>> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        loop {
            let Some(transport) = &mut inner.transport else {
                return Poll::Ready(Err(IncomingError::new(SendErrorKind::ConnectionTermination)));
            };
            let bytes = READ.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(&mut transport.io).poll_read(cx, &mut buf))?;
                let new = buf.filled();
                if new.is_empty() {
                    return Poll::Ready(Ok(Bytes::new()));
                }
                if inner.partial.is_empty() {
                    return Poll::Ready(Ok(Bytes::copy_from_slice(new)));
                }
                inner.partial.extend_from_slice(new);
                Poll::Ready(Ok(inner.partial.split().freeze()))
            });
            let bytes = ready!(bytes).map_err(IncomingError::broken)?;
            if bytes.is_empty() {
                return Poll::Ready(Err(IncomingError::new(SendErrorKind::ConnectionTermination)));
            }
            let spare = inner.spare.take().unwrap_or_default();
            match head::read(&bytes, &inner.method, self.rules.most_fields, spare) {
                Ok(Some(head)) if head.len <= MAX_HEAD => {
                    inner.ahead = bytes.slice(head.len..);
                    return Poll::Ready(Ok(head));
                }
                Ok(None) if bytes.len() < MAX_HEAD => inner.partial = BytesMut::from(bytes),
                _ => return Poll::Ready(Err(IncomingError::new(SendErrorKind::ProtocolError))),
            }
        }
    }

    /// The next piece of the response's body.
    pub(crate) fn poll_body(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        loop {
            if let Some(piece) = inner.decode() {
                return Poll::Ready(piece.transpose());
            }
            let Some(transport) = &mut inner.transport else {
                return Poll::Ready(Some(Err(IncomingError::new(SendErrorKind::ConnectionTermination))));
            };
            let size = match inner.body {
                Body::Length(left) => usize::try_from(left).unwrap_or(READ_MOST).clamp(READ_LEAST, READ_MOST),
                _ => inner.read_size,
            };
            let mut read = BytesMut::with_capacity(size);
            let n = {
                let reading = std::pin::pin!(transport.io.read_buf(&mut read));
                ready!(reading.poll(cx))
            };
            match n {
                Ok(n) if n > 0 => {
                    if n == size {
                        inner.read_size = (size * 2).min(READ_MOST);
                    }
                    inner.ahead = read.freeze();
                }
                Ok(_) if matches!(inner.body, Body::Close) => {
                    inner.body = Body::Done;
                    return Poll::Ready(None);
                }
                Ok(_) => {
                    inner.keep_alive = false;
                    return Poll::Ready(Some(Err(IncomingError::new(SendErrorKind::ConnectionTermination))));
                }
                Err(error) => {
                    inner.keep_alive = false;
                    return Poll::Ready(Some(Err(IncomingError::broken(error))));
                }
            }
        }
    }

    /// Whether the response's body has been read to its end.
    pub(crate) fn body_is_over(&self) -> bool {
        matches!(self.inner.borrow().body, Body::Done)
    }

    /// What is left of a body of known length.
    pub(crate) fn body_left(&self) -> Option<u64> {
        match self.inner.borrow().body {
            Body::Length(left) => Some(left),
            Body::Done => Some(0),
            _ => None,
        }
    }

    /// Sends what is left of a request whose response is over; whether it could.
    pub(in crate::pool) fn poll_settled(&self, cx: &mut Context<'_>) -> Poll<bool> {
        if !matches!(self.inner.borrow().body, Body::Done) {
            return Poll::Ready(false);
        }
        self.poll_request(cx).map(|sent| sent.is_ok())
    }

    /// Takes the transport out for a tunnel.
    pub(in crate::pool) fn take_transport(&self) -> Option<Tunnelled> {
        let mut inner = self.inner.borrow_mut();
        let Transport { io, _gone } = inner.transport.take()?;
        Some(Tunnelled::new(io, _gone, std::mem::take(&mut inner.ahead)))
    }
}

impl Inner {
    /// A piece of the body out of what was read; `None` when more must be read.
    fn decode(&mut self) -> Option<Result<Option<Frame<Bytes>>, IncomingError>> {
        match &mut self.body {
            Body::Head | Body::Done => Some(Ok(None)),
            _ if self.ahead.is_empty() => None,
            Body::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(self.ahead.len());
                *left -= take as u64;
                if *left == 0 {
                    self.body = Body::Done;
                }
                Some(Ok(Some(Frame::data(self.ahead.split_to(take)))))
            }
            Body::Close => Some(Ok(Some(Frame::data(std::mem::take(&mut self.ahead))))),
            Body::Chunked(decoder) => match decoder.step(&mut self.ahead) {
                Ok(Piece::Data(data)) => Some(Ok(Some(Frame::data(data)))),
                Ok(Piece::More) => None,
                Ok(Piece::End(trailers)) => {
                    self.body = Body::Done;
                    Some(Ok(trailers.map(Frame::trailers)))
                }
                Err(_) => {
                    self.keep_alive = false;
                    Some(Err(IncomingError::new(SendErrorKind::ProtocolError)))
                }
            },
        }
    }
}

/// Drops `ended` on the worker's next turn: the pool must not hear of it while it is at work.
fn drop_later(ended: Option<Transport>) {
    tokio::task::spawn_local(async move { drop(ended) });
}

/// Watches a connection while it is idle. Ends with it.
struct Watch(Weak<Connection>);

impl Future for Watch {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(connection) = self.0.upgrade() else { return Poll::Ready(()) };
        if connection.inner.borrow().transport.is_none() {
            return Poll::Ready(());
        }
        if connection.watcher.borrow().is_none() {
            *connection.watcher.borrow_mut() = Some(cx.waker().clone());
        }
        if connection.busy.get() {
            return Poll::Pending;
        }
        connection.poll_idle(cx)
    }
}

/// Sends the rest of a request whose response has begun.
struct Pump(Rc<Connection>);

impl Future for Pump {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.0.poll_request(cx)).is_err() {
            self.0.inner.borrow_mut().keep_alive = false;
        }
        Poll::Ready(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("busy", &self.busy.get()).finish_non_exhaustive()
    }
}
