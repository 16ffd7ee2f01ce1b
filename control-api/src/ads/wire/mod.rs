//! The two streams as gRPC carries them, without the buffers that a general server keeps beneath each of its streams.
//!
//! Such a buffer has the size of the largest message that went through it, for as long as the stream lives: a megabyte for a proxy that
//! was once told everything, and nothing after that but an endpoint now and then. Here a message is written in pieces, of which the large
//! ones are resources that all streams share, and read into memory that is given back when it is large.
//! Framing: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

mod messages;
mod pieces;
mod read;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::server::NamedService;
use tower_service::Service;

pub(super) use messages::{Delta, Protocol, Said, Whole};
pub(super) use pieces::Framed;
pub(super) use read::Incoming;

use super::service::Ads;

/// Bytes before each message: whether it is compressed, and its length.
const HEADER: usize = 5;

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`, for a gRPC server.
#[derive(Clone, Debug)]
pub struct AdsServer(Ads);

impl AdsServer {
    /// Serves this.
    pub fn new(ads: Ads) -> Self {
        Self(ads)
    }
}

impl NamedService for AdsServer {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<Request<tonic::body::Body>> for AdsServer {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let answers = match method {
            "DeltaAggregatedResources" => self.0.open::<Delta>(request),
            "StreamAggregatedResources" => self.0.open::<Whole>(request),
            _ => Err(Status::unimplemented(format!("{} has no method {method}", Self::NAME))),
        };
        ready(Ok(match answers {
            Ok(answers) => {
                let mut response = Response::new(tonic::body::Body::new(Outgoing {
                    answers: Some(answers),
                    pieces: Framed::new(),
                }));
                let grpc = HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(header::CONTENT_TYPE, grpc);
                response
            }
            Err(status) => status.into_http(),
        }))
    }
}

/// Messages, piece by piece, and how the stream ends.
#[derive(Debug)]
struct Outgoing {
    /// `None` after the end.
    answers: Option<mpsc::Receiver<Result<Framed, Status>>>,
    /// What is left of the message that is being written.
    pieces: Framed,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let status = loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(answers) = &mut self.answers else { return Poll::Ready(None) };
            match ready!(answers.poll_recv(cx)) {
                Some(Ok(framed)) => self.pieces = framed,
                Some(Err(status)) => break status,
                None => break Status::ok(""),
            }
        };
        self.answers = None;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            // Its words do not fit into a header; that it ended badly does.
            trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.answers.is_none()
    }
}
