//! `envoy.filters.http.health_check`

use std::sync::Arc;
use std::time::Duration;

use outrider_core::matcher::HeaderMatcher;

/// `health_check.v3.HealthCheck`
#[derive(Debug, Clone)]
pub struct HealthCheckFilter {
    /// Health checks go upstream, unless the proxy was told to fail or an answer is remembered.
    pub pass_through: bool,
    /// How long an upstream's answer is remembered; `None` for not at all.
    pub cache_time: Option<Duration>,
    /// Clusters, and how many percent of their hosts must be healthy or degraded.
    pub min_healthy: Vec<(Arc<str>, u64)>,
    /// Which requests are health checks: all must match.
    pub headers: Vec<HeaderMatcher>,
}
