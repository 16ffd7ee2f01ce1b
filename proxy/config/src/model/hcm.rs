//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{
    AccessLog, ConfigSource, DirectBody, HeaderAdd, Http1Options, Http2Options, HttpFilter, LogFilter,
    LogFormat, RouteConfiguration, RuntimeFlag, ScopedRoutes, UpgradeConfig,
};

/// `envoy.filters.network.http_connection_manager`
#[derive(Debug, Clone)]
pub struct HttpConnectionManager {
    /// Prefix of its stats (`http.<prefix>.`).
    pub stat_prefix: Arc<str>,
    /// Which HTTP is spoken.
    pub codec: CodecType,
    /// Where the routes are.
    pub routes: Routes,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// `server` header. Default `envoy`.
    pub server_name: http::HeaderValue,
    /// What is done with the upstream's `server`.
    pub server_header: ServerHeader,
    /// Replaces the scheme of requests.
    pub scheme_overwrite: Option<String>,
    /// Connection-level: a connection without streams for this long is closed; `None` never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// A connection older than this is drained.
    pub max_connection_duration: Option<Duration>,
    /// Requests a connection may carry; 0 for no limit.
    pub max_requests_per_connection: u32,
    /// Headers of a request in number. Default 100.
    pub max_headers_count: u32,
    /// Size of a request's head in KiB. Default 60.
    pub max_request_headers_kb: u32,
    /// Longest life of a stream.
    pub max_stream_duration: Option<Duration>,
    /// What is done with header names that have an underscore.
    pub underscores: UnderscoreAction,
    /// A stream with no bytes either way for this long is ended; `None` never. Default 5 min.
    pub stream_idle_timeout: Option<Duration>,
    /// From the stream's start to the end of the request; `None` for no limit.
    pub request_timeout: Option<Duration>,
    /// From the first byte of a request to the end of its head.
    pub request_headers_timeout: Option<Duration>,
    /// Between GOAWAY with the highest stream id and the last one. Default 5 s.
    pub drain_timeout: Duration,
    /// How long to read on after the last response of a connection that we close. Default 1 s.
    pub delayed_close_timeout: Option<Duration>,
    /// Access logs of streams.
    pub access_logs: Vec<AccessLog>,
    /// Write the access log also when a request's headers arrive.
    pub log_on_new_request: bool,
    /// Write the access log also at this interval.
    pub log_interval: Option<Duration>,
    /// Whether the socket's peer is the client (edge), instead of what `x-forwarded-for` says.
    pub use_remote_address: bool,
    /// Trusted proxies in front.
    pub xff_num_trusted_hops: u32,
    /// `x-forwarded-for` is left as it is.
    pub skip_xff_append: bool,
    /// Appended to `via`; empty for nothing.
    pub via: String,
    /// Append the port to `x-forwarded-port`.
    pub append_x_forwarded_port: bool,
    /// Tell upstreams the node's cluster as user agent, and who forwards.
    pub add_user_agent: bool,
    /// How local replies are changed.
    pub local_replies: LocalReplies,
    /// Make an `x-request-id` where there is none. Default true.
    pub generate_request_id: bool,
    /// Keep the `x-request-id` of external requests.
    pub preserve_external_request_id: bool,
    /// Put the request id into the response.
    pub always_set_request_id_in_response: bool,
    /// Pack a trace decision into the request id. Default true.
    pub pack_trace_reason: bool,
    /// `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// What XFCC says of the certificate.
    pub client_cert_details: ClientCertDetails,
    /// `100-continue` comes from the upstream instead of from us.
    pub proxy_100_continue: bool,
    /// `x-forwarded-for` with IPv6-mapped IPv4.
    pub represent_ipv4_remote_address_as_ipv4_mapped_ipv6: bool,
    /// Upgrades.
    pub upgrades: Vec<UpgradeConfig>,
    /// RFC 3986 normalisation of the path.
    pub normalize_path: bool,
    /// Refuse a path with a fragment; otherwise the fragment is cut off.
    pub reject_path_with_fragment: RuntimeFlag,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// What is done with `%2F` and its kin.
    pub escaped_slashes: EscapedSlashes,
    /// Ports are cut off the host before routing.
    pub strip_port: StripPort,
    /// The trailing dot is cut off the host.
    pub strip_trailing_host_dot: bool,
    /// A malformed message ends the stream alone, not the connection.
    pub stream_error_on_invalid_http_message: bool,
    /// Which peers count as internal.
    pub internal_addresses: InternalAddresses,
    /// The filters in front of the router, in their order.
    pub filters: Vec<HttpFilter>,
    /// The router's settings.
    pub router: RouterFilter,
    /// The router filter's name in the configuration.
    pub router_name: Arc<str>,
}

/// Where a connection manager's routes are.
#[derive(Debug, Clone)]
pub enum Routes {
    /// `route_config`
    Inline(Arc<RouteConfiguration>),
    /// `rds`
    Rds {
        /// Where the table comes from.
        source: ConfigSource,
        /// Its name.
        name: Arc<str>,
    },
    /// `scoped_routes`
    Scoped(ScopedRoutes),
}

/// `LocalReplyConfig`
#[derive(Debug, Clone, Default)]
pub struct LocalReplies {
    /// The first whose filter passes is applied.
    pub mappers: Vec<ResponseMapper>,
    /// What bodies are, where the mapper does not say it.
    pub body_format: Option<BodyFormat>,
}

/// `ResponseMapper`
#[derive(Debug, Clone)]
pub struct ResponseMapper {
    /// Which replies it takes.
    pub filter: LogFilter,
    /// Their new status.
    pub status: Option<StatusCode>,
    /// Their new body.
    pub body: Option<DirectBody>,
    /// Headers that they get.
    pub headers: Vec<HeaderAdd>,
    /// What their body is.
    pub body_format: Option<BodyFormat>,
}

/// A `SubstitutionFormatString` for bodies.
#[derive(Debug, Clone)]
pub struct BodyFormat {
    /// The format.
    pub format: LogFormat,
    /// Its type.
    pub content_type: Arc<str>,
}

/// Which HTTP is spoken downstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecType {
    /// ALPN, or the first bytes.
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// `server_header_transformation`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeader {
    /// Ours.
    Overwrite,
    /// The upstream's if it gave one.
    AppendIfAbsent,
    /// The upstream's, or none.
    PassThrough,
}

/// `headers_with_underscores_action`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderscoreAction {
    /// They pass.
    Allow,
    /// The request is refused with 400.
    Reject,
    /// The header is dropped.
    Drop,
}

/// `path_with_escaped_slashes_action`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Left alone.
    Keep,
    /// 400.
    Reject,
    /// Redirect to the unescaped path.
    Redirect,
    /// Unescaped.
    Forward,
}

/// Which ports are cut off the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    No,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}

/// `forward_client_cert_details`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// The header is removed.
    Sanitize,
    /// It passes when the connection is mTLS.
    ForwardOnly,
    /// Ours is appended when the connection is mTLS.
    AppendForward,
    /// Ours replaces it when the connection is mTLS.
    SanitizeSet,
    /// It always passes.
    AlwaysForwardOnly,
}

/// `set_current_client_cert_details`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// `Subject`
    pub subject: bool,
    /// `Cert`
    pub cert: bool,
    /// `Chain`
    pub chain: bool,
    /// `DNS`
    pub dns: bool,
    /// `URI`
    pub uri: bool,
}

/// Which downstream addresses are internal.
#[derive(Debug, Clone, PartialEq)]
pub struct InternalAddresses {
    /// Unix sockets are.
    pub unix_sockets: bool,
    /// These prefixes are; `None` (no `internal_address_config`): no address is, as in Envoy since 1.33.
    pub ranges: Option<Vec<super::Cidr>>,
}

/// `envoy.filters.http.router`
#[derive(Debug, Clone)]
pub struct RouterFilter {
    /// `cluster.*.upstream_rq_*` by code and zone. Default true.
    pub dynamic_stats: bool,
    /// Written for each upstream attempt.
    pub upstream_logs: Vec<AccessLog>,
    /// Do not add `x-envoy-*` to requests and responses.
    pub suppress_envoy_headers: bool,
    /// Headers that are checked strictly (400, IH).
    pub strict_check_headers: Vec<http::HeaderName>,
    /// The incoming `x-envoy-expected-rq-timeout-ms` is respected.
    pub respect_expected_rq_timeout: bool,
}
