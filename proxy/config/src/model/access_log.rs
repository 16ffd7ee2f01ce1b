//! Access logs.

use std::sync::Arc;

use outrider_core::ResponseFlags;
use outrider_core::cel::Program;
use outrider_core::format::Format;
use outrider_core::matcher::{HeaderMatcher, RuntimeFraction};

use super::RuntimeInteger;

/// One access log: where, what, when.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Where lines go.
    pub sink: LogSink,
    /// What a line is.
    pub format: LogFormat,
    /// When a line is written; `None` for always.
    pub filter: Option<LogFilter>,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogSink {
    /// A file, appended to.
    File(Arc<str>),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a line is.
#[derive(Debug, Clone)]
pub enum LogFormat {
    /// Text; ends with the newline that the format gives it.
    Text {
        /// The format.
        format: Arc<Format>,
        /// Absent values print as nothing instead of `-`.
        omit_empty: bool,
    },
    /// A JSON object a line.
    Json {
        /// Its fields in order.
        fields: Arc<JsonNode>,
        /// Absent values are left out.
        omit_empty: bool,
    },
}

/// A node of a JSON format.
#[derive(Debug, Clone)]
pub enum JsonNode {
    /// An object; keys in the order in which they print (Envoy sorts them).
    Object(Vec<(String, JsonNode)>),
    /// A list.
    List(Vec<JsonNode>),
    /// A value: one operator alone keeps its type (numbers stay numbers), text is a string.
    Value(Format),
    /// A constant number.
    Number(f64),
    /// A constant truth value.
    Bool(bool),
    /// Null.
    Null,
}

/// When a line is written.
#[derive(Debug, Clone)]
pub enum LogFilter {
    /// The status compares so.
    Status(Comparison),
    /// The duration in milliseconds compares so.
    Duration(Comparison),
    /// The stream was no health check.
    NotHealthCheck,
    /// The trace is sampled.
    Traceable,
    /// A share of all lines.
    Runtime {
        /// The share.
        fraction: RuntimeFraction,
        /// Draw independently of the request id.
        independent: bool,
    },
    /// All of these.
    And(Vec<LogFilter>),
    /// Any of these.
    Or(Vec<LogFilter>),
    /// The request's header matches.
    Header(Box<HeaderMatcher>),
    /// Any of these flags is set; `NONE` asks for any flag at all.
    Flags(ResponseFlags),
    /// The gRPC status is one of these (numbers 0..=16).
    GrpcStatus {
        /// The statuses.
        statuses: Vec<u32>,
        /// Turned round.
        exclude: bool,
    },
    /// An expression is true.
    Expression(Program),
    /// The kind of log entry is one of these (`DownstreamEnd`, ...).
    LogType {
        /// The types.
        types: Vec<String>,
        /// Turned round.
        exclude: bool,
    },
}

/// `ComparisonFilter`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The operator.
    pub op: ComparisonOp,
    /// The number compared with.
    pub value: RuntimeInteger,
}

/// The operator of a [`Comparison`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparisonOp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// At least.
    Ge,
    /// At most.
    Le,
}
