//! One request and its response on a shared connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};

use ::h2::client::SendRequest;
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::ext::Protocol;

use super::tunnel::H2Tunnel;
use super::upload::{Failed, Upload};
use crate::body::{Outbound, UpstreamBody};
use crate::error::{SendErrorKind, of_h2};
use crate::incoming::{Incoming, IncomingError};
use crate::pool::Unanswered;

/// What requests enter a connection by.
pub(in crate::pool) struct Sender(RefCell<SendRequest<Bytes>>);

/// The body of a response.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: RecvStream,
    data_done: bool,
    /// What the head says of its length, and what of that is still to come.
    left: Option<u64>,
}

impl Sender {
    pub(in crate::pool) const fn new(send: SendRequest<Bytes>) -> Self {
        Self(RefCell::new(send))
    }

    /// Whether the connection takes no more requests: it has ended, or said GOAWAY.
    pub(in crate::pool) fn is_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.0.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Streams that the peer lets us have at a time.
    pub(in crate::pool) fn peer_limit(&self) -> usize {
        self.0.borrow().current_max_send_streams()
    }

    /// A handle for one request. The shared one may wait for a stream of its own to be opened.
    fn handle(&self) -> Result<SendRequest<Bytes>, ::h2::Error> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut handle = self.0.borrow().clone();
        match handle.poll_ready(&mut cx) {
            Poll::Ready(Err(error)) => Err(error),
            // A fresh handle waits for nothing.
            Poll::Ready(Ok(())) | Poll::Pending => Ok(handle),
        }
    }
}

/// Sends `request` and waits for the response's head.
pub(in crate::pool) async fn exchange(
    sender: &Sender,
    request: Outbound,
) -> Result<Response<Incoming>, Unanswered> {
    let Ok(mut handle) = sender.handle() else { return Err(Unanswered::Unsent(request)) };
    let Outbound { mut parts, body } = request;
    let connect = parts.method == Method::CONNECT;
    prepare(&mut parts.headers, &parts.method, &body);
    if let Some(protocol) = parts.extensions.remove::<Protocol>() {
        parts.extensions.insert(::h2::ext::Protocol::from(protocol.as_str()));
    }
    let ends = body.is_end_stream() && !connect;
    let (mut response, stream) =
        handle.send_request(Request::from_parts(*parts, ()), ends).map_err(|error| failed(&error))?;
    drop(handle);
    // A tunnel's stream stays open for what follows.
    let (mut upload, mut tunnel) =
        if connect { (None, Some(stream)) } else { ((!ends).then(|| Upload::new(stream, body)), None) };
    let response = poll_fn(|cx| {
        if let Some(sending) = &mut upload
            && let Poll::Ready(sent) = sending.poll(cx)
        {
            upload = None;
            if let Err(Failed::Body) = sent {
                return Poll::Ready(Err(Unanswered::Failed(IncomingError::new(SendErrorKind::LocalReset))));
            }
        }
        std::pin::Pin::new(&mut response).poll(cx).map_err(|error| failed(&error))
    })
    .await?;
    if let Some(upload) = upload {
        // Nobody polls the request for the client while its response waits for the client.
        tokio::task::spawn_local(upload.run());
    }
    let accepted = response.status() == StatusCode::OK;
    let length = response.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    Ok(response.map(|stream| match tunnel.take().filter(|_| accepted) {
        Some(send) => Incoming::tunnel(H2Tunnel::new(send, stream)),
        None => Incoming::http2(Receiver::new(stream, length)),
    }))
}

fn failed(error: &::h2::Error) -> Unanswered {
    Unanswered::Failed(IncomingError::new(of_h2(error)))
}

/// What a request's head may not have in HTTP/2 goes, and the body's length is said where it means something.
fn prepare(headers: &mut HeaderMap, method: &Method, body: &UpstreamBody) {
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
    // Messages of gRPC have their own lengths.
    let grpc = headers.get(CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"));
    let Some(length) = body.size_hint().exact().filter(|_| !grpc) else { return };
    let means =
        length != 0 || !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT);
    if means && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

impl Receiver {
    pub(crate) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        let left = if stream.is_end_stream() { Some(0) } else { length };
        Self { stream, data_done: false, left }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => {
                    return Poll::Ready(match error.reason() {
                        // The body ends here, and does not fail.
                        Some(Reason::NO_ERROR | Reason::CANCEL) => None,
                        _ => Some(Err(IncomingError::new(of_h2(&error)))),
                    });
                }
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        let trailers = trailers.map_err(|error| IncomingError::new(of_h2(&error)));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) const fn left(&self) -> Option<u64> {
        self.left
    }
}
