//! Local rate limits: a filter that does nothing by itself, and what routes tell it.

use std::collections::BTreeSet;

use outrider_proto::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use outrider_proto::pb::envoy::config::route::v3 as route;
use outrider_proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use outrider_proto::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use outrider_proto::pb::envoy::r#type::v3::{
    FractionalPercent, TokenBucket, fractional_percent::DenominatorType,
};
use outrider_proto::pb::google::protobuf::Any;

use crate::model::own;
use crate::translate::hcm::http_filter;
use crate::translate::wire::{any, duration, truth, uint};

/// The name of the filter, which is the key of its settings in routes.
pub const FILTER: &str = "envoy.filters.http.local_ratelimit";

/// Of how many values of a header the buckets are kept.
const VALUES: u32 = 1_000;

/// The filter, as it stands in connection managers: without a bucket it limits nothing where no route says so.
pub fn filter() -> HttpFilter {
    http_filter(FILTER, &LocalRateLimit { stat_prefix: "local_rate_limit".to_owned(), ..Default::default() })
}

/// What a route tells the filter, with the key.
pub fn of_route(it: &own::RateLimit) -> (String, Any) {
    // Rules with the same headers have one descriptor, which is looked up among the values of all of them.
    let names: BTreeSet<Vec<String>> = it.rules.iter().map(names).collect();
    let dynamic = it.rules.iter().flat_map(|rule| &rule.headers).any(|header| header.value.is_none());
    let config = LocalRateLimit {
        stat_prefix: "local_rate_limit".to_owned(),
        token_bucket: Some(bucket(it.requests, it.per, it.burst)),
        filter_enabled: Some(always()),
        filter_enforced: Some(always()),
        descriptors: it.rules.iter().map(descriptor).collect(),
        rate_limits: names.iter().map(|names| actions(names)).collect(),
        always_consume_default_token_bucket: (!it.rules.is_empty()).then(|| truth(false)),
        max_dynamic_descriptors: dynamic.then(|| uint(VALUES)),
        ..Default::default()
    };
    (FILTER.to_owned(), any(&config))
}

fn always() -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            denominator: DenominatorType::Hundred as i32,
        }),
        ..Default::default()
    }
}

fn bucket(requests: u32, per: own::Duration, burst: Option<u32>) -> TokenBucket {
    TokenBucket {
        max_tokens: burst.unwrap_or(requests),
        tokens_per_fill: Some(uint(requests)),
        fill_interval: Some(duration(per.std())),
    }
}

fn names(rule: &own::RateLimitRule) -> Vec<String> {
    let mut names: Vec<String> = rule.headers.iter().map(|it| it.name.to_lowercase()).collect();
    names.sort();
    names
}

fn descriptor(rule: &own::RateLimitRule) -> common::LocalRateLimitDescriptor {
    use common::rate_limit_descriptor::Entry;
    let mut entries: Vec<Entry> = rule
        .headers
        .iter()
        .map(|it| Entry { key: it.name.to_lowercase(), value: it.value.clone().unwrap_or_default() })
        .collect();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    common::LocalRateLimitDescriptor {
        entries,
        token_bucket: Some(bucket(rule.requests, rule.per, rule.burst)),
        ..Default::default()
    }
}

fn actions(names: &[String]) -> route::RateLimit {
    use route::rate_limit::{Action, action::ActionSpecifier, action::RequestHeaders};
    let one = |name: &String| Action {
        action_specifier: Some(ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: name.clone(),
            descriptor_key: name.clone(),
            ..Default::default()
        })),
    };
    route::RateLimit { actions: names.iter().map(one).collect(), ..Default::default() }
}
