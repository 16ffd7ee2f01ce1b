//! `envoy.filters.http.health_check`

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::health_check::v3 as pb;
use outrider_proto::pb::envoy::r#type::v3::Percent;

use crate::convert::cx::Cx;
use crate::convert::matcher;
use crate::convert::scalar::{bool_of, percent, timeout};
use crate::model::HealthCheckFilter;

/// The filter at `path`.
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::HealthCheck) -> HealthCheckFilter {
    let pb::HealthCheck { pass_through_mode, cache_time, cluster_min_healthy_percentages, headers } = message;
    let pass_through = bool_of(pass_through_mode);
    if pass_through.is_none() {
        cx.error(&path.field("pass_through_mode"), "it is needed: true or false");
    }
    let pass_through = pass_through.unwrap_or(false);
    let cache_time = timeout(cx, path, "cache_time", cache_time, None);
    if !pass_through && cache_time.is_some() {
        cx.error(&path.field("cache_time"), "without pass_through_mode there is no answer to remember");
    }
    let shares = path.field("cluster_min_healthy_percentages");
    if pass_through && !cluster_min_healthy_percentages.is_empty() {
        cx.error(&shares, "with pass_through_mode the upstream answers; remove it");
    }
    let min_healthy = cluster_min_healthy_percentages.iter().filter_map(|(name, share)| {
        let share = percent(cx, &shares, name, &Some(Percent { value: share.value }))?;
        Some((Arc::from(name.as_str()), truncated(share)))
    });
    let mut min_healthy: Vec<(Arc<str>, u64)> = min_healthy.collect();
    min_healthy.sort();
    HealthCheckFilter {
        pass_through,
        cache_time,
        min_healthy,
        headers: matcher::headers(cx, &path.field("headers"), headers),
    }
}

/// Envoy takes whole percents.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
const fn truncated(share: f64) -> u64 {
    share as u64
}
