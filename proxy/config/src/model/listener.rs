//! Listeners, filter chains, network filters.

use std::sync::Arc;
use std::time::Duration;

use outrider_core::Metadata;

use super::{
    AccessLog, Cidr, Discovered, DownstreamTls, HttpConnectionManager, NetworkRbac, RuntimeInteger,
    SocketAddress, SocketOption, TcpKeepalive, WeightedCluster,
};

/// A listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name; made from the address when the file gives none.
    pub name: Arc<str>,
    /// The prefix of its stats: `stat_prefix`, or the address with `:` turned into `_`.
    pub stat_prefix: Arc<str>,
    /// The addresses it listens on, the first one first; all the same when `bind_to_port` is false.
    pub addresses: Vec<ListenerAddress>,
    /// Whether it opens a socket; otherwise it only receives what `use_original_dst` hands over.
    pub bind_to_port: bool,
    /// Whether connections go to the listener of their original destination.
    pub use_original_dst: bool,
    /// Listener filters in order.
    pub listener_filters: Vec<ListenerFilter>,
    /// How long listener filters may wait for bytes; `None` for ever. Default 15 s.
    pub listener_filters_timeout: Option<Duration>,
    /// Whether a connection goes on when that time has passed.
    pub continue_on_listener_filters_timeout: bool,
    /// Filter chains in the file's order.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// The chain for what matches no other.
    pub default_filter_chain: Option<Arc<FilterChain>>,
    /// Soft limit of what is buffered on a connection, in bytes. Default 1 MiB.
    pub per_connection_buffer_limit: usize,
    /// `SO_REUSEPORT`: each worker has a socket of its own.
    pub reuse_port: bool,
    /// The accept queue's length.
    pub backlog: u32,
    /// `IP_TRANSPARENT`.
    pub transparent: Option<bool>,
    /// `IP_FREEBIND`.
    pub freebind: Option<bool>,
    /// `TCP_FASTOPEN` queue length.
    pub tcp_fast_open: Option<u32>,
    /// Keepalive of accepted connections.
    pub keepalive: Option<TcpKeepalive>,
    /// Options of the listening socket.
    pub socket_options: Vec<SocketOption>,
    /// Connections accepted at one readiness event; 0 for all there are.
    pub max_accepts_per_event: u32,
    /// Access logs of connections (written when one ends, or when no chain matched).
    pub access_logs: Vec<AccessLog>,
    /// Whether global connection limits pass it by.
    pub ignore_global_conn_limit: bool,
    /// Which way traffic goes; drains can ask for inbound listeners alone.
    pub direction: TrafficDirection,
    /// Whether the SIGTERM/admin drain reaches it only when it is removed or modified.
    pub drain_modify_only: bool,
    /// Its metadata, for `%METADATA(..)%`.
    pub metadata: Option<Arc<Metadata>>,
    /// Connections above this are closed at once (`envoy.resource_limits.listener.<name>.connection_limit`).
    pub connection_limit: RuntimeInteger,
}

/// One address of a listener.
#[derive(Debug, Clone)]
pub struct ListenerAddress {
    /// The address.
    pub address: SocketAddress,
    /// Whether an IPv6 wildcard also takes IPv4.
    pub ipv4_compat: bool,
    /// Its own socket options, in place of the listener's.
    pub socket_options: Option<Vec<SocketOption>>,
    /// Its own keepalive, in place of the listener's.
    pub keepalive: Option<TcpKeepalive>,
}

/// Which way a listener's traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficDirection {
    /// Not said.
    #[default]
    Unspecified,
    /// To the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

/// A listener filter with the predicate that can switch it off.
#[derive(Debug, Clone)]
pub struct ListenerFilter {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Connections that match skip the filter.
    pub disabled: Option<ListenerFilterMatch>,
    /// Which filter.
    pub kind: ListenerFilterKind,
}

/// `ListenerFilterChainMatchPredicate`
#[derive(Debug, Clone)]
pub enum ListenerFilterMatch {
    /// Any of these.
    Or(Vec<ListenerFilterMatch>),
    /// All of these.
    And(Vec<ListenerFilterMatch>),
    /// Not this.
    Not(Box<ListenerFilterMatch>),
    /// Every connection.
    Any,
    /// The (restored) destination port is in `start..end`.
    DestinationPort {
        /// First port in the range.
        start: u16,
        /// First port after it (65536 for the last).
        end: u32,
    },
}

/// The listener filters that there are.
#[derive(Debug, Clone)]
pub enum ListenerFilterKind {
    /// Reads SNI and ALPN from a ClientHello.
    TlsInspector,
    /// Tells HTTP/1.x and h2c from other bytes.
    HttpInspector,
    /// Restores the address the client asked for (`SO_ORIGINAL_DST`).
    OriginalDst,
    /// Upstream connections come from the client's address.
    OriginalSrc {
        /// `SO_MARK` of theirs; 0 for none.
        mark: u32,
    },
    /// Reads a PROXY protocol header.
    ProxyProtocol(ProxyProtocol),
    /// A control plane sends it; its place is taken by what came before anything is built.
    Discovered(Arc<Discovered<ListenerFilterKind>>),
    /// Nothing came for it: connections are closed.
    Missing,
}

/// `envoy.filters.listener.proxy_protocol`
#[derive(Debug, Clone, Default)]
pub struct ProxyProtocol {
    /// Whether connections without a header are let through.
    pub allow_without: bool,
    /// Versions that are not accepted (1, 2).
    pub disallowed_versions: Vec<u8>,
    /// Prefix of its stats; empty for the default.
    pub stat_prefix: String,
}

/// A filter chain.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Its name; empty when the file gives none.
    pub name: Arc<str>,
    /// What a connection must be to get it.
    pub matches: FilterChainMatch,
    /// TLS termination; `None` for plain.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Longest time of the transport handshake; `None` for no limit.
    pub transport_connect_timeout: Option<Duration>,
    /// The network filters in front of the one that ends the chain.
    pub gates: Vec<Gate>,
    /// The network filter that ends the chain.
    pub filter: NetworkFilter,
    /// Its metadata, for `%METADATA(..)%`.
    pub metadata: Option<Arc<Metadata>>,
    /// A hash of all of it.
    pub hash: u64,
    /// A hash of what decides who gets in: the match and the transport socket.
    pub entry_hash: u64,
    /// A hash of the match alone.
    pub match_hash: u64,
    /// A hash of the filters in front of the last.
    pub gates_hash: u64,
}

/// `FilterChainMatch`. Empty criteria match everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FilterChainMatch {
    /// The destination port.
    pub destination_port: Option<u16>,
    /// Prefixes of the destination address.
    pub prefix_ranges: Vec<Cidr>,
    /// Server names: exact, `*.suffix`; lower case.
    pub server_names: Vec<Arc<str>>,
    /// `tls`, `raw_buffer` or empty.
    pub transport_protocol: Arc<str>,
    /// ALPN protocols.
    pub application_protocols: Vec<Arc<str>>,
    /// Prefixes of the address on the socket.
    pub direct_source_prefix_ranges: Vec<Cidr>,
    /// Same host, or another.
    pub source_type: SourceType,
    /// Prefixes of the source address.
    pub source_prefix_ranges: Vec<Cidr>,
    /// Source ports.
    pub source_ports: Vec<u16>,
}

/// `FilterChainMatch.ConnectionSourceType`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    /// Any.
    #[default]
    Any,
    /// Loopback, or the listener's own address.
    SameIpOrLoopback,
    /// Any other.
    External,
}

/// A network filter that lets connections in, or not.
#[derive(Debug, Clone)]
pub enum Gate {
    /// `envoy.filters.network.rbac`
    Rbac(Arc<NetworkRbac>),
}

/// The network filter that ends a chain.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    /// `tcp_proxy`
    TcpProxy(Arc<TcpProxy>),
    /// `http_connection_manager`
    Http(Arc<HttpConnectionManager>),
    /// A control plane sends it; its place is taken by what came before anything is built.
    Discovered(Arc<Discovered<NetworkFilter>>),
    /// Nothing came for it: connections are closed.
    Missing,
}

/// `envoy.filters.network.tcp_proxy`
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// Prefix of its stats (`tcp.<prefix>.`).
    pub stat_prefix: Arc<str>,
    /// Where connections go; never empty.
    pub clusters: Vec<WeightedCluster>,
    /// A session with no bytes either way for this long is closed; `None` for never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a session.
    pub max_duration: Option<Duration>,
    /// Connects tried before the session fails; at least 1.
    pub max_connect_attempts: u32,
    /// Policies that hash take the client's IP address; otherwise they draw at random.
    pub hash_source_ip: bool,
    /// Written when a session ends.
    pub access_logs: Vec<AccessLog>,
    /// Write the access log also when the upstream is connected.
    pub log_on_connected: bool,
    /// Write the access log also at this interval.
    pub log_interval: Option<Duration>,
}
