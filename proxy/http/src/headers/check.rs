//! What Envoy's codecs refuse and hyper lets pass.

use http::header::{CONNECTION, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use outrider_config::model::{HttpConnectionManager, UnderscoreAction};
use outrider_core::reply::details;
use outrider_core::stream::Protocol;

use super::request::{CODEC_ERROR, Refusal, malformed};
use super::{Seen, names};
use crate::stream::Stream;

pub(super) const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Refuses a message as Envoy's codecs do.
pub(super) fn message(
    stream: &Stream,
    parts: &mut Parts,
    seen: Seen,
    config: &HttpConnectionManager,
) -> Result<(), Refusal> {
    let h1 = &stream.conn.h1;
    let h2 = stream.conn.is_h2();
    if parts.version == Version::HTTP_10 {
        stream.keep_alive_10.set(
            parts
                .headers
                .get_all(CONNECTION)
                .iter()
                .any(|value| super::has_token(value.as_bytes(), "keep-alive")),
        );
        if !config.http1.accept_http_10 {
            return Err(malformed(StatusCode::UPGRADE_REQUIRED, details::LOW_VERSION));
        }
        stream.info.borrow_mut().protocol = Some(Protocol::Http10);
    }
    if !h2 && h1.two_lengths.take() && seen.has(Seen::TRANSFER_ENCODING) && !config.http1.allow_chunked_length
    {
        return Err(malformed(StatusCode::BAD_REQUEST, "http1.content_length_and_chunked_not_allowed"));
    }
    if !h2 && seen.has(Seen::TRANSFER_ENCODING) {
        // What else was applied to the body would be lost on the way.
        let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
        let mut values = parts.headers.get_all(TRANSFER_ENCODING).iter();
        if !(values.next().is_some_and(chunked) && values.next().is_none()) || parts.method == Method::CONNECT
        {
            return Err(malformed(StatusCode::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding"));
        }
    }
    if !parts.uri.path().is_ascii() {
        let details = if h2 { "http2.invalid.header.field" } else { CODEC_ERROR };
        return Err(malformed(StatusCode::BAD_REQUEST, details));
    }
    if !h2 && h1.length_twice.take() && seen.has(Seen::CONTENT_LENGTH) {
        return Err(malformed(StatusCode::BAD_REQUEST, CODEC_ERROR));
    }
    if !h2 && !config.http1.allow_custom_methods && !is_registered(&parts.method) {
        return Err(malformed(StatusCode::BAD_REQUEST, CODEC_ERROR));
    }
    if h2 && seen.has(Seen::TE) && parts.headers.get_all(TE).iter().any(|value| value != TRAILERS) {
        return Err(malformed(StatusCode::BAD_REQUEST, "http2.invalid.header.field"));
    }
    if seen.has(Seen::PROXY_CONNECTION) {
        let mut values = parts.headers.get_all(names::PROXY_CONNECTION).iter();
        stream.client_closes.set(values.any(|value| super::has_token(value.as_bytes(), "close")));
    }
    // Pseudo headers count, as they do in Envoy.
    let pseudo = if h2 { 4 } else { 0 };
    if parts.headers.len() + pseudo > config.max_headers_count as usize {
        let details = if h2 { "http2.too_many_headers" } else { "http1.too_many_headers" };
        return Err(malformed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, details));
    }
    if config.underscores != UnderscoreAction::Allow {
        let shared = &stream.hcm.shared;
        let codec = if h2 { &shared.h2_stats } else { &shared.h1_stats };
        let bad = |name: &&HeaderName| name.as_str().contains('_');
        if config.underscores == UnderscoreAction::Reject {
            if parts.headers.keys().any(|name| bad(&name)) {
                codec.requests_rejected_with_underscores_in_headers().inc();
                let details = if h2 { "http2.unexpected_underscore" } else { "http1.unexpected_underscore" };
                return Err(malformed(StatusCode::BAD_REQUEST, details));
            }
        } else {
            let names: Vec<HeaderName> = parts.headers.keys().filter(bad).cloned().collect();
            for name in names {
                codec.dropped_headers_with_underscores().inc();
                parts.headers.remove(name);
            }
        }
    }
    Ok(())
}

/// The methods that Envoy's parser knows.
fn is_registered(method: &Method) -> bool {
    const OTHERS: &[&str] = &[
        "ACL",
        "BIND",
        "CHECKOUT",
        "COPY",
        "LINK",
        "LOCK",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MOVE",
        "MSEARCH",
        "NOTIFY",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SOURCE",
        "SUBSCRIBE",
        "UNBIND",
        "UNLINK",
        "UNLOCK",
        "UNSUBSCRIBE",
    ];
    match *method {
        Method::GET
        | Method::POST
        | Method::HEAD
        | Method::PUT
        | Method::DELETE
        | Method::OPTIONS
        | Method::PATCH
        | Method::CONNECT
        | Method::TRACE => true,
        _ => OTHERS.contains(&method.as_str()),
    }
}
