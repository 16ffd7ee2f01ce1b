//! What a cluster counts, under Envoy's names (`cluster.<name>.`).

use outrider_core::stats::{CodeCounters, Scope};

outrider_core::stat_struct! {
    /// Envoy's cluster stats. `upstream_cx_*`, `upstream_rq_total`, `upstream_rq_active` and
    /// `upstream_rq_pending_*` are counted by the pools; all other `upstream_rq_*` by the router.
    pub struct Counts {
        counters {
            // Connections: the pools'.
            upstream_cx_total, upstream_cx_http1_total, upstream_cx_http2_total, upstream_cx_connect_fail,
            upstream_cx_connect_timeout, upstream_cx_connect_attempts_exceeded, upstream_cx_overflow,
            upstream_cx_pool_overflow, upstream_cx_destroy, upstream_cx_destroy_local,
            upstream_cx_destroy_remote, upstream_cx_destroy_with_active_rq,
            upstream_cx_destroy_local_with_active_rq, upstream_cx_destroy_remote_with_active_rq,
            upstream_cx_close_notify, upstream_cx_idle_timeout, upstream_cx_max_requests,
            upstream_cx_max_duration_reached, upstream_cx_none_healthy, upstream_cx_protocol_error,
            upstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total, upstream_http3_broken,
            // Requests: the pools'.
            upstream_rq_total, upstream_rq_pending_total, upstream_rq_pending_overflow,
            upstream_rq_pending_failure_eject, upstream_rq_active_overflow, upstream_rq_0rtt,
            // Requests: the router's.
            upstream_rq_cancelled, upstream_rq_completed, upstream_rq_maintenance_mode, upstream_rq_timeout,
            upstream_rq_max_duration_reached, upstream_rq_per_try_timeout, upstream_rq_per_try_idle_timeout,
            upstream_rq_rx_reset, upstream_rq_tx_reset, upstream_rq_retry,
            upstream_rq_retry_backoff_exponential, upstream_rq_retry_backoff_ratelimited,
            upstream_rq_retry_limit_exceeded, upstream_rq_retry_success, upstream_rq_retry_overflow,
            upstream_internal_redirect_succeeded_total, upstream_internal_redirect_failed_total,
            upstream_rq_1xx, upstream_rq_2xx, upstream_rq_3xx, upstream_rq_4xx, upstream_rq_5xx,
            upstream_flow_control_paused_reading_total, upstream_flow_control_resumed_reading_total,
            upstream_flow_control_backed_up_total, upstream_flow_control_drained_total,
            retry_or_shadow_abandoned, bind_errors,
            // Membership and discovery.
            membership_change, update_attempt, init_fetch_timeout, update_success, update_failure, update_empty,
            update_no_rebuild, assignment_stale, assignment_timeout_received, original_dst_host_invalid,
            // Load balancing.
            lb_healthy_panic, lb_recalculate_zone_structures, lb_subsets_created, lb_subsets_removed,
        }
        gauges {
            upstream_cx_active, upstream_rq_active, upstream_rq_pending_active, version,
            membership_total, membership_healthy, membership_degraded, membership_excluded, max_host_weight,
            upstream_cx_rx_bytes_buffered, upstream_cx_tx_bytes_buffered,
        }
        histograms {
            upstream_cx_connect_ms, upstream_cx_length_ms, upstream_rq_time, upstream_rq_per_cx,
        }
    }
}

outrider_core::stat_struct! {
    /// Codes by class under `internal.`, `external.` and the like.
    struct ClassCounts {
        counters {
            upstream_rq_completed, upstream_rq_1xx, upstream_rq_2xx, upstream_rq_3xx, upstream_rq_4xx,
            upstream_rq_5xx,
        }
        gauges {}
        histograms { upstream_rq_time }
    }
}

/// A cluster's stats: [`Counts`] (by deref), and responses by status code.
#[derive(Debug)]
pub struct ClusterStats {
    counts: Counts,
    codes: CodeCounters,
    // What few clusters count is made when they do.
    internal: std::sync::OnceLock<Box<CodeStats>>,
    external: std::sync::OnceLock<Box<CodeStats>>,
    retry: std::sync::OnceLock<Box<CodeStats>>,
    canary: std::sync::OnceLock<Box<CodeStats>>,
}

#[derive(Debug)]
struct CodeStats {
    classes: ClassCounts,
    codes: CodeCounters,
}

/// Under which prefixes a response is counted, besides none.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseKind {
    /// The request came from inside (`x-envoy-internal`): `internal.`, otherwise `external.`; `None` for neither.
    pub internal: Option<bool>,
    /// The response is followed by a retry: `retry.`.
    pub retried: bool,
    /// The upstream said `x-envoy-upstream-canary: true`: `canary.`.
    pub canary: bool,
}

impl std::ops::Deref for ClusterStats {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.counts
    }
}

impl ClusterStats {
    /// Stats under `scope` (`cluster.<name>.`).
    pub fn new(scope: Scope) -> Self {
        Self {
            counts: Counts::new(scope),
            codes: CodeCounters::new("upstream_rq_"),
            internal: std::sync::OnceLock::new(),
            external: std::sync::OnceLock::new(),
            retry: std::sync::OnceLock::new(),
            canary: std::sync::OnceLock::new(),
        }
    }

    /// Counts a response with `status` that came from upstream, or that the router made in its place.
    /// A retried one counts only under `retry.`, as in Envoy.
    pub fn count_response(&self, status: u16, kind: ResponseKind) {
        if kind.retried {
            self.part(&self.retry, "retry.").count(status);
            return;
        }
        self.counts.upstream_rq_completed().inc();
        match status / 100 {
            1 => self.counts.upstream_rq_1xx().inc(),
            2 => self.counts.upstream_rq_2xx().inc(),
            3 => self.counts.upstream_rq_3xx().inc(),
            4 => self.counts.upstream_rq_4xx().inc(),
            5 => self.counts.upstream_rq_5xx().inc(),
            _ => {}
        }
        self.codes.inc(self.counts.scope(), status);
        if kind.canary {
            self.part(&self.canary, "canary.").count(status);
        }
        match kind.internal {
            Some(true) => self.part(&self.internal, "internal.").count(status),
            Some(false) => self.part(&self.external, "external.").count(status),
            None => {}
        }
    }

    /// Records how long a response took, in milliseconds.
    pub fn record_time(&self, ms: u64, kind: ResponseKind) {
        self.counts.upstream_rq_time().record(ms);
        if kind.canary {
            self.part(&self.canary, "canary.").classes.upstream_rq_time().record(ms);
        }
        match kind.internal {
            Some(true) => self.part(&self.internal, "internal.").classes.upstream_rq_time().record(ms),
            Some(false) => self.part(&self.external, "external.").classes.upstream_rq_time().record(ms),
            None => {}
        }
    }

    fn part<'a>(&self, cell: &'a std::sync::OnceLock<Box<CodeStats>>, prefix: &'static str) -> &'a CodeStats {
        cell.get_or_init(|| {
            let scope = self.counts.scope().child(prefix);
            Box::new(CodeStats { classes: ClassCounts::new(scope), codes: CodeCounters::new("upstream_rq_") })
        })
    }
}

impl CodeStats {
    fn count(&self, status: u16) {
        self.classes.upstream_rq_completed().inc();
        match status / 100 {
            1 => self.classes.upstream_rq_1xx().inc(),
            2 => self.classes.upstream_rq_2xx().inc(),
            3 => self.classes.upstream_rq_3xx().inc(),
            4 => self.classes.upstream_rq_4xx().inc(),
            5 => self.classes.upstream_rq_5xx().inc(),
            _ => {}
        }
        self.codes.inc(self.classes.scope(), status);
    }
}
