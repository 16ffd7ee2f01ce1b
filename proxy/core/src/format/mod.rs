//! The substitution formatter: `%REQ(:path)%` and its kin, for access logs and header values.
//!
//! A format is parsed once, when the configuration is converted; writing it allocates little but what
//! the output buffer grows by. Operators follow Envoy's "Access logging: command operators".

mod op;
mod parse;
pub(crate) mod request;
mod time;
mod tls;
mod write;

use http::HeaderMap;

use crate::matcher::HeadView;
use crate::stream::StreamInfo;

use op::Op;

/// What a format can read. Absent parts print as `-` (or as null in JSON).
#[derive(Debug, Clone, Copy)]
pub struct FormatContext<'a> {
    /// The stream's facts.
    pub info: &'a StreamInfo,
    /// The request's head.
    pub request: Option<HeadView<'a>>,
    /// The response's head.
    pub response: Option<HeadView<'a>>,
    /// The response's trailers.
    pub trailers: Option<&'a HeaderMap>,
    /// The body of a local reply, for `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a str,
    /// What kind of entry is being logged (`%ACCESS_LOG_TYPE%`).
    pub log_type: &'static str,
}

impl<'a> FormatContext<'a> {
    /// A context with the stream's facts alone.
    pub const fn of(info: &'a StreamInfo) -> Self {
        Self { info, request: None, response: None, trailers: None, local_reply_body: "", log_type: "NotSet" }
    }
}

/// A parsed format.
#[derive(Debug, Clone)]
pub struct Format {
    source: Box<str>,
    pieces: Box<[Piece]>,
}

#[derive(Debug, Clone)]
enum Piece {
    Literal(Box<str>),
    Op { op: Op, max_len: Option<usize> },
}

/// Why a format was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at byte {offset} of {format:?})")]
pub struct FormatError {
    /// What is wrong and how to mend it.
    pub message: String,
    /// The whole format.
    pub format: String,
    /// Where in it.
    pub offset: usize,
}

impl Format {
    /// Parses `text`.
    ///
    /// # Errors
    /// An unknown operator, a missing `%` or a bad argument.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let pieces = parse::pieces(text)?;
        Ok(Self { source: text.into(), pieces: pieces.into() })
    }

    /// The text it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Appends the formatted text to `out`; absent values print as `-`, or as nothing when `omit_empty`.
    pub fn write(&self, cx: &FormatContext<'_>, omit_empty: bool, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Op { op, max_len } => {
                    if !write_op(op, *max_len, cx, out) && !omit_empty {
                        out.push(b'-');
                    }
                }
            }
        }
    }

    /// The text, if the format has no operator: then it need not be evaluated for each request.
    pub fn as_literal(&self) -> Option<&str> {
        match &*self.pieces {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it is one operator alone, whose JSON value keeps its type.
    pub fn is_single(&self) -> bool {
        matches!(&*self.pieces, [Piece::Op { .. }])
    }

    /// Whether it is one operator alone whose value is JSON of any kind: see [`Self::write_json`].
    pub fn is_json(&self) -> bool {
        matches!(&*self.pieces, [Piece::Op { op, .. }] if op.reads_metadata())
    }

    /// Appends the JSON value of a format that [is one](Self::is_json); `false` when it is absent.
    pub fn write_json(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        matches!(&*self.pieces, [Piece::Op { op, .. }] if write::write_json(op, cx, out))
    }

    /// Whether writing it reads which upstream connections were tried.
    pub fn reads_attempts(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Op { op, .. } if op.reads_attempts()))
    }

    /// Whether writing it reads metadata.
    pub fn reads_metadata(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Op { op, .. } if op.reads_metadata()))
    }

    /// Whether it is one operator alone that gives a number.
    pub fn is_number(&self) -> bool {
        matches!(&*self.pieces, [Piece::Op { op, .. }] if op.is_number())
    }

    /// Appends the value of a format that [is one operator](Self::is_single); `false` when it is absent.
    pub fn write_single(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        match &*self.pieces {
            [Piece::Op { op, max_len }] => write_op(op, *max_len, cx, out),
            _ => false,
        }
    }

    /// Whether writing it reads the request's head (which then must be kept until the end of the stream).
    pub fn reads_request(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Op { op, .. } if op.reads_request()))
    }

    /// Whether writing it reads the response's head or trailers.
    pub fn reads_response(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Op { op, .. } if op.reads_response()))
    }
}

/// The gRPC status that an HTTP status stands for where there is no `grpc-status`
/// (gRPC: "HTTP to gRPC Status Code Mapping").
pub const fn grpc_from_http(status: u16) -> u32 {
    write::from_http(status)
}

fn write_op(op: &Op, max_len: Option<usize>, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let before = out.len();
    let present = op.write(cx, out);
    if let Some(max) = max_len
        && out.len() - before > max
    {
        out.truncate(before + max);
    }
    present
}

#[cfg(test)]
mod tests;
