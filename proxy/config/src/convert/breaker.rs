//! Circuit breakers.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::cluster::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3::RoutingPriority;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{enumeration, percent, u32_of};
use crate::model::{CircuitBreaker, RetryBudget};

/// The limits of both priorities.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Breakers {
    pub(crate) default: CircuitBreaker,
    pub(crate) high: CircuitBreaker,
}

/// The limits of a cluster, and the connections that one of its hosts may have. The runtime's word
/// (`circuit_breakers.<cluster>.<priority>.max_connections`, ...) comes over them where they are in force.
pub(crate) fn breakers(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::CircuitBreakers>,
) -> (Breakers, Option<u32>) {
    let mut breakers = Breakers::default();
    let empty = pb::CircuitBreakers::default();
    let pb::CircuitBreakers { thresholds, per_host_thresholds } = message.unwrap_or(&empty);
    let at = path.field("thresholds");
    let (mut default, mut high) = (None, None);
    for (i, message) in thresholds.iter().enumerate() {
        let path = at.index(i);
        let (priority, breaker) = one(cx, &path, message);
        let place = if priority == RoutingPriority::High { &mut high } else { &mut default };
        if place.is_some() {
            cx.inert(&path, "an entry before it is of the same priority; the first one counts, in Envoy too");
        } else {
            *place = Some(breaker);
        }
    }
    breakers.default = default.unwrap_or_default();
    breakers.high = high.unwrap_or_default();
    (breakers, per_host(cx, &path.field("per_host_thresholds"), per_host_thresholds))
}

fn one(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::circuit_breakers::Thresholds,
) -> (RoutingPriority, CircuitBreaker) {
    let pb::circuit_breakers::Thresholds {
        priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining,
        max_connection_pools,
    } = message;
    // The largest number is how control planes write "no limit"; any other would be a limit that nobody keeps.
    if u32_of(max_connection_pools).is_some_and(|limit| limit != u32::MAX) {
        cx.refuse(&path.field("max_connection_pools"), "connection pools are not limited; remove the field");
    }
    let default = CircuitBreaker::default();
    let breaker = CircuitBreaker {
        max_connections: u32_of(max_connections).unwrap_or(default.max_connections),
        max_pending_requests: u32_of(max_pending_requests).unwrap_or(default.max_pending_requests),
        max_requests: u32_of(max_requests).unwrap_or(default.max_requests),
        max_retries: u32_of(max_retries).unwrap_or(default.max_retries),
        retry_budget: retry_budget.as_ref().map(|message| budget(cx, &path.field("retry_budget"), message)),
        track_remaining: *track_remaining,
        max_connection_pools: u32_of(max_connection_pools).unwrap_or(default.max_connection_pools),
    };
    (enumeration(cx, path, "priority", *priority), breaker)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage is 0 to 100")]
fn budget(cx: &Cx, path: &Path<'_>, message: &pb::circuit_breakers::thresholds::RetryBudget) -> RetryBudget {
    let pb::circuit_breakers::thresholds::RetryBudget {
        budget_percent,
        budget_interval,
        min_retry_concurrency,
    } = message;
    refuse!(cx, path, UNSUPPORTED; budget_interval);
    let percent = percent(cx, path, "budget_percent", budget_percent).unwrap_or(20.0);
    RetryBudget {
        budget_centipercent: (percent * 100.0).round() as u32,
        min_concurrency: u32_of(min_retry_concurrency).unwrap_or(3),
    }
}

/// Of one host only the connections can be limited.
fn per_host(cx: &Cx, path: &Path<'_>, messages: &[pb::circuit_breakers::Thresholds]) -> Option<u32> {
    let mut limit = None;
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let pb::circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = message;
        refuse!(cx, path, "of one host only max_connections can be limited; remove it";
            max_pending_requests, max_requests, max_retries, retry_budget, max_connection_pools);
        inert!(cx, path, "what is left of one host's limit is no stat, in Envoy neither"; track_remaining);
        if enumeration::<RoutingPriority>(cx, &path, "priority", *priority) == RoutingPriority::Default {
            limit = limit.or(u32_of(max_connections));
        } else {
            cx.inert(&path, "connections of one host are limited by the entry of the default priority");
        }
    }
    limit
}
