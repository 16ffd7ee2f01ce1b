//! Retry policies.

use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use super::cx::{Cx, UNSUPPORTED, refuse};
use super::matcher;
use super::scalar::{duration, enumeration, header_name, timeout, type_of, u32_of};
use crate::model::{BackOff, RateLimitedHeader, RetryOn, RetryPolicy};

/// A retry policy.
pub(crate) fn policy(cx: &Cx, path: &Path<'_>, message: &pb::RetryPolicy) -> RetryPolicy {
    let pb::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = message;
    refuse!(cx, path, UNSUPPORTED; retry_priority, retry_options_predicates, refresh_cluster_on_retry);
    let (on, all_known) = RetryOn::parse(retry_on);
    if !all_known {
        cx.inert(
            &path.field("retry_on"),
            format!("{retry_on:?} holds words that name no retry condition; they are ignored, as Envoy ignores them"),
        );
    }
    let (rate_limited_headers, rate_limited_max) =
        rate_limited(cx, &path.field("rate_limited_retry_back_off"), rate_limited_retry_back_off.as_ref());
    RetryPolicy {
        on,
        num_retries: u32_of(num_retries).unwrap_or(1),
        per_try_timeout: timeout(cx, path, "per_try_timeout", per_try_timeout, None),
        per_try_idle_timeout: timeout(cx, path, "per_try_idle_timeout", per_try_idle_timeout, None),
        status_codes: retriable_status_codes
            .iter()
            .enumerate()
            .filter_map(|(i, code)| match u16::try_from(*code) {
                Ok(code @ 100..=999) => Some(code),
                _ => {
                    let at = path.field("retriable_status_codes");
                    cx.error(&at.index(i), format!("{code} is not an HTTP status"));
                    None
                }
            })
            .collect(),
        response_headers: matcher::headers(cx, &path.field("retriable_headers"), retriable_headers),
        request_headers: matcher::headers(
            cx,
            &path.field("retriable_request_headers"),
            retriable_request_headers,
        ),
        back_off: back_off(cx, &path.field("retry_back_off"), retry_back_off.as_ref()),
        previous_hosts: previous_hosts(cx, &path.field("retry_host_predicate"), retry_host_predicate),
        host_selection_attempts: match host_selection_retry_max_attempts {
            0 => 1,
            attempts => u32::try_from(*attempts).unwrap_or_else(|_| {
                cx.error(
                    &path.field("host_selection_retry_max_attempts"),
                    format!("{attempts} is not a number of attempts"),
                );
                1
            }),
        },
        rate_limited_headers,
        rate_limited_max,
    }
}

/// Whether hosts that were tried are avoided.
fn previous_hosts(cx: &Cx, path: &Path<'_>, messages: &[pb::retry_policy::RetryHostPredicate]) -> bool {
    use pb::retry_policy::RetryHostPredicate;
    use pb::retry_policy::retry_host_predicate::ConfigType;
    let mut found = false;
    for (i, RetryHostPredicate { name, config_type }) in messages.iter().enumerate() {
        let path = path.index(i);
        match config_type {
            Some(ConfigType::TypedConfig(any)) if outrider_proto::any::is::<PreviousHostsPredicate>(any) => {
                found = true;
            }
            Some(ConfigType::TypedConfig(any)) => cx.refuse(
                &path.field("typed_config"),
                format!(
                    "the predicate {} is not supported; use envoy.retry_host_predicates.previous_hosts",
                    type_of(any)
                ),
            ),
            None => cx.error(&path, format!("{name:?} needs a typed_config")),
        }
    }
    found
}

fn back_off(cx: &Cx, path: &Path<'_>, message: Option<&pb::retry_policy::RetryBackOff>) -> BackOff {
    let mut base = Duration::from_millis(25);
    let mut max = None;
    if let Some(pb::retry_policy::RetryBackOff { base_interval, max_interval }) = message {
        base = duration(cx, path, "base_interval", base_interval).unwrap_or(base);
        // Envoy rounds what is below a millisecond up to one.
        base = base.max(Duration::from_millis(1));
        max = duration(cx, path, "max_interval", max_interval).map(|max| max.max(Duration::from_millis(1)));
        if max.is_some_and(|max| max < base) {
            cx.error(&path.field("max_interval"), "it must not be less than base_interval");
        }
    }
    BackOff { base, max: max.unwrap_or(base.saturating_mul(10)) }
}

fn rate_limited(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::retry_policy::RateLimitedRetryBackOff>,
) -> (Vec<RateLimitedHeader>, Duration) {
    use pb::retry_policy::{RateLimitedRetryBackOff, ResetHeader, ResetHeaderFormat};
    let longest = Duration::from_secs(300);
    let Some(RateLimitedRetryBackOff { reset_headers, max_interval }) = message else {
        return (Vec::new(), longest);
    };
    let at = path.field("reset_headers");
    let headers = reset_headers
        .iter()
        .enumerate()
        .filter_map(|(i, ResetHeader { name, format })| {
            let path = at.index(i);
            let format = enumeration::<ResetHeaderFormat>(cx, &path, "format", *format);
            Some(RateLimitedHeader {
                name: header_name(cx, &path.field("name"), name)?,
                unix_timestamp: format == ResetHeaderFormat::UnixTimestamp,
            })
        })
        .collect();
    (headers, duration(cx, path, "max_interval", max_interval).unwrap_or(longest))
}
