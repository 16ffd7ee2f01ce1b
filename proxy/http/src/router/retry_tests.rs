use outrider_core::matcher::{HeaderCheck, HeaderMatcher, HeaderRef};
use outrider_core::rng::FastRng;
use proptest::prelude::*;

use super::*;

fn policy(on: RetryOn, num_retries: u32) -> RetryPolicy {
    RetryPolicy {
        on,
        num_retries,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        status_codes: vec![404],
        response_headers: Vec::new(),
        request_headers: Vec::new(),
        back_off: DEFAULT_BACK_OFF,
        previous_hosts: false,
        host_selection_attempts: 1,
        rate_limited_headers: Vec::new(),
        rate_limited_max: Duration::from_secs(300),
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn retried(on: RetryOn, status: u16, pairs: &[(&'static str, &'static str)]) -> bool {
    let policy = policy(on, 1);
    let none = HeaderMap::new();
    let mut retries = Retries::new(Some(&policy), None, &HeadView::of(&none)).expect("retries");
    let headers = headers(pairs);
    let response = ResponseView { status, headers: &headers, unix_now: 0 };
    matches!(retries.after_response(&response, &FastRng::seeded(1)), Verdict::Retry(_))
}

#[test]
fn statuses_are_retried_as_their_conditions_say() {
    for (on, yes, no) in [
        (RetryOn::FIVE_XX, &[500, 503, 599][..], &[200, 404, 409][..]),
        (RetryOn::GATEWAY_ERROR, &[502, 503, 504], &[500, 505]),
        (RetryOn::RETRIABLE_4XX, &[409], &[400, 404, 503]),
        (RetryOn::RETRIABLE_STATUS_CODES, &[404], &[503]),
        (RetryOn::RESET, &[], &[503]),
    ] {
        for status in yes {
            assert!(retried(on, *status, &[]), "{on:?} {status}");
        }
        for status in no {
            assert!(!retried(on, *status, &[]), "{on:?} {status}");
        }
    }
}

#[test]
fn a_rate_limited_response_is_retried_only_when_asked_for() {
    let limited = [("x-envoy-ratelimited", "true")];
    assert!(!retried(RetryOn::FIVE_XX, 503, &limited));
    assert!(retried(RetryOn::ENVOY_RATELIMITED, 429, &limited));
    // Measured on Envoy 1.40: an overloaded upstream does not stop retries.
    assert!(retried(RetryOn::FIVE_XX, 503, &[("x-envoy-overloaded", "true")]));
}

#[test]
fn grpc_conditions_look_at_a_status_in_the_headers() {
    for (on, status) in [
        (RetryOn::GRPC_CANCELLED, "1"),
        (RetryOn::GRPC_DEADLINE_EXCEEDED, "4"),
        (RetryOn::GRPC_RESOURCE_EXHAUSTED, "8"),
        (RetryOn::GRPC_INTERNAL, "13"),
        (RetryOn::GRPC_UNAVAILABLE, "14"),
    ] {
        assert!(retried(on, 200, &[("grpc-status", status)]), "{status}");
        assert!(!retried(on, 200, &[("grpc-status", "0")]));
        assert!(!retried(on, 200, &[]));
    }
}

#[test]
fn resets_are_retried_as_their_conditions_say() {
    let wants = |on, reset, started| {
        let policy = policy(on, 1);
        let none = HeaderMap::new();
        let mut retries = Retries::new(Some(&policy), None, &HeadView::of(&none)).expect("retries");
        matches!(retries.after_reset(reset, started, &FastRng::seeded(1)), Verdict::Retry(_))
    };
    for on in [RetryOn::RESET, RetryOn::FIVE_XX, RetryOn::GATEWAY_ERROR] {
        assert!(wants(on, Reset::ConnectionTermination, true));
        assert!(!wants(on, Reset::Overflow, false), "a full breaker is never retried");
    }
    assert!(wants(RetryOn::CONNECT_FAILURE, Reset::ConnectTimeout, false));
    assert!(wants(RetryOn::CONNECT_FAILURE, Reset::RemoteConnectFailure, false));
    assert!(!wants(RetryOn::CONNECT_FAILURE, Reset::ConnectionTermination, true));
    assert!(wants(RetryOn::REFUSED_STREAM, Reset::RefusedStream, true));
    assert!(!wants(RetryOn::REFUSED_STREAM, Reset::Remote, true));
    assert!(wants(RetryOn::RESET_BEFORE_REQUEST, Reset::ConnectionTermination, false));
    assert!(!wants(RetryOn::RESET_BEFORE_REQUEST, Reset::ConnectionTermination, true));
}

#[test]
fn request_headers_add_conditions_and_set_the_count() {
    let asked = Asked {
        retry_on: Some(HeaderValue::from_static("retriable-status-codes, unavailable")),
        retry_grpc_on: Some(HeaderValue::from_static("cancelled")),
        max_retries: Some(HeaderValue::from_static("2")),
        status_codes: Some(HeaderValue::from_static("418, 200")),
        ..Asked::default()
    };
    let none = HeaderMap::new();
    let mut retries = Retries::new(None, Some(&asked), &HeadView::of(&none)).expect("retries");
    let rng = FastRng::seeded(1);
    let mut after = |status, pairs: &[(&'static str, &'static str)]| {
        let headers = headers(pairs);
        retries.after_response(&ResponseView { status, headers: &headers, unix_now: 0 }, &rng)
    };
    assert!(matches!(after(418, &[]), Verdict::Retry(_)));
    assert!(matches!(after(503, &[("grpc-status", "1")]), Verdict::Retry(_)));
    assert_eq!(after(418, &[]), Verdict::LimitReached);
    // gRPC's conditions do not count in the other header.
    assert!(matches!(after(503, &[("grpc-status", "14")]), Verdict::Keep { .. }));
}

#[test]
fn only_requests_with_the_asked_headers_are_retried() {
    let mut policy = policy(RetryOn::FIVE_XX, 1);
    policy.request_headers = vec![HeaderMatcher {
        name: HeaderRef::parse("x-retry").expect("name"),
        check: HeaderCheck::Present(true),
        invert: false,
        treat_missing_as_empty: false,
    }];
    let with = headers(&[("x-retry", "1")]);
    assert!(Retries::new(Some(&policy), None, &HeadView::of(&with)).is_some());
    assert!(Retries::new(Some(&policy), None, &HeadView::of(&HeaderMap::new())).is_none());
    assert!(Retries::new(None, None, &HeadView::of(&with)).is_none());
}

#[test]
fn a_response_can_say_when_to_come_back() {
    let mut policy = policy(RetryOn::FIVE_XX, 9);
    let header =
        |name, unix_timestamp| RateLimitedHeader { name: HeaderName::from_static(name), unix_timestamp };
    policy.rate_limited_headers = vec![header("retry-after", false), header("x-reset", true)];
    let none = HeaderMap::new();
    let mut retries = Retries::new(Some(&policy), None, &HeadView::of(&none)).expect("retries");
    let rng = FastRng::seeded(3);
    let mut wait = |pairs: &[(&'static str, &'static str)]| {
        let headers = headers(pairs);
        match retries.after_response(&ResponseView { status: 503, headers: &headers, unix_now: 1_000 }, &rng)
        {
            Verdict::Retry(wait) => wait,
            other => panic!("{other:?}"),
        }
    };
    let between = |wait: Wait, low: u64, high: u64| {
        let Wait::RateLimited(wait) = wait else { panic!("{wait:?}") };
        assert!((Duration::from_secs(low)..Duration::from_secs(high)).contains(&wait), "{wait:?}");
    };
    between(wait(&[("retry-after", "10")]), 10, 15);
    between(wait(&[("retry-after", "soon"), ("x-reset", "1020")]), 20, 30);
    assert!(matches!(wait(&[("retry-after", "301")]), Wait::BackOff(_)), "longer than the longest");
    assert!(matches!(wait(&[("x-reset", "999")]), Wait::BackOff(_)), "in the past");
}

#[test]
fn success_after_a_retry_is_told() {
    let policy = policy(RetryOn::FIVE_XX, 1);
    let none = HeaderMap::new();
    let mut retries = Retries::new(Some(&policy), None, &HeadView::of(&none)).expect("retries");
    let rng = FastRng::seeded(1);
    let ok = ResponseView { status: 200, headers: &none, unix_now: 0 };
    assert!(matches!(retries.after_reset(Reset::Remote, true, &rng), Verdict::Retry(_)));
    retries.begun();
    assert_eq!(retries.after_response(&ok, &rng), Verdict::Keep { retry_succeeded: true });
}

proptest! {
    #[test]
    fn no_more_retries_than_allowed_and_no_longer_waits(
        num in 0_u32..6,
        base in 1_u64..1_000,
        max in 1_u64..5_000,
        seed: u64,
    ) {
        let mut policy = policy(RetryOn::FIVE_XX, num);
        policy.back_off = BackOff { base: Duration::from_millis(base), max: Duration::from_millis(max) };
        let none = HeaderMap::new();
        let mut retries = Retries::new(Some(&policy), None, &HeadView::of(&none)).expect("retries");
        let rng = FastRng::seeded(seed);
        let mut bound = base;
        for _ in 0..num {
            match retries.after_reset(Reset::Remote, true, &rng) {
                Verdict::Retry(Wait::BackOff(wait)) => prop_assert!(wait < Duration::from_millis(bound)),
                other => prop_assert!(false, "{other:?}"),
            }
            bound = (bound * 2).min(max.max(base));
        }
        prop_assert_eq!(retries.after_reset(Reset::Remote, true, &rng), Verdict::LimitReached);
    }
}
