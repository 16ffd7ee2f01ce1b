//! The body of a request that goes upstream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Why a request's body ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("request body: {0}")]
pub struct BodyError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl BodyError {
    /// An error with `cause`.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        Self(Box::new(error))
    }
}

/// A boxed body that stays on its worker.
pub type BoxedBody = Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>;

/// A request on its way upstream. Its head is boxed: it passes through many hands.
#[derive(Debug)]
pub struct Outbound {
    /// Its head.
    pub parts: Box<http::request::Parts>,
    /// Its body.
    pub body: UpstreamBody,
}

impl From<http::Request<UpstreamBody>> for Outbound {
    fn from(request: http::Request<UpstreamBody>) -> Self {
        let (parts, body) = request.into_parts();
        Self { parts: Box::new(parts), body }
    }
}

impl From<Outbound> for http::Request<UpstreamBody> {
    fn from(Outbound { parts, body }: Outbound) -> Self {
        Self::from_parts(*parts, body)
    }
}

/// The body of a request that goes upstream. Its size hint is exact where the length is known:
/// HTTP/1 framing (`content-length` or chunked) follows from it.
#[derive(Default)]
pub enum UpstreamBody {
    /// None.
    #[default]
    Empty,
    /// Bytes at hand; taken by the first poll.
    Full(Bytes),
    /// What comes from the downstream connection, as it comes.
    Incoming(hyper::body::Incoming),
    /// Anything else: filtered, buffered, counted bodies.
    Boxed(BoxedBody),
}

impl std::fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Incoming(_) => "Incoming",
            Self::Boxed(_) => "Boxed",
        })
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Incoming(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
            }
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Incoming(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}
