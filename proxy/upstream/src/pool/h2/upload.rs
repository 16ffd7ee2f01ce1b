//! A request's body on its way into an HTTP/2 stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::h2::{Reason, SendStream};
use bytes::Bytes;
use http_body::Body;

use crate::body::UpstreamBody;

/// Why a body did not get out as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// The stream is over: its response, or its error, says why.
    Stream,
    /// The body broke off; the stream was reset.
    Body,
}

/// A body and the stream that it goes into.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: UpstreamBody,
}

impl Upload {
    pub(super) const fn new(stream: SendStream<Bytes>, body: UpstreamBody) -> Self {
        Self { stream, body }
    }

    /// Sends what can be sent. Ready when all is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        loop {
            // No more of the body is taken than the peer takes.
            self.stream.reserve_capacity(1);
            if self.stream.capacity() == 0 {
                loop {
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(0)) => {}
                        Some(Ok(_)) => break,
                        Some(Err(_)) | None => return Poll::Ready(Err(Failed::Stream)),
                    }
                }
            } else if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Failed::Stream));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let ends = self.body.is_end_stream();
                        self.stream.send_data(data, ends).map_err(|_| Failed::Stream)?;
                        if ends {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Err(frame) => {
                        self.stream.reserve_capacity(0);
                        let sent = match frame.into_trailers() {
                            Ok(trailers) => self.stream.send_trailers(trailers),
                            Err(_) => self.stream.send_data(Bytes::new(), true),
                        };
                        return Poll::Ready(sent.map_err(|_| Failed::Stream));
                    }
                },
                Some(Err(error)) => {
                    tracing::debug!(%error, "request body");
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(Failed::Body));
                }
                None => {
                    let sent = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(sent.map_err(|_| Failed::Stream));
                }
            }
        }
    }

    /// Sends the rest.
    pub(super) async fn run(mut self) {
        let _ = poll_fn(|cx| self.poll(cx)).await;
    }
}
