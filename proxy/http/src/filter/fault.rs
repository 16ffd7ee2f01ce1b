//! `envoy.filters.http.fault`: delays requests, answers them itself, slows responses down.

mod active;
mod limiter;

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outrider_config::model::{Fault as Settings, FaultStatus, RouteFilterConfig};
use outrider_core::matcher::RuntimeFraction;
use outrider_core::rng::{self, Rng};
use outrider_core::runtime::RuntimeKey;
use outrider_core::stats::Scope;
use outrider_core::{LocalReply, ResponseFlags};

use super::{RequestCx, ResponseCx, State, Step, Verdict};
use crate::headers::names::GRPC_STATUS;
use active::{Active, Shared};
use limiter::Limited;

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");
const LIMIT: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response");
const LIMIT_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response-percentage");
const SERVICE_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
const SERVICE_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");

/// The filter.
#[derive(Debug)]
pub(crate) struct Fault {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    name: Arc<str>,
}

/// What a request with a fault keeps until its end.
#[derive(Debug)]
pub(crate) struct Faulted {
    _active: Active,
    /// KiB in a second.
    limit: Option<u64>,
}

/// A request that a fault may meet.
struct Case<'a> {
    filter: &'a Fault,
    settings: Arc<Settings>,
    /// `x-envoy-downstream-service-cluster`, where it counts.
    cluster: Option<Box<str>>,
    active: OnceCell<Active>,
    limit: Option<u64>,
}

impl Fault {
    /// The filter named `name`. `scope` is the connection manager's.
    pub(super) fn new(name: &Arc<str>, settings: Arc<Settings>, scope: &Scope) -> Self {
        Self { settings, shared: Shared::new(scope), name: name.clone() }
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        // A route's fault takes the place of the filter's.
        let of_route = cx.levels().iter().rev().find_map(|level| match level {
            RouteFilterConfig::Fault(fault) => Some(fault),
            _ => None,
        });
        let settings = of_route.unwrap_or(&self.settings).clone();
        if !goes_to(&mut cx, &settings.upstream_cluster) || !is_meant(&cx, &settings) {
            return Step::GO_ON;
        }
        let cluster =
            settings.by_downstream_cluster.then(|| text(&cx.parts.headers, &SERVICE_CLUSTER)).flatten();
        let mut case = Case {
            filter: self,
            settings,
            cluster: cluster.map(Box::from),
            active: OnceCell::new(),
            limit: None,
        };
        case.limit = case.rate_limit(&cx.parts.headers);
        match case.delay(&cx) {
            Some(time) => Step::wait(cx, move |cx| async move {
                tokio::time::sleep(time).await;
                case.decide(&cx)
            }),
            None => Step::Now(case.decide(&cx)),
        }
    }
}

/// Slows the response down, where the request drew that.
pub(super) fn response(mut cx: ResponseCx<'_>) {
    let Some(State::Fault(faulted)) = cx.take() else { return };
    if let Some(limit) = faulted.limit
        && !cx.is_end_stream()
    {
        cx.wrap_body(|body| Limited::new(body, limit));
    }
    cx.keep(State::Fault(faulted));
}

impl Case<'_> {
    /// Takes a place among the requests with a fault, if there is one and this one has none.
    fn enter(&self) -> bool {
        if self.active.get().is_none()
            && let Some(active) = self.filter.shared.enter(self.settings.max_active.get())
        {
            // It was looked at above: nothing is there.
            let _ = self.active.set(active);
        }
        self.active.get().is_some()
    }

    fn rate_limit(&self, headers: &HeaderMap) -> Option<u64> {
        let limit = self.settings.rate_limit.as_ref()?;
        let of_header = limit.fixed.is_none();
        if !draws(&limit.share, of_header.then(|| number(headers, &LIMIT_SHARE)).flatten()) {
            return None;
        }
        let rate = limit.fixed.or_else(|| number(headers, &LIMIT)).filter(|rate| *rate > 0)?;
        self.enter().then(|| {
            self.filter.shared.stats.response_rl_injected().inc();
            rate
        })
    }

    fn delay(&self, cx: &RequestCx<'_>) -> Option<Duration> {
        let delay = self.settings.delay.as_ref()?;
        let headers = &cx.parts.headers;
        let share = delay.fixed.is_none().then(|| number(headers, &DELAY_SHARE)).flatten();
        if !self.is_drawn(&delay.share, share, "delay.fixed_delay_percent") {
            return None;
        }
        let time = delay.fixed.or_else(|| number(headers, &DELAY))?;
        let time = self.time(time, delay.runtime.as_ref());
        if time == 0 || !self.enter() {
            return None;
        }
        self.filter.shared.delayed(self.cluster.as_deref());
        self.note(cx, ResponseFlags::DELAY_INJECTED);
        Some(Duration::from_millis(time))
    }

    /// Aborts the request, or lets it go on with what it keeps.
    fn decide(mut self, cx: &RequestCx<'_>) -> Verdict {
        let reply = self.abort(cx);
        if let Some(active) = self.active.take() {
            cx.keep(State::Fault(Box::new(Faulted { _active: active, limit: self.limit })));
        }
        reply.map_or(Verdict::GoOn, Verdict::Reply)
    }

    fn abort(&self, cx: &RequestCx<'_>) -> Option<LocalReply> {
        let abort = self.settings.abort.as_ref()?;
        let headers = &cx.parts.headers;
        let of_header = abort.status == FaultStatus::Header;
        let share = of_header.then(|| number(headers, &ABORT_SHARE)).flatten();
        if !self.is_drawn(&abort.share, share, "abort.abort_percent") {
            return None;
        }
        let (http, grpc) = match abort.status {
            FaultStatus::Http(status) => (Some(u64::from(status)), None),
            FaultStatus::Grpc(status) => (None, Some(u64::from(status))),
            FaultStatus::Header => (
                number(headers, &ABORT).filter(|asked| (200..600).contains(asked)),
                number(headers, &ABORT_GRPC),
            ),
        };
        let http = http.map(|status| {
            let of_runtime = self.status(status, abort.http_runtime.as_ref(), "abort.http_status");
            // The runtime may say anything: what is no status, or none that ends a request, is not sent.
            if is_status(&of_runtime) { of_runtime } else { status }
        });
        let grpc = grpc.map(|status| self.status(status, abort.grpc_runtime.as_ref(), "abort.grpc_status"));
        if (http.is_none() && grpc.is_none()) || !self.enter() {
            return None;
        }
        self.filter.shared.aborted(self.cluster.as_deref());
        self.note(cx, ResponseFlags::FAULT_INJECTED);
        let status = http.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
        let mut reply =
            LocalReply::new(status.unwrap_or(StatusCode::OK), "fault_filter_abort").body(abort.body.clone());
        if let (None, Some(grpc)) = (http, grpc)
            && cx.stream.grpc.get()
        {
            reply = reply.header(GRPC_STATUS, HeaderValue::from(grpc));
        }
        Some(reply)
    }

    fn note(&self, cx: &RequestCx<'_>, flag: ResponseFlags) {
        let mut info = cx.stream.info.borrow_mut();
        info.flags.insert(flag);
        if let Some(metadata) = &self.settings.metadata {
            info.add_metadata(&self.filter.name, metadata);
        }
    }

    /// Whether the request is in the share. Where the request says who sends it, the runtime is asked for a share of its
    /// own, and for no other.
    fn is_drawn(&self, share: &RuntimeFraction, header: Option<u64>, key: &str) -> bool {
        let Some(cluster) = self.cluster.as_deref() else { return draws(share, header) };
        let own = self.settings.runtime.get(&format!("fault.http.{cluster}.{key}"));
        draw(own.and_then(|value| value.share()).unwrap_or_else(|| capped(share, header)))
    }

    /// The status to abort with; who sends the request may have one of its own in the runtime, and has no other.
    fn status(&self, default: u64, key: Option<&RuntimeKey>, name: &str) -> u64 {
        match self.cluster {
            Some(_) => self.own_number(name).unwrap_or(default),
            None => key.and_then(RuntimeKey::integer).unwrap_or(default),
        }
    }

    /// Milliseconds to wait; who sends the request may have others of its own in the runtime.
    fn time(&self, default: u64, key: Option<&RuntimeKey>) -> u64 {
        let time = key.and_then(RuntimeKey::integer).unwrap_or(default);
        self.own_number("delay.fixed_duration_ms").unwrap_or(time)
    }

    fn own_number(&self, name: &str) -> Option<u64> {
        let cluster = self.cluster.as_deref()?;
        self.settings.runtime.get(&format!("fault.http.{cluster}.{name}"))?.integer()
    }
}

/// Whether the request goes to `cluster`; empty for any.
fn goes_to(cx: &mut RequestCx<'_>, cluster: &str) -> bool {
    if cluster.is_empty() {
        return true;
    }
    let Some(route) = cx.route().cloned() else { return false };
    route.cluster_name(&cx.parts.headers).is_some_and(|name| name == cluster)
}

/// Whether who sends the request and its headers are those that the fault is for.
fn is_meant(cx: &RequestCx<'_>, settings: &Settings) -> bool {
    let nodes = &settings.downstream_nodes;
    if !nodes.is_empty() {
        let node = text(&cx.parts.headers, &SERVICE_NODE);
        if !node.is_some_and(|node| nodes.iter().any(|known| **known == *node)) {
            return false;
        }
    }
    let view = cx.stream.view(&cx.parts.method, &cx.parts.uri, &cx.parts.headers);
    settings.headers.iter().all(|matcher| matcher.matches(&view))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|text| !text.is_empty())
}

/// Whether a response can have this status.
fn is_status(status: &u64) -> bool {
    (200..1000).contains(status)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

/// The share's own fraction, with the header's numerator where that is less.
fn capped(share: &RuntimeFraction, header: Option<u64>) -> (u32, u32) {
    let header = header.and_then(|numerator| u32::try_from(numerator).ok());
    (header.map_or(share.numerator, |header| header.min(share.numerator)), share.denominator)
}

fn draws(share: &RuntimeFraction, header: Option<u64>) -> bool {
    let runtime = share.runtime_key.as_ref().and_then(RuntimeKey::share);
    draw(runtime.unwrap_or_else(|| capped(share, header)))
}

fn draw((numerator, denominator): (u32, u32)) -> bool {
    numerator >= denominator || rng::with(|rng| rng.below(u64::from(denominator))) < u64::from(numerator)
}
