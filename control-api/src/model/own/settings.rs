//! How an upstream is called: the settings that `TrafficPolicy` and `ExternalService` share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::Duration;

/// How the endpoint of a request is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// How it is chosen. Default: `LeastRequest`.
    #[serde(default)]
    pub policy: LoadBalancingPolicy,
    /// What a hash is made of (`RingHash` and `Maglev` only): the first that a request has counts. Without any, or for a request
    /// that has none of them, endpoints are chosen at random.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hash_on: Vec<HashOn>,
    /// How many endpoints `LeastRequest` compares, 2 to 100. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 100))]
    pub choices: Option<u32>,
    /// How many places the ring of `RingHash` has at least, 1 to 8388608. Default: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8_388_608))]
    pub minimum_ring_size: Option<u64>,
    /// How many places the table of `Maglev` has: a prime number up to 5000011. Default: 65537.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 5_000_011))]
    pub table_size: Option<u64>,
    /// Endpoints that are new get less at first (`RoundRobin` and `LeastRequest` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
}

/// Ways to choose an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancingPolicy {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests among some that are drawn.
    #[default]
    LeastRequest,
    /// Any.
    Random,
    /// The same for the same hash, by a ring of hashes.
    RingHash,
    /// The same for the same hash, by a table.
    Maglev,
}

/// One thing that a hash is made of. Give exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HashOn {
    /// A request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashCookie>,
    /// The address of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<bool>,
}

/// A cookie that a hash is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// How long it lives when the proxy makes it for clients that have none; `0s`: for the session. Without it, none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Its path, when the proxy makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// How endpoints that are new are treated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlowStart {
    /// For how long an endpoint counts as new.
    pub window: Duration,
    /// The share of its weight that it starts with, in percent. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub min_weight_percent: Option<u32>,
}

/// When a request is sent again. A repeated request goes to another endpoint where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// After what, as Envoy names it: `5xx`, `gateway-error`, `reset`, `reset-before-request`, `connect-failure`, `refused-stream`,
    /// `envoy-ratelimited`, `retriable-4xx`, `retriable-status-codes`, and for gRPC `cancelled`, `deadline-exceeded`, `internal`,
    /// `resource-exhausted`, `unavailable`. Default: `connect-failure`, `refused-stream`, `reset-before-request`, after which the
    /// endpoint cannot have seen the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
    /// Statuses after which a request is sent again, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status_codes: Vec<u16>,
    /// How often a request is sent again after the first time, 0 to 100. 0: never. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub attempts: Option<u32>,
    /// How long each attempt may take. Default: as long as the whole request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// How long to wait in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// How many retries there may be at a time, as a share of the requests that are active. It goes in place of
    /// `circuitBreakers.maxRetries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// How long to wait before a request is sent again: a random time, up to a limit that doubles each time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backoff {
    /// The first limit.
    pub base: Duration,
    /// The last limit. Default: ten times the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

/// How many retries there may be at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of the requests that are active, in percent. Default: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// So many are always allowed. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_concurrency: Option<u32>,
}

/// How long things may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// A whole request, with all its retries; `0s`: as long as it wants. Timeouts that a route has itself go before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// A request on which nothing moves in either direction; `0s`: as long as it wants. Default: as long as it wants between workloads, five minutes
    /// at gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// A connection to come about. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
}

/// How much there may be at a time, in one proxy. Beyond it requests fail at once with status 503. Default of each: 1024, of
/// `maxRetries`: 3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreakers {
    /// Connections to all endpoints together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending_requests: Option<u32>,
    /// Requests that are active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Retries that are active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
}

/// When an endpoint that fails requests is left out for a while. At least one of the ways to find out must be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// After so many answers of status 5xx in a row (failed connections count as such, unless `consecutiveLocalFailures` counts them).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<u32>,
    /// After so many answers of status 502, 503 or 504 in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<u32>,
    /// After so many failures of the proxy's own in a row: connections that fail, time out or are reset. They are counted apart from answers then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_local_failures: Option<u32>,
    /// By comparison of its share of successes with that of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// By its share of failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
    /// How often it is looked at. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// For how long it is left out the first time; each time is longer by as much. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<Duration>,
    /// For how long it is left out at most. Default: 300s, or `baseEjectionTime` when that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ejection_time: Option<Duration>,
    /// How many of the endpoints may be left out, in percent; one always may. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub max_ejection_percent: Option<u32>,
    /// When fewer of the endpoints than this are fine, in percent, all of them are used, whatever their state; 0: never. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub panic_threshold_percent: Option<u32>,
}

/// Endpoints that succeed less often than the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuccessRate {
    /// How many endpoints must have enough requests. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_hosts: Option<u32>,
    /// How many requests within an interval are enough. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_volume: Option<u32>,
    /// How many thousandths of a standard deviation below the mean are too few successes. Default: 1900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdev_thousandths: Option<u32>,
}

/// Endpoints that fail too often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailurePercentage {
    /// How many failures are too many, in percent of an endpoint's requests.
    #[schemars(range(max = 100))]
    pub threshold: u32,
    /// How many endpoints must have enough requests. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_hosts: Option<u32>,
    /// How many requests within an interval are enough. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_volume: Option<u32>,
}

/// How many requests each proxy lets through, by a bucket of tokens. What is too much gets status 429.
///
/// The buckets are those of one match of one route in one proxy of a client or gateway: where routes of two hosts with five matches each lead
/// to the service, ten times as much can get through, and once more for each further proxy. It protects from one client that calls
/// too often; what a service can bear in all is limited by `circuitBreakers`, or by the service itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// How many requests.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// In which time, at least 50ms.
    pub per: Duration,
    /// How many at once, after a pause. Default: as many as `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Requests that have a bucket of their own, by their headers. What matches a rule counts there (at each rule that it matches),
    /// and not in the common bucket.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RateLimitRule>,
}

/// Requests that have a bucket of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitRule {
    /// Headers that a request must have, all of them.
    pub headers: Vec<RateLimitHeader>,
    /// How many requests.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// In which time: a multiple of the common bucket's.
    pub per: Duration,
    /// How many at once, after a pause. Default: as many as `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// A header that tells requests apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitHeader {
    /// Its name.
    pub name: String,
    /// Its value. Default: each value has a bucket of its own; the 1000 that were used last are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Connections to endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPool {
    /// How the system finds connections that are dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// After which time without requests a connection is closed; `0s`: never. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// After which time a connection takes no more requests. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<Duration>,
    /// After how many requests a connection is closed. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests_per_connection: Option<u32>,
    /// HTTP/2, for ports that speak it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2Settings>,
}

/// Keepalive of TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// After which silence the first probe is sent, in whole seconds. Default: as the system has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Duration>,
    /// The time from one probe to the next, in whole seconds. Default: as the system has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// After how many probes without an answer the connection is dead. Default: as the system has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub probes: Option<u32>,
}

/// Settings of HTTP/2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Http2Settings {
    /// How many requests there may be on a connection at a time, 1 to 2147483647. Default: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub max_concurrent_streams: Option<u32>,
    /// How many bytes of one answer may be on their way, 65535 to 2147483647.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 65_535, max = 2_147_483_647))]
    pub initial_stream_window_size: Option<u32>,
    /// How many bytes of all answers of a connection may be on their way, 65535 to 2147483647.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 65_535, max = 2_147_483_647))]
    pub initial_connection_window_size: Option<u32>,
    /// How often a PING is sent. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_interval: Option<Duration>,
    /// How long its answer may take before the connection counts as dead. Needs `keepaliveInterval`. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_timeout: Option<Duration>,
}
