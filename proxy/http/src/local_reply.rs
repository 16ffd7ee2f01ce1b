//! The one place where the proxy makes up responses.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use outrider_core::LocalReply;

use crate::body::ResponseBody;
use crate::headers::names::{GRPC_MESSAGE, GRPC_STATUS};
use crate::headers::request::MALFORMED;
use crate::stream::Stream;

const TEXT_PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The response for `reply` to `stream`'s request: plain text, or trailers-only for gRPC.
pub(crate) fn build(stream: &Stream, reply: LocalReply) -> http::Response<ResponseBody> {
    let mut headers = reply.headers.map(|headers| *headers).unwrap_or_default();
    let mut body = ResponseBody::Empty;
    let mut status = reply.status;
    headers.remove(CONTENT_LENGTH);
    if stream.grpc.get() {
        headers.insert(CONTENT_TYPE, GRPC);
        headers.entry(GRPC_STATUS).or_insert(HeaderValue::from(grpc_status(status)));
        if !reply.body.is_empty()
            && let Ok(message) = HeaderValue::from_str(&percent_encoded(&reply.body))
        {
            headers.insert(GRPC_MESSAGE, message);
        }
        status = StatusCode::OK;
    } else if !reply.body.is_empty() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
        headers.entry(CONTENT_TYPE).or_insert(TEXT_PLAIN);
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            // What such an answer cannot carry counts as sent, as in Envoy.
            stream.response_frame(reply.body.len());
        } else if !stream.head_request.get() {
            body = ResponseBody::Full(reply.body);
        }
    }
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The reply to a message that is not HTTP as it should be: the status's own text as body, flag `DPE`.
pub(crate) fn malformed(status: StatusCode, details: &'static str) -> LocalReply {
    let body = Bytes::from_static(status.canonical_reason().unwrap_or_default().as_bytes());
    LocalReply::new(status, details).flags(MALFORMED).body(body)
}

/// The reply to what hyper refused. `too_large`: the head reached its limit in bytes; `two_lengths`: it has
/// Content-Length and Transfer-Encoding; `head`: what was not understood.
pub(crate) fn codec_error(
    error: &hyper::Error,
    too_large: bool,
    two_lengths: bool,
    head: &[u8],
) -> LocalReply {
    if error.is_parse_too_large() {
        let details = if too_large { "http1.headers_too_large" } else { "http1.too_many_headers" };
        return malformed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, details);
    }
    if two_lengths {
        return malformed(StatusCode::BAD_REQUEST, "http1.content_length_and_chunked_not_allowed");
    }
    // hyper tells these errors apart by their text alone.
    let text = error.to_string();
    if text.contains("transfer-encoding") {
        return malformed(StatusCode::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding");
    }
    if head.starts_with(b"PRI * HTTP/2.0") {
        return malformed(StatusCode::BAD_REQUEST, "http1.codec_error");
    }
    let line =
        head.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
    let other_version = match words.as_slice() {
        [_, target] => target.starts_with(b"/"),
        [_, _, version] => version.starts_with(b"HTTP/") && text.contains("version"),
        _ => false,
    };
    if other_version {
        return malformed(StatusCode::UPGRADE_REQUIRED, outrider_core::reply::details::LOW_VERSION);
    }
    let control = |line: &[u8]| {
        let value = line.iter().position(|byte| *byte == b':').and_then(|colon| line.get(colon..));
        value.is_some_and(|value| {
            value.trim_ascii_end().iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
        })
    };
    if head.split(|byte| *byte == b'\n').skip(1).any(control) {
        return malformed(StatusCode::BAD_REQUEST, "http1.invalid_characters");
    }
    malformed(StatusCode::BAD_REQUEST, "http1.codec_error")
}

/// The gRPC status that stands for an HTTP status (gRPC: "HTTP to gRPC Status Code Mapping").
pub(crate) fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `text` as `grpc-message` carries it (gRPC over HTTP/2: Percent-Encoded).
fn percent_encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            other => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

/// `reply` as HTTP/1.1 bytes that end the connection, for messages that no codec understood.
pub(crate) fn raw(reply: &LocalReply, mut headers: HeaderMap) -> Vec<u8> {
    let reason = reply.status.canonical_reason().unwrap_or_default();
    let mut out = format!("HTTP/1.1 {} {reason}\r\n", reply.status.as_str()).into_bytes();
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&reply.body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(percent_encoded("a b%\n\u{e9}".as_bytes()), "a b%25%0A%C3%A9");
    }

    #[test]
    fn http_statuses_map_to_grpc() {
        let table = [(200, 2), (400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (503, 14), (500, 2)];
        for (http, grpc) in table {
            assert_eq!(grpc_status(StatusCode::from_u16(http).unwrap()), grpc);
        }
    }
}
