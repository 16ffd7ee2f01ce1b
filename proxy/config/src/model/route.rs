//! Routes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use outrider_core::Metadata;
use outrider_core::matcher::{HeaderMatcher, QueryMatcher, RuntimeFraction};
use regex::Regex;

use super::{FilterOverride, HashPolicy, HeaderMutations, RetryPolicy, RuntimeInteger};

/// A route table.
#[derive(Debug, Clone, Default)]
pub struct RouteConfiguration {
    /// Its name.
    pub name: Arc<str>,
    /// Virtual hosts in the file's order.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Headers of requests and responses that it changes.
    pub headers: HeaderMutations,
    /// Headers that only internal requests may carry.
    pub internal_only_headers: Vec<HeaderName>,
    /// The most specific mutation is applied last (and so wins).
    pub most_specific_wins: bool,
    /// Ports in the Host are not compared.
    pub ignore_port: bool,
    /// References to clusters are checked when it is loaded.
    pub validate_clusters: bool,
    /// Largest direct response, bytes. Default 4096.
    pub max_direct_response_body: u32,
    /// A path's parameters (`;...`) are not matched.
    pub ignore_path_parameters: bool,
    /// What it says of HTTP filters; each filter once.
    pub filters: Vec<FilterOverride>,
    /// Where more virtual hosts come from; `None`: there are no others.
    pub vhds: Option<Arc<Vhds>>,
}

/// `Vhds`
#[derive(Debug, Clone)]
pub struct Vhds {
    /// Where they come from: a stream that speaks delta.
    pub source: super::ConfigSource,
    /// The table's mirrors, for routes that have none of their own.
    pub mirrors: Vec<MirrorPolicy>,
}

/// A virtual host.
#[derive(Debug, Clone)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Exact, `*.suffix`, `prefix.*` or `*`; lower case.
    pub domains: Vec<String>,
    /// Routes in order.
    pub routes: Vec<Arc<Route>>,
    /// Which requests must be TLS.
    pub require_tls: RequireTls,
    /// Headers that it changes.
    pub headers: HeaderMutations,
    /// Send `x-envoy-attempt-count` upstream.
    pub request_attempt_count: bool,
    /// Send `x-envoy-attempt-count` downstream.
    pub attempt_count_in_response: bool,
    /// Send `x-envoy-is-timeout-retry` upstream.
    pub is_timeout_retry_header: bool,
    /// What requests are counted by, beside routes: the first that matches.
    pub virtual_clusters: Vec<VirtualCluster>,
    /// What it says of HTTP filters; each filter once.
    pub filters: Vec<FilterOverride>,
    /// Its metadata, for `%METADATA(..)%`.
    pub metadata: Option<Arc<Metadata>>,
}

/// `VirtualCluster`: requests that are counted together (`vhost.<v>.vcluster.<name>.`).
#[derive(Debug, Clone)]
pub struct VirtualCluster {
    /// Its name.
    pub name: Arc<str>,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
}

/// `VirtualHost.TlsRequirementType`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequireTls {
    /// None.
    #[default]
    None,
    /// Those from outside.
    External,
    /// All.
    All,
}

/// A route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name; `None` when it has none.
    pub name: Option<Arc<str>>,
    /// What it takes.
    pub matches: RouteMatch,
    /// What it does.
    pub action: RouteAction,
    /// Headers that it changes.
    pub headers: HeaderMutations,
    /// Request body kept for retries and mirrors, bytes; `None` for the connection's limit.
    pub per_request_buffer_limit: Option<u64>,
    /// Prefix of its own stats (`vhost.<v>.route.<prefix>.`); `None` for none.
    pub stat_prefix: Option<Arc<str>>,
    /// What it says of HTTP filters; each filter once.
    pub filters: Vec<FilterOverride>,
    /// Its metadata, for `%METADATA(..)%`.
    pub metadata: Option<Arc<Metadata>>,
}

/// `RouteMatch`
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Whether the path's case counts (not with regular expressions).
    pub case_sensitive: bool,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// All must match.
    pub query: Vec<QueryMatcher>,
    /// Only gRPC requests.
    pub grpc: bool,
    /// Only a share of requests.
    pub fraction: Option<RuntimeFraction>,
    /// Whether the client showed a certificate / it was verified.
    pub tls: Option<TlsContextMatch>,
}

/// `TlsContextMatchOptions`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsContextMatch {
    /// A certificate was shown.
    pub presented: Option<bool>,
    /// It was verified.
    pub validated: Option<bool>,
}

/// How a path is matched. Query and fragment are no part of it.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// Its beginning.
    Prefix(Box<str>),
    /// The whole.
    Exact(Box<str>),
    /// The whole, or the beginning up to a `/`.
    SeparatedPrefix(Box<str>),
    /// The whole matches.
    Regex(Box<Regex>),
    /// CONNECT requests (and extended CONNECT).
    Connect,
}

/// What a route does.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// To a cluster.
    Forward(Box<Forward>),
    /// A redirect.
    Redirect(Box<Redirect>),
    /// A fixed answer.
    Direct(DirectResponse),
}

/// A fixed answer.
#[derive(Debug, Clone)]
pub struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: DirectBody,
}

/// The body of a direct response.
#[derive(Debug, Clone)]
pub enum DirectBody {
    /// These bytes; empty for none.
    Inline(Bytes),
    /// A file, read by the server when the route table is loaded.
    Source(super::DataSource),
}

/// To a cluster.
#[derive(Debug, Clone)]
pub struct Forward {
    /// What the request is hashed by, for clusters that choose hosts by a hash.
    pub hash_policy: Vec<HashPolicy>,
    /// Which.
    pub cluster: ClusterSpecifier,
    /// The answer when the cluster does not exist. Default 503.
    pub cluster_not_found: StatusCode,
    /// Rewrites the path.
    pub path_rewrite: Option<PathRewrite>,
    /// Rewrites the authority.
    pub host_rewrite: Option<HostRewrite>,
    /// Keep the authority in `x-forwarded-host` when it is rewritten.
    pub append_x_forwarded_host: bool,
    /// Whole request to end of response; `None` for no limit. Default 15 s.
    pub timeout: Option<Duration>,
    /// In place of the connection manager's; outer `None` when not given, inner for no limit.
    pub idle_timeout: Option<Option<Duration>>,
    /// How it is retried: the route's, else the virtual host's; `None` for none.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Copies.
    pub mirrors: Vec<MirrorPolicy>,
    /// Which circuit breaker.
    pub high_priority: bool,
    /// `max_stream_duration` of the route.
    pub max_stream_duration: Option<RouteMaxStreamDuration>,
    /// Upgrades in addition to, or against, the connection manager's.
    pub upgrades: Vec<UpgradeConfig>,
    /// The older cap of `grpc-timeout`.
    pub max_grpc_timeout: Option<Duration>,
    /// Taken off the gRPC timeout.
    pub grpc_timeout_offset: Option<Duration>,
}

/// `RouteAction.MaxStreamDuration`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteMaxStreamDuration {
    /// In place of the connection manager's; `Some(None)` turns it off.
    pub max_stream_duration: Option<Option<Duration>>,
    /// Cap of `grpc-timeout`; `Some(None)` takes it without cap; `None`: the header is not looked at.
    pub grpc_timeout_header_max: Option<Option<Duration>>,
    /// Taken off `grpc-timeout`.
    pub grpc_timeout_header_offset: Option<Duration>,
}

/// Which cluster.
#[derive(Debug, Clone)]
pub enum ClusterSpecifier {
    /// This one.
    Name(Arc<str>),
    /// One of these by weight; never empty.
    Weighted(Weighted),
    /// The one that a header names.
    Header(HeaderName),
}

/// Weighted clusters.
#[derive(Debug, Clone)]
pub struct Weighted {
    /// The clusters.
    pub clusters: Vec<WeightedCluster>,
    /// Sum of their weights, at least 1; `None` where the runtime may change them.
    pub total: Option<u64>,
    /// Takes the random number from this header.
    pub header: Option<HeaderName>,
}

/// One of several clusters.
#[derive(Debug, Clone)]
pub struct WeightedCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Its weight.
    pub weight: RuntimeInteger,
    /// Headers that it changes.
    pub headers: HeaderMutations,
    /// Rewrites the authority.
    pub host_rewrite: Option<Box<str>>,
    /// What it says of HTTP filters; each filter once.
    pub filters: Vec<FilterOverride>,
}

/// Rewrites a path.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// The matched prefix (or whole path) becomes this.
    Prefix(Box<str>),
    /// Each match becomes the substitution (`\1` is a group).
    Regex(RegexRewrite),
}

/// `RegexMatchAndSubstitute`
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    /// What is replaced; not anchored.
    pub pattern: Regex,
    /// By what, in the regex crate's notation (`${1}`).
    pub substitution: Box<str>,
}

/// Rewrites the authority.
#[derive(Debug, Clone)]
pub enum HostRewrite {
    /// To this.
    Literal(http::HeaderValue),
    /// To the host's hostname.
    Auto,
    /// To this header's value.
    Header(HeaderName),
    /// To what the path gives.
    PathRegex(RegexRewrite),
}

/// A redirect.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307, 308.
    pub status: StatusCode,
    /// `https_redirect`
    pub https: bool,
    /// In place of the scheme.
    pub scheme: Option<Box<str>>,
    /// In place of the host.
    pub host: Option<Box<str>>,
    /// In place of the port.
    pub port: Option<u16>,
    /// In place of the path.
    pub path: Option<RedirectPath>,
    /// The query is dropped.
    pub strip_query: bool,
}

/// The path of a redirect.
#[derive(Debug, Clone)]
pub enum RedirectPath {
    /// The whole path (may bring its own query).
    Whole(Box<str>),
    /// The matched prefix.
    Prefix(Box<str>),
    /// By regular expression.
    Regex(RegexRewrite),
}

/// A copy of the request to another cluster.
#[derive(Debug, Clone)]
pub struct MirrorPolicy {
    /// Which.
    pub cluster: MirrorCluster,
    /// How many.
    pub fraction: Option<RuntimeFraction>,
    /// Do not append `-shadow` to the authority.
    pub disable_host_suffix: bool,
}

/// The cluster of a mirror.
#[derive(Debug, Clone)]
pub enum MirrorCluster {
    /// This one.
    Name(Arc<str>),
    /// The one that a header names.
    Header(HeaderName),
}

/// An upgrade that is allowed or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeConfig {
    /// `websocket`, `CONNECT`, ...; compared without case.
    pub name: String,
    /// Whether it is allowed; default true.
    pub enabled: bool,
}
