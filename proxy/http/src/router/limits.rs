//! Time limits around a future. The connection's own timer watches them: none is armed for each request.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::timeout::Timeouts;
use crate::stream::Stream;

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The whole request's.
    Global,
    /// The try's.
    PerTry,
    /// The try showed no life.
    PerTryIdle,
    /// The stream's longest life.
    MaxDuration,
}

/// The limits of a request, and where the try in hand stands.
#[derive(Debug)]
pub(crate) struct Limits<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) timeouts: Timeouts,
    /// Longest life of a stream upstream.
    pub(crate) max_duration: Option<Duration>,
    /// When the try got its connection.
    ready: Cell<Option<Instant>>,
    /// The try has its connection.
    connected: Cell<bool>,
    /// An upgrade's request has no end: its clocks start at once.
    upgrade_from: Option<Instant>,
}

impl<'a> Limits<'a> {
    /// The limits of `stream`'s request.
    pub(crate) fn new(stream: &'a Stream, timeouts: Timeouts, max_duration: Option<Duration>) -> Self {
        let upgrade_from = stream.upgrade.borrow().is_some().then(Instant::now);
        Self {
            stream,
            timeouts,
            max_duration,
            ready: Cell::new(None),
            connected: Cell::new(false),
            upgrade_from,
        }
    }

    /// A new try begins.
    pub(crate) fn begin_try(&self) {
        self.ready.set(None);
        self.connected.set(false);
    }

    /// The try has its connection.
    pub(crate) fn connected(&self) {
        self.connected.set(true);
        if self.timeouts.per_try.is_some()
            || self.timeouts.per_try_idle.is_some()
            || self.max_duration.is_some()
        {
            self.ready.set(Some(Instant::now()));
        }
    }

    /// Whether the try has its connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.get()
    }

    /// When the stream's longest life ends.
    pub(crate) fn max_duration_at(&self) -> Option<Instant> {
        Some(self.ready.get()? + self.max_duration?)
    }

    const fn any(&self) -> bool {
        self.timeouts.any() || self.max_duration.is_some()
    }

    /// The next limit that time will reach. The clocks of the request and of the try start when the whole
    /// request has arrived; until then the task is woken when it has.
    fn next(&self, cx: &Context<'_>) -> Option<(Instant, Expired)> {
        let mut next = self.max_duration_at().map(|at| (at, Expired::MaxDuration));
        let Some(done) = self.upgrade_from.or_else(|| self.stream.request_done_at(cx)) else { return next };
        let mut consider = |at: Option<Instant>, which| {
            if let Some(at) = at
                && next.is_none_or(|(earlier, _)| at < earlier)
            {
                next = Some((at, which));
            }
        };
        let from = |start: Option<Instant>, limit: Option<Duration>| Some(start? + limit?);
        let try_start = self.ready.get().map(|ready| ready.max(done));
        consider(from(Some(done), self.timeouts.global), Expired::Global);
        consider(from(try_start, self.timeouts.per_try), Expired::PerTry);
        consider(from(try_start, self.timeouts.per_try_idle), Expired::PerTryIdle);
        next
    }

    /// Waits for `future` as long as the limits allow.
    pub(crate) async fn guard<F: Future>(&self, future: F) -> Result<F::Output, Expired> {
        if !self.any() {
            return Ok(future.await);
        }
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                self.stream.lift_limit();
                return Poll::Ready(Ok(output));
            }
            let next = self.next(cx);
            match next {
                Some((at, which)) if self.stream.limit_reached(Some(at.into_std()), cx) => {
                    self.stream.lift_limit();
                    Poll::Ready(Err(which))
                }
                Some(_) => Poll::Pending,
                None => {
                    self.stream.limit_reached(None, cx);
                    Poll::Pending
                }
            }
        })
        .await
    }
}
