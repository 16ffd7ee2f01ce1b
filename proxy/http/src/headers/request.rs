//! What is done to a request's head before it is routed (Envoy: `ConnectionManagerUtility::mutateRequestHeaders` and
//! the checks around it).

use http::header::{
    CONNECTION, CONTENT_TYPE, COOKIE, EXPECT, HOST, LOCATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use outrider_config::model::{HttpConnectionManager, StripPort};
use outrider_core::reply::details;
use outrider_core::{LocalReply, ResponseFlags};

use super::path::Normalised;
use super::{Seen, check, host, names, remove_if, trust};
use crate::hcm::HcmShared;
use crate::local_reply;
use crate::stream::{Scheme, Stream, UpgradeKind};

/// A request that is not served.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The answer.
    pub(crate) reply: LocalReply,
    /// The message itself is at fault: the log shows nothing of it, and the connection ends.
    pub(crate) malformed: bool,
}

impl From<LocalReply> for Refusal {
    fn from(reply: LocalReply) -> Self {
        Self { reply, malformed: false }
    }
}

pub(super) fn malformed(status: StatusCode, details: &'static str) -> Refusal {
    Refusal { reply: local_reply::malformed(status, details), malformed: true }
}

pub(super) const CODEC_ERROR: &str = "http1.codec_error";

/// Applies the whole policy to `parts`, which then follow the crate's convention: `host` is the authority, the URI
/// is path and query alone, upgrades look like HTTP/1.1's.
///
/// # Errors
/// The request is refused.
pub(crate) fn apply(stream: &Stream, parts: &mut Parts) -> Result<(), Refusal> {
    let shared = &stream.hcm.shared;
    let config = &*shared.config;
    let mut seen = Seen::scan(&parts.headers);
    stream.grpc.set(seen.has(Seen::CONTENT_TYPE) && is_grpc(&parts.headers));
    stream.head_request.set(parts.method == Method::HEAD);
    check::message(stream, parts, seen, config)?;
    let client_scheme = settle_target(stream, parts, &mut seen)?;
    settle_upgrade(stream, parts, &mut seen)?;
    if parts.version == Version::HTTP_10
        && !seen.has(Seen::HOST)
        && let Ok(host) = HeaderValue::from_str(&config.http1.default_host_for_http_10)
        && !host.is_empty()
    {
        parts.headers.insert(HOST, host);
        seen = Seen::scan(&parts.headers);
    }
    if !seen.has(Seen::HOST) {
        return Err(LocalReply::new(StatusCode::BAD_REQUEST, details::MISSING_HOST).into());
    }
    settle_host(stream, parts, config)?;
    settle_path(stream, parts, shared)?;
    let headers = &mut parts.headers;
    if seen.has(Seen::COOKIE) && stream.conn.is_h2() {
        join_crumbs(headers);
    }
    if seen.has(Seen::EXPECT) && !config.proxy_100_continue {
        // hyper answers 100 itself when the body is first asked for.
        if headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            headers.remove(EXPECT);
        }
    }
    remove_if(headers, seen, Seen::KEEP_ALIVE, &names::KEEP_ALIVE);
    remove_if(headers, seen, Seen::PROXY_CONNECTION, &names::PROXY_CONNECTION);
    remove_if(headers, seen, Seen::TRANSFER_ENCODING, &TRANSFER_ENCODING);
    trust::trust(stream, headers, seen, client_scheme, shared);
    if !stream.internal.get() {
        trust::remove_internal_only(stream, parts);
    }
    Ok(())
}

/// HTTP/2 may send a cookie in crumbs (RFC 9113, section 8.2.3); everybody behind us gets it in one piece.
fn join_crumbs(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some()
        && let Some(Ok(whole)) =
            super::joined(headers, &COOKIE, "; ").map(|all| HeaderValue::from_bytes(&all))
    {
        headers.insert(COOKIE, whole);
    }
}

/// `application/grpc`, alone or with a suffix or parameters.
fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Moves scheme and authority out of the URI. Returns the scheme that the request itself names.
fn settle_target(stream: &Stream, parts: &mut Parts, seen: &mut Seen) -> Result<Option<Scheme>, Refusal> {
    const INVALID_URL: &str = "http1.invalid_url";
    let h2 = stream.conn.is_h2();
    if parts.method == Method::CONNECT && !h2 {
        let authority = parts.uri.authority().filter(|authority| authority.port_u16().is_some());
        let Some(host) = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
        else {
            return Err(malformed(StatusCode::BAD_REQUEST, INVALID_URL));
        };
        parts.headers.insert(HOST, host);
        *seen = Seen::scan(&parts.headers);
        return Ok(None);
    }
    if parts.uri.authority().is_none() && parts.uri.scheme().is_none() {
        if !h2 && parts.uri.path() == "*" && parts.method != Method::OPTIONS {
            return Err(malformed(StatusCode::BAD_REQUEST, INVALID_URL));
        }
        return Ok(None);
    }
    if !h2 && parts.uri.scheme().is_none() {
        // A target without a slash reads as an authority.
        return Err(malformed(StatusCode::BAD_REQUEST, CODEC_ERROR));
    }
    if !h2 && !stream.hcm.shared.config.http1.allow_absolute_url {
        stream.hcm.shared.stats.downstream_rq_non_relative_path().inc();
        return Err(LocalReply::new(StatusCode::NOT_FOUND, details::ABSOLUTE_PATH).into());
    }
    let uri = std::mem::take(&mut parts.uri).into_parts();
    let scheme = match uri.scheme.as_ref().map(http::uri::Scheme::as_str) {
        Some("https") => Some(Scheme::Https),
        Some("http") => Some(Scheme::Http),
        Some(_) if !h2 => return Err(malformed(StatusCode::BAD_REQUEST, "http1.invalid_scheme")),
        Some(_) | None => None,
    };
    if let Some(authority) = uri.authority {
        let text = authority.as_str();
        let text = text.rsplit_once('@').map_or(text, |(_userinfo, host)| host);
        if let Ok(host) = HeaderValue::from_str(text) {
            parts.headers.insert(HOST, host);
            *seen = Seen::scan(&parts.headers);
        }
    }
    let path = uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if parts.method == Method::CONNECT && parts.extensions.get::<hyper::ext::Protocol>().is_none() {
        // The path of a plain CONNECT is empty; the authority alone says where to.
        parts.uri = authority_uri(&parts.headers).unwrap_or_default();
        return Ok(scheme);
    }
    parts.uri = path_uri(path);
    Ok(scheme)
}

fn authority_uri(headers: &HeaderMap) -> Option<Uri> {
    Uri::try_from(headers.get(HOST)?.as_bytes()).ok()
}

fn path_uri(path: PathAndQuery) -> Uri {
    Uri::from(path)
}

fn settle_host(stream: &Stream, parts: &mut Parts, config: &HttpConnectionManager) -> Result<(), Refusal> {
    let mut values = parts.headers.get_all(HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        // What is routed by must be what is forwarded: several become one.
        let all = super::joined(&parts.headers, &HOST, ",").map(|all| HeaderValue::from_bytes(&all));
        if let Some(Ok(one)) = all {
            parts.headers.insert(HOST, one);
        }
        return check_host(stream, parts, config);
    }
    if first.is_some_and(|host| !host::is_valid(host.as_bytes())) {
        return Err(malformed(StatusCode::BAD_REQUEST, "http.invalid_authority"));
    }
    if config.strip_port == StripPort::No && !config.strip_trailing_host_dot {
        return Ok(());
    }
    check_host(stream, parts, config)
}

fn check_host(stream: &Stream, parts: &mut Parts, config: &HttpConnectionManager) -> Result<(), Refusal> {
    let Some(host) = parts.headers.get(HOST) else { return Ok(()) };
    let Some(text) = host.to_str().ok().filter(|text| host::is_valid(text.as_bytes())) else {
        return Err(malformed(StatusCode::BAD_REQUEST, "http.invalid_authority"));
    };
    let port = stream.conn.info.local.ip().map_or(0, |ip| ip.port());
    let connect = parts.method == Method::CONNECT;
    let stripped = host::stripped(text, config.strip_port, port, config.strip_trailing_host_dot, connect);
    if let Some(Ok(value)) = stripped.map(HeaderValue::try_from) {
        parts.headers.insert(HOST, value);
    }
    Ok(())
}

fn settle_path(stream: &Stream, parts: &mut Parts, shared: &HcmShared) -> Result<(), Refusal> {
    const FAILED: &str = "path_normalization_failed";
    let fragment = stream.conn.h1.fragment.take() && !stream.conn.is_h2();
    if parts.method == Method::CONNECT && parts.uri.path_and_query().is_none() {
        return Ok(());
    }
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if !path.starts_with('/') {
        shared.stats.downstream_rq_non_relative_path().inc();
        return Err(LocalReply::new(StatusCode::NOT_FOUND, details::ABSOLUTE_PATH).into());
    }
    if fragment && shared.config.reject_path_with_fragment.get() {
        return Err(LocalReply::new(StatusCode::BAD_REQUEST, FAILED).into());
    }
    if shared.path_policy.is_noop() {
        return Ok(());
    }
    let rejected = || Err(LocalReply::new(StatusCode::BAD_REQUEST, FAILED).into());
    match shared.path_policy.apply(path) {
        Normalised::Same => Ok(()),
        Normalised::Rejected => rejected(),
        Normalised::Changed(path) => match PathAndQuery::try_from(path) {
            Ok(path) => {
                parts.uri = path_uri(path);
                Ok(())
            }
            Err(_) => rejected(),
        },
        // gRPC clients do not follow redirects.
        Normalised::Redirect(_) if stream.grpc.get() => rejected(),
        Normalised::Redirect(path) => {
            shared.stats.downstream_rq_redirected_with_normalized_path().inc();
            let location = HeaderValue::try_from(&path);
            if let Ok(path) = PathAndQuery::try_from(path) {
                parts.uri = path_uri(path);
            }
            match location {
                Ok(location) => Err(LocalReply::new(StatusCode::TEMPORARY_REDIRECT, FAILED)
                    .header(LOCATION, location)
                    .into()),
                Err(_) => rejected(),
            }
        }
    }
}

/// Finds out what the request asks to be upgraded to, and clears the connection's own headers.
fn settle_upgrade(stream: &Stream, parts: &mut Parts, seen: &mut Seen) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        let protocol = parts.extensions.remove::<hyper::ext::Protocol>();
        *stream.h2_upgrade.borrow_mut() = parts.extensions.remove();
        let Some(protocol) = protocol else {
            *stream.upgrade.borrow_mut() = Some(UpgradeKind::Connect);
            return Ok(());
        };
        // From here on an extended CONNECT looks as its HTTP/1.1 counterpart.
        let name = protocol.as_str().to_ascii_lowercase();
        parts.method = Method::GET;
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Ok(value) = HeaderValue::from_str(&name) {
            parts.headers.insert(UPGRADE, value);
        }
        *stream.upgrade.borrow_mut() = Some(UpgradeKind::Protocol(name.into()));
        return Ok(());
    }
    let headers = &mut parts.headers;
    if seen.has(Seen::CONNECTION) && seen.has(Seen::UPGRADE) {
        let asks =
            headers.get_all(CONNECTION).iter().any(|value| super::has_token(value.as_bytes(), "upgrade"));
        let name = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if asks && !name.eq_ignore_ascii_case("h2c") {
            let name = name.to_ascii_lowercase();
            parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
            *stream.upgrade.borrow_mut() = Some(UpgradeKind::Protocol(name.into()));
            return Ok(());
        }
        headers.remove(names::HTTP2_SETTINGS);
    }
    if seen.has(Seen::CONNECTION) {
        remove_nominated(headers)?;
        headers.remove(CONNECTION);
    }
    if seen.has(Seen::UPGRADE) {
        headers.remove(UPGRADE);
        parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    }
    if seen.has(Seen::TE) {
        let trailers =
            parts.headers.get_all(TE).iter().any(|value| super::has_token(value.as_bytes(), "trailers"));
        if trailers {
            parts.headers.insert(TE, check::TRAILERS);
        } else {
            parts.headers.remove(TE);
        }
    }
    // What was nominated may have been among the headers that the policy knows.
    *seen = Seen::scan(&parts.headers);
    Ok(())
}

/// Removes the headers that `connection` names. A client must not make us forget who it is.
fn remove_nominated(headers: &mut HeaderMap) -> Result<(), Refusal> {
    const PROTECTED: [HeaderName; 3] =
        [names::X_FORWARDED_FOR, names::X_FORWARDED_PROTO, names::X_FORWARDED_HOST];
    let mut nominated: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for token in super::tokens(value.as_bytes()) {
            let plain = ["close", "keep-alive", "upgrade", "te", ""];
            if plain.iter().any(|plain| token.eq_ignore_ascii_case(plain.as_bytes())) {
                continue;
            }
            match HeaderName::from_bytes(token) {
                Ok(name) if !PROTECTED.contains(&name) => nominated.push(name),
                _ => return Err(malformed(StatusCode::BAD_REQUEST, "http1.connection_header_rejected")),
            }
        }
    }
    for name in nominated {
        headers.remove(name);
    }
    Ok(())
}

/// The flags of a malformed message.
pub(crate) const MALFORMED: ResponseFlags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
