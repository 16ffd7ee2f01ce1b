//! `envoy.filters.http.local_ratelimit`: no more requests than so many.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use outrider_config::model::{
    HeaderMutation, LocalRateLimit as Settings, RateAction, RateValue, RouteFilterConfig,
};
use outrider_core::matcher::RuntimeFraction;
use outrider_core::rate_limit::{Described, Found};
use outrider_core::stats::Scope;
use outrider_core::{LocalReply, ResponseFlags, rng};
use smallvec::SmallVec;

use super::header_mutation::{change_fields, has_format};
use super::named::Named;
use super::{RequestCx, ResponseCx, State, Step};
use crate::headers::names::GRPC_STATUS;
use crate::router::{RequestContext, ResponseContext};
use crate::routing::Selected;
use crate::stream::Stream;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const TOO_MANY: &str = "local_rate_limited";
/// RESOURCE_EXHAUSTED
const EXHAUSTED: HeaderValue = HeaderValue::from_static("8");

outrider_core::stat_struct! {
    /// `<stat_prefix>.http_local_rate_limit.`
    struct LimitStats {
        counters { enabled, enforced, rate_limited, ok }
        gauges { }
        histograms { }
    }
}

/// The filter.
#[derive(Debug)]
pub(crate) struct LocalRateLimit {
    settings: Arc<Settings>,
    own: LimitStats,
    /// Those of routes, by prefix.
    stats: Named<LimitStats>,
    scope: Scope,
}

/// What requests are described by.
struct Request<'a> {
    stream: &'a Stream,
    parts: &'a Parts,
    route: Option<&'a Selected>,
}

impl Request<'_> {
    /// The keys with their values; `None` where one has none.
    fn describe<'a>(&'a self, actions: &'a [RateAction]) -> Option<Described<'a>> {
        let mut described = Described::new();
        for action in actions {
            match (self.value(&action.value), &action.value) {
                (Some(value), _) => described.push((&action.key, value)),
                (
                    None,
                    RateValue::Header { skip_if_absent: true, .. }
                    | RateValue::Query { skip_if_absent: true, .. },
                ) => {}
                (None, _) => return None,
            }
        }
        Some(described)
    }

    fn value<'a>(&'a self, value: &'a RateValue) -> Option<Cow<'a, str>> {
        match value {
            RateValue::Text(text) => Some(Cow::Borrowed(text)),
            RateValue::Header { name, .. } => {
                Some(String::from_utf8_lossy(self.parts.headers.get(name)?.as_bytes()))
            }
            RateValue::Query { name, .. } => {
                let mut pairs = self.parts.uri.query()?.split('&');
                let value = pairs.find_map(|pair| match pair.split_once('=').unwrap_or((pair, "")) {
                    (known, value) if *known == **name => Some(value),
                    _ => None,
                });
                value.map(Cow::Borrowed)
            }
            RateValue::RemoteAddress => {
                let address = self.stream.info.borrow().remote().ip()?;
                Some(Cow::Owned(address.ip().to_string()))
            }
            RateValue::HeaderMatch { text, headers, expect } => {
                let head = self.stream.view(&self.parts.method, &self.parts.uri, &self.parts.headers);
                let all = headers.iter().all(|matcher| matcher.matches(&head));
                (all == *expect).then_some(Cow::Borrowed(text))
            }
            RateValue::SourceCluster => self
                .stream
                .hcm
                .shared
                .node_cluster
                .as_ref()
                .map(|name| String::from_utf8_lossy(name.as_bytes())),
            RateValue::DestinationCluster => self.route?.cluster_name(&self.parts.headers).map(Cow::Borrowed),
        }
    }
}

impl LocalRateLimit {
    /// `scope` is the connection manager's; the stats lie beside it, as in Envoy.
    pub(super) fn new(settings: Arc<Settings>, scope: &Scope) -> Self {
        let scope = scope.registry().scope(String::new());
        let own = limit_stats(&scope, &settings.stat_prefix);
        Self { settings, own, stats: Named::default(), scope }
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        let (stream, name) = (cx.stream, cx.name);
        let (parts, route) = cx.head_and_route();
        let said = route.and_then(|route| route.filter(name)).and_then(|found| found.levels.last());
        let settings = match said {
            Some(RouteFilterConfig::LocalRateLimit(settings)) => settings.clone(),
            _ => self.settings.clone(),
        };
        let draws = |share: &Option<RuntimeFraction>| {
            share.as_ref().is_some_and(|share| rng::with(|rng| share.draw(rng)))
        };
        if !draws(&settings.enabled) {
            return Step::GO_ON;
        }
        let prefix = &settings.stat_prefix;
        let made = || limit_stats(&self.scope, prefix);
        let of_route;
        let stats = if Arc::ptr_eq(&settings, &self.settings) {
            &self.own
        } else {
            of_route = self.stats.any(prefix, made);
            &*of_route
        };
        stats.enabled().inc();
        let request = Request { stream, parts, route };
        let mut described: SmallVec<[Described<'_>; 2]> = SmallVec::new();
        if settings.limits.has_descriptors() {
            described.extend(settings.rate_limits.iter().filter_map(|actions| request.describe(actions)));
        }
        let (passes, found) = settings.limits.take(&described);
        drop(described);
        if settings.headers
            && let Some(found) = found
        {
            cx.keep(State::LocalRateLimit(found));
        }
        if passes {
            stats.ok().inc();
            return Step::GO_ON;
        }
        stats.rate_limited().inc();
        if !draws(&settings.enforced) {
            for change in &settings.request_headers {
                let Parts { method, uri, headers, .. } = &mut *cx.parts;
                change_fields(headers, change, &RequestContext { stream, method, uri });
            }
            return Step::GO_ON;
        }
        stats.enforced().inc();
        Step::reply(refusal(&cx, &settings, found))
    }
}

fn limit_stats(scope: &Scope, prefix: &str) -> LimitStats {
    LimitStats::new(scope.child(&format!("{prefix}.http_local_rate_limit.")))
}

fn refusal(cx: &RequestCx<'_>, settings: &Settings, found: Option<Found>) -> LocalReply {
    let mut reply = LocalReply::new(settings.status, TOO_MANY)
        .flags(ResponseFlags::RATE_LIMITED)
        .body(Bytes::from_static(TOO_MANY.as_bytes()));
    if settings.response_headers.iter().any(has_format) {
        cx.stream.keep_head(cx.parts);
    }
    let context = ResponseContext { stream: cx.stream, status: settings.status.as_u16() };
    if !settings.response_headers.is_empty() {
        let headers = reply.headers.get_or_insert_default();
        settings
            .response_headers
            .iter()
            .for_each(|change: &HeaderMutation| change_fields(headers, change, &context));
    }
    if settings.resource_exhausted && cx.stream.grpc.get() {
        reply = reply.header(GRPC_STATUS, EXHAUSTED);
    }
    if let Some(found) = found.filter(|_| settings.retry_after && settings.status.as_u16() == 429) {
        let seconds = ((1.0 - found.tokens) / found.rate.per_second).ceil().max(1.0) as u64;
        let headers = reply.headers.get_or_insert_default();
        headers.entry(http::header::RETRY_AFTER).or_insert(HeaderValue::from(seconds));
    }
    reply
}

/// Tells the client what it has left.
pub(super) fn response(cx: ResponseCx<'_>) {
    let Some(State::LocalRateLimit(Found { rate, tokens })) = cx.take() else { return };
    // Until there is one token, not until the bucket is full (Envoy: `resetSeconds`).
    let reset = ((1.0 - tokens) / rate.per_second).ceil();
    for (name, value) in [(LIMIT, rate.most), (REMAINING, tokens), (RESET, reset)] {
        cx.parts.headers.append(name, HeaderValue::from(value.max(0.0) as u64));
    }
}
