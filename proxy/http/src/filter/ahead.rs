//! The begin of a body that was read before its time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::body::{BodyError, DownstreamBody};

/// A request's body: what was read of it already, then the rest.
#[derive(Debug)]
pub(super) struct Ahead {
    frames: VecDeque<Frame<Bytes>>,
    /// Data in the frames, bytes.
    bytes: u64,
    /// Nothing is behind them.
    ended: bool,
    rest: DownstreamBody,
}

impl Ahead {
    /// `frames` in front of `rest`, which has `ended` or not.
    pub(super) fn new(frames: VecDeque<Frame<Bytes>>, ended: bool, rest: DownstreamBody) -> Self {
        let bytes = frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        Self { frames, bytes, ended, rest }
    }
}

impl Body for Ahead {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(frame) = this.frames.pop_front() {
            this.bytes -= frame.data_ref().map_or(0, |data| data.len() as u64);
            return Poll::Ready(Some(Ok(frame)));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        Pin::new(&mut this.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && (self.ended || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // Only the least: how long the whole is, the head says where the client said it, and otherwise nobody.
        let mut hint = SizeHint::new();
        hint.set_lower(self.rest.size_hint().lower().saturating_add(self.bytes));
        hint
    }
}
