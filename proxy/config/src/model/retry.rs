//! Retry policies.

use std::time::Duration;

use http::HeaderName;
use outrider_core::matcher::HeaderMatcher;

use super::BackOff;

/// `RetryPolicy`
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// On what.
    pub on: RetryOn,
    /// How often. Default 1.
    pub num_retries: u32,
    /// Time for one try; `None` for the route's.
    pub per_try_timeout: Option<Duration>,
    /// Idle time in one try.
    pub per_try_idle_timeout: Option<Duration>,
    /// For `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// Responses that are retried (`retriable-headers`).
    pub response_headers: Vec<HeaderMatcher>,
    /// Only requests with these are retried; empty for all.
    pub request_headers: Vec<HeaderMatcher>,
    /// Between tries. Default 25 ms, 250 ms.
    pub back_off: BackOff,
    /// Do not choose a host tried before (`retry_host_predicate: previous_hosts`).
    pub previous_hosts: bool,
    /// How often to draw again because of that. Default 1.
    pub host_selection_attempts: u32,
    /// Headers that say when to come back, in order.
    pub rate_limited_headers: Vec<RateLimitedHeader>,
    /// Longest wait that those may ask for. Default 300 s.
    pub rate_limited_max: Duration,
}

/// A response header that says when to retry.
#[derive(Debug, Clone)]
pub struct RateLimitedHeader {
    /// Its name.
    pub name: HeaderName,
    /// Seconds from now, or a Unix timestamp.
    pub unix_timestamp: bool,
}

/// On what a request is retried: `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(pub u32);

#[expect(missing_docs, reason = "each constant is named by its own text")]
impl RetryOn {
    pub const FIVE_XX: Self = Self(1);
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    pub const RESET: Self = Self(1 << 2);
    pub const CONNECT_FAILURE: Self = Self(1 << 3);
    pub const ENVOY_RATELIMITED: Self = Self(1 << 4);
    pub const RETRIABLE_4XX: Self = Self(1 << 5);
    pub const REFUSED_STREAM: Self = Self(1 << 6);
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 7);
    pub const RETRIABLE_HEADERS: Self = Self(1 << 8);
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 9);
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 10);
    pub const GRPC_CANCELLED: Self = Self(1 << 11);
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 12);
    pub const GRPC_INTERNAL: Self = Self(1 << 13);
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 14);
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 15);
    const NAMES: &[(&str, Self)] = &[
        ("5xx", Self::FIVE_XX),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("envoy-ratelimited", Self::ENVOY_RATELIMITED),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("http3-post-connect-failure", Self::HTTP3_POST_CONNECT_FAILURE),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("internal", Self::GRPC_INTERNAL),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("unavailable", Self::GRPC_UNAVAILABLE),
    ];
}

impl RetryOn {
    /// The conditions of a comma-separated list, and whether all of its words were known.
    pub fn parse(text: &str) -> (Self, bool) {
        let mut on = Self::default();
        let mut all_known = true;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match Self::NAMES.iter().find(|(name, _)| *name == word) {
                Some((_, bit)) => on.0 |= bit.0,
                None => all_known = false,
            }
        }
        (on, all_known)
    }

    /// Whether any condition of `other` is in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}
