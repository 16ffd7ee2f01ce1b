//! Upgrades on their way through: HTTP/1.1's `upgrade` and HTTP/2's extended CONNECT.

use base64::Engine;
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::ext::Protocol;
use outrider_core::rng::{self, Rng};

use crate::stream::UpgradeKind;

/// The details of a WebSocket request that the upstream answered without a body and without an upgrade.
pub(crate) const HANDSHAKE_UNSUCCESSFUL: &str = "websocket_handshake_unsuccessful";

/// Whether it is a WebSocket.
pub(crate) fn is_websocket(kind: &UpgradeKind) -> bool {
    matches!(kind, UpgradeKind::Protocol(name) if &**name == "websocket")
}

/// Brings an upgrade request, which looks like HTTP/1.1's, into the form that an HTTP/2 upstream takes.
pub(crate) fn for_http2(request: &mut Parts, kind: &UpgradeKind) {
    let UpgradeKind::Protocol(name) = kind else { return };
    request.method = Method::CONNECT;
    request.extensions.insert(Protocol::from(&**name));
    let headers = &mut request.headers;
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
    // An upgrade's stream has no length.
    headers.remove(CONTENT_LENGTH);
}

/// Completes an upgrade request for an HTTP/1.1 upstream: a WebSocket client of HTTP/2 says its version but
/// sends no key (RFC 8441, section 5), and HTTP/1.1 servers insist on one.
pub(crate) fn for_http1(request: &mut Parts, kind: &UpgradeKind) {
    let headers = &mut request.headers;
    // Whoever says that there is no body says too much: what follows the head is the tunnel.
    if headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0") {
        headers.remove(CONTENT_LENGTH);
    }
    let speaks = is_websocket(kind) && headers.contains_key(SEC_WEBSOCKET_VERSION);
    if !speaks || headers.contains_key(SEC_WEBSOCKET_KEY) {
        return;
    }
    let bits = rng::with(|rng| [rng.next_u64().to_ne_bytes(), rng.next_u64().to_ne_bytes()].concat());
    let key = base64::engine::general_purpose::STANDARD.encode(bits);
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// Whether the upstream accepted. An HTTP/2 upstream's 200 becomes HTTP/1.1's 101, which is how an accepted
/// upgrade looks inside; a CONNECT keeps its status.
pub(crate) fn accepted<B>(response: &mut Response<B>, kind: &UpgradeKind, http2: bool) -> bool {
    match kind {
        UpgradeKind::Connect => response.status().is_success(),
        UpgradeKind::Protocol(_) if !http2 => response.status() == StatusCode::SWITCHING_PROTOCOLS,
        UpgradeKind::Protocol(_) if response.status() != StatusCode::OK => false,
        UpgradeKind::Protocol(name) => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            if let Ok(name) = HeaderValue::from_str(name) {
                headers.insert(UPGRADE, name);
            }
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.remove(CONTENT_LENGTH);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn websocket() -> UpgradeKind {
        UpgradeKind::Protocol("websocket".into())
    }

    fn request() -> Parts {
        http::Request::builder()
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("host", "a")
            .uri("/chat")
            .body(())
            .expect("request")
            .into_parts()
            .0
    }

    #[test]
    fn an_upgrade_becomes_an_extended_connect_and_back() {
        let mut request = request();
        for_http2(&mut request, &websocket());
        assert_eq!(request.method, Method::CONNECT);
        assert_eq!(request.extensions.get::<Protocol>().map(Protocol::as_str), Some("websocket"));
        assert!(!request.headers.contains_key("upgrade"));
        let mut response = Response::new(());
        assert!(accepted(&mut response, &websocket(), true));
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["upgrade"], "websocket");
        *response.status_mut() = StatusCode::FORBIDDEN;
        assert!(!accepted(&mut response, &websocket(), true));
    }

    #[test]
    fn an_http1_websocket_always_has_a_key() {
        let mut request = request();
        for_http1(&mut request, &websocket());
        assert!(!request.headers.contains_key(SEC_WEBSOCKET_KEY), "what is no WebSocket is left alone");
        request.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        for_http1(&mut request, &websocket());
        assert_eq!(request.headers[SEC_WEBSOCKET_KEY].len(), 24);
        let mut response = Response::new(());
        assert!(!accepted(&mut response, &websocket(), false), "200 is no upgrade in HTTP/1.1");
        assert!(accepted(&mut response, &UpgradeKind::Connect, false));
    }
}
