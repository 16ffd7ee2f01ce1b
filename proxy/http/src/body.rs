//! The bodies of requests and of responses on the downstream side.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::stream::Stream;

/// A body broke off. What a client or an upstream can learn of it is in its text.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BodyError {
    /// Why.
    pub reason: std::borrow::Cow<'static, str>,
    /// Whose fault, where it is known.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl BodyError {
    /// An error for `reason`.
    pub fn new(reason: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), source: None }
    }
}

/// A request's body as it comes from the client. Counts bytes and notes when the request is complete.
#[derive(Debug)]
pub struct DownstreamBody {
    incoming: Incoming,
    stream: Rc<Stream>,
}

impl DownstreamBody {
    /// The body of `stream`'s request.
    pub(crate) fn new(incoming: Incoming, stream: Rc<Stream>) -> Self {
        Self { incoming, stream }
    }
}

impl Body for DownstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match frame {
            Some(Ok(frame)) => {
                self.stream.request_frame(frame.data_ref().map_or(0, Bytes::len));
                if self.incoming.is_end_stream() {
                    self.stream.request_complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.stream.request_complete();
                Poll::Ready(None)
            }
            Some(Err(error)) => Poll::Ready(Some(Err(BodyError {
                reason: "the client's request broke off".into(),
                source: Some(Box::new(error)),
            }))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A response's body before it is counted.
pub enum ResponseBody {
    /// None.
    Empty,
    /// These bytes.
    Full(Bytes),
    /// From an upstream.
    Upstream(crate::router::UpstreamResponse),
    /// Anything else.
    Boxed(Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>),
    /// The response is an upgrade: after its head the connection belongs to this.
    Upgrade(Box<UpstreamUpgrade>),
}

/// The upstream side of an upgrade (101, or 2xx to a CONNECT).
pub struct UpstreamUpgrade {
    /// Resolves to the upgraded connection.
    pub io: Pin<Box<dyn Future<Output = Result<hyper::upgrade::Upgraded, hyper::Error>>>>,
    /// Held until the upgrade ends: pool lease, permits.
    pub guard: Box<dyn std::any::Any>,
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Upstream(_) => "Upstream",
            Self::Boxed(_) => "Boxed",
            Self::Upgrade(_) => "Upgrade",
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty | Self::Upgrade(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Upstream(body) => Pin::new(body).poll_frame(cx),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Upgrade(_) => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Upstream(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Upgrade(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Upstream(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}
