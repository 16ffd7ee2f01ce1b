//! What is done to a request's head before it is routed (Envoy: `ConnectionManagerUtility::mutateRequestHeaders` and
//! the checks around it).

use http::header::{
    CONNECTION, CONTENT_TYPE, COOKIE, EXPECT, HOST, LOCATION, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use outrider_config::model::{HttpConnectionManager, StripPort, UnderscoreAction};
use outrider_core::reply::details;
use outrider_core::rng;
use outrider_core::stream::{Address, Protocol};
use outrider_core::{LocalReply, ResponseFlags};

use super::path::Normalised;
use super::{Seen, host, names, remove_if, request_id, xfcc, xff};
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

fn malformed(status: StatusCode, details: &'static str) -> Refusal {
    Refusal { reply: local_reply::malformed(status, details), malformed: true }
}

const CODEC_ERROR: &str = "http1.codec_error";
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Headers that only internal requests may carry to the router.
const INTERNAL_ONLY: [HeaderName; 13] = [
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// Headers that no client at the edge may bring.
const NOT_FROM_THE_EDGE: [HeaderName; 4] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    names::SERVICE_CLUSTER,
    names::SERVICE_NODE,
    HeaderName::from_static("x-envoy-original-path"),
];

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
    check_message(stream, parts, seen, config)?;
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
    trust(stream, headers, seen, client_scheme, shared);
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

/// What Envoy's codecs refuse and hyper lets pass.
fn check_message(
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
    if fragment {
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
            parts.headers.insert(TE, TRAILERS);
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

/// Who the client is, what it may say, and what those behind us are told.
fn trust(
    stream: &Stream,
    headers: &mut HeaderMap,
    seen: Seen,
    client_scheme: Option<Scheme>,
    shared: &HcmShared,
) {
    let config = &*shared.config;
    let conn = &stream.conn.info;
    let over_tls = conn.tls.is_some();
    let mut alone = false;
    let mut client = None;
    if config.use_remote_address {
        alone = !seen.has(Seen::XFF);
        if config.xff_num_trusted_hops > 0 && seen.has(Seen::XFF) {
            client = xff::client(headers, config.xff_num_trusted_hops - 1).map(|(ip, _)| Address::Ip(ip));
        }
        if !config.skip_xff_append
            && let Some(peer) = conn.remote.ip()
        {
            // Our own address, which stands for a loopback peer, is never mapped.
            let mapped = config.represent_ipv4_remote_address_as_ipv4_mapped_ipv6;
            match peer.ip() {
                ip if ip.is_loopback() => xff::append(headers, shared.local_address, false),
                ip => xff::append(headers, ip, mapped),
            }
        }
        let untrusted = config.xff_num_trusted_hops == 0;
        if untrusted || !seen.has(Seen::XFP) {
            headers.insert(names::X_FORWARDED_PROTO, if over_tls { HTTPS } else { HTTP });
        }
        if config.append_x_forwarded_port
            && (untrusted || !seen.has(Seen::XFPORT))
            && let Some(local) = conn.local.ip()
        {
            headers.insert(names::X_FORWARDED_PORT, HeaderValue::from(local.port()));
        }
    } else {
        if seen.has(Seen::XFF)
            && let Some((ip, only)) = xff::client(headers, config.xff_num_trusted_hops)
        {
            client = Some(Address::Ip(ip));
            alone = only;
        }
        if !seen.has(Seen::XFP) {
            headers.insert(names::X_FORWARDED_PROTO, if over_tls { HTTPS } else { HTTP });
        }
    }
    settle_scheme(stream, headers, client_scheme, over_tls, config);
    let internal = alone
        && (client.is_some() || config.use_remote_address)
        && xff::is_internal(client.as_ref().unwrap_or(&conn.remote), &config.internal_addresses);
    let edge = config.use_remote_address && !internal;
    stream.internal.set(internal);
    sanitize(headers, seen, internal, edge, shared);
    if !config.via.is_empty() {
        super::append_via(headers, &config.via);
    }
    if let Some((cluster, node)) = &shared.user_agent {
        headers.insert(names::SERVICE_CLUSTER, cluster.clone());
        if headers.get(USER_AGENT).is_none_or(HeaderValue::is_empty) {
            headers.insert(USER_AGENT, cluster.clone());
        }
        if let Some(node) = node {
            headers.insert(names::SERVICE_NODE, node.clone());
        }
    }
    if edge && let Some(ip) = client.as_ref().unwrap_or(&conn.remote).ip() {
        external_address(headers, ip.ip());
    }
    if config.generate_request_id {
        let (seen, keep) = (seen.has(Seen::REQUEST_ID), config.preserve_external_request_id);
        rng::with(|rng| request_id::apply(headers, seen, edge, keep, config.pack_trace_reason, rng));
    }
    if seen.has(Seen::XFCC) || (conn.tls.as_ref().is_some_and(|tls| tls.peer.is_some())) {
        xfcc::apply(headers, config.forward_client_cert, config.client_cert_details, conn.tls.as_deref());
    }
    if let Some(client) = client {
        stream.info.borrow_mut().remote = Some(client);
    }
}

/// The configured scheme, else the request's own, else what `x-forwarded-proto` says, else the transport's.
fn settle_scheme(
    stream: &Stream,
    headers: &mut HeaderMap,
    client: Option<Scheme>,
    over_tls: bool,
    config: &HttpConnectionManager,
) {
    let named = |text: &[u8]| match text {
        b"https" => Some(Scheme::Https),
        b"http" => Some(Scheme::Http),
        _ => None,
    };
    let transport = if over_tls { Scheme::Https } else { Scheme::Http };
    let scheme = match &config.scheme_overwrite {
        Some(text) => {
            let scheme = named(text.as_bytes());
            if let Some(scheme) = scheme {
                let value = if scheme == Scheme::Https { HTTPS } else { HTTP };
                headers.insert(names::X_FORWARDED_PROTO, value);
            }
            scheme
        }
        None => client.or_else(|| named(headers.get(names::X_FORWARDED_PROTO)?.as_bytes())),
    };
    stream.scheme.set(scheme.unwrap_or(transport));
}

/// Takes away what only internal requests may say.
fn sanitize(headers: &mut HeaderMap, seen: Seen, internal: bool, edge: bool, shared: &HcmShared) {
    if seen.has(Seen::ENVOY) {
        headers.remove(names::X_ENVOY_INTERNAL);
        if !internal {
            for name in &INTERNAL_ONLY {
                headers.remove(name);
            }
            headers.remove(names::X_ENVOY_FORCE_TRACE);
        }
        if edge {
            for name in &NOT_FROM_THE_EDGE {
                headers.remove(name);
            }
        }
    }
    if internal {
        headers.insert(names::X_ENVOY_INTERNAL, TRUE);
    } else {
        for name in shared.routes.load().internal_only_headers() {
            headers.remove(name);
        }
    }
}

fn external_address(headers: &mut HeaderMap, ip: std::net::IpAddr) {
    use std::io::Write;

    let mut text = [0_u8; 48];
    let mut rest = text.as_mut_slice();
    // An IP address is at most 45 characters.
    let _ = write!(rest, "{ip}");
    let len = 48 - rest.len();
    if let Ok(value) = HeaderValue::from_bytes(text.get(..len).unwrap_or_default()) {
        headers.insert(names::X_ENVOY_EXTERNAL_ADDRESS, value);
    }
}

/// The flags of a malformed message.
pub(crate) const MALFORMED: ResponseFlags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
