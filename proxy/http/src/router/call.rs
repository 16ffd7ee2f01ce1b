//! One request on its way upstream: what was decided before the first try, and what is counted.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::HOST;
use http::request::Parts;
use outrider_config::model::{ClusterSpecifier, Forward, HostRewrite};
use outrider_core::reply::details;
use outrider_core::rng::{self, Rng as _};
use outrider_core::stream::Protocol;
use outrider_core::{LocalReply, ResponseFlags};
use outrider_upstream::stats::ResponseKind;
use outrider_upstream::{Host, PickContext, WorkerCluster};

use super::envoy_headers::{
    self, ATTEMPT_COUNT, Asked, DROP_OVERLOAD, INTERNAL, OVERLOADED, UNCONDITIONAL_DROP_OVERLOAD,
};
use super::hash::RequestHash;
use super::heads;
use super::limits::Limits;
use super::outcome::{self, Failure, Reset};
use super::retry::Retries;
use super::timeout::Timeouts;
use crate::routing::{RouteStats, Selected};
use crate::stream::Stream;

/// A request that goes to a cluster.
pub(crate) struct Call<'a> {
    pub(crate) stream: &'a Rc<Stream>,
    pub(crate) selected: &'a Selected,
    pub(crate) route: &'a Forward,
    pub(crate) cluster: Rc<WorkerCluster>,
    /// The host of the first try.
    pub(crate) first_host: Arc<Host>,
    /// What hosts are drawn by, where that is a hash.
    pub(crate) hash: RequestHash,
    pub(crate) limits: Limits<'a>,
    pub(crate) retries: Option<Retries<'a>>,
    pub(crate) kind: ResponseKind,
    pub(crate) grpc: bool,
    /// At least one retry was begun.
    pub(crate) retried: Cell<bool>,
    timeout_alt: bool,
    alt_stats: Option<Box<RouteStats>>,
}

impl<'a> Call<'a> {
    /// Finds cluster and host, settles timeouts and retries, and changes the request's head as it goes upstream.
    pub(crate) fn prepare(
        stream: &'a Rc<Stream>,
        selected: &'a Selected,
        route: &'a Forward,
        parts: &mut Parts,
    ) -> Result<Self, LocalReply> {
        let config = &stream.hcm.shared.config.router;
        let Some(cluster) = find_cluster(stream, selected, route, parts) else {
            stream.hcm.shared.stats.no_cluster().inc();
            return Err(outcome::no_cluster(route.cluster_not_found));
        };
        note_cluster(stream, &cluster);
        stream.info.borrow_mut().virtual_cluster = selected.virtual_cluster();
        for name in &config.strict_check_headers {
            if let Err(value) = envoy_headers::strict_check(&parts.headers, name) {
                return Err(bad_header(name.as_str(), value.as_bytes()));
            }
        }
        let asked = Asked::take(&mut parts.headers, config.respect_expected_rq_timeout);
        let asked = asked.as_deref();
        let kind = ResponseKind {
            internal: Some(parts.headers.get(INTERNAL).is_some_and(|value| value == "true")),
            ..ResponseKind::default()
        };
        stream.info.borrow_mut().attempts = 1;
        let grpc = stream.grpc.get();
        let timeouts = Timeouts::of(route, grpc, &parts.headers, asked);
        let max_duration = envoy_headers::number(asked.and_then(|asked| asked.stream_duration.as_ref()))
            .map(Duration::from_millis)
            .or(cluster.shared.config.http.max_stream_duration);
        if let Some(reply) = in_maintenance(stream, &cluster).or_else(|| dropped(stream, &cluster)) {
            count_reply(stream, selected, &cluster, kind, StatusCode::SERVICE_UNAVAILABLE);
            return Err(reply);
        }
        let suppress = config.suppress_envoy_headers;
        let finish = |parts: &mut Parts| {
            heads::set_expected_timeout(&mut parts.headers, &timeouts, Duration::ZERO, suppress);
            if selected.virtual_host().is_some_and(|host| host.request_attempt_count) {
                parts.headers.insert(ATTEMPT_COUNT, heads::small_number(1));
            }
            heads::finish_request(stream, selected, route, parts);
        };
        // What is hashed is the request as it goes upstream (measured on Envoy 1.40).
        let hashed = cluster.shared.config.lb.is_hashed();
        if hashed {
            finish(parts);
        }
        let hash = RequestHash::of(stream, route, &cluster, parts);
        let Some(first_host) = pick(stream, route, &cluster, (&[], hash.value), parts) else {
            count_reply(stream, selected, &cluster, kind, StatusCode::SERVICE_UNAVAILABLE);
            return Err(outcome::no_healthy_upstream());
        };
        if !hashed {
            finish(parts);
        }
        let retries = if route.retry.is_some() || asked.is_some() {
            let head = stream.view(&parts.method, &parts.uri, &parts.headers);
            Retries::new(route.retry.as_deref(), asked, &head)
        } else {
            None
        };
        let alt_stats = asked
            .and_then(|asked| asked.alt_stat_name.as_ref()?.to_str().ok())
            .map(|name| Box::new(RouteStats::of(cluster.shared.stats().scope().child(&format!("{name}.")))));
        Ok(Self {
            limits: Limits::new(stream, timeouts, max_duration),
            stream,
            selected,
            route,
            cluster,
            first_host,
            hash,
            retries,
            kind,
            grpc,
            retried: Cell::new(false),
            timeout_alt: asked.is_some_and(|asked| asked.timeout_alt_response),
            alt_stats,
        })
    }

    /// Whether one try without a kept body will do.
    pub(crate) fn is_plain(&self) -> bool {
        self.retries.is_none() && (self.route.mirrors.is_empty() || self.stream.upgrade.borrow().is_some())
    }

    /// Whether `x-envoy-*` headers stay away.
    pub(crate) fn suppresses_headers(&self) -> bool {
        self.stream.hcm.shared.config.router.suppress_envoy_headers
    }

    /// Whether responses are counted by code and time.
    pub(crate) fn dynamic_stats(&self) -> bool {
        self.stream.hcm.shared.config.router.dynamic_stats
    }

    /// The stats of the route and of the virtual cluster, where they have any.
    pub(crate) fn route_stats(&self) -> impl Iterator<Item = &RouteStats> {
        self.selected.stats()
    }

    /// A host for the next try.
    pub(crate) fn pick_again(&self, tried: &[u64], parts: &Parts) -> Option<Arc<Host>> {
        pick(self.stream, self.route, &self.cluster, (tried, self.hash.value), parts)
    }

    /// Counts a response's status: of the cluster, of the route, under the alternative name.
    pub(crate) fn count_status(&self, status: u16, kind: ResponseKind) {
        if !self.dynamic_stats() {
            return;
        }
        self.cluster.shared.stats().count_response(status, kind);
        if kind.retried {
            return;
        }
        for route in self.route_stats() {
            route.response(status);
        }
        if let Some(alt) = &self.alt_stats {
            alt.response(status);
        }
    }

    /// The reply to a final failure, with all that is counted for it.
    pub(crate) fn fail(&self, failure: &Failure, host: Option<&Arc<Host>>) -> LocalReply {
        let mut reply = match failure {
            Failure::Reset { reset, transport, .. } => {
                let reply = reset.reply(self.retried.get(), transport);
                if *reset == Reset::Overflow && !self.suppresses_headers() {
                    reply.header(OVERLOADED, http::HeaderValue::from_static("true"))
                } else {
                    reply
                }
            }
            Failure::GlobalTimeout => self.timed_out(details::UPSTREAM_RESPONSE_TIMEOUT),
            Failure::PerTryTimeout => self.timed_out(details::UPSTREAM_PER_TRY_TIMEOUT),
            Failure::PerTryIdle => self.timed_out(details::UPSTREAM_PER_TRY_IDLE_TIMEOUT),
            Failure::MaxDuration => self.stream_too_long(),
        };
        let status = reply.status;
        if !matches!(failure, Failure::MaxDuration) {
            self.count_status(status.as_u16(), self.kind);
            if let Some(host) = host {
                host.count_response(None);
            }
        }
        reply.flags = reply.flags.union(self.stream.info.borrow().flags);
        reply
    }

    /// The status of the answer when time is over.
    pub(crate) const fn timeout_status(&self) -> u16 {
        if self.timeout_alt { 204 } else { 504 }
    }

    fn timed_out(&self, details: &'static str) -> LocalReply {
        outcome::timeout_reply(details, self.timeout_alt)
    }

    fn stream_too_long(&self) -> LocalReply {
        let status = if self.stream.request_done.get() {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::REQUEST_TIMEOUT
        };
        LocalReply::new(status, details::UPSTREAM_MAX_STREAM_DURATION_REACHED)
            .flags(ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED)
            .body("upstream max stream duration reached")
    }

    /// Counts a limit that was reached.
    pub(crate) fn count_expired(&self, failure: &Failure, host: Option<&Arc<Host>>) {
        let counts = self.cluster.shared.stats();
        match failure {
            Failure::Reset { reset: Reset::Remote | Reset::RefusedStream, .. } => {
                counts.upstream_rq_rx_reset().inc();
                return;
            }
            Failure::Reset { .. } => return,
            Failure::GlobalTimeout => {
                counts.upstream_rq_timeout().inc();
                for route in self.route_stats() {
                    route.counters.upstream_rq_timeout().inc();
                }
            }
            Failure::PerTryTimeout => counts.upstream_rq_per_try_timeout().inc(),
            Failure::PerTryIdle => counts.upstream_rq_per_try_idle_timeout().inc(),
            Failure::MaxDuration => {
                counts.upstream_rq_max_duration_reached().inc();
                return;
            }
        }
        if let Some(host) = host {
            host.count_timeout();
        }
        if self.stream.info.borrow().upstream.protocol == Some(Protocol::Http2) {
            counts.upstream_rq_tx_reset().inc();
        }
    }
}

/// How long ago the request's last byte arrived; 0 when it has not.
pub(crate) fn since_request_end(stream: &Stream) -> Duration {
    let info = stream.info.borrow();
    info.timings.last_downstream_rx.map_or(Duration::ZERO, |at| info.start.elapsed().saturating_sub(at))
}

/// The cluster of a request that took the route `selected`, which goes to one.
pub(crate) fn find_cluster(
    stream: &Stream,
    selected: &Selected,
    route: &Forward,
    parts: &Parts,
) -> Option<Rc<WorkerCluster>> {
    if let Some(slot) = selected.cluster() {
        return stream.hcm.clusters.get(slot);
    }
    let ClusterSpecifier::Header(name) = &route.cluster else { return None };
    stream.hcm.clusters.by_name(parts.headers.get(name)?.to_str().ok()?)
}

/// Notes the cluster of a route whose request is answered before the router sees it, as logs show it.
pub(crate) fn note_routed(stream: &Stream, selected: &Selected) {
    if let Some(cluster) = selected.cluster().and_then(|slot| stream.hcm.clusters.get(slot)) {
        note_cluster(stream, &cluster);
    }
}

fn note_cluster(stream: &Stream, cluster: &WorkerCluster) {
    let config = &cluster.shared.config;
    let mut info = stream.info.borrow_mut();
    info.upstream.cluster = Some(config.name.clone());
    info.upstream.cluster_alt.clone_from(&config.alt_stat_name);
    if let Some(metadata) = &mut info.metadata {
        metadata.cluster.clone_from(&config.metadata);
    }
}

fn pick(
    stream: &Stream,
    route: &Forward,
    cluster: &WorkerCluster,
    (tried, hash): (&[u64], Option<u64>),
    parts: &Parts,
) -> Option<Arc<Host>> {
    use outrider_config::model::Discovery;

    let original_dst = match &cluster.shared.config.discovery {
        Discovery::OriginalDst(settings) => {
            let named = settings.http_header.as_ref().and_then(|name| parts.headers.get(name));
            named.and_then(|value| value.to_str().ok()?.trim().parse().ok()).or_else(|| {
                // Our own address is nobody's destination: that way lies a loop.
                let conn = &stream.conn.info;
                conn.local.ip().filter(|_| conn.local_restored)
            })
        }
        _ => None,
    };
    let attempts = route.retry.as_ref().map_or(1, |retry| retry.host_selection_attempts);
    cluster
        .pick(&PickContext { original_dst, tried, attempts, priority_high: route.high_priority, hash })
        .ok()
}

/// The answer to a request that the runtime takes out (`upstream.maintenance_mode.<cluster>`).
fn in_maintenance(stream: &Stream, cluster: &WorkerCluster) -> Option<LocalReply> {
    let share = cluster.shared.breakers().maintenance();
    if share == 0 || rng::with(|rng| rng.below(100)) >= share {
        return None;
    }
    cluster.shared.stats().upstream_rq_maintenance_mode().inc();
    let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details::MAINTENANCE_MODE)
        .flags(ResponseFlags::UPSTREAM_OVERFLOW)
        .body("maintenance mode");
    let silent = stream.hcm.shared.config.router.suppress_envoy_headers;
    Some(if silent { reply } else { reply.header(OVERLOADED, http::HeaderValue::from_static("true")) })
}

/// The answer to a request that `drop_overloads` of the endpoints' policy takes out.
fn dropped(stream: &Stream, cluster: &WorkerCluster) -> Option<LocalReply> {
    let share = cluster.shared.drop_overload();
    if share <= 0.0 {
        return None;
    }
    let all = share >= 1.0;
    // Drawn for this alone: what is dropped has nothing to do with which route or host is drawn.
    let draw = || rng::with(|rng| rng.below(1_000_000));
    if !all && draw() as f64 >= share * 1_000_000.0 {
        return None;
    }
    cluster.shared.count_dropped();
    let (flag, details, body, header) = if all {
        (
            ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD,
            details::UNCONDITIONAL_DROP_OVERLOAD,
            "unconditional drop overload",
            UNCONDITIONAL_DROP_OVERLOAD,
        )
    } else {
        (ResponseFlags::DROP_OVERLOAD, details::DROP_OVERLOAD, "drop overload", DROP_OVERLOAD)
    };
    let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details).flags(flag).body(body);
    let silent = stream.hcm.shared.config.router.suppress_envoy_headers;
    Some(if silent { reply } else { reply.header(header, http::HeaderValue::from_static("true")) })
}

fn count_reply(
    stream: &Stream,
    selected: &Selected,
    cluster: &WorkerCluster,
    kind: ResponseKind,
    status: StatusCode,
) {
    if !stream.hcm.shared.config.router.dynamic_stats {
        return;
    }
    cluster.shared.stats().count_response(status.as_u16(), kind);
    for route in selected.stats() {
        route.response(status.as_u16());
    }
}

fn bad_header(name: &str, value: &[u8]) -> LocalReply {
    let body = [b"invalid header '", name.as_bytes(), b"' with value '", value, b"'"].concat();
    let details = [details::INVALID_ENVOY_REQUEST_HEADERS, "{", name, "}"].concat();
    LocalReply::new(StatusCode::BAD_REQUEST, details)
        .flags(ResponseFlags::INVALID_ENVOY_REQUEST_HEADERS)
        .body(Bytes::from(body))
}

/// The authority goes to the host's name, when the route asks for that and the host has one.
pub(crate) fn auto_rewrite_host(call: &Call<'_>, host: &Host, headers: &mut http::HeaderMap) {
    if !matches!(call.route.host_rewrite, Some(HostRewrite::Auto)) || host.hostname.is_empty() {
        return;
    }
    let Ok(new) = http::HeaderValue::from_str(&host.hostname) else { return };
    if headers.get(HOST) != Some(&new) {
        heads::replace_host(headers, new, call.route.append_x_forwarded_host, !call.suppresses_headers());
    }
}
