//! Both directions of a session, its timers, and how it ends.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use outrider_net::drain::DrainWatch;
use outrider_net::io::IoStream;
use tokio::time::{Instant, Sleep};

use crate::direction::{Direction, Failed};

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides ended in order.
    Finished,
    /// The client's side failed.
    Downstream(io::Error),
    /// The upstream's side failed.
    Upstream(io::Error),
    /// No byte either way for the idle timeout.
    Idle,
    /// The session lived as long as it may.
    TooLong,
    /// The proxy (or the listener) cuts off what still runs.
    Terminated,
}

/// A session between two connected streams.
pub(crate) struct Relay {
    pub(crate) downstream: IoStream,
    pub(crate) upstream: IoStream,
    pub(crate) to_upstream: Direction,
    pub(crate) to_downstream: Direction,
    limits: Option<Box<Limits>>,
    drain: DrainWatch,
    terminated: Pin<Box<dyn Future<Output = ()>>>,
    /// Whether the timers and the drain have been polled: before that they wake nobody.
    armed: bool,
}

/// A session's timers: one sleep, set anew only when it fires.
struct Limits {
    idle: Option<Duration>,
    last: Instant,
    end: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
}

impl Relay {
    /// `limits`: the most that is held towards the upstream and towards the client, bytes; `idle`: the longest
    /// silence; `end`: when the session must be over.
    pub(crate) fn new(
        downstream: IoStream,
        upstream: IoStream,
        (upstream_limit, downstream_limit): (usize, usize),
        idle: Option<Duration>,
        end: Option<Instant>,
        drain: DrainWatch,
    ) -> Self {
        let now = Instant::now();
        let next = [idle.map(|idle| now + idle), end].into_iter().flatten().min();
        let limits = next.map(|next| {
            Box::new(Limits { idle, last: now, end, sleep: Box::pin(tokio::time::sleep_until(next)) })
        });
        Self {
            downstream,
            upstream,
            to_upstream: Direction::new(upstream_limit),
            to_downstream: Direction::new(downstream_limit),
            limits,
            terminated: Box::pin(drain.clone().terminated()),
            drain,
            armed: false,
        }
    }

    /// Moves bytes until the session ends. Calls `count` with the bytes taken from the client and from the
    /// upstream after each turn.
    pub(crate) async fn run(&mut self, mut count: impl FnMut(u64, u64)) -> End {
        poll_fn(|cx| {
            let before = (self.to_upstream.bytes, self.to_downstream.bytes);
            let end = self.poll_bytes(cx);
            let moved = (self.to_upstream.bytes - before.0, self.to_downstream.bytes - before.1);
            let progress = moved != (0, 0);
            if progress {
                count(moved.0, moved.1);
            }
            match end {
                Poll::Ready(end) => Poll::Ready(end),
                Poll::Pending => self.poll_limits(cx, progress),
            }
        })
        .await
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let up = self.to_upstream.poll(cx, &mut self.downstream, &mut self.upstream);
        match up {
            Poll::Ready(Err(Failed::Read(error))) => return Poll::Ready(End::Downstream(error)),
            Poll::Ready(Err(Failed::Write(error))) => return Poll::Ready(End::Upstream(error)),
            _ => {}
        }
        let down = self.to_downstream.poll(cx, &mut self.upstream, &mut self.downstream);
        match down {
            Poll::Ready(Err(Failed::Read(error))) => return Poll::Ready(End::Upstream(error)),
            Poll::Ready(Err(Failed::Write(error))) => return Poll::Ready(End::Downstream(error)),
            _ => {}
        }
        if self.to_upstream.is_done() && self.to_downstream.is_done() {
            return Poll::Ready(End::Finished);
        }
        Poll::Pending
    }

    /// The timers and the drain are asked only when no byte moved (then it may have been one of them that woke
    /// us), or when a look at an atomic says that they have something to say.
    fn poll_limits(&mut self, cx: &mut Context<'_>, progress: bool) -> Poll<End> {
        let must = !progress || !std::mem::replace(&mut self.armed, true);
        if let Some(limits) = &mut self.limits {
            if progress {
                limits.last = Instant::now();
            }
            if (must || limits.sleep.is_elapsed())
                && let Poll::Ready(end) = limits.poll(cx)
            {
                return Poll::Ready(end);
            }
        }
        let changed = self.drain.take_change();
        if (must || changed) && self.terminated.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Terminated);
        }
        Poll::Pending
    }
}

impl Limits {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.end.is_some_and(|end| end <= now) {
                return Poll::Ready(End::TooLong);
            }
            let idle_at = self.idle.map(|idle| self.last + idle);
            if idle_at.is_some_and(|at| at <= now) {
                return Poll::Ready(End::Idle);
            }
            // Something moved since it was set: it is set to when the silence would now be too long.
            let Some(next) = [idle_at, self.end].into_iter().flatten().min() else { break };
            self.sleep.as_mut().reset(next);
        }
        Poll::Pending
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
