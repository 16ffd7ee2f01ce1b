//! What is wrong with settings of upstreams.

use super::check::Check;
use super::common::Duration;
use super::health_check::HealthCheck;
use super::settings::{
    CircuitBreakers, ConnectionPool, LoadBalancing, LoadBalancingPolicy, OutlierDetection, RateLimit,
    Retries, Timeouts,
};

/// After what a request can be sent again.
const CONDITIONS: [&str; 15] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "envoy-ratelimited",
    "retriable-4xx",
    "retriable-status-codes",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Protobuf's durations that Envoy counts in milliseconds of 32 bits end here; a year is enough for all of them.
const YEAR: u64 = 365 * 24 * 3600;

pub(super) fn load_balancing(mut at: Check<'_>, it: &LoadBalancing) {
    use LoadBalancingPolicy::{LeastRequest, Maglev, RingHash, RoundRobin};
    let hashes = matches!(it.policy, RingHash | Maglev);
    if !it.hash_on.is_empty() && !hashes {
        at.field("hashOn", "only RingHash and Maglev use a hash; set policy to one of them, or remove it");
    }
    if it.choices.is_some() && it.policy != LeastRequest {
        at.field("choices", "only LeastRequest compares endpoints; remove it");
    }
    if it.minimum_ring_size.is_some() && it.policy != RingHash {
        at.field("minimumRingSize", "only RingHash has a ring; remove it");
    }
    if it.table_size.is_some() && it.policy != Maglev {
        at.field("tableSize", "only Maglev has a table; remove it");
    }
    if it.slow_start.is_some() && !matches!(it.policy, RoundRobin | LeastRequest) {
        at.field("slowStart", "only RoundRobin and LeastRequest can start slowly; remove it");
    }
    at.range("choices", it.choices, 2, 100);
    at.range("minimumRingSize", it.minimum_ring_size, 1, 8_388_608);
    at.range("tableSize", it.table_size, 2, 5_000_011);
    if let Some(size) = it.table_size.filter(|size| (2..=5_000_011).contains(size) && !prime(*size)) {
        at.field("tableSize", format!("{size} is no prime number"));
    }
    if let Some(slow) = &it.slow_start {
        let mut at = at.at("slowStart");
        at.at_least("window", Some(slow.window), 1);
        at.range("minWeightPercent", slow.min_weight_percent, 0, 100);
    }
    for (index, on) in it.hash_on.iter().enumerate() {
        let mut at = at.item("hashOn", index);
        let given = [on.header.is_some(), on.cookie.is_some(), on.source_ip.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            at.wrong("give exactly one of header, cookie and sourceIp");
        }
        if on.source_ip == Some(false) {
            at.field("sourceIp", "false says nothing; write true or remove the entry");
        }
        if let Some(name) = &on.header {
            at.header_name("header", name);
        }
        if let Some(cookie) = &on.cookie {
            let mut at = at.at("cookie");
            at.header_name("name", &cookie.name);
            if cookie.path.is_some() && cookie.ttl.is_none() {
                at.field("path", "it is for cookies that the proxy makes, which it does when a ttl is given");
            }
            if let Some(path) =
                cookie.path.as_ref().filter(|it| !it.starts_with('/') || it.contains([';', '"', '\n', '\r']))
            {
                at.field("path", format!("{path:?} is no path of a cookie; it starts with a slash"));
            }
        }
    }
}

pub(super) fn retries(mut at: Check<'_>, it: &Retries, breakers: Option<&CircuitBreakers>) {
    for (index, condition) in it.on.iter().enumerate() {
        if !CONDITIONS.contains(&condition.as_str()) {
            at.field(
                &format!("on[{index}]"),
                format!("{condition:?} is not known; use one of {}", CONDITIONS.join(", ")),
            );
        }
    }
    if it.on.iter().any(|it| it == "retriable-status-codes") && it.status_codes.is_empty() {
        at.field("statusCodes", "retriable-status-codes needs the statuses");
    }
    for (index, status) in it.status_codes.iter().enumerate() {
        at.range(&format!("statusCodes[{index}]"), Some(*status), 100, 599);
    }
    at.range("attempts", it.attempts, 0, 100);
    if it.attempts == Some(0) && (it.per_try_timeout.is_some() || it.backoff.is_some() || it.budget.is_some())
    {
        at.field(
            "attempts",
            "0 means that nothing is sent again; remove the other settings, or give a number",
        );
    }
    at.at_least("perTryTimeout", it.per_try_timeout, 1);
    if let Some(backoff) = &it.backoff {
        let mut at = at.at("backoff");
        at.at_least("base", Some(backoff.base), 1);
        if backoff.max.is_some_and(|max| max < backoff.base) {
            at.field("max", "it must not be less than base");
        }
    }
    if let Some(budget) = &it.budget {
        let mut at = at.at("budget");
        at.range("percent", budget.percent, 0, 100);
        if breakers.is_some_and(|it| it.max_retries.is_some()) {
            at.wrong("a budget goes in place of circuitBreakers.maxRetries; remove one of the two");
        }
    }
}

pub(super) fn timeouts(mut at: Check<'_>, it: &Timeouts) {
    at.at_least("connect", it.connect, 1);
    for (field, value) in [("request", it.request), ("idle", it.idle), ("connect", it.connect)] {
        short_enough(&mut at, field, value);
    }
}

fn short_enough(at: &mut Check<'_>, field: &str, value: Option<Duration>) {
    if let Some(value) = value
        && value.std().as_secs() > YEAR
    {
        at.field(field, format!("{value} is more than a year; write 0s where there shall be no limit"));
    }
}

pub(super) fn outlier_detection(mut at: Check<'_>, it: &OutlierDetection) {
    let ways = [
        it.consecutive_errors.is_some(),
        it.consecutive_gateway_errors.is_some(),
        it.consecutive_local_failures.is_some(),
        it.success_rate.is_some(),
        it.failure_percentage.is_some(),
    ];
    if !ways.contains(&true) {
        at.wrong("say how a bad endpoint is found: consecutiveErrors, consecutiveGatewayErrors, consecutiveLocalFailures, successRate or failurePercentage");
    }
    at.range("consecutiveErrors", it.consecutive_errors, 1, u32::MAX);
    at.range("consecutiveGatewayErrors", it.consecutive_gateway_errors, 1, u32::MAX);
    at.range("consecutiveLocalFailures", it.consecutive_local_failures, 1, u32::MAX);
    at.at_least("interval", it.interval, 1);
    at.at_least("baseEjectionTime", it.base_ejection_time, 1);
    at.at_least("maxEjectionTime", it.max_ejection_time, 1);
    at.range("maxEjectionPercent", it.max_ejection_percent, 0, 100);
    at.range("panicThresholdPercent", it.panic_threshold_percent, 0, 100);
    if let Some(max) = it.max_ejection_time
        && max < it.base_ejection_time.unwrap_or(Duration(std::time::Duration::from_secs(30)))
    {
        at.field("maxEjectionTime", "it must not be less than baseEjectionTime (30s when that is not given)");
    }
    if let Some(failure) = &it.failure_percentage {
        at.at("failurePercentage").range("threshold", Some(failure.threshold), 0, 100);
    }
}

pub(super) fn health_check(mut at: Check<'_>, it: &HealthCheck) {
    let given = [it.http.is_some(), it.grpc.is_some(), it.tcp.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        at.wrong("give exactly one of http, grpc and tcp");
    }
    at.at_least("interval", it.interval, 1);
    at.at_least("timeout", it.timeout, 1);
    at.range("unhealthyThreshold", it.unhealthy_threshold, 1, u32::MAX);
    at.range("healthyThreshold", it.healthy_threshold, 1, u32::MAX);
    if let Some(http) = &it.http {
        let mut at = at.at("http");
        if !http.path.starts_with('/') || http.path.contains(|c: char| c.is_control() || c == ' ') {
            at.field("path", format!("{:?} is no path; it starts with a slash", http.path));
        }
        if let Some(host) = http.host.as_ref().filter(|host| !header_text(host)) {
            at.field("host", format!("{host:?} is no host"));
        }
        for (index, range) in http.expected_statuses.iter().enumerate() {
            let mut at = at.item("expectedStatuses", index);
            at.range("from", Some(range.from), 100, 599);
            at.range("to", range.to, range.from.max(100), 599);
        }
    }
    if let Some(authority) =
        it.grpc.as_ref().and_then(|grpc| grpc.authority.as_ref()).filter(|text| !header_text(text))
    {
        at.at("grpc").field("authority", format!("{authority:?} is no authority"));
    }
    if let Some(tcp) = &it.tcp {
        let mut at = at.at("tcp");
        for (field, value) in [("send", &tcp.send), ("receive", &tcp.receive)] {
            if value.as_ref().is_some_and(String::is_empty) {
                at.field(field, "it is empty; remove it");
            }
        }
    }
}

/// A text that can be the value of a header, and is not empty.
pub(super) fn header_text(text: &str) -> bool {
    !text.is_empty() && http::HeaderValue::try_from(text).is_ok()
}

pub(super) fn rate_limit(mut at: Check<'_>, it: &RateLimit) {
    bucket(&mut at, it.requests, it.per, it.burst);
    for (index, rule) in it.rules.iter().enumerate() {
        let mut at = at.item("rules", index);
        bucket(&mut at, rule.requests, rule.per, rule.burst);
        let (common, own) = (it.per.std().as_millis(), rule.per.std().as_millis());
        if common > 0 && own % common != 0 {
            at.field("per", format!("{} is no multiple of the common bucket's {}", rule.per, it.per));
        }
        if rule.headers.is_empty() {
            at.field("headers", "give at least one; what holds for all requests stands above");
        }
        at.unique("headers", "name", rule.headers.iter().map(|it| it.name.to_lowercase()));
        for (index, header) in rule.headers.iter().enumerate() {
            let mut at = at.item("headers", index);
            at.header_name("name", &header.name);
            if header.value.as_ref().is_some_and(|value| !header_text(value)) {
                at.field("value", "it is no value of a header; leave it out for a bucket for each value");
            }
        }
    }
}

fn bucket(at: &mut Check<'_>, requests: u32, per: Duration, burst: Option<u32>) {
    at.range("requests", Some(requests), 1, u32::MAX);
    at.at_least("per", Some(per), 50);
    short_enough(at, "per", Some(per));
    if burst.is_some_and(|burst| burst < requests) {
        at.field("burst", "it must not be less than requests");
    }
}

pub(super) fn connection_pool(mut at: Check<'_>, it: &ConnectionPool) {
    at.at_least("maxConnectionDuration", it.max_connection_duration, 1);
    at.range("maxRequestsPerConnection", it.max_requests_per_connection, 1, u32::MAX);
    if let Some(keepalive) = &it.tcp_keepalive {
        let mut at = at.at("tcpKeepalive");
        for (field, value) in [("time", keepalive.time), ("interval", keepalive.interval)] {
            if value.is_some_and(|it| {
                it.std().subsec_nanos() != 0 || it.std().is_zero() || it.std().as_secs() > 32_767
            }) {
                at.field(field, "the system counts it in whole seconds, 1s to 32767s");
            }
        }
        at.range("probes", keepalive.probes, 1, 127);
    }
    if let Some(http2) = &it.http2 {
        const MOST: u32 = 2_147_483_647;
        let mut at = at.at("http2");
        at.range("maxConcurrentStreams", http2.max_concurrent_streams, 1, MOST);
        at.range("initialStreamWindowSize", http2.initial_stream_window_size, 65_535, MOST);
        at.range("initialConnectionWindowSize", http2.initial_connection_window_size, 65_535, MOST);
        at.at_least("keepaliveInterval", http2.keepalive_interval, 1);
        at.at_least("keepaliveTimeout", http2.keepalive_timeout, 1);
        if http2.keepalive_timeout.is_some() && http2.keepalive_interval.is_none() {
            at.field("keepaliveTimeout", "it needs keepaliveInterval");
        }
    }
}

fn prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|it| it * it <= number).all(|it| !number.is_multiple_of(it))
}
