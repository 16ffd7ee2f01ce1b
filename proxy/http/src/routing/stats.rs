//! What is counted for a route that has a `stat_prefix`.

use std::sync::Arc;

use outrider_config::model;
use outrider_core::matcher::HeadView;
use outrider_core::stats::{CodeCounters, Registry, Scope};

/// The virtual cluster of requests that belong to no other.
const OTHER: &str = "other";

outrider_core::stat_struct! {
    /// `vhost.<virtual host>.route.<prefix>.` and `vhost.<virtual host>.vcluster.<name>.`
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

/// The virtual clusters of a virtual host: what its requests are counted by beside their routes.
#[derive(Debug)]
pub(crate) struct VirtualClusters {
    config: Arc<model::VirtualHost>,
    /// In the same order; the last is for what matches none.
    stats: Vec<RouteStats>,
}

impl VirtualClusters {
    /// Those of `host`; `None` when it has none.
    pub(crate) fn build(registry: &Registry, host: &Arc<model::VirtualHost>) -> Option<Box<Self>> {
        let names = host.virtual_clusters.iter().map(|cluster| &*cluster.name).chain([OTHER]);
        let stats = |name| RouteStats::of(registry.scope(format!("vhost.{}.vcluster.{name}.", host.name)));
        (!host.virtual_clusters.is_empty())
            .then(|| Box::new(Self { config: host.clone(), stats: names.map(stats).collect() }))
    }

    /// The number of the one that a request belongs to.
    pub(crate) fn find(&self, request: &HeadView<'_>) -> u32 {
        let clusters = &self.config.virtual_clusters;
        let takes =
            |cluster: &model::VirtualCluster| cluster.headers.iter().all(|header| header.matches(request));
        clusters.iter().position(takes).unwrap_or(clusters.len()) as u32
    }

    /// The stats of one.
    pub(crate) fn stats(&self, number: u32) -> Option<&RouteStats> {
        self.stats.get(number as usize)
    }

    /// The name of one.
    pub(crate) fn name(&self, number: u32) -> Arc<str> {
        let cluster = self.config.virtual_clusters.get(number as usize);
        cluster.map_or_else(|| OTHER.into(), |cluster| cluster.name.clone())
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
