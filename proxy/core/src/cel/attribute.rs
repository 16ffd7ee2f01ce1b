//! The attributes of Envoy ("Attributes" in its documentation), by name, and what they are.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, REFERER, USER_AGENT};

use super::instant::{nanos_of, since_epoch};
use super::lookup::header;
use super::value::Value;
use super::{Place, Reads, View};
use crate::format::grpc_from_http;
use crate::format::request::{request_bytes, response_bytes, trailer_bytes};
use crate::matcher::{HeadView, HeaderRef};
use crate::metadata::{Metadata, StreamMetadata};
use crate::stream::{Address, TlsInfo};

/// The first parts of attributes, for people.
pub(super) const ROOTS: &str =
    "request, response, connection, source, destination, upstream, metadata, filter_state, xds";

/// Whose headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
    Trailers,
}

/// Whose TLS session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Downstream,
    Upstream,
}

/// What of a TLS session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    Version,
    LocalSubject,
    PeerSubject,
    LocalUri,
    PeerUri,
    LocalDns,
    PeerDns,
    PeerDigest,
}

/// Whose address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Source,
    Destination,
    Host,
    UpstreamLocal,
}

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// What filters said.
    Dynamic,
    Route,
    VirtualHost,
    Cluster,
    Host,
    Listener,
}

/// An attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Headers(Side),
    HeadersBytes(Side),
    RequestTime,
    RequestSize,
    RequestTotalSize,
    RequestDuration,
    Protocol,
    Path,
    UrlPath,
    Query,
    Host,
    Scheme,
    Method,
    Referer,
    RequestId,
    UserAgent,
    Code,
    CodeDetails,
    ResponseSize,
    ResponseTotalSize,
    Flags,
    GrpcStatus,
    BackendLatency,
    Mtls,
    ServerName,
    ConnectionId,
    TerminationDetails,
    DownstreamFailure,
    Tls(Peer, Tls),
    Address(Whose),
    Port(Whose),
    UpstreamFailure,
    PoolReady,
    Attempts,
    ClusterName,
    RouteName,
    FilterChainName,
    Metadata(Of),
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// An attribute.
    Known(Attribute),
    /// One that Envoy has and we do not, and what to write instead.
    Refused(&'static str),
    /// None.
    Unknown,
}

/// What `root.name` stands for. `metadata` is an attribute itself.
pub(super) fn find(root: &str, name: &str, place: Place) -> Option<Named> {
    let found = match root {
        "request" => request(name),
        "response" => response(name),
        "connection" => connection(name),
        "upstream" => upstream(name),
        "source" => address(name, Whose::Source),
        "destination" => address(name, Whose::Destination),
        "xds" => xds(name, place),
        _ => return None,
    };
    Some(found)
}

fn request(name: &str) -> Named {
    Named::Known(match name {
        "headers" => Attribute::Headers(Side::Request),
        "headers_bytes" => Attribute::HeadersBytes(Side::Request),
        "time" => Attribute::RequestTime,
        "size" => Attribute::RequestSize,
        "total_size" => Attribute::RequestTotalSize,
        "duration" => Attribute::RequestDuration,
        "protocol" => Attribute::Protocol,
        "path" => Attribute::Path,
        "url_path" => Attribute::UrlPath,
        "query" => Attribute::Query,
        "host" => Attribute::Host,
        "scheme" => Attribute::Scheme,
        "method" => Attribute::Method,
        "referer" => Attribute::Referer,
        "id" => Attribute::RequestId,
        "useragent" => Attribute::UserAgent,
        _ => return Named::Unknown,
    })
}

fn response(name: &str) -> Named {
    Named::Known(match name {
        "code" => Attribute::Code,
        "code_details" => Attribute::CodeDetails,
        "size" => Attribute::ResponseSize,
        "total_size" => Attribute::ResponseTotalSize,
        "headers" => Attribute::Headers(Side::Response),
        "headers_bytes" => Attribute::HeadersBytes(Side::Response),
        "trailers" => Attribute::Headers(Side::Trailers),
        "flags" => Attribute::Flags,
        "grpc_status" => Attribute::GrpcStatus,
        "backend_latency" => Attribute::BackendLatency,
        _ => return Named::Unknown,
    })
}

fn connection(name: &str) -> Named {
    Named::Known(match name {
        "mtls" => Attribute::Mtls,
        "requested_server_name" => Attribute::ServerName,
        "id" => Attribute::ConnectionId,
        "termination_details" => Attribute::TerminationDetails,
        "transport_failure_reason" => Attribute::DownstreamFailure,
        _ => return tls(name, Peer::Downstream),
    })
}

fn upstream(name: &str) -> Named {
    Named::Known(match name {
        "address" => Attribute::Address(Whose::Host),
        "port" => Attribute::Port(Whose::Host),
        "local_address" => Attribute::Address(Whose::UpstreamLocal),
        "transport_failure_reason" => Attribute::UpstreamFailure,
        "cx_pool_ready_duration" => Attribute::PoolReady,
        "request_attempt_count" => Attribute::Attempts,
        "locality" | "num_endpoints" => return Named::Refused("it is not noted of a request; leave it out"),
        _ => return tls(name, Peer::Upstream),
    })
}

fn tls(name: &str, peer: Peer) -> Named {
    let field = match name {
        "tls_version" => Tls::Version,
        "subject_local_certificate" => Tls::LocalSubject,
        "subject_peer_certificate" => Tls::PeerSubject,
        "uri_san_local_certificate" => Tls::LocalUri,
        "uri_san_peer_certificate" => Tls::PeerUri,
        "dns_san_local_certificate" => Tls::LocalDns,
        "dns_san_peer_certificate" => Tls::PeerDns,
        "sha256_peer_certificate_digest" => Tls::PeerDigest,
        "peer_certificate" => return Named::Refused("compare sha256_peer_certificate_digest instead"),
        _ => return Named::Unknown,
    };
    Named::Known(Attribute::Tls(peer, field))
}

fn address(name: &str, whose: Whose) -> Named {
    match name {
        "address" => Named::Known(Attribute::Address(whose)),
        "port" => Named::Known(Attribute::Port(whose)),
        _ => Named::Unknown,
    }
}

fn xds(name: &str, place: Place) -> Named {
    let late = |attribute| match place {
        Place::Log => Named::Known(attribute),
        Place::Policy => Named::Refused("it is known in access logs alone; ask for xds.route_name"),
    };
    match name {
        "cluster_name" => late(Attribute::ClusterName),
        "cluster_metadata" => late(Attribute::Metadata(Of::Cluster)),
        "virtual_host_metadata" => late(Attribute::Metadata(Of::VirtualHost)),
        "upstream_host_metadata" => Named::Known(Attribute::Metadata(Of::Host)),
        "route_name" => Named::Known(Attribute::RouteName),
        "route_metadata" => Named::Known(Attribute::Metadata(Of::Route)),
        "filter_chain_name" => Named::Known(Attribute::FilterChainName),
        "listener_metadata" => Named::Known(Attribute::Metadata(Of::Listener)),
        "virtual_host_name" => Named::Refused("name the virtual host's routes and ask for xds.route_name"),
        "node" | "listener_direction" | "upstream_host_locality_metadata" => {
            Named::Refused("it is not at hand for each request; write the value itself")
        }
        _ => Named::Unknown,
    }
}

impl Attribute {
    /// Notes what is read for it.
    pub(super) fn note(self, reads: &mut Reads) {
        // The source is what the request's head says of it, where that is trusted.
        reads.per_request |= !matches!(
            self,
            Self::Mtls
                | Self::ServerName
                | Self::ConnectionId
                | Self::DownstreamFailure
                | Self::Tls(Peer::Downstream, _)
                | Self::Address(Whose::Destination)
                | Self::Port(Whose::Destination)
                | Self::FilterChainName
                | Self::Metadata(Of::Listener)
        );
        match self {
            Self::Headers(Side::Request)
            | Self::HeadersBytes(Side::Request)
            | Self::RequestSize
            | Self::RequestTotalSize
            | Self::Path
            | Self::UrlPath
            | Self::Query
            | Self::Host
            | Self::Scheme
            | Self::Method
            | Self::Referer
            | Self::RequestId
            | Self::UserAgent => reads.request = true,
            Self::Headers(_) | Self::HeadersBytes(_) | Self::ResponseTotalSize | Self::GrpcStatus => {
                reads.response = true;
            }
            Self::PoolReady => reads.attempts = true,
            Self::Metadata(Of::Dynamic) => reads.dynamic = true,
            Self::Metadata(Of::Listener) => {}
            Self::Metadata(_) => reads.metadata = true,
            _ => {}
        }
    }

    /// Its value; `None` where there is none.
    pub(super) fn value<'a>(self, view: &View<'a>) -> Option<Value<'a>> {
        let stream = view.stream;
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
        Some(match self {
            Self::Headers(side) => Value::Headers(side.head(view)),
            Self::HeadersBytes(side) => int(side.bytes(view)),
            Self::RequestTime => Value::Timestamp(since_epoch(stream.start_time)),
            Self::RequestSize => return request_size(view),
            Self::RequestTotalSize => int(stream.bytes_received + Side::Request.bytes(view)),
            Self::RequestDuration => Value::Duration(nanos_of(stream.duration?)),
            Self::Protocol => text(stream.protocol?.as_str()),
            Self::Path => text(path(view)?),
            Self::UrlPath => text(view.request?.path.split('?').next().unwrap_or_default()),
            Self::Query => text(query(view)?),
            Self::Host => pseudo(view, &HeaderRef::Authority)?,
            Self::Scheme => pseudo(view, &HeaderRef::Scheme)?,
            Self::Method => pseudo(view, &HeaderRef::Method)?,
            Self::Referer => named(view, REFERER.as_str())?,
            Self::RequestId => named(view, "x-request-id")?,
            Self::UserAgent => named(view, USER_AGENT.as_str())?,
            Self::Code => Value::Int(i64::from(stream.response_code?)),
            Self::CodeDetails => text(Some(&*stream.details).filter(|details| !details.is_empty())?),
            Self::ResponseSize => int(stream.bytes_sent),
            Self::ResponseTotalSize => {
                int(stream.bytes_sent + Side::Response.bytes(view) + Side::Trailers.bytes(view))
            }
            Self::Flags => int(stream.flags.bits()),
            Self::GrpcStatus => grpc_status(view)?,
            Self::BackendLatency => {
                let (begin, end) = (stream.timings.first_upstream_tx?, stream.timings.last_upstream_rx?);
                Value::Duration(nanos_of(end) - nanos_of(begin))
            }
            Self::Mtls => Value::Bool(stream.conn.tls.as_deref().is_some_and(|tls| tls.peer.is_some())),
            Self::ServerName => text(stream.conn.sni.as_deref().unwrap_or_default()),
            Self::ConnectionId => Value::Uint(stream.conn.id),
            Self::TerminationDetails => text(stream.conn.termination_details.get()?),
            Self::DownstreamFailure => text(stream.conn.transport_failure.get()?),
            Self::Tls(Peer::Downstream, field) => text(field.of(stream.conn.tls.as_deref()?)?),
            Self::Tls(Peer::Upstream, field) => text(field.of(stream.upstream.tls.as_deref()?)?),
            Self::Address(whose) => match whose.address(view)? {
                Address::Pipe(path) => text(path),
                address @ Address::Ip(_) => Value::Text(Cow::Owned(address.to_string())),
            },
            Self::Port(whose) => Value::Int(i64::from(whose.address(view)?.ip()?.port())),
            Self::UpstreamFailure => {
                // Without an attempt nothing is known of an upstream, not even that it did not fail.
                let tried = stream.upstream.host.is_some() || stream.attempts > 0;
                let reason = stream.upstream.transport_failure.as_deref();
                text(reason.or_else(|| tried.then_some(""))?)
            }
            Self::PoolReady => Value::Duration(nanos_of(stream.upstream.ready_after?)),
            Self::Attempts => Value::Uint(u64::from(stream.attempts)),
            Self::ClusterName => text(stream.upstream.cluster.as_deref()?),
            Self::RouteName => match stream.route_name.as_deref() {
                Some(name) => text(name),
                // A route without a name has an empty one.
                None => text(route(view).map(|_| "")?),
            },
            Self::FilterChainName => text(&stream.conn.filter_chain),
            Self::Metadata(of) => Value::Metadata(of.metadata(view)?),
        })
    }
}

impl Side {
    fn head<'a>(self, view: &View<'a>) -> Option<HeadView<'a>> {
        match self {
            Self::Request => view.request,
            Self::Response => view.response,
            Self::Trailers => view.trailers.map(HeadView::of),
        }
    }

    fn bytes(self, view: &View<'_>) -> u64 {
        match self {
            Self::Request => view.request.map_or(0, |head| request_bytes(&head)),
            Self::Response => view.response.map_or(0, |head| response_bytes(&head)),
            Self::Trailers => view.trailers.map_or(0, trailer_bytes),
        }
    }

    /// The value of a header.
    pub(super) fn header<'a>(self, view: &View<'a>, name: &HeaderRef) -> Option<Value<'a>> {
        header(&self.head(view)?, name).map(Value::Text)
    }
}

impl Tls {
    fn of(self, tls: &TlsInfo) -> Option<&str> {
        let (peer, local) = (tls.peer.as_deref(), tls.local.as_deref());
        match self {
            Self::Version => Some(tls.version),
            Self::LocalSubject => Some(local.map_or("", |certificate| certificate.subject.as_str())),
            Self::PeerSubject => Some(peer.map_or("", |certificate| certificate.subject.as_str())),
            Self::LocalUri => local?.uri_sans.first().map(String::as_str),
            Self::PeerUri => peer?.uri_sans.first().map(String::as_str),
            Self::LocalDns => local?.dns_sans.first().map(String::as_str),
            Self::PeerDns => peer?.dns_sans.first().map(String::as_str),
            Self::PeerDigest => Some(peer?.sha256.as_str()).filter(|digest| !digest.is_empty()),
        }
    }
}

impl Whose {
    fn address<'a>(self, view: &View<'a>) -> Option<&'a Address> {
        match self {
            Self::Source => Some(view.stream.remote()),
            Self::Destination => Some(&view.stream.conn.local),
            Self::Host => view.stream.upstream.host.as_ref(),
            Self::UpstreamLocal => view.stream.upstream.local.as_ref(),
        }
    }
}

impl Of {
    /// The metadata, the inner `None` for an empty one; the outer where nobody has any.
    #[expect(clippy::option_option, reason = "nobody's, empty, something")]
    fn metadata<'a>(self, view: &View<'a>) -> Option<Option<&'a Metadata>> {
        let stream = view.stream;
        let noted =
            |pick: fn(&StreamMetadata) -> Option<&Metadata>| stream.metadata.as_deref().and_then(pick);
        match self {
            Self::Dynamic => Some(stream.dynamic.as_deref()),
            Self::Listener => Some(stream.conn.origin.listener_metadata.as_deref()),
            Self::Route => route(view),
            Self::VirtualHost => {
                route(view)?;
                Some(noted(|metadata| metadata.virtual_host.as_deref()))
            }
            Self::Cluster => {
                stream.upstream.cluster.as_ref()?;
                Some(noted(|metadata| metadata.cluster.as_deref()))
            }
            Self::Host => {
                stream.upstream.host.as_ref()?;
                Some(noted(|metadata| metadata.host.as_deref()))
            }
        }
    }
}

/// The metadata of the route, if there is a route: one that is noted for access logs, or has metadata, or a name.
#[expect(clippy::option_option, reason = "no route, without metadata, with metadata")]
fn route<'a>(view: &View<'a>) -> Option<Option<&'a Metadata>> {
    let noted = view.stream.metadata.as_deref();
    let metadata = view.route.or_else(|| noted?.route.as_deref());
    (metadata.is_some() || noted.is_some() || view.stream.route_name.is_some()).then_some(metadata)
}

fn int<'a>(value: u64) -> Value<'a> {
    Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

fn path<'a>(view: &View<'a>) -> Option<&'a str> {
    Some(view.request?.path).filter(|path| !path.is_empty())
}

fn query<'a>(view: &View<'a>) -> Option<&'a str> {
    let (_, query) = view.request?.path.split_once('?').unwrap_or_default();
    query.split('#').next()
}

fn pseudo<'a>(view: &View<'a>, name: &HeaderRef) -> Option<Value<'a>> {
    Side::Request.header(view, name)
}

fn named<'a>(view: &View<'a>, name: &str) -> Option<Value<'a>> {
    let value = view.request?.headers.get(name)?;
    Some(Value::Text(String::from_utf8_lossy(value.as_bytes())))
}

/// What the client says that the body has, or what has come of it.
fn request_size<'a>(view: &View<'a>) -> Option<Value<'a>> {
    match view.request.and_then(|head| head.headers.get(CONTENT_LENGTH)) {
        Some(length) => length.to_str().ok()?.trim().parse().ok().map(Value::Int),
        None => Some(int(view.stream.bytes_received)),
    }
}

/// From trailers, from headers, or what the HTTP status stands for.
fn grpc_status<'a>(view: &View<'a>) -> Option<Value<'a>> {
    let from = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse::<u32>().ok();
    let named = view.trailers.and_then(from).or_else(|| view.response.and_then(|head| from(head.headers)));
    let status = named.or_else(|| view.stream.response_code.map(grpc_from_http))?;
    Some(Value::Int(i64::from(status)))
}
