//! `envoy.filters.http.health_check`: answers health checks of the proxy itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode};
use outrider_config::model::HealthCheckFilter;
use outrider_core::{LocalReply, ResponseFlags, health};
use outrider_upstream::host::Availability;

use super::{RequestCx, ResponseCx, State, Step, Verdict};
use crate::stream::Stream;

const CHECKED_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const FAIL_AT_ONCE: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
const DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The filter.
#[derive(Debug)]
pub(crate) struct HealthCheck {
    settings: Arc<HealthCheckFilter>,
    cache: Option<Cache>,
}

/// The last answer of an upstream. Time is cut into pieces of `keep`, and an answer holds to the end of its piece, as
/// with Envoy's timer.
#[derive(Debug)]
struct Cache {
    begin: Instant,
    keep: Duration,
    /// The piece's number from 1, its answer's status, and whether it was degraded; 0 for none.
    answer: AtomicU64,
}

impl Cache {
    fn piece(&self) -> u64 {
        let pieces = self.begin.elapsed().as_nanos() / self.keep.as_nanos().max(1);
        u64::try_from(pieces).unwrap_or(u64::MAX - 1) + 1
    }

    fn put(&self, status: StatusCode, degraded: bool) {
        let answer = self.piece() << 17 | u64::from(status.as_u16()) << 1 | u64::from(degraded);
        self.answer.store(answer, Relaxed);
    }

    fn get(&self) -> Option<(StatusCode, bool)> {
        let answer = self.answer.load(Relaxed);
        if answer >> 17 != self.piece() {
            return None;
        }
        let status = u16::try_from(answer >> 1 & 0xffff).ok()?;
        Some((StatusCode::from_u16(status).ok()?, answer & 1 == 1))
    }
}

impl HealthCheck {
    pub(super) fn new(settings: Arc<HealthCheckFilter>) -> Self {
        let cache =
            settings.cache_time.map(|keep| Cache { begin: Instant::now(), keep, answer: AtomicU64::new(0) });
        Self { settings, cache }
    }

    pub(super) fn request<'a>(&'a self, cx: RequestCx<'a>) -> Step<'a> {
        let view = cx.stream.view(&cx.parts.method, &cx.parts.uri, &cx.parts.headers);
        if !self.settings.headers.iter().all(|matcher| matcher.matches(&view)) {
            return Step::GO_ON;
        }
        cx.stream.info.borrow_mut().health_check = true;
        cx.keep(State::HealthCheck);
        let cached = self.cache.as_ref().and_then(Cache::get);
        if self.settings.pass_through && !health::has_failed() && cached.is_none() {
            return Step::GO_ON;
        }
        if cx.is_end_stream() {
            return Step::reply(self.answer(cx.stream, cached));
        }
        Step::wait(cx, move |mut cx| async move {
            cx.drain_body().await;
            Verdict::Reply(self.answer(cx.stream, cached))
        })
    }

    fn answer(&self, stream: &Stream, cached: Option<(StatusCode, bool)>) -> LocalReply {
        let failed = |details| {
            LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details)
                .flags(ResponseFlags::FAILED_LOCAL_HEALTH_CHECK)
        };
        if health::has_failed() {
            return failed("health_check_failed");
        }
        if let Some((status, degraded)) = cached {
            let flags = if status.is_success() {
                ResponseFlags::NONE
            } else {
                ResponseFlags::FAILED_LOCAL_HEALTH_CHECK
            };
            let reply = LocalReply::new(status, "health_check_cached").flags(flags);
            return if degraded { reply.header(DEGRADED, HeaderValue::from_static("")) } else { reply };
        }
        for (name, share) in &self.settings.min_healthy {
            let Some(cluster) = stream.hcm.clusters.by_name(name) else {
                return failed("health_check_failed_no_cluster_found");
            };
            let (mut total, mut available) = (0_u64, 0_u64);
            for host in cluster.shared.hosts.load().iter() {
                total += 1;
                available += u64::from(cluster.shared.availability(host) != Availability::Unhealthy);
            }
            if total == 0 && *share == 0 {
                continue;
            }
            if total == 0 {
                return failed("health_check_failed_cluster_empty");
            }
            if available * 100 < total * share {
                return failed("health_check_failed_cluster_unhealthy");
            }
        }
        let details = if self.settings.min_healthy.is_empty() {
            "health_check_ok"
        } else {
            "health_check_ok_cluster_healthy"
        };
        LocalReply::new(StatusCode::OK, details)
    }

    pub(super) fn response(&self, cx: ResponseCx<'_>) {
        if let Some(State::HealthCheck) = cx.take() {
            if let Some(cache) = &self.cache {
                cache.put(cx.parts.status, cx.parts.headers.contains_key(DEGRADED));
            }
            if let Some(cluster) = cx.stream.hcm.shared.node_cluster.clone() {
                cx.parts.headers.insert(CHECKED_CLUSTER, cluster);
            }
        } else if health::has_failed() {
            cx.parts.headers.insert(FAIL_AT_ONCE, TRUE);
        }
    }
}
