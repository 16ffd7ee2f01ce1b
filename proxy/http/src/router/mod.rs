//! The router: from a routed request to its response.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body;
use outrider_core::LocalReply;
use outrider_core::reply::details;

use crate::body::{BodyError, DownstreamBody, ResponseBody};
use crate::routing::Selected;
use crate::stream::Stream;

/// The body of an upstream's response.
#[derive(Debug)]
pub struct UpstreamResponse {}

impl Body for UpstreamResponse {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        Poll::Ready(None)
    }
}

/// Gets the response to `request`, which took the route `selected`.
///
/// # Errors
/// The reply that the proxy makes up itself.
pub(crate) async fn forward(
    _stream: &Rc<Stream>,
    _request: http::Request<DownstreamBody>,
    _selected: &Selected,
) -> Result<http::Response<ResponseBody>, LocalReply> {
    Err(LocalReply::new(http::StatusCode::SERVICE_UNAVAILABLE, details::CLUSTER_NOT_FOUND))
}
