//! What is counted for a route that has a `stat_prefix`.

use outrider_config::model;
use outrider_core::stats::{CodeCounters, Registry, Scope};

outrider_core::stat_struct! {
    /// `vhost.<virtual host>.route.<prefix>.`
    pub struct RouteCounters {
        counters {
            upstream_rq_total, upstream_rq_retry, upstream_rq_retry_limit_exceeded, upstream_rq_retry_overflow,
            upstream_rq_retry_success, upstream_rq_timeout, upstream_rq_completed,
            upstream_rq_1xx, upstream_rq_2xx, upstream_rq_3xx, upstream_rq_4xx, upstream_rq_5xx,
        }
        gauges { }
        histograms { upstream_rq_time }
    }
}

/// A route's stats.
#[derive(Debug)]
pub(crate) struct RouteStats {
    /// Those with fixed names.
    pub(crate) counters: RouteCounters,
    /// Responses by code.
    pub(crate) codes: CodeCounters,
}

impl RouteStats {
    pub(crate) fn build(registry: &Registry, host: &model::VirtualHost, prefix: &str) -> Self {
        Self::of(registry.scope(format!("vhost.{}.route.{prefix}.", host.name)))
    }

    /// Stats under `scope`.
    pub(crate) fn of(scope: Scope) -> Self {
        Self { counters: RouteCounters::new(scope), codes: CodeCounters::new("upstream_rq_") }
    }

    /// Counts a response.
    pub(crate) fn response(&self, code: u16) {
        let counters = &self.counters;
        counters.upstream_rq_completed().inc();
        match code / 100 {
            1 => counters.upstream_rq_1xx().inc(),
            2 => counters.upstream_rq_2xx().inc(),
            3 => counters.upstream_rq_3xx().inc(),
            4 => counters.upstream_rq_4xx().inc(),
            5 => counters.upstream_rq_5xx().inc(),
            _ => {}
        }
        self.codes.inc(counters.scope(), code);
    }
}
