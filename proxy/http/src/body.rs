//! The bodies of requests and of responses on the downstream side.

use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
pub use outrider_upstream::BodyError;
use outrider_upstream::PendingTunnel;

use crate::stream::{Abort, Stream, StreamGuard};

/// A request's body as it comes from the client. Counts bytes and notes when the request is complete.
#[derive(Debug)]
pub struct DownstreamBody {
    source: Source,
    stream: Rc<Stream>,
}

/// A body as filters and responses hold one.
pub(crate) type BoxedBody = Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>;

/// Where a request's body comes from.
enum Source {
    Client(Incoming),
    /// A filter's body around the client's.
    Filter(BoxedBody),
    /// A filter's body has it.
    Gone,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client",
            Self::Filter(_) => "Filter",
            Self::Gone => "Gone",
        })
    }
}

impl DownstreamBody {
    /// The body of `stream`'s request.
    pub(crate) fn new(incoming: Incoming, stream: Rc<Stream>) -> Self {
        Self { source: Source::Client(incoming), stream }
    }

    /// Puts what `wrap` makes of it in its place.
    pub(crate) fn wrap<B>(&mut self, wrap: impl FnOnce(Self) -> B)
    where
        B: Body<Data = Bytes, Error = BodyError> + 'static,
    {
        let inner =
            Self { source: std::mem::replace(&mut self.source, Source::Gone), stream: self.stream.clone() };
        self.source = Source::Filter(Box::pin(wrap(inner)));
    }
}

impl Body for DownstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let incoming = match &mut this.source {
            Source::Client(incoming) => incoming,
            // What comes from the client was counted inside of it.
            Source::Filter(body) => return body.as_mut().poll_frame(cx),
            Source::Gone => return Poll::Ready(None),
        };
        if this.stream.aborted() == Some(Abort::Refused) {
            return Poll::Ready(Some(Err(BodyError::new("the request is refused by now"))));
        }
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        match frame {
            Some(Ok(frame))
                if frame.is_trailers()
                    && (!this.stream.passes_trailers() || this.stream.drops_trailers.get()) =>
            {
                this.stream.request_handed_on();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                this.stream.request_frame(frame.data_ref().map_or(0, Bytes::len));
                if frame.is_trailers() || incoming.is_end_stream() {
                    this.stream.request_handed_on();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                this.stream.request_handed_on();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                let cause = std::error::Error::source(&error)
                    .and_then(|cause| cause.downcast_ref::<std::io::Error>());
                match cause.map(std::io::Error::kind) {
                    Some(ErrorKind::InvalidInput | ErrorKind::InvalidData) => this.stream.malformed_body(),
                    _ => this.stream.client_leaves(),
                }
                Poll::Ready(Some(Err(BodyError::new(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Client(incoming) => incoming.is_end_stream(),
            Source::Filter(body) => body.is_end_stream(),
            Source::Gone => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Client(incoming) => incoming.size_hint(),
            Source::Filter(body) => body.size_hint(),
            Source::Gone => SizeHint::with_exact(0),
        }
    }
}

/// A response's body before it is counted.
pub enum ResponseBody {
    /// None.
    Empty,
    /// These bytes.
    Full(Bytes),
    /// From an upstream. Boxed: it passes through many hands.
    Upstream(Box<crate::router::UpstreamResponse>),
    /// Anything else.
    Boxed(BoxedBody),
    /// The response is an upgrade: after its head the connection belongs to this.
    Upgrade(Box<PendingTunnel>),
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
            Self::Upstream(body) => Pin::new(&mut **body).poll_frame(cx),
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

/// A response's body on its way to the client: counted, ended when its stream's time is over, and the owner of
/// the stream's end.
#[derive(Debug)]
pub(crate) struct TrackedBody {
    body: ResponseBody,
    guard: Option<StreamGuard>,
    /// How many bytes are still to come, when that is known.
    remaining: Option<u64>,
}

impl TrackedBody {
    /// The body of the stream that `guard` ends.
    pub(crate) fn new(body: ResponseBody, guard: StreamGuard) -> Self {
        if body.is_end_stream() {
            guard.stream().response_complete();
        }
        let remaining = body.size_hint().exact();
        Self { body, guard: Some(guard), remaining }
    }

    /// No body, and no stream to end with it.
    pub(crate) const fn empty() -> Self {
        Self { body: ResponseBody::Empty, guard: None, remaining: Some(0) }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(stream) = this.guard.as_ref().map(StreamGuard::stream) else { return Poll::Ready(None) };
        if stream.aborted().is_some() || stream.client_left.get() {
            return Poll::Ready(Some(Err(BodyError::new("the stream is over before its response"))));
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => {
                stream.register(cx);
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() && !stream.passes_trailers() => {
                if let Some(trailers) = frame.trailers_ref() {
                    stream.response_trailers(trailers);
                }
                stream.response_complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    stream.response_frame(data.len());
                    this.remaining = this.remaining.map(|rest| rest.saturating_sub(data.len() as u64));
                } else if let Some(trailers) = frame.trailers_ref() {
                    stream.response_trailers(trailers);
                    stream.response_complete();
                }
                if this.remaining == Some(0) || this.body.is_end_stream() {
                    stream.response_complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                stream.response_complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                stream.response_broken();
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
