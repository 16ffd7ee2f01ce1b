//! The `x-envoy-*` request headers that steer the router, found in one walk over the request's headers.

use http::{HeaderMap, HeaderName, HeaderValue};

macro_rules! names {
    ($($constant:ident $text:literal;)*) => {
        $(
            #[doc = concat!("`", $text, "`")]
            pub(crate) const $constant: HeaderName = HeaderName::from_static($text);
        )*
    };
}

names! {
    RQ_TIMEOUT "x-envoy-upstream-rq-timeout-ms";
    RQ_PER_TRY_TIMEOUT "x-envoy-upstream-rq-per-try-timeout-ms";
    RQ_TIMEOUT_ALT "x-envoy-upstream-rq-timeout-alt-response";
    STREAM_DURATION "x-envoy-upstream-stream-duration-ms";
    EXPECTED_TIMEOUT "x-envoy-expected-rq-timeout-ms";
    ALT_STAT_NAME "x-envoy-upstream-alt-stat-name";
    RETRY_ON "x-envoy-retry-on";
    RETRY_GRPC_ON "x-envoy-retry-grpc-on";
    MAX_RETRIES "x-envoy-max-retries";
    RETRIABLE_STATUS_CODES "x-envoy-retriable-status-codes";
    RETRIABLE_HEADER_NAMES "x-envoy-retriable-header-names";
    HEDGE "x-envoy-hedge-on-per-try-timeout";
    ATTEMPT_COUNT "x-envoy-attempt-count";
    IS_TIMEOUT_RETRY "x-envoy-is-timeout-retry";
    SERVICE_TIME "x-envoy-upstream-service-time";
    OVERLOADED "x-envoy-overloaded";
    DROP_OVERLOAD "x-envoy-drop-overload";
    UNCONDITIONAL_DROP_OVERLOAD "x-envoy-unconditional-drop-overload";
    RATE_LIMITED "x-envoy-ratelimited";
    CANARY "x-envoy-upstream-canary";
    FAIL_AT_ONCE "x-envoy-immediate-health-check-fail";
    INTERNAL "x-envoy-internal";
}

/// What the request's own headers ask of the router. Empty for nearly all requests.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) timeout: Option<HeaderValue>,
    pub(crate) per_try_timeout: Option<HeaderValue>,
    pub(crate) timeout_alt_response: bool,
    pub(crate) stream_duration: Option<HeaderValue>,
    pub(crate) expected_timeout: Option<HeaderValue>,
    pub(crate) alt_stat_name: Option<HeaderValue>,
    pub(crate) retry_on: Option<HeaderValue>,
    pub(crate) retry_grpc_on: Option<HeaderValue>,
    pub(crate) max_retries: Option<HeaderValue>,
    pub(crate) status_codes: Option<HeaderValue>,
    pub(crate) header_names: Option<HeaderValue>,
}

impl Asked {
    /// Takes the steering headers out of `headers`; the expected timeout stays in, for it is the next proxy's too.
    /// `None` when there was none.
    pub(crate) fn take(headers: &mut HeaderMap, respect_expected: bool) -> Option<Box<Self>> {
        // One walk that looks at first bytes costs less than a dozen look-ups.
        if !headers.keys().any(|name| steers(name.as_str())) {
            return None;
        }
        let expected_timeout = headers.get(EXPECTED_TIMEOUT).filter(|_| respect_expected).cloned();
        // The expected timeout wins, and then the other one is not for us.
        let timeout = if expected_timeout.is_some() { None } else { headers.remove(RQ_TIMEOUT) };
        let asked = Self {
            timeout,
            expected_timeout,
            per_try_timeout: headers.remove(RQ_PER_TRY_TIMEOUT),
            timeout_alt_response: headers.remove(RQ_TIMEOUT_ALT).is_some(),
            stream_duration: headers.remove(STREAM_DURATION),
            alt_stat_name: headers.remove(ALT_STAT_NAME),
            retry_on: headers.remove(RETRY_ON),
            retry_grpc_on: headers.remove(RETRY_GRPC_ON),
            max_retries: headers.remove(MAX_RETRIES),
            status_codes: headers.remove(RETRIABLE_STATUS_CODES),
            header_names: headers.remove(RETRIABLE_HEADER_NAMES),
        };
        headers.remove(HEDGE);
        Some(Box::new(asked))
    }
}

fn steers(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("x-envoy-") else { return false };
    ["upstream-", "expected-", "retr", "max-retries", "hedge-"].iter().any(|start| rest.starts_with(start))
}

/// A header's value as a number, as Envoy reads it: decimal digits, white space around them allowed.
pub(crate) fn number(value: Option<&HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.trim().parse().ok()
}

/// Checks one header of `strict_check_headers`.
///
/// # Errors
/// The header's value is not what the router can read.
pub(crate) fn strict_check(headers: &HeaderMap, name: &HeaderName) -> Result<(), HeaderValue> {
    use outrider_config::model::RetryOn;

    let Some(value) = headers.get(name) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let valid = if [RQ_TIMEOUT, RQ_PER_TRY_TIMEOUT, MAX_RETRIES].contains(name) {
        number(Some(value)).is_some()
    } else if *name == RETRY_ON {
        let (on, all_known) = RetryOn::parse(text);
        all_known && on.0 & GRPC_CONDITIONS == 0
    } else if *name == RETRY_GRPC_ON {
        let (on, all_known) = RetryOn::parse(text);
        all_known && on.0 & !GRPC_CONDITIONS == 0
    } else {
        true
    };
    if valid { Ok(()) } else { Err(value.clone()) }
}

/// The bits of the retry conditions that look at a gRPC status.
pub(crate) const GRPC_CONDITIONS: u32 = {
    use outrider_config::model::RetryOn;
    RetryOn::GRPC_CANCELLED.0
        | RetryOn::GRPC_DEADLINE_EXCEEDED.0
        | RetryOn::GRPC_INTERNAL.0
        | RetryOn::GRPC_RESOURCE_EXHAUSTED.0
        | RetryOn::GRPC_UNAVAILABLE.0
};

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn steering_headers_are_taken_out_and_others_stay() {
        let mut headers = map(&[
            ("x-envoy-internal", "true"),
            ("x-envoy-upstream-rq-timeout-ms", "5"),
            ("x-envoy-max-retries", "3"),
            ("x-envoy-expected-rq-timeout-ms", "7"),
        ]);
        let asked = Asked::take(&mut headers, false).expect("some");
        assert_eq!(number(asked.timeout.as_ref()), Some(5));
        assert_eq!(number(asked.max_retries.as_ref()), Some(3));
        assert!(asked.expected_timeout.is_none());
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-envoy-expected-rq-timeout-ms", "x-envoy-internal"]);
        assert!(Asked::take(&mut map(&[("x-envoy-internal", "true"), ("host", "a")]), true).is_none());
    }

    #[test]
    fn strict_checks_tell_bad_values() {
        for (name, value, ok) in [
            ("x-envoy-upstream-rq-timeout-ms", "10", true),
            ("x-envoy-upstream-rq-timeout-ms", "10.0", false),
            ("x-envoy-max-retries", "one", false),
            ("x-envoy-retry-on", "5xx,reset", true),
            ("x-envoy-retry-on", "5xx,cancelled", false),
            ("x-envoy-retry-grpc-on", "cancelled,internal", true),
            ("x-envoy-retry-grpc-on", "5xx", false),
        ] {
            let headers = map(&[(name, value)]);
            assert_eq!(strict_check(&headers, &HeaderName::from_static(name)).is_ok(), ok, "{name}: {value}");
        }
        assert!(strict_check(&HeaderMap::new(), &RETRY_ON).is_ok());
    }
}
