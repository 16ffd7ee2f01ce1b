//! Whether and when to try again: a state machine without I/O and without a clock.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_config::model::{BackOff, RateLimitedHeader, RetryOn, RetryPolicy};
use outrider_core::matcher::HeadView;
use outrider_core::rng::Rng;
use smallvec::SmallVec;

use super::envoy_headers::{self, Asked, GRPC_CONDITIONS};
use super::outcome::Reset;

const DEFAULT_BACK_OFF: BackOff =
    BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };

/// What is retried, and how often still.
#[derive(Debug)]
pub(crate) struct Retries<'p> {
    policy: Option<&'p RetryPolicy>,
    on: RetryOn,
    remaining: u64,
    more_codes: SmallVec<[u64; 4]>,
    more_headers: SmallVec<[HeaderName; 2]>,
    back_off: BackOffState,
    /// At least one retry was begun.
    begun: bool,
}

/// What to do after a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The outcome is final.
    Keep {
        /// A retry was begun before, and this outcome needs none (`upstream_rq_retry_success`).
        retry_succeeded: bool,
    },
    /// The outcome would be retried, but no retry is left (`URX`).
    LimitReached,
    /// Retry, if the circuit breaker allows, after this long.
    Retry(Wait),
}

/// How long to wait before a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// By exponential back-off.
    BackOff(Duration),
    /// As a response header asked.
    RateLimited(Duration),
}

impl Wait {
    /// The time to wait.
    pub(crate) const fn duration(self) -> Duration {
        match self {
            Self::BackOff(wait) | Self::RateLimited(wait) => wait,
        }
    }
}

/// A response as conditions see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseView<'a> {
    pub(crate) status: u16,
    pub(crate) headers: &'a HeaderMap,
    /// Seconds since the epoch, now.
    pub(crate) unix_now: u64,
}

impl<'p> Retries<'p> {
    /// The retries of a request with these headers; `None` when nothing can be retried.
    pub(crate) fn new(
        policy: Option<&'p RetryPolicy>,
        asked: Option<&Asked>,
        request: &HeadView<'_>,
    ) -> Option<Self> {
        let mut on = policy.map_or(RetryOn(0), |policy| policy.on);
        let mut remaining = policy.map_or(1, |policy| u64::from(policy.num_retries));
        let (mut more_codes, mut more_headers) = (SmallVec::new(), SmallVec::new());
        if let Some(asked) = asked {
            on.0 |= words(asked.retry_on.as_ref()) & !GRPC_CONDITIONS;
            on.0 |= words(asked.retry_grpc_on.as_ref()) & GRPC_CONDITIONS;
            if let Some(max) = envoy_headers::number(asked.max_retries.as_ref()) {
                remaining = max;
            }
            more_codes.extend(list(asked.status_codes.as_ref()).filter_map(|code| code.parse().ok()));
            more_headers.extend(list(asked.header_names.as_ref()).filter_map(|name| name.parse().ok()));
        }
        if on == RetryOn(0) {
            return None;
        }
        let wanted = policy.map_or(&[][..], |policy| &policy.request_headers);
        if !wanted.is_empty() && !wanted.iter().any(|matcher| matcher.matches(request)) {
            return None;
        }
        let back_off = policy.map_or(DEFAULT_BACK_OFF, |policy| policy.back_off);
        let back_off = BackOffState::new(back_off);
        Some(Self { policy, on, remaining, more_codes, more_headers, back_off, begun: false })
    }

    /// What to do after a response's head.
    pub(crate) fn after_response(&mut self, response: &ResponseView<'_>, rng: &impl Rng) -> Verdict {
        let wait = self.wants_response(response).then(|| {
            let asked = self.policy.and_then(|policy| {
                rate_limit(&policy.rate_limited_headers, policy.rate_limited_max, response)
            });
            asked.map(|at_least| Wait::RateLimited(jittered_above(at_least, rng)))
        });
        self.decide(wait, rng)
    }

    /// What to do after a try that brought no response. `started`: bytes of the request went upstream.
    pub(crate) fn after_reset(&mut self, reset: Reset, started: bool, rng: &impl Rng) -> Verdict {
        let wants = self.wants_reset(reset, started);
        self.decide(wants.then_some(None), rng)
    }

    /// `wants`: `None` to keep the outcome; else how long to wait, or `None` inside for back-off.
    fn decide(&mut self, wants: Option<Option<Wait>>, rng: &impl Rng) -> Verdict {
        let Some(wait) = wants else { return Verdict::Keep { retry_succeeded: self.begun } };
        let Some(left) = self.remaining.checked_sub(1) else { return Verdict::LimitReached };
        self.remaining = left;
        Verdict::Retry(wait.unwrap_or_else(|| Wait::BackOff(self.back_off.next(rng))))
    }

    /// A retry got its place in the circuit breaker.
    pub(crate) const fn begun(&mut self) {
        self.begun = true;
    }

    fn wants_response(&self, response: &ResponseView<'_>) -> bool {
        let on = |condition| self.on.has(condition);
        let status = response.status;
        if response.headers.contains_key(envoy_headers::RATE_LIMITED) {
            return on(RetryOn::ENVOY_RATELIMITED);
        }
        (on(RetryOn::FIVE_XX) && (500..600).contains(&status))
            || (on(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (on(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on(RetryOn::RETRIABLE_STATUS_CODES) && self.is_retriable(status))
            || (on(RetryOn::RETRIABLE_HEADERS) && self.has_retriable_header(response))
            || (self.on.0 & GRPC_CONDITIONS != 0 && self.wants_grpc(response.headers))
    }

    fn is_retriable(&self, status: u16) -> bool {
        self.policy.is_some_and(|policy| policy.status_codes.contains(&status))
            || self.more_codes.contains(&u64::from(status))
    }

    fn has_retriable_header(&self, response: &ResponseView<'_>) -> bool {
        let mut digits = itoa::Buffer::new();
        let view = HeadView { status: digits.format(response.status), ..HeadView::of(response.headers) };
        let configured = self.policy.map_or(&[][..], |policy| &policy.response_headers);
        configured.iter().any(|matcher| matcher.matches(&view))
            || self.more_headers.iter().any(|name| response.headers.contains_key(name))
    }

    fn wants_grpc(&self, headers: &HeaderMap) -> bool {
        let condition = match grpc_status(headers) {
            Some(1) => RetryOn::GRPC_CANCELLED,
            Some(4) => RetryOn::GRPC_DEADLINE_EXCEEDED,
            Some(8) => RetryOn::GRPC_RESOURCE_EXHAUSTED,
            Some(13) => RetryOn::GRPC_INTERNAL,
            Some(14) => RetryOn::GRPC_UNAVAILABLE,
            _ => return false,
        };
        self.on.has(condition)
    }

    fn wants_reset(&self, reset: Reset, started: bool) -> bool {
        let on = |condition| self.on.has(condition);
        // A full breaker concerns the whole cluster: another try only adds to it.
        reset != Reset::Overflow
            && (on(RetryOn::RESET)
                || on(RetryOn::FIVE_XX)
                || on(RetryOn::GATEWAY_ERROR)
                || (on(RetryOn::REFUSED_STREAM) && reset == Reset::RefusedStream)
                || (on(RetryOn::CONNECT_FAILURE) && reset.is_connect_failure())
                || (on(RetryOn::RESET_BEFORE_REQUEST) && !started))
    }
}

fn words(value: Option<&HeaderValue>) -> u32 {
    value.and_then(|value| value.to_str().ok()).map_or(0, |text| RetryOn::parse(text).0.0)
}

fn list(value: Option<&HeaderValue>) -> impl Iterator<Item = &str> {
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// `grpc-status` as a number.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u64> {
    envoy_headers::number(headers.get("grpc-status"))
}

/// What the first readable header says of when to come back; more than `max` or nothing at all is no answer.
fn rate_limit(headers: &[RateLimitedHeader], max: Duration, response: &ResponseView<'_>) -> Option<Duration> {
    headers.iter().find_map(|header| {
        let number = envoy_headers::number(response.headers.get(&header.name))?;
        let seconds = if header.unix_timestamp { number.checked_sub(response.unix_now)? } else { number };
        let wait = Duration::from_secs(seconds);
        (wait <= max && !wait.is_zero()).then_some(wait)
    })
}

/// Up to half as much again, so that not all come back at once.
fn jittered_above(at_least: Duration, rng: &impl Rng) -> Duration {
    let half = u64::try_from(at_least.as_millis() / 2).unwrap_or(u64::MAX);
    at_least + Duration::from_millis(rng.below(half))
}

/// Exponential back-off with full jitter: the n-th wait is drawn from zero up to base times 2^(n-1), at most max.
#[derive(Debug)]
struct BackOffState {
    next: Duration,
    max: Duration,
}

impl BackOffState {
    fn new(back_off: BackOff) -> Self {
        let base = back_off.base.max(Duration::from_millis(1));
        Self { next: base, max: back_off.max.max(base) }
    }

    fn next(&mut self, rng: &impl Rng) -> Duration {
        let bound = u64::try_from(self.next.as_millis()).unwrap_or(u64::MAX);
        self.next = self.next.saturating_mul(2).min(self.max);
        Duration::from_millis(rng.below(bound)).min(self.max)
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
