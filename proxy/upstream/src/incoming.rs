//! The body of an upstream's response.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::{Cause, SendErrorKind};
use crate::pool::h1::Connection;
use crate::pool::h2::{H2Tunnel, Receiver};

/// The body of an upstream's response, whatever the connection speaks.
#[derive(Debug)]
pub struct Incoming(Source);

#[derive(Debug)]
enum Source {
    Empty,
    Full(Bytes),
    Http1(Rc<Connection>),
    Http2(Receiver),
    /// A stream that goes on without HTTP.
    Tunnel(Box<H2Tunnel>),
    Hyper(hyper::body::Incoming),
}

/// Why a response's body has no end.
#[derive(Debug)]
pub struct IncomingError {
    kind: SendErrorKind,
    cause: Option<Cause>,
}

impl IncomingError {
    pub(crate) const fn new(kind: SendErrorKind) -> Self {
        Self { kind, cause: None }
    }

    pub(crate) fn of_hyper(error: hyper::Error) -> Self {
        Self { kind: SendErrorKind::of(&error), cause: Some(Box::new(error)) }
    }

    /// The transport broke.
    pub(crate) fn broken(error: std::io::Error) -> Self {
        Self { kind: SendErrorKind::ConnectionTermination, cause: Some(Box::new(error)) }
    }

    pub(crate) fn into_parts(self) -> (SendErrorKind, Option<Cause>) {
        (self.kind, self.cause)
    }

    /// Of what kind: decides about flags.
    pub const fn kind(&self) -> SendErrorKind {
        self.kind
    }
}

impl std::fmt::Display for IncomingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.reset_reason())?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for IncomingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.cause.as_ref()?)
    }
}

impl Incoming {
    /// No body.
    pub(crate) const fn empty() -> Self {
        Self(Source::Empty)
    }

    /// A body that was read with its head.
    pub(crate) const fn full(bytes: Bytes) -> Self {
        Self(Source::Full(bytes))
    }

    /// What comes on an HTTP/1 connection.
    pub(crate) const fn http1(connection: Rc<Connection>) -> Self {
        Self(Source::Http1(connection))
    }

    /// What comes on an HTTP/2 stream.
    pub(crate) const fn http2(receiver: Receiver) -> Self {
        Self(Source::Http2(receiver))
    }

    /// The stream of an accepted CONNECT.
    pub(crate) fn tunnel(tunnel: H2Tunnel) -> Self {
        Self(Source::Tunnel(Box::new(tunnel)))
    }

    /// The stream, if it is one of an accepted CONNECT.
    pub(crate) fn take_tunnel(&mut self) -> Option<Box<H2Tunnel>> {
        match std::mem::replace(&mut self.0, Source::Empty) {
            Source::Tunnel(tunnel) => Some(tunnel),
            other => {
                self.0 = other;
                None
            }
        }
    }

    pub(crate) const fn hyper(incoming: hyper::body::Incoming) -> Self {
        Self(Source::Hyper(incoming))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match &mut self.0 {
            Source::Empty | Source::Tunnel(_) => Poll::Ready(None),
            Source::Http2(receiver) => receiver.poll_frame(cx),
            Source::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Source::Http1(connection) => connection.poll_body(cx),
            Source::Hyper(incoming) => Pin::new(incoming).poll_frame(cx).map_err(IncomingError::of_hyper),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty | Source::Tunnel(_) => true,
            Source::Http2(receiver) => receiver.is_end_stream(),
            Source::Full(bytes) => bytes.is_empty(),
            Source::Http1(connection) => connection.body_is_over(),
            Source::Hyper(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty | Source::Tunnel(_) => SizeHint::with_exact(0),
            Source::Http2(receiver) => receiver.left().map_or_else(SizeHint::new, SizeHint::with_exact),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Http1(connection) => {
                connection.body_left().map_or_else(SizeHint::new, SizeHint::with_exact)
            }
            Source::Hyper(incoming) => incoming.size_hint(),
        }
    }
}
