//! `envoy.filters.http.grpc_stats`: counts gRPC calls and their messages.

mod counters;
mod frames;

use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use outrider_config::model::{GrpcMethods, GrpcStats as Settings};
use outrider_core::stats::Scope;
use outrider_core::stream::{FilterObject, GrpcMessages};

use super::{Mapped, RequestCx, ResponseCx, State, Step};
use crate::headers::names::GRPC_STATUS;
use crate::router;
use crate::stream::Stream;
use counters::{CallStats, Counters};
use frames::Frames;

/// The name under which the numbers of messages are kept, whatever the filter is called.
const OBJECT: &str = "envoy.filters.http.grpc_stats";

/// The filter.
#[derive(Debug)]
pub(crate) struct GrpcStats {
    settings: Arc<Settings>,
    counters: Counters,
    object: Arc<str>,
}

/// A call that is counted.
#[derive(Debug)]
pub(crate) struct Call {
    /// `None`: it is none of a cluster, or its path is none of a call.
    stats: Option<Arc<CallStats>>,
    messages: Rc<GrpcMessages>,
    object: Option<Arc<str>>,
    upstream_time: bool,
}

impl GrpcStats {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, counters: Counters::default(), object: OBJECT.into() }
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        if !cx.stream.grpc.get() {
            return Step::GO_ON;
        }
        let call = Rc::new(Call {
            stats: self.stats_of(&mut cx),
            messages: Rc::default(),
            object: self.settings.emit_filter_state.then(|| self.object.clone()),
            upstream_time: self.settings.upstream_stats,
        });
        cx.keep(State::GrpcStats(call.clone()));
        if !cx.is_end_stream() {
            let (stream, mut frames) = (cx.stream.clone(), Frames::default());
            cx.wrap_body(|body| {
                Mapped::new(body, move |frame| {
                    if let Some(data) = frame.data_ref() {
                        call.requests(&stream, frames.begun_in(data));
                    }
                })
            });
        }
        Step::GO_ON
    }

    fn stats_of(&self, cx: &mut RequestCx<'_>) -> Option<Arc<CallStats>> {
        let route = cx.route()?.clone();
        let cluster = router::find_cluster(cx.stream, &route, route.forward()?, cx.parts)?;
        // `/service/method`
        let call = cx.parts.uri.path().strip_prefix('/')?;
        let (service, method) = call.split_once('/')?;
        if service.is_empty() || method.is_empty() || method.contains('/') {
            return None;
        }
        Some(self.find(cluster.shared.stats().scope(), call, service, method))
    }

    fn find(&self, cluster: &Scope, call: &str, service: &str, method: &str) -> Arc<CallStats> {
        match &self.settings.methods {
            GrpcMethods::All { replace_dots: true } => {
                self.counters.of_method(cluster, &service.replace('.', "_"), method)
            }
            GrpcMethods::All { replace_dots: false } => self.counters.of_method(cluster, service, method),
            GrpcMethods::Listed(listed) if listed.contains(call) => {
                self.counters.of_listed(cluster, service, method)
            }
            GrpcMethods::Listed(_) => self.counters.of_cluster(cluster),
        }
    }
}

/// Counts what a response says.
pub(super) fn response(mut cx: ResponseCx<'_>) {
    let Some(State::GrpcStats(call)) = cx.take() else { return };
    let ended = cx.is_end_stream();
    call.status(&cx.parts.headers);
    if ended {
        call.upstream(cx.stream);
        return;
    }
    let is_grpc = is_response(cx.parts.status, &cx.parts.headers);
    let (stream, mut frames) = (cx.stream.clone(), Frames::default());
    cx.wrap_body(|body| {
        Mapped::new(body, move |frame| {
            if let Some(data) = frame.data_ref().filter(|_| is_grpc) {
                call.responses(&stream, frames.begun_in(data));
            } else if let Some(trailers) = frame.trailers_ref() {
                call.status(trailers);
                call.upstream(&stream);
            }
        })
    });
}

fn is_response(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_grpc = |value: &[u8]| {
        let rest = value.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
    };
    status == StatusCode::OK && headers.get(CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()))
}

impl Call {
    fn requests(&self, stream: &Stream, more: u64) {
        if more > 0 {
            self.messages.request.set(self.messages.request.get() + more);
            self.note(stream);
            if let Some(stats) = &self.stats {
                stats.counters.request_message_count().add(more);
            }
        }
    }

    fn responses(&self, stream: &Stream, more: u64) {
        if more > 0 {
            self.messages.response.set(self.messages.response.get() + more);
            self.note(stream);
            if let Some(stats) = &self.stats {
                stats.counters.response_message_count().add(more);
            }
        }
    }

    /// Has logs read the numbers, from the first message on.
    fn note(&self, stream: &Stream) {
        if let Some(name) = &self.object {
            let object = FilterObject::GrpcMessages(self.messages.clone());
            stream.info.borrow_mut().set_filter_state(name, object);
        }
    }

    fn status(&self, headers: &HeaderMap) {
        if let (Some(stats), Some(status)) = (&self.stats, headers.get(GRPC_STATUS)) {
            stats.ended(status.as_bytes());
        }
    }

    /// Records how long the upstream took, from the request's last byte to the response's.
    fn upstream(&self, stream: &Stream) {
        let Some(stats) = self.stats.as_ref().filter(|_| self.upstream_time) else { return };
        let timings = stream.info.borrow().timings;
        let (Some(sent), Some(received)) = (timings.last_upstream_tx, timings.last_upstream_rx) else {
            return;
        };
        let took = received.saturating_sub(sent).as_millis();
        stats.counters.upstream_rq_time().record(u64::try_from(took).unwrap_or(u64::MAX));
    }
}
