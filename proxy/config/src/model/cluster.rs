//! Clusters and their endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ActiveCheck, BackOff, ConfigSource, DynamicSecret, EndpointCheck, HashPolicy, Metadata, MetadataValue,
    OutlierDetection, RingHashFunction, RuntimeDouble, RuntimeInteger, SocketAddress, SocketOption,
    TcpKeepalive, UpstreamTls,
};

/// A cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// The name in its stats (`alt_stat_name`, or the name with `:` as `_`).
    pub stat_name: Arc<str>,
    /// `alt_stat_name` as given; `None` when not.
    pub alt_stat_name: Option<Arc<str>>,
    /// Its metadata, for `%METADATA(..)%`.
    pub metadata: Option<Arc<Metadata>>,
    /// Where its hosts come from.
    pub discovery: Discovery,
    /// How a host is chosen.
    pub lb: LbPolicy,
    /// What a policy that hashes takes in place of what routes say; empty for theirs.
    pub hash_policy: Vec<HashPolicy>,
    /// Longest time of a connect, handshake included. Default 5 s.
    pub connect_timeout: Duration,
    /// Soft limit of what is buffered on an upstream connection, bytes. Default 1 MiB.
    pub per_connection_buffer_limit: usize,
    /// TLS to the hosts; `None` for plain.
    pub tls: Option<Arc<UpstreamTls>>,
    /// In place of `tls` for hosts whose metadata matches: the first that does.
    pub tls_matches: Vec<TransportSocketMatch>,
    /// HTTP to the hosts.
    pub http: UpstreamHttp,
    /// Limits of the default priority.
    pub breaker_default: CircuitBreaker,
    /// Limits of the high priority.
    pub breaker_high: CircuitBreaker,
    /// Connections a single host may have (`per_host_thresholds`); `None` for no limit.
    pub per_host_max_connections: Option<u32>,
    /// The local address that connections bind to.
    pub bind: Option<SocketAddress>,
    /// In its place for hosts of the other IP version.
    pub bind_other: Option<SocketAddress>,
    /// Options of upstream sockets.
    pub socket_options: Vec<SocketOption>,
    /// Keepalive of upstream connections.
    pub keepalive: Option<TcpKeepalive>,
    /// Close pooled connections when their host leaves or becomes unhealthy.
    pub close_connections_on_host_health_failure: bool,
    /// Share of hosts that must be healthy; below it all are used (percent, 0 to 100). Default 50.
    pub panic_threshold: RuntimeInteger,
    /// In panic, fail instead.
    pub fail_traffic_on_panic: bool,
    /// Hosts that fail are taken out; `None` for not.
    pub outlier: Option<Box<OutlierDetection>>,
    /// Hosts are asked whether they are well; `None` for not.
    pub checks: Option<Box<ActiveCheck>>,
    /// A new host does not count, for panic and priorities, before its first check.
    pub ignore_new_until_checked: bool,
    /// A host that discovery takes away goes at once, even if its checks are good.
    pub ignore_health_on_removal: bool,
}

impl Cluster {
    /// The secrets that its transport sockets need and that come from elsewhere.
    pub fn dynamic_secrets(&self) -> impl Iterator<Item = &Arc<DynamicSecret>> {
        let contexts = self.tls.iter().chain(self.tls_matches.iter().filter_map(|one| one.tls.as_ref()));
        contexts.flat_map(|tls| tls.dynamic_secrets())
    }
}

/// The namespace of a host's metadata that [`TransportSocketMatch`] reads.
pub const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// `Cluster.TransportSocketMatch`
#[derive(Debug, Clone)]
pub struct TransportSocketMatch {
    /// Its name in stats.
    pub name: Arc<str>,
    /// What the namespace [`TRANSPORT_SOCKET_MATCH`] of a host must have; empty for any host.
    pub criteria: BTreeMap<Arc<str>, MetadataValue>,
    /// TLS to such hosts; `None` for plain.
    pub tls: Option<Arc<UpstreamTls>>,
}

/// What the bootstrap says for clusters that do not say it themselves, whoever sends them.
#[derive(Debug, Clone, Default)]
pub struct ClusterDefaults {
    /// `cluster_manager.upstream_bind_config`
    pub bind: UpstreamBind,
    /// The resolver of names; `None` for the system's.
    pub resolver: Option<DnsResolver>,
}

/// `BindConfig`
#[derive(Debug, Clone, Default)]
pub struct UpstreamBind {
    /// The local address; `None` leaves it to the kernel.
    pub source: Option<SocketAddress>,
    /// The local address for hosts of the other IP version.
    pub extra: Option<SocketAddress>,
    /// `IP_FREEBIND`; `None` when not said.
    pub freebind: Option<bool>,
    /// Options of the sockets.
    pub options: Vec<SocketOption>,
}

/// Which name servers are asked, and how.
#[derive(Debug, Clone, Default)]
pub struct DnsResolver {
    /// Name servers; empty for the system's.
    pub servers: Vec<SocketAddress>,
    /// TCP instead of UDP.
    pub use_tcp: bool,
    /// Search domains are not tried.
    pub no_default_search_domain: bool,
}

/// Where a cluster's hosts come from.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// From the file.
    Static(Endpoints),
    /// Each name is resolved; every address is a host.
    StrictDns {
        /// The endpoints by name.
        endpoints: Endpoints,
        /// How.
        dns: DnsSettings,
    },
    /// One name; each new connection goes to the address that resolved last.
    LogicalDns {
        /// The one endpoint.
        endpoints: Endpoints,
        /// How.
        dns: DnsSettings,
    },
    /// The address that the client asked for.
    OriginalDst(OriginalDst),
    /// A control plane says.
    Eds {
        /// Where the endpoints come from.
        source: ConfigSource,
        /// The name of the `ClusterLoadAssignment`: `service_name`, or the cluster's name.
        service_name: Arc<str>,
    },
}

/// `CLUSTER_PROVIDED` for ORIGINAL_DST clusters.
#[derive(Debug, Clone)]
pub struct OriginalDst {
    /// Take the address from this header (`x-envoy-original-dst-host` when none is named).
    pub http_header: Option<http::HeaderName>,
    /// Use this port in place of the one asked for.
    pub port_override: Option<u16>,
    /// Hosts not used for this long are forgotten. Default 5 s.
    pub cleanup_interval: Duration,
}

/// How names are resolved.
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// How often. Default 5 s.
    pub refresh_rate: Duration,
    /// After a failure; `None` for the refresh rate.
    pub failure_refresh: Option<BackOff>,
    /// The answer's TTL takes the place of the refresh rate.
    pub respect_ttl: bool,
    /// Up to this is added to the refresh time.
    pub jitter: Duration,
    /// Which addresses.
    pub family: DnsFamily,
    /// Name servers; empty for the system's.
    pub resolvers: Vec<SocketAddress>,
    /// Search domains are not tried.
    pub no_default_search_domain: bool,
    /// TCP instead of UDP.
    pub use_tcp: bool,
}

/// Which addresses a name is resolved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, and IPv4 only when there is none.
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, and IPv6 only when there is none.
    V4Preferred,
    /// Both.
    All,
}

/// A `ClusterLoadAssignment`.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    /// Localities in the file's order.
    pub localities: Vec<LocalityEndpoints>,
    /// How the load is spread over them, and how much of it is let through.
    pub policy: EndpointPolicy,
}

/// `ClusterLoadAssignment.Policy`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointPolicy {
    /// Percentage each priority is overprovisioned by. Default 140.
    pub overprovisioning_factor: u32,
    /// The health of a priority counts the weights of its hosts, not the hosts.
    pub weighted_priority_health: bool,
    /// The share of requests to answer 503 instead of sending them, from 0 to 1.
    pub drop_overload: f64,
    /// Endpoints that are not renewed for this long are forgotten. EDS alone.
    pub stale_after: Option<Duration>,
}

impl Default for EndpointPolicy {
    fn default() -> Self {
        Self {
            overprovisioning_factor: 140,
            weighted_priority_health: false,
            drop_overload: 0.0,
            stale_after: None,
        }
    }
}

/// The endpoints of one locality and priority.
#[derive(Debug, Clone, Default)]
pub struct LocalityEndpoints {
    /// `region`
    pub region: String,
    /// `zone`
    pub zone: String,
    /// `sub_zone`
    pub sub_zone: String,
    /// 0 is used first.
    pub priority: u32,
    /// The locality's weight; `None` when not given.
    pub weight: Option<u32>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What transport socket matches read where an endpoint's own matches none; `None` for none.
    pub metadata: Option<Arc<Metadata>>,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddress,
    /// Its hostname (for `auto_host_rewrite`, `auto_sni`); empty for none.
    pub hostname: Arc<str>,
    /// Its weight, at least 1.
    pub weight: u32,
    /// What the control plane says of its health.
    pub health: EndpointHealth,
    /// What transport socket matches and logs read; `None` for none.
    pub metadata: Option<Arc<Metadata>>,
    /// How it is checked; `None` as the cluster says.
    pub check: Option<Arc<EndpointCheck>>,
}

/// Health as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndpointHealth {
    /// Used.
    #[default]
    Healthy,
    /// Used after the healthy ones.
    Degraded,
    /// Not used: `UNHEALTHY`, `TIMEOUT`.
    Unhealthy,
    /// Not used for new requests.
    Draining,
}

/// How a host is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The one with fewer active requests of `choices` drawn.
    LeastRequest {
        /// How many are drawn, at least 2.
        choices: u32,
        /// How much active requests lower a weight, where weights differ.
        active_request_bias: RuntimeDouble,
    },
    /// Drawn.
    Random,
    /// By the request's hash, on a ring of hosts (ketama).
    RingHash {
        /// How hosts are put onto it.
        function: RingHashFunction,
        /// Entries at least, as far as `max_size` allows.
        min_size: u64,
        /// Entries at most.
        max_size: u64,
        /// Hosts are hashed by hostname, not by address.
        by_hostname: bool,
    },
    /// By the request's hash, in maglev's table.
    Maglev {
        /// Its size, a prime number.
        table_size: u64,
        /// Hosts are hashed by hostname, not by address.
        by_hostname: bool,
    },
    /// The cluster's own way (ORIGINAL_DST).
    ClusterProvided,
}

impl LbPolicy {
    /// Whether hosts are chosen by a hash of the request.
    pub const fn is_hashed(&self) -> bool {
        matches!(self, Self::RingHash { .. } | Self::Maglev { .. })
    }
}

/// `CircuitBreakers.Thresholds`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Connections. Default 1024.
    pub max_connections: u32,
    /// Requests that wait for a connection. Default 1024.
    pub max_pending_requests: u32,
    /// Requests. Default 1024.
    pub max_requests: u32,
    /// Retries. Default 3.
    pub max_retries: u32,
    /// A budget in place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Publish what is left as gauges.
    pub track_remaining: bool,
    /// Connection pools. Default unlimited.
    pub max_connection_pools: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
            max_connection_pools: u32::MAX,
        }
    }
}

/// Retries as a share of active requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Percent of active and pending requests, in hundredths of a percent.
    pub budget_centipercent: u32,
    /// Retries that are always allowed.
    pub min_concurrency: u32,
}

/// `HttpProtocolOptions` of a cluster, and the older fields that say the same.
#[derive(Debug, Clone)]
pub struct UpstreamHttp {
    /// Which protocol.
    pub protocol: UpstreamProtocol,
    /// Its hosts are said to speak HTTP/2, if not that alone.
    pub takes_http2: bool,
    /// A pooled connection idle for this long is closed; `None` for never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// A connection older than this takes no new requests.
    pub max_connection_duration: Option<Duration>,
    /// Requests per connection; 0 for no limit.
    pub max_requests_per_connection: u32,
    /// Longest life of an upstream stream.
    pub max_stream_duration: Option<Duration>,
    /// Headers of a response, in number. Default 100.
    pub max_headers_count: u32,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// The SNI is the request's authority.
    pub auto_sni: bool,
    /// The certificate is verified against that SNI.
    pub auto_san_validation: bool,
    /// The header that `auto_sni` reads instead of the authority.
    pub override_auto_sni_header: Option<http::HeaderName>,
}

impl Default for UpstreamHttp {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::Http1,
            takes_http2: false,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: 0,
            max_stream_duration: None,
            max_headers_count: 100,
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            auto_sni: false,
            auto_san_validation: false,
            override_auto_sni_header: None,
        }
    }
}

/// Which HTTP goes to a cluster's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge or ALPN.
    Http2,
    /// What the downstream request came by.
    UseDownstream,
    /// What ALPN agrees on.
    Auto,
}

/// `Http1ProtocolOptions`, both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1Options {
    /// Absolute request targets are taken apart. Default true.
    pub allow_absolute_url: bool,
    /// Methods of any name are served; otherwise those that are registered.
    pub allow_custom_methods: bool,
    /// HTTP/1.0 requests are served.
    pub accept_http_10: bool,
    /// The Host of HTTP/1.0 requests that have none.
    pub default_host_for_http_10: String,
    /// Trailers pass.
    pub enable_trailers: bool,
    /// Requests with both Content-Length and Transfer-Encoding: chunked are served (the length is dropped).
    pub allow_chunked_length: bool,
    /// How header names are written.
    pub header_case: HeaderCase,
    /// Malformed messages end the stream alone instead of the connection.
    pub override_stream_error_on_invalid_http_message: Option<bool>,
    /// Send absolute-form request targets (to forward proxies).
    pub send_fully_qualified_url: bool,
}

impl Default for Http1Options {
    fn default() -> Self {
        Self {
            allow_absolute_url: true,
            allow_custom_methods: false,
            accept_http_10: false,
            default_host_for_http_10: String::new(),
            enable_trailers: false,
            allow_chunked_length: false,
            header_case: HeaderCase::Lower,
            override_stream_error_on_invalid_http_message: None,
            send_fully_qualified_url: false,
        }
    }
}

/// How HTTP/1 header names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderCase {
    /// `content-type`
    Lower,
    /// `Content-Type`
    ProperWords,
    /// As received.
    Preserve,
}

/// `Http2ProtocolOptions`, both sides. `None` stands for Envoy's default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Http2Options {
    /// HPACK table, bytes. Default 4096.
    pub hpack_table_size: Option<u32>,
    /// Streams at once.
    pub max_concurrent_streams: Option<u32>,
    /// Stream window, bytes.
    pub initial_stream_window_size: Option<u32>,
    /// Connection window, bytes.
    pub initial_connection_window_size: Option<u32>,
    /// Extended CONNECT is allowed.
    pub allow_connect: bool,
    /// Malformed messages end the stream alone instead of the connection.
    pub override_stream_error_on_invalid_http_message: Option<bool>,
    /// PINGs; `None` for none.
    pub keepalive: Option<Http2Keepalive>,
    /// Frames queued for the peer; a flood ends the connection.
    pub max_outbound_frames: Option<u32>,
    /// Control frames queued for the peer.
    pub max_outbound_control_frames: Option<u32>,
}

/// `KeepaliveSettings`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Http2Keepalive {
    /// Between PINGs; `None` for no periodic ones.
    pub interval: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Percent of jitter of the interval.
    pub interval_jitter_percent: f64,
    /// PING after this much idleness before the next stream.
    pub connection_idle_interval: Option<Duration>,
}
