//! How long a stream may take, and what ends it before its time.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use outrider_core::reply::details;
use outrider_core::{LocalReply, ResponseFlags};

use super::{Abort, Stream};
use crate::filter;
use crate::headers::names::GRPC_STATUS;
use crate::local_reply;

impl Stream {
    /// Takes the route's own time limits: `idle` and `longest` in place of the connection manager's where the route
    /// gives them (inner `None`: no limit).
    pub(crate) fn route_limits(&self, idle: Option<Option<Duration>>, longest: Option<Option<Duration>>) {
        if let Some(idle) = idle {
            self.idle_timeout.set(idle);
        }
        if let Some(longest) = longest {
            let start = self.info.borrow().start;
            self.longest_end.set(longest.map(|longest| start + longest));
        }
        if (idle.is_some() || longest.is_some())
            && let Some(deadline) = self.next_deadline()
        {
            self.conn.want(deadline);
        }
    }

    /// Runs `answer` until it is done or the stream's time is over; `None` when the client left meanwhile.
    pub(crate) async fn or_abort<T>(
        &self,
        answer: impl Future<Output = Result<T, LocalReply>>,
    ) -> Option<Result<T, LocalReply>> {
        let mut answer = pin!(answer);
        // Once its time is over the answer is not polled again: the reply takes its place at once.
        poll_fn(|cx| {
            // What is refused gets no other answer, and no host is to be charged with its end.
            let refused = self.abort.get() == Some(Abort::Refused);
            let answer = if refused { Poll::Pending } else { answer.as_mut().poll(cx) };
            if self.client_left.get() {
                return Poll::Ready(None);
            }
            match answer {
                // What the router makes of a malformed body is not what is wrong.
                Poll::Ready(done) if done.is_ok() || self.abort.get().is_none() => {
                    return Poll::Ready(Some(done));
                }
                _ => {}
            }
            if let Some(abort) = self.abort.take() {
                // The reply is given all the time it needs: the connection's own limits hold it.
                self.idle_timeout.set(None);
                self.request_end.set(None);
                self.longest_end.set(None);
                self.cut_short.set(true);
                return Poll::Ready(Some(Err(self.abort_reply(abort))));
            }
            self.register(cx);
            Poll::Pending
        })
        .await
    }

    fn abort_reply(&self, abort: Abort) -> LocalReply {
        let late =
            if self.request_done.get() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        let (status, details, body) = match abort {
            Abort::Idle => (late, details::STREAM_IDLE_TIMEOUT, "stream timeout"),
            Abort::Request => {
                (StatusCode::REQUEST_TIMEOUT, details::REQUEST_OVERALL_TIMEOUT, "request timeout")
            }
            Abort::Duration => (late, details::MAX_DURATION_TIMEOUT, "downstream duration timeout"),
            Abort::Malformed => return local_reply::malformed(StatusCode::BAD_REQUEST, "http1.codec_error"),
            Abort::Refused => {
                let details = self.info.borrow().details.clone();
                return LocalReply::new(StatusCode::FORBIDDEN, details).body(filter::REFUSED);
            }
        };
        let reply = LocalReply::new(status, details).body(body);
        if abort == Abort::Duration && self.grpc.get() {
            // DEADLINE_EXCEEDED: the client set the limit, or should have.
            return reply.header(GRPC_STATUS, HeaderValue::from_static("4"));
        }
        reply
    }

    /// Has the connection's timer wake the task of `cx` at `at`: no timer is armed for each request. True when that
    /// time has come.
    pub(crate) fn limit_reached(&self, at: Option<Instant>, cx: &Context<'_>) -> bool {
        if self.limit_due.take() && at.is_some_and(|at| at <= Instant::now()) {
            return true;
        }
        if self.limit.replace(at) != at
            && let Some(at) = at
        {
            self.conn.want(at);
        }
        self.register(cx);
        false
    }

    /// No limit of the router's runs.
    pub(crate) fn lift_limit(&self) {
        self.limit.set(None);
        self.limit_due.set(false);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let idle = self.idle_timeout.get().map(|timeout| self.last_active.get() + timeout);
        let request = if self.request_done.get() { None } else { self.request_end.get() };
        [idle, request, self.longest_end.get(), self.next_log.get(), self.limit.get()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ends the stream if its time is over; otherwise says when to look again.
    pub(crate) fn check_deadlines(&self, now: Instant) -> Option<Instant> {
        if self.abort.get().is_some() {
            return None;
        }
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let stats = &self.hcm.shared.stats;
        if passed(self.next_log.get()) {
            self.log("DownstreamPeriodic");
            self.next_log.set(self.hcm.shared.config.log_interval.map(|interval| now + interval));
        }
        if passed(self.limit.get()) {
            self.limit.set(None);
            self.limit_due.set(true);
            self.wake();
        }
        if passed(self.longest_end.get()) {
            stats.downstream_rq_max_duration_reached().inc();
            self.end_early(Abort::Duration, ResponseFlags::NONE, details::MAX_DURATION_TIMEOUT);
        } else if !self.request_done.get() && passed(self.request_end.get()) {
            stats.downstream_rq_timeout().inc();
            self.end_early(Abort::Request, ResponseFlags::NONE, details::REQUEST_OVERALL_TIMEOUT);
        } else if passed(self.idle_timeout.get().map(|timeout| self.last_active.get() + timeout)) {
            stats.downstream_rq_idle_timeout().inc();
            self.end_early(Abort::Idle, ResponseFlags::STREAM_IDLE_TIMEOUT, details::STREAM_IDLE_TIMEOUT);
        } else {
            return self.next_deadline();
        }
        None
    }

    /// The client went away in the middle of its request: there is nobody to answer.
    pub(crate) fn client_leaves(&self) {
        self.client_left.set(true);
        self.wake();
    }

    /// Wakes who waits for the end of the stream's time.
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The request's body cannot be read.
    pub(crate) fn malformed_body(&self) {
        if self.abort.get().is_none() {
            self.hcm.shared.stats.downstream_cx_protocol_error().inc();
            self.end_early(Abort::Malformed, ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error");
        }
    }

    pub(super) fn end_early(
        &self,
        abort: Abort,
        flags: ResponseFlags,
        details: impl Into<Cow<'static, str>>,
    ) {
        self.abort.set(Some(abort));
        {
            let mut info = self.info.borrow_mut();
            info.flags.insert(flags);
            info.details = details.into();
        }
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Whether the stream's time is over.
    pub(crate) const fn aborted(&self) -> Option<Abort> {
        self.abort.get()
    }

    /// Remembers whom the end of the stream's time wakes.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}
