//! A request's body that can be sent again, and that mirrors listen to, while it streams through.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use outrider_upstream::BodyError;

/// The body, shared by the tries of one request. The newest try's reader alone reads.
#[derive(Debug)]
pub(crate) struct Replay<B>(Rc<RefCell<Inner<B>>>);

#[derive(Debug)]
struct Inner<B> {
    source: B,
    /// What was read so far, while another try is possible.
    kept: Vec<Bytes>,
    kept_bytes: u64,
    limit: u64,
    keep: bool,
    abandoned: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// The try that may read.
    current: u32,
    total: SizeHint,
    taps: Vec<Rc<Tap>>,
}

/// One try's view of the body.
#[derive(Debug)]
pub(crate) struct Reader<B> {
    shared: Rc<RefCell<Inner<B>>>,
    number: u32,
    /// How many of the kept pieces were given.
    position: usize,
    given: u64,
    trailers_given: bool,
}

/// A mirror's end of the body. It holds what the mirror has not taken yet, up to a limit; a mirror that falls
/// further behind loses the rest, and the request itself never waits for it.
#[derive(Debug)]
pub(crate) struct Tap(RefCell<TapState>);

#[derive(Debug)]
struct TapState {
    frames: VecDeque<Frame<Bytes>>,
    bytes: u64,
    limit: u64,
    ended: bool,
    broken: bool,
    waker: Option<Waker>,
}

/// The body of a mirrored request.
#[derive(Debug)]
pub(crate) struct TapReader {
    tap: Rc<Tap>,
    total: SizeHint,
}

impl<B> Replay<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// The body `source`; up to `limit` bytes of it are kept when `keep`, for tries to come.
    pub(crate) fn new(source: B, keep: bool, limit: u64) -> Self {
        let total = source.size_hint();
        let ended = source.is_end_stream();
        Self(Rc::new(RefCell::new(Inner {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            limit,
            keep,
            abandoned: false,
            trailers: None,
            ended,
            current: 0,
            total,
            taps: Vec::new(),
        })))
    }

    /// A listener. To be called before the first try.
    pub(crate) fn tap(&self) -> TapReader {
        let mut inner = self.0.borrow_mut();
        let state = TapState {
            frames: VecDeque::new(),
            bytes: 0,
            limit: inner.limit.max(1),
            ended: inner.ended,
            broken: false,
            waker: None,
        };
        let tap = Rc::new(Tap(RefCell::new(state)));
        inner.taps.push(tap.clone());
        TapReader { tap, total: inner.total }
    }

    /// The body for one more try, from its beginning. Readers of earlier tries get nothing more.
    pub(crate) fn reader(&self) -> Reader<B> {
        let mut inner = self.0.borrow_mut();
        inner.current += 1;
        Reader { shared: self.0.clone(), number: inner.current, position: 0, given: 0, trailers_given: false }
    }

    /// Whether the body outgrew the limit, so that no other try can be made. Told once.
    pub(crate) fn take_abandoned(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().abandoned)
    }

    /// No other try will be made: nothing more is kept.
    pub(crate) fn last_try(&self) {
        self.0.borrow_mut().keep = false;
    }
}

impl<B> Drop for Inner<B> {
    fn drop(&mut self) {
        // Mirrors of a request that broke off break off too.
        for tap in &self.taps {
            tap.finish(!self.ended);
        }
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.source).poll_frame(cx));
        let frame = match frame {
            None => {
                self.end();
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::new(error)))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            for tap in &self.taps {
                tap.push(Frame::data(data.clone()));
            }
            self.keep_piece(data);
        } else if let Some(trailers) = frame.trailers_ref() {
            for tap in &self.taps {
                tap.push(Frame::trailers(trailers.clone()));
            }
            if self.keep {
                self.trailers = Some(trailers.clone());
            }
            self.end();
        }
        if self.source.is_end_stream() {
            self.end();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn keep_piece(&mut self, data: &Bytes) {
        if !self.keep {
            return;
        }
        let bytes = self.kept_bytes + data.len() as u64;
        if bytes > self.limit {
            self.keep = false;
            self.abandoned = true;
            self.kept = Vec::new();
            return;
        }
        self.kept_bytes = bytes;
        self.kept.push(data.clone());
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            for tap in &self.taps {
                tap.finish(false);
            }
        }
    }
}

impl<B> Body for Reader<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut inner = this.shared.borrow_mut();
        if inner.current != this.number {
            return Poll::Ready(Some(Err(BodyError::new("the try was given up"))));
        }
        if let Some(piece) = inner.kept.get(this.position) {
            this.position += 1;
            this.given += piece.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if inner.ended {
            if let Some(trailers) = inner.trailers.clone().filter(|_| !this.trailers_given) {
                this.trailers_given = true;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(inner.poll_source(cx));
        if let Some(Ok(frame)) = &frame {
            this.given += frame.data_ref().map_or(0, Bytes::len) as u64;
            this.position = inner.kept.len();
            this.trailers_given |= frame.is_trailers();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.shared.borrow();
        let trailers_left = inner.trailers.is_some() && !self.trailers_given;
        inner.ended && self.position >= inner.kept.len() && !trailers_left
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.shared.borrow();
        inner
            .total
            .exact()
            .map_or_else(SizeHint::new, |total| SizeHint::with_exact(total.saturating_sub(self.given)))
    }
}

impl Tap {
    fn push(&self, frame: Frame<Bytes>) {
        let mut state = self.0.borrow_mut();
        if state.broken {
            return;
        }
        state.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        if state.bytes > state.limit {
            state.broken = true;
            state.frames.clear();
        } else {
            state.frames.push_back(frame);
        }
        wake(state);
    }

    fn finish(&self, broken: bool) {
        let mut state = self.0.borrow_mut();
        if !state.ended {
            state.ended = true;
            state.broken |= broken;
            wake(state);
        }
    }
}

fn wake(mut state: std::cell::RefMut<'_, TapState>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Body for TapReader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.tap.0.borrow_mut();
        if let Some(frame) = state.frames.pop_front() {
            state.bytes -= frame.data_ref().map_or(0, Bytes::len) as u64;
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.broken {
            return Poll::Ready(Some(Err(BodyError::new("the mirrored request broke off"))));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.tap.0.borrow();
        state.ended && !state.broken && state.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.total
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
