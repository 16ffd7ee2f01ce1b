//! `envoy.filters.http.local_ratelimit`

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrider_core::rate_limit::{Entries, Limits};
use outrider_core::token_bucket::Rate;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3::HeaderValueOption;
use outrider_proto::pb::envoy::config::route::v3 as route_pb;
use outrider_proto::pb::envoy::extensions::common::ratelimit::v3 as common_pb;
use outrider_proto::pb::envoy::extensions::filters::http::local_ratelimit::v3 as pb;
use outrider_proto::pb::envoy::r#type::v3::TokenBucket;

use crate::convert::cx::{Cx, UNSUPPORTED, inert, refuse};
use crate::convert::scalar::{bool_of, duration, enumeration, fraction, header_name, u32_of};
use crate::convert::{header, matcher};
use crate::model::{HeaderMutation, LocalRateLimit, RateAction, RateValue};

/// Envoy: buckets fill no faster.
const SHORTEST: Duration = Duration::from_millis(50);
/// Values that are kept by default.
const MOST_VALUES: u32 = 20;
/// As many values may be kept: their buckets are there from the start.
const LIMIT_OF_VALUES: u32 = 100_000;

/// The filter at `path`; `None`, and an error, when it is not usable.
pub(super) fn filter(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::LocalRateLimit,
    per_route: bool,
) -> Option<LocalRateLimit> {
    let pb::LocalRateLimit {
        stat_prefix,
        status,
        token_bucket,
        filter_enabled,
        filter_enforced,
        request_headers_to_add_when_not_enforced,
        response_headers_to_add,
        descriptors,
        stage,
        local_rate_limit_per_downstream_connection,
        local_cluster_rate_limit,
        enable_x_ratelimit_headers,
        vh_rate_limits,
        always_consume_default_token_bucket,
        rate_limited_as_resource_exhausted,
        rate_limits,
        max_dynamic_descriptors,
        enable_retry_after_header,
    } = message;
    refuse!(cx, path, UNSUPPORTED; local_rate_limit_per_downstream_connection, local_cluster_rate_limit);
    inert!(cx, path, "rate_limits of routes are refused, so there are none to choose among"; stage, vh_rate_limits);
    if stat_prefix.is_empty() {
        cx.error(&path.field("stat_prefix"), "a prefix for the stats is needed");
    }
    let at = path.field("token_bucket");
    let bucket = token_bucket.as_ref().map(|message| rate(cx, &at, message));
    if per_route && bucket.is_none() {
        cx.error(&at, "for a route a bucket is needed");
    }
    let status = status.as_ref().and_then(|status| u16::try_from(status.code).ok());
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).filter(|code| code.as_u16() >= 400);
    let most_values = u32_of(max_dynamic_descriptors).unwrap_or(MOST_VALUES);
    if !(1..=LIMIT_OF_VALUES).contains(&most_values) {
        let why = format!("{most_values} is not in 1 to {LIMIT_OF_VALUES}");
        cx.error(&path.field("max_dynamic_descriptors"), why);
    }
    let versions: common_pb::XRateLimitHeadersRfcVersion =
        enumeration(cx, path, "enable_x_ratelimit_headers", *enable_x_ratelimit_headers);
    let share = |field: &str, message: &_| fraction(cx, &path.field(field), message);
    let described = descriptors_of(cx, &path.field("descriptors"), descriptors);
    let actions = limits(cx, &path.field("rate_limits"), rate_limits);
    Some(LocalRateLimit {
        stat_prefix: Arc::from(stat_prefix.as_str()),
        status: status.unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        limits: Limits::new(
            match bucket {
                Some(bucket) => Some(bucket?),
                None => None,
            },
            described?,
            most_values as usize,
            bool_of(always_consume_default_token_bucket).unwrap_or(true),
        ),
        enabled: filter_enabled.as_ref().map(|message| share("filter_enabled", message)),
        enforced: filter_enforced.as_ref().map(|message| share("filter_enforced", message)),
        request_headers: headers(
            cx,
            &path.field("request_headers_to_add_when_not_enforced"),
            request_headers_to_add_when_not_enforced,
        ),
        response_headers: headers(cx, &path.field("response_headers_to_add"), response_headers_to_add),
        rate_limits: actions?,
        headers: versions == common_pb::XRateLimitHeadersRfcVersion::DraftVersion03,
        resource_exhausted: *rate_limited_as_resource_exhausted,
        retry_after: *enable_retry_after_header,
    })
}

fn headers(cx: &Cx, path: &Path<'_>, messages: &[HeaderValueOption]) -> Vec<HeaderMutation> {
    if messages.len() > 10 {
        cx.error(path, "ten headers at most");
    }
    header::adds(cx, path, messages).into_iter().map(HeaderMutation::Set).collect()
}

fn rate(cx: &Cx, path: &Path<'_>, message: &TokenBucket) -> Option<Rate> {
    let TokenBucket { max_tokens, tokens_per_fill, fill_interval } = message;
    let per_fill = u32_of(tokens_per_fill).unwrap_or(1);
    if *max_tokens == 0 {
        cx.error(&path.field("max_tokens"), "a bucket holds one token at least");
    }
    if per_fill == 0 {
        cx.error(&path.field("tokens_per_fill"), "one token at least must come");
    }
    let Some(interval) = duration(cx, path, "fill_interval", fill_interval).filter(|time| *time >= SHORTEST)
    else {
        cx.error(&path.field("fill_interval"), "it must be 50ms or more");
        return None;
    };
    Some(Rate {
        most: f64::from(*max_tokens),
        per_second: f64::from(per_fill.max(1)) / interval.as_secs_f64(),
    })
}

fn descriptors_of(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[common_pb::LocalRateLimitDescriptor],
) -> Option<Vec<(Entries, Rate)>> {
    let mut found: Vec<(Entries, Rate)> = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let common_pb::LocalRateLimitDescriptor { entries, token_bucket, shadow_mode } = message;
        refuse!(cx, path, UNSUPPORTED; shadow_mode);
        if entries.is_empty() {
            cx.error(&path.field("entries"), "at least one is needed");
        }
        let entry = |entry: &common_pb::rate_limit_descriptor::Entry| {
            let value = Some(entry.value.as_str()).filter(|value| !value.is_empty());
            (Box::from(entry.key.as_str()), value.map(Box::from))
        };
        let entries: Entries = entries.iter().map(entry).collect();
        if found.iter().any(|(known, _)| *known == entries) {
            cx.error(&path, "there is a descriptor with the same entries already");
        }
        let at = path.field("token_bucket");
        let Some(bucket) = token_bucket else {
            cx.error(&at, "a bucket is needed");
            return None;
        };
        found.push((entries, rate(cx, &at, bucket)?));
    }
    Some(found)
}

fn limits(cx: &Cx, path: &Path<'_>, messages: &[route_pb::RateLimit]) -> Option<Vec<Box<[RateAction]>>> {
    let one = |(i, message): (usize, &route_pb::RateLimit)| {
        let path = path.index(i);
        let route_pb::RateLimit {
            stage,
            disable_key,
            actions,
            limit,
            hits_addend,
            apply_on_stream_done,
            x_ratelimit_option,
        } = message;
        refuse!(cx, path, "not supported in this filter, in Envoy neither"; stage, disable_key, limit);
        refuse!(cx, path, UNSUPPORTED; hits_addend, apply_on_stream_done, x_ratelimit_option);
        let at = path.field("actions");
        let actions = actions.iter().enumerate();
        let actions: Vec<_> = actions.map(|(i, message)| action(cx, &at.index(i), message)).collect();
        actions.into_iter().collect()
    };
    let all: Vec<Option<Box<[RateAction]>>> = messages.iter().enumerate().map(one).collect();
    all.into_iter().collect()
}

fn action(cx: &Cx, path: &Path<'_>, message: &route_pb::rate_limit::Action) -> Option<RateAction> {
    use route_pb::rate_limit::action::{self as kinds, ActionSpecifier as Kind};
    let or = |key: &str, default: &str| -> Box<str> { if key.is_empty() { default } else { key }.into() };
    Some(match &message.action_specifier {
        Some(Kind::SourceCluster(kinds::SourceCluster {})) => {
            RateAction { key: "source_cluster".into(), value: RateValue::SourceCluster }
        }
        Some(Kind::DestinationCluster(kinds::DestinationCluster {})) => {
            RateAction { key: "destination_cluster".into(), value: RateValue::DestinationCluster }
        }
        Some(Kind::RemoteAddress(kinds::RemoteAddress {})) => {
            RateAction { key: "remote_address".into(), value: RateValue::RemoteAddress }
        }
        Some(Kind::RequestHeaders(kinds::RequestHeaders {
            header_name: name,
            descriptor_key,
            skip_if_absent,
        })) => {
            let path = path.field("request_headers");
            if name.starts_with(':') {
                cx.refuse(&path.field("header_name"), "pseudo headers are not supported here");
                return None;
            }
            let name = header_name(cx, &path.field("header_name"), name)?;
            RateAction {
                key: descriptor_key.as_str().into(),
                value: RateValue::Header { name, skip_if_absent: *skip_if_absent },
            }
        }
        Some(Kind::QueryParameters(message)) => {
            let kinds::QueryParameters { query_parameter_name, descriptor_key, skip_if_absent } = message;
            let name = query_parameter_name.as_str().into();
            RateAction {
                key: descriptor_key.as_str().into(),
                value: RateValue::Query { name, skip_if_absent: *skip_if_absent },
            }
        }
        Some(Kind::GenericKey(kinds::GenericKey { descriptor_value, default_value, descriptor_key })) => {
            let path = path.field("generic_key");
            refuse!(cx, path, UNSUPPORTED; default_value);
            RateAction {
                key: or(descriptor_key, "generic_key"),
                value: RateValue::Text(text(cx, &path, descriptor_value)),
            }
        }
        Some(Kind::HeaderValueMatch(message)) => {
            let path = path.field("header_value_match");
            let kinds::HeaderValueMatch {
                descriptor_value,
                default_value,
                descriptor_key,
                expect_match,
                headers,
            } = message;
            refuse!(cx, path, UNSUPPORTED; default_value);
            let value = RateValue::HeaderMatch {
                text: text(cx, &path, descriptor_value),
                headers: matcher::headers(cx, &path.field("headers"), headers),
                expect: bool_of(expect_match).unwrap_or(true),
            };
            RateAction { key: or(descriptor_key, "header_match"), value }
        }
        Some(_) => {
            cx.refuse(path, "this action is not supported; use request_headers, query_parameters, generic_key, header_value_match or remote_address");
            return None;
        }
        None => {
            cx.error(path, "an action is needed, such as request_headers");
            return None;
        }
    })
}

/// A descriptor's value, which may not be a format.
fn text(cx: &Cx, path: &Path<'_>, value: &str) -> Box<str> {
    if value.is_empty() || value.contains('%') {
        cx.refuse(&path.field("descriptor_value"), "a plain text is needed; formats are not supported");
    }
    value.into()
}
