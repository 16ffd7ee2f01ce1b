//! How long a request may take: from the route, from the request's headers, from `grpc-timeout`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_config::model::Forward;

use super::envoy_headers::{self, Asked};

/// `grpc-timeout`
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The limits of one request; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Timeouts {
    /// From the end of the request to the end of the response.
    pub(crate) global: Option<Duration>,
    /// For one try, from the end of the request (or the connection, if later) to the response's head.
    pub(crate) per_try: Option<Duration>,
    /// Between two signs of life in one try.
    pub(crate) per_try_idle: Option<Duration>,
    /// `grpc-timeout` upstream is rewritten to what is left (the route has `max_grpc_timeout`).
    pub(crate) rewrite_grpc: bool,
}

impl Timeouts {
    /// What holds for a request on this route (Envoy: "x-envoy-upstream-rq-timeout-ms" and its kin).
    pub(crate) fn of(forward: &Forward, grpc: bool, headers: &HeaderMap, asked: Option<&Asked>) -> Self {
        let mut timeouts = Self::default();
        // A route with max_stream_duration uses that instead of the older timeouts.
        if forward.max_stream_duration.is_none() {
            timeouts.global = forward.timeout;
            if let (true, Some(max)) = (grpc, forward.max_grpc_timeout) {
                timeouts.global = grpc_global(headers, max, forward.grpc_timeout_offset);
                timeouts.rewrite_grpc = true;
            }
        }
        if let Some(retry) = &forward.retry {
            timeouts.per_try = retry.per_try_timeout;
            timeouts.per_try_idle = retry.per_try_idle_timeout;
        }
        if let Some(asked) = asked {
            let given = asked.expected_timeout.as_ref().or(asked.timeout.as_ref());
            if let Some(ms) = envoy_headers::number(given) {
                timeouts.global = milliseconds(ms);
            }
            if let Some(ms) = envoy_headers::number(asked.per_try_timeout.as_ref()) {
                timeouts.per_try = milliseconds(ms);
            }
        }
        // A try that may take as long as the whole needs no limit of its own.
        if let (Some(per_try), Some(global)) = (timeouts.per_try, timeouts.global)
            && per_try >= global
        {
            timeouts.per_try = None;
        }
        timeouts
    }

    /// Whether anything can time out.
    pub(crate) const fn any(&self) -> bool {
        self.global.is_some() || self.per_try.is_some() || self.per_try_idle.is_some()
    }

    /// What the upstream is told in `x-envoy-expected-rq-timeout-ms`, `elapsed` after the end of the request:
    /// the limit of the try, or what is left of the whole. Never 0, which would mean no limit.
    pub(crate) fn expected(&self, elapsed: Duration) -> Option<Duration> {
        let expected = self.per_try.or(self.global)?;
        let Some(global) = self.global else { return Some(expected) };
        // Whole milliseconds have passed, as the header counts them.
        let elapsed = Duration::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let left = global.checked_sub(elapsed).filter(|left| !left.is_zero());
        Some(left.map_or(Duration::from_millis(1), |left| expected.min(left)))
    }
}

fn milliseconds(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn grpc_global(headers: &HeaderMap, max: Duration, offset: Option<Duration>) -> Option<Duration> {
    let mut timeout = headers.get(GRPC_TIMEOUT).and_then(parse_grpc_timeout).unwrap_or_default();
    if let Some(offset) = offset
        && offset < timeout
    {
        timeout -= offset;
    }
    if !max.is_zero() && (timeout.is_zero() || timeout > max) {
        timeout = max;
    }
    (!timeout.is_zero()).then_some(timeout)
}

/// Reads `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2). Rounded up to milliseconds, as Envoy
/// does.
pub(crate) fn parse_grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let unit = text.chars().last()?;
    let digits = text.get(..text.len().checked_sub(unit.len_utf8())?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    let ms = match unit {
        'H' => amount * 3_600_000,
        'M' => amount * 60_000,
        'S' => amount * 1_000,
        'm' => amount,
        'u' => amount.div_ceil(1_000),
        'n' => amount.div_ceil(1_000_000),
        _ => return None,
    };
    Some(Duration::from_millis(ms))
}

/// Writes a duration as `grpc-timeout` does: in the finest unit of milliseconds, seconds, minutes and hours that
/// has at most eight digits.
pub(crate) fn grpc_timeout(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let ms = timeout.as_millis();
    let units = [(1, 'm'), (1_000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let fits = units.iter().find(|(size, _)| ms / size <= MOST);
    let text = fits.map_or_else(|| format!("{MOST}H"), |(size, unit)| format!("{}{unit}", ms / size));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("1m"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::StatusCode;
    use outrider_config::model::{BackOff, ClusterSpecifier, RetryOn, RetryPolicy};
    use proptest::prelude::*;

    use super::*;

    fn forward(timeout: Option<u64>) -> Forward {
        Forward {
            hash_policy: Vec::new(),
            cluster: ClusterSpecifier::Name("c".into()),
            cluster_not_found: StatusCode::SERVICE_UNAVAILABLE,
            path_rewrite: None,
            host_rewrite: None,
            append_x_forwarded_host: false,
            timeout: timeout.map(Duration::from_millis),
            idle_timeout: None,
            retry: None,
            mirrors: Vec::new(),
            high_priority: false,
            max_stream_duration: None,
            upgrades: Vec::new(),
            max_grpc_timeout: None,
            grpc_timeout_offset: None,
        }
    }

    fn policy(per_try: u64) -> Arc<RetryPolicy> {
        Arc::new(RetryPolicy {
            on: RetryOn::FIVE_XX,
            num_retries: 1,
            per_try_timeout: Some(Duration::from_millis(per_try)),
            per_try_idle_timeout: None,
            status_codes: Vec::new(),
            response_headers: Vec::new(),
            request_headers: Vec::new(),
            back_off: BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
            previous_hosts: false,
            host_selection_attempts: 1,
            rate_limited_headers: Vec::new(),
            rate_limited_max: Duration::from_secs(300),
        })
    }

    fn ms(timeout: Option<Duration>) -> Option<u128> {
        timeout.map(|timeout| timeout.as_millis())
    }

    #[test]
    fn headers_override_the_route_and_zero_lifts_the_limit() {
        let none = HeaderMap::new();
        let asked = |timeout: &'static str, per_try: &'static str| Asked {
            timeout: Some(HeaderValue::from_static(timeout)),
            per_try_timeout: Some(HeaderValue::from_static(per_try)),
            ..Asked::default()
        };
        let of = |asked: Asked| Timeouts::of(&forward(Some(15_000)), false, &none, Some(&asked));
        assert_eq!(ms(of(asked("100", "20")).global), Some(100));
        assert_eq!(ms(of(asked("100", "20")).per_try), Some(20));
        assert_eq!(ms(of(asked("100", "100")).per_try), None, "no shorter than the whole");
        assert_eq!(ms(of(asked("0", "20")).global), None);
        assert_eq!(ms(of(asked("x", "20")).global), Some(15_000));
        let expected = Asked { expected_timeout: Some(HeaderValue::from_static("7")), ..asked("100", "1") };
        assert_eq!(ms(of(expected).global), Some(7));
    }

    #[test]
    fn a_grpc_timeout_is_capped_and_shifted() {
        let headers = |value| HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(value))]);
        let route = |max, offset: u64| Forward {
            max_grpc_timeout: Some(Duration::from_millis(max)),
            grpc_timeout_offset: Some(Duration::from_millis(offset)),
            ..forward(Some(15_000))
        };
        let global =
            |max, offset, value| ms(Timeouts::of(&route(max, offset), true, &headers(value), None).global);
        assert_eq!(global(0, 0, "5S"), Some(5_000));
        assert_eq!(global(1_000, 0, "5S"), Some(1_000));
        assert_eq!(global(0, 100, "5S"), Some(4_900));
        assert_eq!(global(0, 9_000, "5S"), Some(5_000), "an offset past the end is not applied");
        assert_eq!(global(0, 0, "bad"), None);
        assert_eq!(global(2_000, 0, "bad"), Some(2_000));
        let not_grpc = Timeouts::of(&route(0, 0), false, &headers("5S"), None);
        assert_eq!(ms(not_grpc.global), Some(15_000));
    }

    #[test]
    fn the_upstream_is_told_what_is_left() {
        let timeouts = Timeouts {
            global: Some(Duration::from_millis(100)),
            per_try: Some(Duration::from_millis(30)),
            ..Timeouts::default()
        };
        let expected = |elapsed| ms(timeouts.expected(Duration::from_millis(elapsed)));
        assert_eq!(expected(0), Some(30));
        assert_eq!(expected(80), Some(20));
        assert_eq!(expected(100), Some(1));
        assert_eq!(Timeouts::default().expected(Duration::ZERO), None);
        let route = Forward { retry: Some(policy(30)), ..forward(None) };
        let timeouts = Timeouts::of(&route, false, &HeaderMap::new(), None);
        assert_eq!(ms(timeouts.expected(Duration::from_secs(9))), Some(30));
    }

    proptest! {
        #[test]
        fn grpc_timeouts_survive_a_round_trip(ms in 1_u64..=99_999_999) {
            let timeout = Duration::from_millis(ms);
            prop_assert_eq!(parse_grpc_timeout(&grpc_timeout(timeout)), Some(timeout));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,12}") {
            if let Ok(value) = HeaderValue::from_str(&text) {
                let _ = parse_grpc_timeout(&value);
            }
        }

        #[test]
        fn what_is_written_always_fits(ms in any::<u64>()) {
            let text = grpc_timeout(Duration::from_millis(ms));
            prop_assert!(text.len() <= 9);
            prop_assert!(parse_grpc_timeout(&text).is_some());
        }
    }
}
