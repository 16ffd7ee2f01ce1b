//! How an upstream is called, as clusters and routes have it: what `TrafficPolicy` and `ExternalService` say.

use std::time::Duration;

use outrider_proto::pb::envoy::config::cluster::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::config::route::v3 as route;
use outrider_proto::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use outrider_proto::pb::envoy::extensions::upstreams::http::v3 as http;
use outrider_proto::pb::envoy::r#type::v3::{CodecClientType, Int64Range, Percent};
use outrider_proto::prost::Message as _;

use super::rate_limit;
use crate::model::own;
use crate::translate::cluster::HTTP_OPTIONS;
use crate::translate::wire::{any, duration, truth, uint};

/// After what a request is sent again when nobody says: the endpoint cannot have seen it.
const SAFE: &str = "connect-failure,refused-stream,reset-before-request";

/// How often a request is sent again when nobody says.
const ATTEMPTS: u32 = 2;

/// How often another endpoint is looked for before one that was tried already is taken.
const OTHER_HOSTS: i64 = 5;

/// What is said about an upstream, gathered from all who may say it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings<'s> {
    load_balancing: Option<&'s own::LoadBalancing>,
    retries: Option<&'s own::Retries>,
    timeouts: Option<&'s own::Timeouts>,
    breakers: Option<&'s own::CircuitBreakers>,
    outliers: Option<&'s own::OutlierDetection>,
    health: Option<&'s own::HealthCheck>,
    rate_limit: Option<&'s own::RateLimit>,
    pool: Option<&'s own::ConnectionPool>,
}

impl<'s> Settings<'s> {
    /// What a policy says.
    pub fn of_policy(spec: &'s own::TrafficPolicySpec) -> Self {
        Self {
            load_balancing: spec.load_balancing.as_ref(),
            retries: spec.retries.as_ref(),
            timeouts: spec.timeouts.as_ref(),
            breakers: spec.circuit_breakers.as_ref(),
            outliers: spec.outlier_detection.as_ref(),
            health: spec.health_check.as_ref(),
            rate_limit: spec.rate_limit.as_ref(),
            pool: spec.connection_pool.as_ref(),
        }
    }

    /// What a service outside says of itself.
    pub fn of_external(spec: &'s own::ExternalServiceSpec) -> Self {
        Self {
            retries: spec.retries.as_ref(),
            timeouts: spec.timeouts.as_ref(),
            breakers: spec.circuit_breakers.as_ref(),
            outliers: spec.outlier_detection.as_ref(),
            pool: spec.connection_pool.as_ref(),
            ..Self::default()
        }
    }

    /// These, and what they do not say from `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            load_balancing: self.load_balancing.or(other.load_balancing),
            retries: self.retries.or(other.retries),
            timeouts: self.timeouts.or(other.timeouts),
            breakers: self.breakers.or(other.breakers),
            outliers: self.outliers.or(other.outliers),
            health: self.health.or(other.health),
            rate_limit: self.rate_limit.or(other.rate_limit),
            pool: self.pool.or(other.pool),
        }
    }

    /// Puts them into a cluster. `http2`: whether it speaks HTTP/2.
    pub fn to_cluster(self, http2: bool, cluster: &mut pb::Cluster) {
        if let Some(it) = self.load_balancing {
            load_balancing(it, cluster);
        }
        if let Some(connect) = self.timeouts.and_then(|it| it.connect) {
            cluster.connect_timeout = Some(duration(connect.std()));
        }
        let budget = self.retries.and_then(|it| it.budget.as_ref());
        if self.breakers.is_some() || budget.is_some() {
            cluster.circuit_breakers = Some(breakers(self.breakers, budget));
        }
        if let Some(it) = self.outliers {
            cluster.outlier_detection = Some(outliers(it));
            if let Some(percent) = it.panic_threshold_percent {
                cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold =
                    Some(Percent { value: f64::from(percent) });
            }
        }
        cluster.health_checks = self.health.and_then(|it| health(it, http2)).into_iter().collect();
        if let Some(it) = self.pool {
            pool(it, cluster);
        }
    }

    /// Puts them into a route that leads to it, where the route does not say it itself. `http`: whether requests could be limited, which
    /// needs a filter that clients who speak xDS themselves have not.
    pub fn to_route(self, route: &mut route::Route) {
        let Some(route::route::Action::Route(action)) = &mut route.action else { return };
        if let Some(timeouts) = self.timeouts {
            if action.timeout.is_none() {
                action.timeout = timeouts.request.map(|it| duration(it.std()));
            }
            if action.idle_timeout.is_none() {
                action.idle_timeout = timeouts.idle.map(|it| duration(it.std()));
            }
        }
        if action.retry_policy.is_none() {
            action.retry_policy = self.retries.and_then(retries);
        }
        if let Some(it) = self.load_balancing
            && action.hash_policy.is_empty()
        {
            action.hash_policy = it.hash_on.iter().filter_map(hash_on).collect();
        }
        if let Some(it) = self.rate_limit {
            let (name, config) = rate_limit::of_route(it);
            route.typed_per_filter_config.insert(name, config);
        }
    }
}

fn load_balancing(it: &own::LoadBalancing, cluster: &mut pb::Cluster) {
    use own::LoadBalancingPolicy::{LeastRequest, Maglev, Random, RingHash, RoundRobin};
    use pb::cluster::{
        LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
    };
    let slow_start = it.slow_start.as_ref().map(|slow| pb::cluster::SlowStartConfig {
        slow_start_window: Some(duration(slow.window.std())),
        min_weight_percent: slow.min_weight_percent.map(|it| Percent { value: f64::from(it) }),
        ..Default::default()
    });
    let size = |value: u64| outrider_proto::pb::google::protobuf::UInt64Value { value };
    let (policy, config) = match it.policy {
        RoundRobin => (
            LbPolicy::RoundRobin,
            slow_start.map(|slow| {
                LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(slow) })
            }),
        ),
        LeastRequest => (
            LbPolicy::LeastRequest,
            (slow_start.is_some() || it.choices.is_some()).then(|| {
                LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                    choice_count: it.choices.map(uint),
                    slow_start_config: slow_start,
                    ..Default::default()
                })
            }),
        ),
        Random => (LbPolicy::Random, None),
        RingHash => (
            LbPolicy::RingHash,
            it.minimum_ring_size.map(|value| {
                LbConfig::RingHashLbConfig(RingHashLbConfig {
                    minimum_ring_size: Some(size(value)),
                    ..Default::default()
                })
            }),
        ),
        Maglev => (
            LbPolicy::Maglev,
            it.table_size
                .map(|value| LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: Some(size(value)) })),
        ),
    };
    cluster.lb_policy = policy as i32;
    cluster.lb_config = config;
}

fn hash_on(it: &own::HashOn) -> Option<route::route_action::HashPolicy> {
    use route::route_action::hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier};
    let specifier = if let Some(name) = &it.header {
        PolicySpecifier::Header(Header { header_name: name.to_lowercase(), ..Default::default() })
    } else if let Some(cookie) = &it.cookie {
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(|ttl| duration(ttl.std())),
            path: cookie.path.clone().unwrap_or_default(),
            ..Default::default()
        })
    } else if it.source_ip == Some(true) {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
    } else {
        return None;
    };
    // The first one that a request has is enough.
    Some(route::route_action::HashPolicy { terminal: true, policy_specifier: Some(specifier) })
}

fn breakers(it: Option<&own::CircuitBreakers>, budget: Option<&own::RetryBudget>) -> pb::CircuitBreakers {
    use pb::circuit_breakers::{Thresholds, thresholds::RetryBudget};
    let mut thresholds = Thresholds {
        retry_budget: budget.map(|it| RetryBudget {
            budget_percent: it.percent.map(|it| Percent { value: f64::from(it) }),
            min_retry_concurrency: it.min_concurrency.map(uint),
            ..Default::default()
        }),
        ..Default::default()
    };
    if let Some(it) = it {
        thresholds.max_connections = it.max_connections.map(uint);
        thresholds.max_pending_requests = it.max_pending_requests.map(uint);
        thresholds.max_requests = it.max_requests.map(uint);
        thresholds.max_retries = it.max_retries.map(uint);
    }
    pb::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

/// Only what was asked for is looked at: Envoy would look at failures in a row and at success rates anyway.
fn outliers(it: &own::OutlierDetection) -> pb::OutlierDetection {
    let enforce = |on: bool| Some(uint(if on { 100 } else { 0 }));
    let (rate, percentage) = (it.success_rate.as_ref(), it.failure_percentage.as_ref());
    let local = it.consecutive_local_failures.is_some();
    pb::OutlierDetection {
        consecutive_5xx: it.consecutive_errors.map(uint),
        enforcing_consecutive_5xx: enforce(it.consecutive_errors.is_some()),
        consecutive_gateway_failure: it.consecutive_gateway_errors.map(uint),
        enforcing_consecutive_gateway_failure: enforce(it.consecutive_gateway_errors.is_some()),
        split_external_local_origin_errors: local,
        consecutive_local_origin_failure: it.consecutive_local_failures.map(uint),
        enforcing_consecutive_local_origin_failure: local.then(|| uint(100)),
        enforcing_success_rate: enforce(rate.is_some()),
        enforcing_local_origin_success_rate: local.then(|| uint(if rate.is_some() { 100 } else { 0 })),
        success_rate_minimum_hosts: rate.and_then(|it| it.minimum_hosts).map(uint),
        success_rate_request_volume: rate.and_then(|it| it.request_volume).map(uint),
        success_rate_stdev_factor: rate.and_then(|it| it.stdev_thousandths).map(uint),
        failure_percentage_threshold: percentage.map(|it| uint(it.threshold)),
        enforcing_failure_percentage: enforce(percentage.is_some()),
        failure_percentage_minimum_hosts: percentage.and_then(|it| it.minimum_hosts).map(uint),
        failure_percentage_request_volume: percentage.and_then(|it| it.request_volume).map(uint),
        interval: it.interval.map(|it| duration(it.std())),
        base_ejection_time: it.base_ejection_time.map(|it| duration(it.std())),
        max_ejection_time: it.max_ejection_time.map(|it| duration(it.std())),
        max_ejection_percent: it.max_ejection_percent.map(uint),
        always_eject_one_host: Some(truth(true)),
        ..Default::default()
    }
}

/// `None` when the cluster cannot be asked in this way: gRPC needs HTTP/2.
fn health(it: &own::HealthCheck, http2: bool) -> Option<core::HealthCheck> {
    use core::health_check::{
        GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload,
    };
    let text = |text: &String| Payload {
        payload: Some(payload::Payload::Text(text.bytes().map(|byte| format!("{byte:02x}")).collect())),
    };
    let checker = if let Some(http) = &it.http {
        HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: http.host.clone().unwrap_or_default(),
            path: http.path.clone(),
            // Envoy's ranges end before their end.
            expected_statuses: http
                .expected_statuses
                .iter()
                .map(|range| Int64Range {
                    start: i64::from(range.from),
                    end: i64::from(range.to.unwrap_or(range.from)) + 1,
                })
                .collect(),
            codec_client_type: if http2 { CodecClientType::Http2 } else { CodecClientType::Http1 } as i32,
            ..Default::default()
        })
    } else if let Some(grpc) = it.grpc.as_ref().filter(|_| http2) {
        HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: grpc.service.clone().unwrap_or_default(),
            authority: grpc.authority.clone().unwrap_or_default(),
            ..Default::default()
        })
    } else if let Some(tcp) = &it.tcp {
        HealthChecker::TcpHealthCheck(TcpHealthCheck {
            send: tcp.send.as_ref().map(text),
            receive: tcp.receive.iter().map(text).collect(),
            ..Default::default()
        })
    } else {
        return None;
    };
    let interval = Some(duration(it.interval.map_or(Duration::from_secs(10), own::Duration::std)));
    Some(core::HealthCheck {
        timeout: Some(duration(it.timeout.map_or(Duration::from_secs(1), own::Duration::std))),
        // Without it Envoy looks once a minute while there are no requests, whatever the policy says.
        no_traffic_interval: interval,
        interval,
        unhealthy_threshold: Some(uint(it.unhealthy_threshold.unwrap_or(3))),
        healthy_threshold: Some(uint(it.healthy_threshold.unwrap_or(1))),
        health_checker: Some(checker),
        ..Default::default()
    })
}

fn retries(it: &own::Retries) -> Option<route::RetryPolicy> {
    use route::retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate::ConfigType};
    let attempts = it.attempts.unwrap_or(ATTEMPTS);
    if attempts == 0 {
        return None;
    }
    let mut on: Vec<&str> = it.on.iter().map(String::as_str).collect();
    if on.is_empty() {
        on.push(SAFE);
    }
    if !it.status_codes.is_empty() && !on.contains(&"retriable-status-codes") {
        on.push("retriable-status-codes");
    }
    Some(route::RetryPolicy {
        retry_on: on.join(","),
        num_retries: Some(uint(attempts)),
        per_try_timeout: it.per_try_timeout.map(|it| duration(it.std())),
        retriable_status_codes: it.status_codes.iter().copied().map(u32::from).collect(),
        retry_back_off: it.backoff.as_ref().map(|it| RetryBackOff {
            base_interval: Some(duration(it.base.std())),
            max_interval: it.max.map(|it| duration(it.std())),
        }),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(&PreviousHostsPredicate::default()))),
        }],
        host_selection_retry_max_attempts: OTHER_HOSTS,
        ..Default::default()
    })
}

fn pool(it: &own::ConnectionPool, cluster: &mut pb::Cluster) {
    if let Some(keepalive) = &it.tcp_keepalive {
        let seconds = |it: Option<own::Duration>| {
            it.map(|it| uint(u32::try_from(it.std().as_secs()).unwrap_or(u32::MAX)))
        };
        cluster.upstream_connection_options.get_or_insert_default().tcp_keepalive =
            Some(core::TcpKeepalive {
                keepalive_probes: keepalive.probes.map(uint),
                keepalive_time: seconds(keepalive.time),
                keepalive_interval: seconds(keepalive.interval),
            });
    }
    // A cluster that does not speak HTTP has no such options.
    let Some(packed) = cluster.typed_extension_protocol_options.get_mut(HTTP_OPTIONS) else { return };
    let Ok(mut options) = http::HttpProtocolOptions::decode(packed.value.as_slice()) else { return };
    if it.idle_timeout.is_some()
        || it.max_connection_duration.is_some()
        || it.max_requests_per_connection.is_some()
    {
        let common = options.common_http_protocol_options.get_or_insert_default();
        common.idle_timeout = it.idle_timeout.map(|it| duration(it.std()));
        common.max_connection_duration = it.max_connection_duration.map(|it| duration(it.std()));
        common.max_requests_per_connection = it.max_requests_per_connection.map(uint);
    }
    if let Some(settings) = &it.http2 {
        use http::http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig;
        use http::http_protocol_options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions;
        if let Some(ExplicitHttpConfig(explicit)) = &mut options.upstream_protocol_options
            && let Some(Http2ProtocolOptions(http2)) = &mut explicit.protocol_config
        {
            http2.max_concurrent_streams = settings.max_concurrent_streams.map(uint);
            http2.initial_stream_window_size = settings.initial_stream_window_size.map(uint);
            http2.initial_connection_window_size = settings.initial_connection_window_size.map(uint);
            http2.connection_keepalive =
                settings.keepalive_interval.map(|interval| core::KeepaliveSettings {
                    interval: Some(duration(interval.std())),
                    timeout: Some(duration(
                        settings.keepalive_timeout.map_or(Duration::from_secs(5), own::Duration::std),
                    )),
                    ..Default::default()
                });
        }
    }
    *packed = any(&options);
}
