//! Text to pieces.

use super::op::{
    AddressPart, AttemptedPart, FilterStateForm, HeaderPick, MetadataOf, Op, Part, PathSource, Point,
    Precision, ServerName,
};
use super::time::TimeFormat;
use super::tls::{self, Side};
use super::{FormatError, Piece};
use crate::matcher::HeaderRef;

pub(super) fn pieces(format: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(c) = format[at..].chars().next() {
        if c != '%' {
            literal.push(c);
            at += c.len_utf8();
            continue;
        }
        if format[at + 1..].starts_with('%') {
            literal.push('%');
            at += 2;
            continue;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
        }
        let fail = |message: String| FormatError { message, format: format.to_owned(), offset: at };
        let command = Command::read(&format[at + 1..]).map_err(&fail)?;
        pieces.push(Piece::Op { op: operator(&command).map_err(&fail)?, max_len: command.max_len });
        at += 1 + command.len;
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// `NAME(argument):length%`
struct Command<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    max_len: Option<usize>,
    /// Bytes up to and with the closing `%`.
    len: usize,
}

impl<'a> Command<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let name_len = text
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .unwrap_or(text.len());
        let (name, mut rest) = text.split_at(name_len);
        if name.is_empty() {
            return Err("a % must begin an operator such as %PROTOCOL%; write %% for a percent sign".into());
        }
        let mut argument = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let end = inner.find(')').ok_or_else(|| format!("%{name}( has no closing parenthesis"))?;
            argument = Some(&inner[..end]);
            rest = &inner[end + 1..];
        }
        let mut max_len = None;
        if let Some(inner) = rest.strip_prefix(':') {
            let end = inner.find(|c: char| !c.is_ascii_digit()).unwrap_or(inner.len());
            max_len = Some(
                inner[..end]
                    .parse()
                    .map_err(|_| format!("%{name}'s length after the colon is not a number"))?,
            );
            rest = &inner[end..];
        }
        if !rest.starts_with('%') {
            return Err(format!("%{name} has no closing %"));
        }
        Ok(Self { name, argument, max_len, len: text.len() - rest.len() + 1 })
    }

    fn required(&self) -> Result<&'a str, String> {
        self.argument.ok_or_else(|| format!("%{}% needs an argument in parentheses", self.name))
    }
}

fn operator(command: &Command<'_>) -> Result<Op, String> {
    if let Some(op) = with_argument(command)? {
        return Ok(op);
    }
    if command.argument.is_some() {
        return Err(format!("%{}% takes no argument", command.name));
    }
    let op = simple(command.name).or_else(|| address(command.name)).or_else(|| tls::operator(command.name));
    op.ok_or_else(|| format!("%{}% is not an operator known here", command.name))
}

fn with_argument(command: &Command<'_>) -> Result<Option<Op>, String> {
    Ok(Some(match command.name {
        "REQ" => Op::Request(pick(command.required()?)?),
        "RESP" => Op::Response(pick(command.required()?)?),
        "TRAILER" => Op::Trailer(pick(command.required()?)?),
        "REQ_WITHOUT_QUERY" => Op::RequestWithoutQuery(pick(command.required()?)?),
        "QUERY_PARAM" => Op::QueryParam(command.required()?.into()),
        "QUERY_PARAMS" => Op::QueryParams {
            decoded: match command.argument.unwrap_or("ORIG") {
                "ORIG" => false,
                "DECODED" => true,
                other => return Err(format!("QUERY_PARAMS({other}): use ORIG or DECODED")),
            },
        },
        "PATH" => path(command.argument.unwrap_or(""))?,
        "REQUESTED_SERVER_NAME" => Op::RequestedServerName(server_name(command.argument.unwrap_or(""))?),
        "METADATA" => {
            let (of, rest) = command.required()?.split_once(':').unwrap_or((command.required()?, ""));
            metadata(metadata_of(of)?, rest)
        }
        "CLUSTER_METADATA" => metadata(MetadataOf::Cluster, command.required()?),
        "UPSTREAM_METADATA" => metadata(MetadataOf::Host, command.required()?),
        name if command.argument.is_some() && name.ends_with("_ADDRESS_WITHOUT_PORT") => {
            let bits = command.required()?;
            let bits = bits.parse().ok().filter(|bits| *bits <= 128);
            let bits = bits.ok_or_else(|| format!("{name}: the length of a network is 0 to 128"))?;
            match address(name) {
                Some(Op::Address { which, .. }) => Op::Address { which, part: AddressPart::Network(bits) },
                _ => return Ok(None),
            }
        }
        "START_TIME" => Op::StartTime(TimeFormat::parse(command.argument.unwrap_or(""), false)),
        "START_TIME_LOCAL" => Op::StartTime(TimeFormat::parse(command.argument.unwrap_or(""), true)),
        "EMIT_TIME" => Op::EmitTime(TimeFormat::parse(command.argument.unwrap_or(""), false)),
        "EMIT_TIME_LOCAL" => Op::EmitTime(TimeFormat::parse(command.argument.unwrap_or(""), true)),
        "GRPC_STATUS" => Op::GrpcStatus(match command.argument.unwrap_or("") {
            "" | "CAMEL_STRING" => super::op::GrpcStyle::Camel,
            "SNAKE_STRING" => super::op::GrpcStyle::Snake,
            "NUMBER" => super::op::GrpcStyle::Number,
            other => return Err(format!("GRPC_STATUS({other}): use CAMEL_STRING, SNAKE_STRING or NUMBER")),
        }),
        "COMMON_DURATION" => common_duration(command.required()?)?,
        "DYNAMIC_METADATA" => metadata(MetadataOf::Dynamic, command.required()?),
        "FILTER_STATE" => filter_state(command.required()?)?,
        // Nothing in this build writes it, so reading it finds nothing.
        "UPSTREAM_FILTER_STATE" => {
            command.required()?;
            Op::Absent
        }
        "ENVIRONMENT" => {
            let (name, _) = command.required()?.split_once(':').unwrap_or((command.required()?, ""));
            std::env::var(name).map_or_else(|_| Op::Constant("-".into()), |value| Op::Constant(value.into()))
        }
        _ => return Ok(None),
    }))
}

fn path(argument: &str) -> Result<Op, String> {
    let (query, source) = argument.split_once(':').unwrap_or((argument, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        other => return Err(format!("PATH: {other:?} is neither WQ nor NQ")),
    };
    let source = match source {
        "" | "ORIG_OR_PATH" => PathSource::OriginalOrCurrent,
        "ORIG" => PathSource::Original,
        "PATH" => PathSource::Current,
        other => return Err(format!("PATH: {other:?} is not ORIG, PATH or ORIG_OR_PATH")),
    };
    Ok(Op::Path { query, source })
}

fn server_name(argument: &str) -> Result<ServerName, String> {
    let (which, source) = argument.split_once(':').unwrap_or((argument, ""));
    let source = match source {
        "" | "ORIG_OR_HOST" => PathSource::OriginalOrCurrent,
        "ORIG" => PathSource::Original,
        "HOST" => PathSource::Current,
        other => return Err(format!("REQUESTED_SERVER_NAME: {other:?} is not ORIG, HOST or ORIG_OR_HOST")),
    };
    match which {
        "" | "SNI_ONLY" => Ok(ServerName::Sni),
        "SNI_FIRST" => Ok(ServerName::SniFirst(source)),
        "HOST_FIRST" => Ok(ServerName::HostFirst(source)),
        other => Err(format!("REQUESTED_SERVER_NAME: {other:?} is not SNI_ONLY, SNI_FIRST or HOST_FIRST")),
    }
}

fn metadata_of(name: &str) -> Result<MetadataOf, String> {
    Ok(match name {
        "DYNAMIC" => MetadataOf::Dynamic,
        "ROUTE" => MetadataOf::Route,
        "CLUSTER" => MetadataOf::Cluster,
        "UPSTREAM_HOST" => MetadataOf::Host,
        "VIRTUAL_HOST" => MetadataOf::VirtualHost,
        "LISTENER" => MetadataOf::Listener,
        "LISTENER_FILTER_CHAIN" => MetadataOf::FilterChain,
        other => return Err(format!("METADATA: {other:?} has no metadata that is known here")),
    })
}

/// `NAME:TYPED`, `NAME:PLAIN`, `NAME:FIELD:field`
fn filter_state(argument: &str) -> Result<Op, String> {
    let (name, rest) = argument.split_once(':').unwrap_or((argument, ""));
    let form = match rest.split_once(':').unwrap_or((rest, "")) {
        ("" | "TYPED", _) => FilterStateForm::Typed,
        ("PLAIN", _) => FilterStateForm::Plain,
        ("FIELD", field) if !field.is_empty() => FilterStateForm::Field,
        _ => return Err(format!("FILTER_STATE({argument}): use TYPED, PLAIN or FIELD with its name")),
    };
    Ok(Op::FilterState { name: name.into(), form })
}

/// `NAMESPACE:KEY:KEY`
fn metadata(of: MetadataOf, argument: &str) -> Op {
    let mut parts = argument.split(':').map(Box::<str>::from);
    let namespace = parts.next().unwrap_or_default();
    let path: Vec<Box<str>> = parts.collect();
    if of == MetadataOf::Dynamic {
        crate::metadata::note_reader();
        crate::rbac::note_nearest_reader(&namespace, &path);
    }
    Op::Metadata { of, namespace, path: path.into() }
}

fn pick(argument: &str) -> Result<HeaderPick, String> {
    let (first, second) = argument.split_once('?').unwrap_or((argument, ""));
    let parse =
        |name: &str| HeaderRef::parse(name.trim()).ok_or_else(|| format!("{name:?} is not a header name"));
    let alternative = if second.is_empty() { None } else { Some(parse(second)?) };
    Ok(HeaderPick { name: parse(first)?, alternative })
}

fn common_duration(argument: &str) -> Result<Op, String> {
    let parts: Vec<&str> = argument.split(':').collect();
    let [start, end, precision] = parts[..] else {
        return Err("COMMON_DURATION takes START:END:PRECISION, as DS_RX_BEG:DS_TX_END:ms".into());
    };
    let precision = match precision {
        "ms" => Precision::Millis,
        "us" => Precision::Micros,
        "ns" => Precision::Nanos,
        other => return Err(format!("COMMON_DURATION: {other:?} is not ms, us or ns")),
    };
    let point = |name: &str| {
        Point::parse(name).ok_or_else(|| format!("COMMON_DURATION: {name:?} is not a time point known here"))
    };
    Ok(Op::Duration { start: point(start)?, end: point(end)?, precision })
}

fn simple(name: &str) -> Option<Op> {
    let millis = |start, end| Op::Duration { start, end, precision: Precision::Millis };
    Some(match name {
        "PROTOCOL" => Op::Protocol,
        "UPSTREAM_PROTOCOL" => Op::UpstreamProtocol,
        "RESPONSE_CODE" => Op::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Op::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Op::ConnectionTerminationDetails,
        "BYTES_RECEIVED" => Op::BytesReceived,
        "BYTES_SENT" => Op::BytesSent,
        "DURATION" => Op::TotalDuration,
        "REQUEST_DURATION" => millis(Point::DownstreamRxBegin, Point::DownstreamRxEnd),
        "REQUEST_TX_DURATION" => millis(Point::DownstreamRxBegin, Point::UpstreamTxEnd),
        "RESPONSE_DURATION" => millis(Point::DownstreamRxBegin, Point::UpstreamRxBegin),
        "RESPONSE_TX_DURATION" => millis(Point::UpstreamRxBegin, Point::DownstreamTxEnd),
        "RESPONSE_FLAGS" => Op::ResponseFlags { long: false },
        "RESPONSE_FLAGS_LONG" => Op::ResponseFlags { long: true },
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Op::AttemptCount,
        // Ours; Envoy knows no such operator.
        "OUTRIDER_GENERATION" => Op::Generation,
        "UPSTREAM_CLUSTER" => Op::UpstreamCluster { raw: false },
        "UPSTREAM_CLUSTER_RAW" => Op::UpstreamCluster { raw: true },
        "UPSTREAM_HOST_NAME" => Op::UpstreamHostname { port: true },
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Op::UpstreamHostname { port: false },
        "UPSTREAM_HOSTS_ATTEMPTED" => Op::Attempted(AttemptedPart::Host { port: true }),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => Op::Attempted(AttemptedPart::Host { port: false }),
        "UPSTREAM_HOST_NAMES_ATTEMPTED" => Op::Attempted(AttemptedPart::Name { port: true }),
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => Op::Attempted(AttemptedPart::Name { port: false }),
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => Op::Attempted(AttemptedPart::Connection),
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => Op::PoolReady,
        "DOWNSTREAM_HANDSHAKE_DURATION" => Op::Handshake,
        "UPSTREAM_DETECTED_CLOSE_TYPE" => Op::CloseType(Side::Upstream),
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => Op::CloseType(Side::Downstream),
        "REQUEST_HEADERS_BYTES" => Op::HeadBytes(Part::Request),
        "RESPONSE_HEADERS_BYTES" => Op::HeadBytes(Part::Response),
        "RESPONSE_TRAILERS_BYTES" => Op::HeadBytes(Part::Trailers),
        "STREAM_ID" => Op::StreamId,
        "UNIQUE_ID" => Op::UniqueId,
        "LISTENER_NAME" => Op::ListenerName,
        "VIRTUAL_CLUSTER_NAME" => Op::VirtualCluster,
        // Datagrams alone are sent again where we could see it.
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" => Op::Zero,
        // Internal listeners alone have endpoint ids.
        "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID" => Op::Empty,
        // Filters alone set them.
        "CUSTOM_FLAGS" => Op::Empty,
        "UPSTREAM_CONNECTION_ID" => Op::UpstreamConnectionId,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Op::UpstreamTransportFailure,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Op::DownstreamTransportFailure,
        "ROUTE_NAME" => Op::RouteName,
        "FILTER_CHAIN_NAME" => Op::FilterChainName,
        "CONNECTION_ID" => Op::ConnectionId,
        "HOSTNAME" => Op::Constant(hostname().into()),
        "ACCESS_LOG_TYPE" => Op::AccessLogType,
        "LOCAL_REPLY_BODY" => Op::LocalReplyBody,
        "GRPC_STATUS_NUMBER" => Op::GrpcStatus(super::op::GrpcStyle::Number),
        // No tracer in this build, and no inspector that takes fingerprints: there is never a value.
        "TRACE_ID" | "SPAN_ID" | "TLS_JA3_FINGERPRINT" | "TLS_JA4_FINGERPRINT" => Op::Absent,
        _ => return None,
    })
}

fn address(name: &str) -> Option<Op> {
    let (base, part) = if let Some(base) = name.strip_suffix("_WITHOUT_PORT") {
        (base, AddressPart::Host)
    } else if let Some(base) = name.strip_suffix("_PORT") {
        (base, AddressPart::Port)
    } else {
        (name, AddressPart::Whole)
    };
    let which = match base {
        "UPSTREAM_HOST" if part == AddressPart::Whole => super::op::Which::UpstreamHost,
        "UPSTREAM_REMOTE_ADDRESS" | "UPSTREAM_REMOTE" => super::op::Which::UpstreamRemote,
        "UPSTREAM_LOCAL_ADDRESS" | "UPSTREAM_LOCAL" => super::op::Which::UpstreamLocal,
        "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_LOCAL" => super::op::Which::DownstreamLocal,
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL" => {
            super::op::Which::DownstreamDirectLocal
        }
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_REMOTE" => super::op::Which::DownstreamRemote,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE" => {
            super::op::Which::DownstreamDirectRemote
        }
        _ => return None,
    };
    // The short bases exist only as `..._PORT`.
    let short = !base.ends_with("ADDRESS") && base != "UPSTREAM_HOST";
    (!short || part == AddressPart::Port).then_some(Op::Address { which, part })
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "-".into(), |name| name.trim().to_owned())
}

/// Which side a TLS operator speaks of, for [`tls::operator`].
pub(super) fn side(name: &str) -> Option<(Side, &str)> {
    name.strip_prefix("DOWNSTREAM_")
        .map(|rest| (Side::Downstream, rest))
        .or_else(|| name.strip_prefix("UPSTREAM_").map(|rest| (Side::Upstream, rest)))
}
