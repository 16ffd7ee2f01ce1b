//! Text to pieces.

use super::op::{AddressPart, HeaderPick, Op, Point, Precision};
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
        // Nothing in this build writes dynamic metadata or filter state, so reading them finds nothing.
        "DYNAMIC_METADATA" | "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => {
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
        "UPSTREAM_CLUSTER" => Op::UpstreamCluster { raw: false },
        "UPSTREAM_CLUSTER_RAW" => Op::UpstreamCluster { raw: true },
        "UPSTREAM_HOST_NAME" => Op::UpstreamHostname,
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Op::UpstreamHostname,
        "UPSTREAM_CONNECTION_ID" => Op::UpstreamConnectionId,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Op::UpstreamTransportFailure,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Op::DownstreamTransportFailure,
        "REQUESTED_SERVER_NAME" => Op::RequestedServerName,
        "ROUTE_NAME" => Op::RouteName,
        "FILTER_CHAIN_NAME" => Op::FilterChainName,
        "CONNECTION_ID" => Op::ConnectionId,
        "HOSTNAME" => Op::Constant(hostname().into()),
        "ACCESS_LOG_TYPE" => Op::AccessLogType,
        "LOCAL_REPLY_BODY" => Op::LocalReplyBody,
        "GRPC_STATUS_NUMBER" => Op::GrpcStatus(super::op::GrpcStyle::Number),
        // No virtual clusters and no tracer in this build: there is never a value.
        "VIRTUAL_CLUSTER_NAME" | "TRACE_ID" | "CUSTOM_FLAGS" => Op::Absent,
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
        "UPSTREAM_HOST" if part == AddressPart::Whole => super::op::Which::UpstreamRemote,
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
