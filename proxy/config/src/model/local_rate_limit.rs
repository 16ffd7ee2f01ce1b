//! `envoy.filters.http.local_ratelimit`

use std::sync::Arc;

use http::{HeaderName, StatusCode};
use outrider_core::matcher::{HeaderMatcher, RuntimeFraction};
use outrider_core::rate_limit::Limits;

use super::HeaderMutation;

/// The filter, and what a route says in its place.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// Prefix of its stats (`<prefix>.http_local_rate_limit.`).
    pub stat_prefix: Arc<str>,
    /// The status of what is refused.
    pub status: StatusCode,
    /// The buckets.
    pub limits: Limits,
    /// The share of requests that is looked at; `None` for none.
    pub enabled: Option<RuntimeFraction>,
    /// The share of those that is refused when there are too many; `None` for none.
    pub enforced: Option<RuntimeFraction>,
    /// What requests get that are too many and pass all the same.
    pub request_headers: Vec<HeaderMutation>,
    /// What refusals get.
    pub response_headers: Vec<HeaderMutation>,
    /// How requests are described.
    pub rate_limits: Vec<Box<[RateAction]>>,
    /// `x-ratelimit-*` headers are sent.
    pub headers: bool,
    /// Refused calls get RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub resource_exhausted: bool,
    /// Refusals say when to come again.
    pub retry_after: bool,
}

/// `RateLimit.Action`: a key, and where its value comes from.
#[derive(Debug, Clone)]
pub struct RateAction {
    /// The key.
    pub key: Box<str>,
    /// The value.
    pub value: RateValue,
}

/// Where a value comes from. Without one the request is not described.
#[derive(Debug, Clone)]
pub enum RateValue {
    /// Always this.
    Text(Box<str>),
    /// The first value of a header.
    Header {
        /// Its name.
        name: HeaderName,
        /// Without it the request is described by the other keys.
        skip_if_absent: bool,
    },
    /// A parameter of the query.
    Query {
        /// Its name.
        name: Box<str>,
        /// As for headers.
        skip_if_absent: bool,
    },
    /// The client's address.
    RemoteAddress,
    /// This, if the headers match or do not.
    HeaderMatch {
        /// The value.
        text: Box<str>,
        /// The headers.
        headers: Vec<HeaderMatcher>,
        /// Whether they must match.
        expect: bool,
    },
    /// The proxy's own cluster.
    SourceCluster,
    /// The route's cluster.
    DestinationCluster,
}
