//! The body of an upstream's response, and what happens at its end.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use outrider_core::ResponseFlags;
use outrider_core::reply::details;
use outrider_core::stream::Protocol;
use outrider_upstream::stats::ResponseKind;
use outrider_upstream::{Event, Host, Incoming, IncomingError, LeaseGuard, SendErrorKind, WorkerCluster};
use tokio::time::Instant;

use super::outcome::Reset;
use super::retry::grpc_status;
use crate::body::BodyError;
use crate::routing::Selected;
use crate::stream::Stream;

/// The body of an upstream's response. Read to its end it gives the connection back to the pool; dropped before,
/// it resets the upstream stream.
pub struct UpstreamResponse {
    body: Incoming,
    /// `None` once the response is over.
    tail: Option<Tail>,
    /// When the response has shown no life for too long.
    idle_until: Option<Instant>,
    /// Why it broke off; told one poll later.
    broken: Option<BodyError>,
}

/// What is left to do when the response is over.
pub(crate) struct Tail {
    pub(crate) stream: Rc<Stream>,
    pub(crate) selected: Selected,
    pub(crate) cluster: Rc<WorkerCluster>,
    pub(crate) host: Arc<Host>,
    pub(crate) guard: LeaseGuard,
    pub(crate) kind: ResponseKind,
    pub(crate) protocol: Protocol,
    /// A gRPC response whose success its trailers tell.
    pub(crate) grpc_pending: bool,
    /// Responses are counted by code and time (`dynamic_stats`).
    pub(crate) dynamic_stats: bool,
    pub(crate) limits: BodyLimits,
}

/// Time limits that still run when the response's head is there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BodyLimits {
    /// From the end of the request.
    pub(crate) global: Option<Duration>,
    /// Between two pieces.
    pub(crate) idle: Option<Duration>,
    /// The end of the stream's longest life.
    pub(crate) until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Global,
    Idle,
    MaxDuration,
}

impl UpstreamResponse {
    pub(crate) const fn new(body: Incoming, tail: Tail) -> Self {
        Self { body, tail: Some(tail), idle_until: None, broken: None }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(tail) = self.tail.take() {
            tail.end(trailers);
        }
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(tail) = &self.tail else { return Poll::Pending };
        let Some((at, which)) = tail.next_limit(cx, &mut self.idle_until) else { return Poll::Pending };
        if !tail.stream.limit_reached(Some(at.into_std()), cx) {
            return Poll::Pending;
        }
        tail.stream.lift_limit();
        let error = tail.expired(which);
        self.tail = None;
        Poll::Ready(error)
    }
}

impl Tail {
    /// The response is complete.
    pub(crate) fn end(mut self, trailers: Option<&HeaderMap>) {
        let stream = &self.stream;
        let whole_request = stream.request_done.get();
        {
            let mut info = stream.info.borrow_mut();
            let since = stream.since_start(info.start);
            info.timings.last_upstream_rx = Some(since);
            if let (true, Some(received)) = (self.dynamic_stats, info.timings.last_downstream_rx) {
                let ms = u64::try_from(since.saturating_sub(received).as_millis()).unwrap_or(u64::MAX);
                self.cluster.shared.stats().record_time(ms, self.kind);
                for route in self.selected.stats() {
                    route.counters.upstream_rq_time().record(ms);
                }
            }
        }
        if self.grpc_pending {
            let status = trailers.and_then(grpc_status);
            self.host.count_response(Some(grpc_outcome(status)));
        }
        // An upstream that answered before it had the whole request is not used again.
        if whole_request {
            self.guard.finished();
        }
    }

    fn next_limit(&self, cx: &Context<'_>, idle_until: &mut Option<Instant>) -> Option<(Instant, Limit)> {
        let limits = &self.limits;
        let mut next = limits.until.map(|at| (at, Limit::MaxDuration));
        let mut consider = |at: Instant, which| {
            if next.is_none_or(|(earlier, _)| at < earlier) {
                next = Some((at, which));
            }
        };
        if let Some(global) = limits.global
            && let Some(done) = self.stream.request_done_at(cx)
        {
            consider(done + global, Limit::Global);
        }
        if let Some(idle) = limits.idle
            && self.stream.request_done.get()
        {
            consider(*idle_until.get_or_insert_with(|| Instant::now() + idle), Limit::Idle);
        }
        next
    }

    /// Notes why the response broke off.
    fn expired(&self, which: Limit) -> BodyError {
        let counts = self.cluster.shared.stats();
        let (flags, details) = match which {
            Limit::Global => {
                counts.upstream_rq_timeout().inc();
                for route in self.selected.stats() {
                    route.counters.upstream_rq_timeout().inc();
                }
                self.host.count_timeout();
                (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, details::UPSTREAM_RESPONSE_TIMEOUT)
            }
            Limit::Idle => {
                counts.upstream_rq_per_try_idle_timeout().inc();
                self.host.count_timeout();
                (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, details::UPSTREAM_PER_TRY_IDLE_TIMEOUT)
            }
            Limit::MaxDuration => {
                counts.upstream_rq_max_duration_reached().inc();
                let flags = ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED;
                (flags, details::UPSTREAM_MAX_STREAM_DURATION_REACHED)
            }
        };
        if self.grpc_pending {
            self.host.count_response(None);
        }
        let mut info = self.stream.info.borrow_mut();
        info.flags.insert(flags);
        info.details = details.into();
        BodyError::new(details)
    }

    /// The upstream broke the response off.
    fn broken(&self, error: &IncomingError) -> BodyError {
        let mut kind = error.kind();
        // A body of known length that ends early is a malformed message (Envoy's HTTP/1 codec says so).
        if self.protocol != Protocol::Http2 && kind == SendErrorKind::ConnectionTermination {
            kind = SendErrorKind::ProtocolError;
            self.cluster.shared.stats().upstream_cx_protocol_error().inc();
        }
        let reset = Reset::of_send(kind);
        self.cluster.shared.report(&self.host, Event::ConnectFailed);
        self.stream.info.borrow_mut().upstream.reset |= super::attempt::was_reset(error);
        if self.grpc_pending {
            self.host.count_response(None);
            self.stream.hcm.shared.stats.rq_reset_after_downstream_response_started().inc();
        }
        if matches!(kind, SendErrorKind::RemoteReset(_) | SendErrorKind::RefusedStream) {
            self.cluster.shared.stats().upstream_rq_rx_reset().inc();
        }
        let details = reset.details("upstream_reset_after_response_started", "");
        let mut info = self.stream.info.borrow_mut();
        info.flags.insert(reset.flags());
        info.details = details.clone();
        BodyError::new(details)
    }
}

/// A gRPC status as the host's success or error: the HTTP status that it maps to.
pub(crate) const fn grpc_outcome(status: Option<u64>) -> u16 {
    match status {
        // Those that map to 5xx: unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
        None | Some(2 | 4 | 12 | 13 | 14 | 15) => 500,
        Some(_) => 200,
    }
}

/// The HTTP status that a gRPC status stands for (Envoy's `grpcToHttpStatus`, which is googleapis' `code.proto`).
pub(crate) const fn grpc_http_status(status: u64) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

impl Body for UpstreamResponse {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.tail.is_none() {
            return Poll::Ready(this.broken.take().map(Err));
        }
        loop {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => return this.poll_limits(cx).map(|error| Some(Err(error))),
                Poll::Ready(None) => {
                    this.end(None);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    // The client's codec writes out what it has when a body has to wait, and throws it away when
                    // a body fails: what came before the failure goes out first.
                    this.broken = this.tail.take().map(|tail| tail.broken(&error));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        let pass = this.tail.as_ref().is_some_and(Tail::passes_trailers);
                        this.end(Some(trailers));
                        return Poll::Ready(pass.then_some(Ok(frame)));
                    }
                    this.idle_until = None;
                    if this.body.is_end_stream() {
                        this.end(None);
                    } else if frame.data_ref().is_some_and(Bytes::is_empty) {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && (self.tail.is_none() || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.tail.is_none() && self.broken.is_none() {
            SizeHint::with_exact(0)
        } else {
            self.body.size_hint()
        }
    }
}

impl Tail {
    fn passes_trailers(&self) -> bool {
        self.protocol == Protocol::Http2 || self.cluster.shared.config.http.http1.enable_trailers
    }
}

impl std::fmt::Debug for UpstreamResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamResponse").field("over", &self.tail.is_none()).finish_non_exhaustive()
    }
}
