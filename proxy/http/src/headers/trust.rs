//! Whom the connection manager believes, and what it says of the client to those behind it.

use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_config::model::HttpConnectionManager;
use outrider_core::rng;
use outrider_core::stream::Address;

use super::{Seen, names, request_id, xfcc, xff};
use crate::hcm::HcmShared;
use crate::routing::RoutePlace;
use crate::stream::{Scheme, Stream};

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
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

/// Who the client is, what it may say, and what those behind us are told.
pub(super) fn trust(
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
    sanitize(headers, seen, internal, edge);
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
fn sanitize(headers: &mut HeaderMap, seen: Seen, internal: bool, edge: bool) {
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
    }
}

/// Takes away what the route table of a request from outside keeps for internal ones.
pub(super) fn remove_internal_only(stream: &Stream, parts: &mut Parts) {
    match &stream.hcm.shared.routes {
        RoutePlace::One(slot) => {
            for name in slot.load().internal_only_headers() {
                parts.headers.remove(name);
            }
        }
        RoutePlace::Scoped(_) => {
            let table = stream.hcm.routes(&stream.view(&parts.method, &parts.uri, &parts.headers));
            for name in table.iter().flat_map(|table| table.internal_only_headers()) {
                parts.headers.remove(name);
            }
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
