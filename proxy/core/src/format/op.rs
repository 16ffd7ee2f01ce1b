//! The operators, and how each writes its value.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use super::FormatContext;
use super::time::TimeFormat;
use super::tls::{self, Side, TlsField};
use crate::matcher::{HeadView, HeaderRef};
use crate::stream::Address;

/// One operator.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Request(HeaderPick),
    RequestWithoutQuery(HeaderPick),
    Response(HeaderPick),
    Trailer(HeaderPick),
    QueryParam(Box<str>),
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    Duration {
        start: Point,
        end: Point,
        precision: Precision,
    },
    TotalDuration,
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    BytesReceived,
    BytesSent,
    ResponseFlags {
        long: bool,
    },
    AttemptCount,
    UpstreamCluster {
        raw: bool,
    },
    UpstreamHostname,
    UpstreamConnectionId,
    UpstreamTransportFailure,
    DownstreamTransportFailure,
    RequestedServerName,
    RouteName,
    FilterChainName,
    ConnectionId,
    AccessLogType,
    LocalReplyBody,
    GrpcStatus(GrpcStyle),
    Address {
        which: Which,
        part: AddressPart,
    },
    Tls(Side, TlsField),
    Constant(Box<str>),
    /// Never has a value.
    Absent,
}

/// `X?Y`: header X, or Y when X is absent.
#[derive(Debug, Clone)]
pub(super) struct HeaderPick {
    pub(super) name: HeaderRef,
    pub(super) alternative: Option<HeaderRef>,
}

impl HeaderPick {
    fn with(&self, head: &HeadView<'_>, f: &mut dyn FnMut(&str)) -> bool {
        let mut take = |name: &HeaderRef| head.with(name, |value| value.map(&mut *f).is_some());
        take(&self.name) || self.alternative.as_ref().is_some_and(take)
    }
}

/// A point in a stream's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    DownstreamRxBegin,
    DownstreamRxEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
}

impl Point {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "DS_RX_BEG" => Self::DownstreamRxBegin,
            "DS_RX_END" => Self::DownstreamRxEnd,
            "US_TX_BEG" => Self::UpstreamTxBegin,
            "US_TX_END" => Self::UpstreamTxEnd,
            "US_RX_BEG" => Self::UpstreamRxBegin,
            "US_RX_END" => Self::UpstreamRxEnd,
            "DS_TX_BEG" => Self::DownstreamTxBegin,
            "DS_TX_END" => Self::DownstreamTxEnd,
            _ => return None,
        })
    }

    fn of(self, cx: &FormatContext<'_>) -> Option<Duration> {
        let timings = &cx.info.timings;
        match self {
            Self::DownstreamRxBegin => Some(Duration::ZERO),
            Self::DownstreamRxEnd => timings.last_downstream_rx,
            Self::UpstreamTxBegin => timings.first_upstream_tx,
            Self::UpstreamTxEnd => timings.last_upstream_tx,
            Self::UpstreamRxBegin => timings.first_upstream_rx,
            Self::UpstreamRxEnd => timings.last_upstream_rx,
            Self::DownstreamTxBegin => timings.first_downstream_tx,
            Self::DownstreamTxEnd => timings.last_downstream_tx,
        }
    }
}

/// The unit of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Millis,
    Micros,
    Nanos,
}

/// How a gRPC status prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrpcStyle {
    Camel,
    Snake,
    Number,
}

/// Which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    UpstreamRemote,
    UpstreamLocal,
    DownstreamLocal,
    DownstreamDirectLocal,
    DownstreamRemote,
    DownstreamDirectRemote,
}

/// Which part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressPart {
    Whole,
    Host,
    Port,
}

impl Op {
    pub(super) fn is_number(&self) -> bool {
        matches!(
            self,
            Self::Duration { .. }
                | Self::TotalDuration
                | Self::ResponseCode
                | Self::BytesReceived
                | Self::BytesSent
                | Self::AttemptCount
                | Self::UpstreamConnectionId
                | Self::ConnectionId
                | Self::GrpcStatus(GrpcStyle::Number)
                | Self::Address { part: AddressPart::Port, .. }
        )
    }

    pub(super) fn reads_request(&self) -> bool {
        matches!(self, Self::Request(_) | Self::RequestWithoutQuery(_) | Self::QueryParam(_))
    }

    pub(super) fn reads_response(&self) -> bool {
        matches!(self, Self::Response(_) | Self::Trailer(_) | Self::GrpcStatus(_))
    }

    /// Appends the value; `false` when there is none.
    pub(super) fn write(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let info = cx.info;
        match self {
            Self::Request(pick) => head(pick, cx.request.as_ref(), out),
            Self::Response(pick) => head(pick, cx.response.as_ref(), out),
            Self::Trailer(pick) => head(pick, cx.trailers.map(HeadView::of).as_ref(), out),
            Self::RequestWithoutQuery(pick) => cx.request.as_ref().is_some_and(|request| {
                pick.with(request, &mut |value| put(value.split('?').next().unwrap_or(value), out))
            }),
            Self::QueryParam(name) => query_param(name, cx, out),
            Self::StartTime(format) => {
                format.write(info.start_time, out);
                true
            }
            Self::EmitTime(format) => {
                format.write(SystemTime::now(), out);
                true
            }
            Self::TotalDuration => {
                info.duration.is_some_and(|duration| number(duration.as_millis() as u64, out))
            }
            Self::Duration { start, end, precision } => duration(*start, *end, *precision, cx, out),
            Self::Protocol => info.protocol.is_some_and(|protocol| text(protocol.as_str(), out)),
            Self::UpstreamProtocol => {
                info.upstream.protocol.is_some_and(|protocol| text(protocol.as_str(), out))
            }
            Self::ResponseCode => number(u64::from(info.response_code.unwrap_or(0)), out),
            Self::ResponseCodeDetails => text(&info.details, out),
            Self::ConnectionTerminationDetails => {
                info.conn.termination_details.get().is_some_and(|details| text(details, out))
            }
            Self::BytesReceived => number(info.bytes_received, out),
            Self::BytesSent => number(info.bytes_sent, out),
            Self::ResponseFlags { long } => flags(*long, cx, out),
            Self::AttemptCount => number(u64::from(info.attempts), out),
            _ => self.write_names(cx, out),
        }
    }

    fn write_names(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let (info, upstream) = (cx.info, &cx.info.upstream);
        let optional = |value: &Option<std::sync::Arc<str>>, out: &mut Vec<u8>| {
            value.as_deref().is_some_and(|value| text(value, out))
        };
        match self {
            Self::UpstreamCluster { raw: true } => optional(&upstream.cluster, out),
            Self::UpstreamCluster { raw: false } => {
                optional(&upstream.cluster_alt, out) || optional(&upstream.cluster, out)
            }
            Self::UpstreamHostname => {
                optional(&upstream.hostname, out)
                    || upstream.host.as_ref().is_some_and(|host| write!(out, "{host}").is_ok())
            }
            Self::UpstreamConnectionId => upstream.connection_id.is_some_and(|id| number(id, out)),
            Self::UpstreamTransportFailure => {
                upstream.transport_failure.as_deref().is_some_and(|reason| words(reason, out))
            }
            Self::DownstreamTransportFailure => {
                info.conn.transport_failure.get().is_some_and(|reason| words(reason, out))
            }
            Self::RequestedServerName => optional(&info.conn.sni, out),
            Self::RouteName => optional(&info.route_name, out),
            Self::FilterChainName => text(&info.conn.filter_chain, out),
            Self::ConnectionId => number(info.conn.id, out),
            Self::AccessLogType => text(cx.log_type, out),
            // An empty body is a body: it prints as nothing, not as absent.
            Self::LocalReplyBody => {
                put(cx.local_reply_body, out);
                true
            }
            Self::GrpcStatus(style) => grpc_status(*style, cx, out),
            Self::Address { which, part } => address(*which, *part, cx, out),
            Self::Tls(side, field) => tls::write(*side, *field, cx, out),
            Self::Constant(value) => text(value, out),
            _ => false,
        }
    }
}

fn put(value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(value.as_bytes());
}

fn text(value: &str, out: &mut Vec<u8>) -> bool {
    put(value, out);
    !value.is_empty()
}

/// Text whose spaces become underscores, so that it stays one field of a log line.
fn words(value: &str, out: &mut Vec<u8>) -> bool {
    out.extend(value.bytes().map(|byte| if byte == b' ' { b'_' } else { byte }));
    !value.is_empty()
}

fn number(value: u64, out: &mut Vec<u8>) -> bool {
    put(itoa::Buffer::new().format(value), out);
    true
}

fn head(pick: &HeaderPick, view: Option<&HeadView<'_>>, out: &mut Vec<u8>) -> bool {
    view.is_some_and(|view| pick.with(view, &mut |value| put(value, out)))
}

fn query_param(name: &str, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let Some((_, query)) = cx.request.and_then(|request| request.path.split_once('?')) else { return false };
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).is_some_and(|(_, value)| text(value, out))
}

fn duration(
    start: Point,
    end: Point,
    precision: Precision,
    cx: &FormatContext<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let (Some(start), Some(end)) = (start.of(cx), end.of(cx)) else { return false };
    let Some(elapsed) = end.checked_sub(start) else { return false };
    let value = match precision {
        Precision::Millis => elapsed.as_millis(),
        Precision::Micros => elapsed.as_micros(),
        Precision::Nanos => elapsed.as_nanos(),
    };
    number(value as u64, out)
}

fn flags(long: bool, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let flags = cx.info.flags;
    let before = out.len();
    let mut join = |name: &str| {
        if out.len() > before {
            out.push(b',');
        }
        put(name, out);
    };
    if long {
        flags.long_names().for_each(&mut join)
    } else {
        flags.short_names().for_each(&mut join)
    }
    if flags.is_empty() {
        // Envoy's own value for "none", also where absent values print as nothing.
        put("-", out);
    }
    true
}

fn address(which: Which, part: AddressPart, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let (conn, upstream) = (&cx.info.conn, &cx.info.upstream);
    let address = match which {
        Which::UpstreamRemote => upstream.host.as_ref(),
        Which::UpstreamLocal => upstream.local.as_ref(),
        Which::DownstreamLocal => Some(&conn.local),
        Which::DownstreamDirectLocal => Some(&conn.direct_local),
        Which::DownstreamRemote => Some(cx.info.remote()),
        Which::DownstreamDirectRemote => Some(&conn.direct_remote),
    };
    match (address, part) {
        (None, _) | (Some(Address::Pipe(_)), AddressPart::Port) => false,
        (Some(Address::Pipe(path)), _) => text(path, out),
        (Some(Address::Ip(ip)), AddressPart::Whole) => write!(out, "{ip}").is_ok(),
        (Some(Address::Ip(ip)), AddressPart::Host) => write!(out, "{}", ip.ip()).is_ok(),
        (Some(Address::Ip(ip)), AddressPart::Port) => number(u64::from(ip.port()), out),
    }
}

/// The gRPC status from the trailers, else from the headers (trailers-only), else from the HTTP status.
fn grpc_status(style: GrpcStyle, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let is_grpc = cx.request.is_some_and(|request| {
        request
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
    });
    if !is_grpc {
        return false;
    }
    let from = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse::<u32>().ok();
    let status =
        cx.trailers.and_then(from).or_else(|| cx.response.and_then(|response| from(response.headers)));
    let Some(status) = status.or_else(|| cx.info.response_code.map(from_http)) else { return false };
    match (style, NAMES.get(status as usize)) {
        (GrpcStyle::Number, _) | (_, None) => number(u64::from(status), out),
        (GrpcStyle::Camel, Some((camel, _))) => text(camel, out),
        (GrpcStyle::Snake, Some((_, snake))) => text(snake, out),
    }
}

/// gRPC's own mapping of HTTP statuses ("HTTP to gRPC Status Code Mapping").
pub(super) const fn from_http(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];
