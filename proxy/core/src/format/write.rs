//! How each operator writes its value.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use super::op::{
    AddressPart, AttemptedPart, FilterStateForm, GrpcStyle, HeaderPick, MetadataOf, Op, Point, Precision,
    Which,
};
use super::tls::{self, Side};
use super::{FormatContext, request};
use crate::matcher::HeadView;
use crate::metadata::Metadata;
use crate::rng::{self, Rng};
use crate::stream::{Address, Attempt, FilterObject, StreamInfo};

impl Op {
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
            Self::QueryParam(name) => request::query_param(name, cx, out),
            Self::QueryParams { decoded } => request::query_params(*decoded, cx, out),
            Self::Path { query, source } => request::path(*query, *source, cx, out),
            Self::StreamId => request::header(cx, "x-request-id", out),
            Self::HeadBytes(part) => number(request::head_bytes(*part, cx), out),
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
            Self::Generation => number(info.generation, out),
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
            Self::UpstreamHostname { port } => upstream
                .host
                .as_ref()
                .is_some_and(|host| host_name(host, upstream.hostname.as_deref(), *port, out)),
            Self::Attempted(part) => attempted(*part, &upstream.attempted, out),
            Self::PoolReady => {
                upstream.ready_after.is_some_and(|after| number(after.as_millis() as u64, out))
            }
            Self::Handshake => info.conn.handshake.is_some_and(|took| number(took.as_millis() as u64, out)),
            Self::CloseType(side) => close_type(*side, info, out),
            Self::UniqueId => unique_id(out),
            Self::ListenerName => text(&info.conn.origin.listener, out),
            Self::VirtualCluster => optional(&info.virtual_cluster, out),
            Self::Metadata { of, namespace, path } => {
                metadata(*of, info).is_some_and(|metadata| metadata.write(namespace, path, false, out))
                    || (*of == MetadataOf::Dynamic && path.is_empty() && text("{}", out))
            }
            Self::FilterState { name, form } => {
                info.filter_state(name).is_some_and(|object| filter_object(object, form, out))
            }
            Self::Zero => number(0, out),
            Self::Empty => true,
            Self::UpstreamConnectionId => upstream.connection_id.is_some_and(|id| number(id, out)),
            Self::UpstreamTransportFailure => {
                upstream.transport_failure.as_deref().is_some_and(|reason| words(reason, out))
            }
            Self::DownstreamTransportFailure => {
                info.conn.transport_failure.get().is_some_and(|reason| words(reason, out))
            }
            Self::RequestedServerName(which) => request::server_name(*which, cx, out),
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

/// Appends a metadata value as JSON; `false` when there is none.
pub(super) fn write_json(op: &Op, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let Op::Metadata { of, namespace, path } = op else { return false };
    metadata(*of, cx.info).is_some_and(|metadata| metadata.write(namespace, path, true, out))
        // A namespace of which nobody said anything is an empty one (measured on Envoy 1.40).
        || (*of == MetadataOf::Dynamic && path.is_empty() && text("{}", out))
}

fn filter_object(object: &FilterObject, form: &FilterStateForm, out: &mut Vec<u8>) -> bool {
    let messages = match object {
        FilterObject::GrpcMessages(messages) => messages,
        FilterObject::ShadowDecision { typed, plain } => {
            return match form {
                FilterStateForm::Typed => text(typed, out),
                FilterStateForm::Plain => text(plain, out),
                FilterStateForm::Field => false,
            };
        }
    };
    let (request, response) = (messages.request.get(), messages.response.get());
    match form {
        // As protobuf's JSON has it: numbers of 64 bits are text, and 0 is left out.
        FilterStateForm::Typed => {
            let fields = [("requestMessageCount", request), ("responseMessageCount", response)];
            let fields = fields.iter().filter(|(_, number)| *number > 0);
            let fields: Vec<String> =
                fields.map(|(name, number)| format!("\"{name}\":\"{number}\"")).collect();
            text(&format!("{{{}}}", fields.join(",")), out)
        }
        FilterStateForm::Plain => text(&format!("{request},{response}"), out),
        // Envoy's object gives no field by itself.
        FilterStateForm::Field => false,
    }
}

fn metadata(of: MetadataOf, info: &StreamInfo) -> Option<&Metadata> {
    let stream = || info.metadata.as_deref();
    match of {
        MetadataOf::Route => stream()?.route.as_deref(),
        MetadataOf::VirtualHost => stream()?.virtual_host.as_deref(),
        MetadataOf::Cluster => stream()?.cluster.as_deref(),
        MetadataOf::Host => stream()?.host.as_deref(),
        MetadataOf::Listener => info.conn.origin.listener_metadata.as_deref(),
        MetadataOf::FilterChain => info.conn.origin.chain_metadata.as_deref(),
        MetadataOf::Dynamic => info.dynamic.as_deref(),
    }
}

/// The host's name, or its address when it has none.
fn host_name(host: &Address, name: Option<&str>, port: bool, out: &mut Vec<u8>) -> bool {
    match name.filter(|name| !name.is_empty()) {
        Some(name) if port => text(name, out),
        Some(name) => text(name.rsplit_once(':').map_or(name, |(name, _port)| name), out),
        None => address_of(host, if port { AddressPart::Whole } else { AddressPart::Host }, out),
    }
}

/// Each once, in the order in which they were first tried.
fn attempted(part: AttemptedPart, attempts: &[Attempt], out: &mut Vec<u8>) -> bool {
    let same = |a: &Attempt, b: &Attempt| match part {
        AttemptedPart::Connection => a.connection_id == b.connection_id,
        AttemptedPart::Host { .. } | AttemptedPart::Name { .. } => a.host == b.host,
    };
    for (i, attempt) in attempts.iter().enumerate() {
        if attempts.iter().take(i).any(|earlier| same(earlier, attempt)) {
            continue;
        }
        if i > 0 {
            out.push(b',');
        }
        match part {
            AttemptedPart::Host { port } => {
                let part = if port { AddressPart::Whole } else { AddressPart::Host };
                address_of(&attempt.host, part, out);
            }
            AttemptedPart::Name { port } => _ = host_name(&attempt.host, Some(&attempt.hostname), port, out),
            AttemptedPart::Connection => _ = number(attempt.connection_id, out),
        }
    }
    !attempts.is_empty()
}

/// How a side's connection was seen to end; it is usually still open when an entry is written.
fn close_type(side: Side, info: &StreamInfo, out: &mut Vec<u8>) -> bool {
    let reset = match side {
        Side::Downstream => info.conn.reset.get(),
        Side::Upstream if info.upstream.host.is_none() => return false,
        Side::Upstream => info.upstream.reset,
    };
    text(if reset { "RemoteReset" } else { "Normal" }, out)
}

/// A random UUID (RFC 9562, version 4).
fn unique_id(out: &mut Vec<u8>) -> bool {
    let (high, low) = rng::with(|rng| (rng.next_u64(), rng.next_u64()));
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xffff);
    write!(out, "{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff).is_ok()
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
        Which::UpstreamHost => upstream.host.as_ref(),
        // Without a connection there is no address at its other end.
        Which::UpstreamRemote => upstream.host.as_ref().filter(|_| upstream.connection_id.is_some()),
        Which::UpstreamLocal => upstream.local.as_ref(),
        Which::DownstreamLocal => Some(&conn.local),
        Which::DownstreamDirectLocal => Some(&conn.direct_local),
        Which::DownstreamRemote => Some(cx.info.remote()),
        Which::DownstreamDirectRemote => Some(&conn.direct_remote),
    };
    address.is_some_and(|address| address_of(address, part, out))
}

fn address_of(address: &Address, part: AddressPart, out: &mut Vec<u8>) -> bool {
    match (address, part) {
        // It has none, and that is not the same as having no address.
        (Address::Pipe(_), AddressPart::Port) => true,
        (Address::Pipe(_), AddressPart::Network(_)) => false,
        (Address::Pipe(path), _) => text(path, out),
        (Address::Ip(ip), AddressPart::Whole) => write!(out, "{ip}").is_ok(),
        (Address::Ip(ip), AddressPart::Host) => write!(out, "{}", ip.ip()).is_ok(),
        (Address::Ip(ip), AddressPart::Port) => number(u64::from(ip.port()), out),
        (Address::Ip(ip), AddressPart::Network(bits)) => {
            write!(out, "{}/{bits}", network(ip.ip(), u32::from(bits))).is_ok()
        }
    }
}

/// The first address of the network of `bits` bits that `ip` is in.
fn network(ip: IpAddr, bits: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
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
