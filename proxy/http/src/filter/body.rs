//! Bodies that filters put around others.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::body::BodyError;

/// A body of which each frame passes through a function that may change it, but not its length.
#[derive(Debug)]
pub(crate) struct Mapped<B, F> {
    body: B,
    each: F,
}

impl<B, F: FnMut(&mut Frame<Bytes>)> Mapped<B, F> {
    /// `body` with `each` on all its frames.
    pub(crate) const fn new(body: B, each: F) -> Self {
        Self { body, each }
    }
}

impl<B, F> Body for Mapped<B, F>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
    F: FnMut(&mut Frame<Bytes>) + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame {
            (self.each)(frame);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
