//! What is known of a stream and of its connection: the facts that access logs, formats and stats read.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::flags::ResponseFlags;
use crate::generation;
use crate::metadata::{Metadata, MetadataValue, StreamMetadata};

/// An address of a peer or of ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// IP and port.
    Ip(SocketAddr),
    /// A Unix socket's path; empty for an unnamed one; a leading `@` for an abstract one.
    Pipe(Arc<str>),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}

impl Address {
    /// The IP address and port, if it is one.
    pub const fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Pipe(_) => None,
        }
    }
}

/// HTTP versions as `%PROTOCOL%` prints them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// Its name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What a TLS handshake established.
#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    /// `TLSv1.3`
    pub version: &'static str,
    /// The suite's OpenSSL name (`ECDHE-RSA-AES128-GCM-SHA256`, `TLS_AES_128_GCM_SHA256`).
    pub cipher: &'static str,
    /// The server name the client asked for.
    pub sni: Option<Arc<str>>,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<Arc<str>>,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// The session id in hex; empty when there is none.
    pub session_id: Arc<str>,
    /// The peer's certificate, if it showed one that we take.
    pub peer: Option<Arc<CertInfo>>,
    /// The client's certificate was held against trusted authorities or hashes, and held. Servers say it.
    pub peer_verified: bool,
    /// The certificates behind the peer's own, in the order in which it sent them: DER.
    pub peer_chain: Arc<[Box<[u8]>]>,
    /// Our own certificate.
    pub local: Option<Arc<CertInfo>>,
    /// The group of the key exchange, by BoringSSL's name (`X25519`, `P-256`); empty when there was none.
    pub group: &'static str,
}

/// What logs and headers say of a certificate. Parsed once a handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertInfo {
    /// RFC 2253 subject.
    pub subject: String,
    /// RFC 2253 issuer.
    pub issuer: String,
    /// Serial number, hex.
    pub serial: String,
    /// SHA-256 of the DER, hex.
    pub sha256: String,
    /// SHA-1 of the DER, hex.
    pub sha1: String,
    /// URI SANs.
    pub uri_sans: Vec<String>,
    /// DNS SANs.
    pub dns_sans: Vec<String>,
    /// IP SANs as text.
    pub ip_sans: Vec<String>,
    /// E-mail SANs.
    pub email_sans: Vec<String>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// The certificate as URL-encoded PEM, as XFCC carries it; made on first need by its user.
    pub der: Vec<u8>,
}

/// Where a connection came in.
#[derive(Debug, Default)]
pub struct Origin {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The listener's metadata.
    pub listener_metadata: Option<Arc<Metadata>>,
    /// The filter chain's metadata.
    pub chain_metadata: Option<Arc<Metadata>>,
}

/// An upstream connection that a request was sent on.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The host's address.
    pub host: Address,
    /// The host's name; empty for none.
    pub hostname: Arc<str>,
    /// Number of the connection.
    pub connection_id: u64,
}

/// Whose address upstream connections show, in place of the proxy's own (`original_src`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceAddress {
    /// The client's address.
    pub ip: IpAddr,
    /// `SO_MARK`, by which answers are routed back to the proxy; 0 for none.
    pub mark: u32,
}

/// What is known of a downstream connection. Fixed once its filter chain is chosen.
#[derive(Debug)]
pub struct ConnInfo {
    /// Process-wide number of the connection (`%CONNECTION_ID%`).
    pub id: u64,
    /// The client's address; what PROXY protocol or the listener's filters say it is.
    pub remote: Address,
    /// The client's address on the socket itself.
    pub direct_remote: Address,
    /// The address the client connected to; restored by original_dst or PROXY protocol.
    pub local: Address,
    /// The address on the socket itself.
    pub direct_local: Address,
    /// Whether `local` differs from the socket's by an original-destination or PROXY filter.
    pub local_restored: bool,
    /// What upstream connections show as their source; `None`: what the cluster says.
    pub source: Option<SourceAddress>,
    /// The server name, from TLS or from tls_inspector.
    pub sni: Option<Arc<str>>,
    /// The TLS session, when this side terminates TLS.
    pub tls: Option<Rc<TlsInfo>>,
    /// The filter chain's name; empty when it has none.
    pub filter_chain: Arc<str>,
    /// The listener's name and metadata, and the filter chain's.
    pub origin: Arc<Origin>,
    /// From the connection's begin to the end of the TLS handshake, where there was one.
    pub handshake: Option<Duration>,
    /// When the connection was accepted.
    pub accepted: Instant,
    /// Why the proxy ended the connection; set at most once.
    pub termination_details: std::cell::OnceCell<Cow<'static, str>>,
    /// The client was seen to reset it.
    pub reset: std::cell::Cell<bool>,
    /// Why the downstream TLS handshake failed.
    pub transport_failure: std::cell::OnceCell<Arc<str>>,
}

/// What is known of the upstream side of a stream, filled in by the router or tcp_proxy.
#[derive(Debug, Default, Clone)]
pub struct UpstreamInfo {
    /// The cluster's name (`%UPSTREAM_CLUSTER_RAW%`).
    pub cluster: Option<Arc<str>>,
    /// The cluster's `alt_stat_name` if it has one (`%UPSTREAM_CLUSTER%`).
    pub cluster_alt: Option<Arc<str>>,
    /// The chosen host's address.
    pub host: Option<Address>,
    /// The chosen host's hostname.
    pub hostname: Option<Arc<str>>,
    /// Our address on the upstream connection.
    pub local: Option<Address>,
    /// The upstream protocol.
    pub protocol: Option<Protocol>,
    /// The upstream TLS session.
    pub tls: Option<Rc<TlsInfo>>,
    /// Why connecting or the TLS handshake failed.
    pub transport_failure: Option<Arc<str>>,
    /// Number of the upstream connection.
    pub connection_id: Option<u64>,
    /// The upstream was seen to reset the connection.
    pub reset: bool,
    /// How long it took to get the connection; noted only where a format reads it.
    pub ready_after: Option<Duration>,
    /// All connections that the request was sent on; noted only where a format reads it.
    pub attempted: Vec<Attempt>,
}

/// Points in a stream's life, as time since its start. `None`: not reached.
#[derive(Debug, Default, Clone, Copy)]
pub struct Timings {
    /// The last byte of the request was received.
    pub last_downstream_rx: Option<Duration>,
    /// The first byte of the request went upstream.
    pub first_upstream_tx: Option<Duration>,
    /// The last byte of the request went upstream.
    pub last_upstream_tx: Option<Duration>,
    /// The first byte of the response was received.
    pub first_upstream_rx: Option<Duration>,
    /// The last byte of the response was received.
    pub last_upstream_rx: Option<Duration>,
    /// The first byte of the response went downstream.
    pub first_downstream_tx: Option<Duration>,
    /// The last byte of the response went downstream.
    pub last_downstream_tx: Option<Duration>,
}

/// What filters keep of a stream, by name (Envoy: filter state). Few, so that they are looked through.
#[derive(Debug, Default)]
pub struct FilterState(Vec<(Arc<str>, FilterObject)>);

/// What a filter keeps of a stream.
#[derive(Debug, Clone)]
pub enum FilterObject {
    /// The messages of a gRPC call.
    GrpcMessages(Rc<GrpcMessages>),
    /// What an authorization service said that nobody heeds (`ShadowDecision`).
    ShadowDecision {
        /// As protobuf's JSON has it.
        typed: Rc<str>,
        /// The same with the fields' own names.
        plain: Rc<str>,
    },
}

/// The messages of a gRPC call, as they have come.
#[derive(Debug, Default)]
pub struct GrpcMessages {
    /// Of the request.
    pub request: Cell<u64>,
    /// Of the response.
    pub response: Cell<u64>,
}

/// What is known of one stream (an HTTP request, or a TCP session). Sealed once by `finish`.
#[derive(Debug)]
pub struct StreamInfo {
    /// The connection it came on.
    pub conn: Rc<ConnInfo>,
    /// The client's address when it is another than the connection's (`x-forwarded-for` and its kin).
    pub remote: Option<Address>,
    /// When it began, monotonic.
    pub start: Instant,
    /// When it began, wall clock.
    pub start_time: SystemTime,
    /// Its whole duration; set when it is finished.
    pub duration: Option<Duration>,
    /// Points on the way.
    pub timings: Timings,
    /// The downstream HTTP version; `None` for TCP.
    pub protocol: Option<Protocol>,
    /// The response's status, once there is one; 0 is logged when there is none.
    pub response_code: Option<u16>,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: Cow<'static, str>,
    /// Why it ended as it did.
    pub flags: ResponseFlags,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// Header and body bytes to the upstream, where known.
    pub upstream_bytes_sent: u64,
    /// Header and body bytes from the upstream, where known.
    pub upstream_bytes_received: u64,
    /// Upstream attempts begun.
    pub attempts: u32,
    /// The chosen route's name; `None` for none.
    pub route_name: Option<Arc<str>>,
    /// The chosen virtual host's name.
    pub virtual_host: Option<Arc<str>>,
    /// The virtual cluster's name.
    pub virtual_cluster: Option<Arc<str>>,
    /// The upstream side.
    pub upstream: UpstreamInfo,
    /// Metadata; noted only where a format reads it.
    pub metadata: Option<Box<StreamMetadata>>,
    /// It was answered as a health check of the proxy: stats leave it out, and logs that say so.
    pub health_check: bool,
    /// What filters keep of the stream under a name; `None` where none kept anything.
    pub filter_state: Option<Box<FilterState>>,
    /// What filters say of the stream (dynamic metadata); `None` where none said anything.
    pub dynamic: Option<Box<Metadata>>,
    /// The configuration's generation when it was routed.
    pub generation: u64,
}

impl StreamInfo {
    /// A stream that begins now.
    pub fn new(conn: Rc<ConnInfo>, protocol: Option<Protocol>) -> Self {
        Self::at(conn, protocol, Instant::now(), SystemTime::now())
    }

    /// A stream that begins at `start`, which is `start_time` by the wall clock.
    pub fn at(
        conn: Rc<ConnInfo>,
        protocol: Option<Protocol>,
        start: Instant,
        start_time: SystemTime,
    ) -> Self {
        Self {
            conn,
            remote: None,
            start,
            start_time,
            duration: None,
            timings: Timings::default(),
            protocol,
            response_code: None,
            details: Cow::Borrowed(""),
            flags: ResponseFlags::NONE,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_bytes_sent: 0,
            upstream_bytes_received: 0,
            attempts: 0,
            route_name: None,
            virtual_host: None,
            virtual_cluster: None,
            upstream: UpstreamInfo::default(),
            metadata: None,
            health_check: false,
            filter_state: None,
            dynamic: None,
            generation: generation::current(),
        }
    }

    /// Keeps `object` under `name`, in the place of what was there.
    pub fn set_filter_state(&mut self, name: &Arc<str>, object: FilterObject) {
        let FilterState(kept) = &mut **self.filter_state.get_or_insert_default();
        match kept.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = object,
            None => kept.push((name.clone(), object)),
        }
    }

    /// What is kept under `name`.
    pub fn filter_state(&self, name: &str) -> Option<&FilterObject> {
        let mut kept = self.filter_state.as_ref()?.0.iter();
        kept.find(|(known, _)| **known == *name).map(|(_, object)| object)
    }

    /// Adds `values` to the dynamic metadata of `namespace`; a value of the same name takes the place of the old one.
    pub fn add_metadata(&mut self, namespace: &Arc<str>, values: &BTreeMap<Arc<str>, MetadataValue>) {
        let dynamic = self.dynamic.get_or_insert_default();
        let known = dynamic.namespaces.entry(namespace.clone()).or_default();
        known.extend(values.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Sets one value of the dynamic metadata of `namespace`.
    pub fn set_metadata(&mut self, namespace: &Arc<str>, key: &Arc<str>, value: MetadataValue) {
        let dynamic = self.dynamic.get_or_insert_default();
        dynamic.namespaces.entry(namespace.clone()).or_default().insert(key.clone(), value);
    }

    /// The client's address: what the request's head says of it if that is trusted, else the connection's.
    pub fn remote(&self) -> &Address {
        self.remote.as_ref().unwrap_or(&self.conn.remote)
    }
}
