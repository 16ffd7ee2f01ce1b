//! The operators.

use std::time::Duration;

use super::FormatContext;
use super::time::TimeFormat;
use super::tls::{Side, TlsField};
use crate::matcher::{HeadView, HeaderRef};

/// One operator.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Request(HeaderPick),
    RequestWithoutQuery(HeaderPick),
    Response(HeaderPick),
    Trailer(HeaderPick),
    QueryParam(Box<str>),
    QueryParams {
        decoded: bool,
    },
    Path {
        query: bool,
        source: PathSource,
    },
    /// Bytes of names and values.
    HeadBytes(Part),
    Attempted(AttemptedPart),
    PoolReady,
    Handshake,
    CloseType(Side),
    StreamId,
    UniqueId,
    ListenerName,
    VirtualCluster,
    Metadata {
        of: MetadataOf,
        namespace: Box<str>,
        path: Box<[Box<str>]>,
    },
    FilterState {
        name: Box<str>,
        form: FilterStateForm,
    },
    /// A number that is always 0.
    Zero,
    /// Text that is always empty, which is not the same as absent.
    Empty,
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
    Generation,
    UpstreamCluster {
        raw: bool,
    },
    UpstreamHostname {
        port: bool,
    },
    UpstreamConnectionId,
    UpstreamTransportFailure,
    DownstreamTransportFailure,
    RequestedServerName(ServerName),
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

/// Where a path comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathSource {
    Original,
    Current,
    OriginalOrCurrent,
}

/// A part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Request,
    Response,
    Trailers,
}

/// What of the upstream connections that were tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptedPart {
    Host { port: bool },
    Name { port: bool },
    Connection,
}

/// Which server name, when there is none in TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerName {
    Sni,
    SniFirst(PathSource),
    HostFirst(PathSource),
}

/// How filter state is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FilterStateForm {
    /// As JSON.
    Typed,
    /// As the object's own text.
    Plain,
    /// One field of it; no object that we have has any.
    Field,
}

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetadataOf {
    Route,
    VirtualHost,
    Cluster,
    Host,
    Listener,
    FilterChain,
    /// Nobody writes it.
    Dynamic,
}

/// `X?Y`: header X, or Y when X is absent.
#[derive(Debug, Clone)]
pub(super) struct HeaderPick {
    pub(super) name: HeaderRef,
    pub(super) alternative: Option<HeaderRef>,
}

impl HeaderPick {
    pub(super) fn with(&self, head: &HeadView<'_>, f: &mut dyn FnMut(&str)) -> bool {
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

    pub(super) fn of(self, cx: &FormatContext<'_>) -> Option<Duration> {
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
    /// The host, connected to or not.
    UpstreamHost,
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
    /// The network of so many bits.
    Network(u8),
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
                | Self::HeadBytes(_)
                | Self::PoolReady
                | Self::Handshake
                | Self::Zero
                | Self::UpstreamConnectionId
                | Self::ConnectionId
                | Self::GrpcStatus(GrpcStyle::Number)
                | Self::Address { part: AddressPart::Port, .. }
        )
    }

    pub(super) fn reads_request(&self) -> bool {
        matches!(
            self,
            Self::Request(_)
                | Self::RequestWithoutQuery(_)
                | Self::QueryParam(_)
                | Self::QueryParams { .. }
                | Self::Path { .. }
                | Self::StreamId
                | Self::HeadBytes(Part::Request)
                | Self::RequestedServerName(ServerName::SniFirst(_) | ServerName::HostFirst(_))
        )
    }

    pub(super) fn reads_response(&self) -> bool {
        let bytes = |part| matches!(self, Self::HeadBytes(of) if *of == part);
        matches!(self, Self::Response(_) | Self::Trailer(_) | Self::GrpcStatus(_))
            || bytes(Part::Response)
            || bytes(Part::Trailers)
    }

    pub(super) fn reads_attempts(&self) -> bool {
        matches!(self, Self::Attempted(_) | Self::PoolReady)
    }

    pub(super) fn reads_metadata(&self) -> bool {
        matches!(self, Self::Metadata { .. })
    }
}
