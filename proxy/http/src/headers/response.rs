//! What is done to a response's head before it goes to the client (Envoy: `encodeHeaders` and
//! `ConnectionManagerUtility::mutateResponseHeaders`).

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, SERVER, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use http::{HeaderValue, StatusCode};
use hyper::ext::ReasonPhrase;
use outrider_config::model::ServerHeader;

use super::{Seen, names, remove_if};
use crate::stream::Stream;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The reason phrase is ours, not the upstream's; Envoy has none for codes that are not registered, and for
/// 418 and 451.
fn reason(status: StatusCode, extensions: &mut http::Extensions) {
    const UNKNOWN: ReasonPhrase = ReasonPhrase::from_static(b"Unknown");
    const LAST: ReasonPhrase = ReasonPhrase::from_static(b"Last Unassigned Server Error Code");
    let nameless = matches!(status, StatusCode::IM_A_TEAPOT | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS);
    let known = status.canonical_reason().is_some() && !nameless;
    match status.as_u16() {
        599 => drop(extensions.insert(LAST)),
        _ if !known => drop(extensions.insert(UNKNOWN)),
        _ => drop(extensions.remove::<ReasonPhrase>()),
    }
}

/// What became of the connection by a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The connection leaves HTTP behind this head.
    pub(crate) upgraded: bool,
}

/// Applies the policy. `tunnel` tells that an upstream accepted the upgrade; `close` that the connection is to end
/// behind this response.
pub(crate) fn apply(stream: &Stream, parts: &mut Parts, tunnel: bool, close: bool) -> Verdict {
    let config = &*stream.hcm.shared.config;
    let headers = &mut parts.headers;
    let seen = Seen::scan(headers);
    if !seen.has(Seen::DATE) {
        headers.insert(DATE, stream.hcm.date(stream.conn.now()));
    }
    match config.server_header {
        ServerHeader::Overwrite => {
            headers.insert(SERVER, config.server_name.clone());
        }
        ServerHeader::AppendIfAbsent if !seen.has(Seen::SERVER) => {
            headers.insert(SERVER, config.server_name.clone());
        }
        ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
    }
    let h2 = stream.conn.is_h2();
    if !h2 {
        reason(parts.status, &mut parts.extensions);
    }
    let headers = &mut parts.headers;
    if !tunnel || h2 {
        remove_if(headers, seen, Seen::CONNECTION, &CONNECTION);
        remove_if(headers, seen, Seen::UPGRADE, &UPGRADE);
    }
    remove_if(headers, seen, Seen::TRANSFER_ENCODING, &TRANSFER_ENCODING);
    remove_if(headers, seen, Seen::KEEP_ALIVE, &names::KEEP_ALIVE);
    remove_if(headers, seen, Seen::PROXY_CONNECTION, &names::PROXY_CONNECTION);
    if let Some(id) = stream.request_id.borrow_mut().take() {
        headers.insert(names::X_REQUEST_ID, id);
    }
    if !config.via.is_empty() {
        super::append_via(headers, &config.via);
    }
    if tunnel {
        remove_if(headers, seen, Seen::CONTENT_LENGTH, &CONTENT_LENGTH);
        if h2 && parts.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 8441, section 5.1: success is a 2xx.
            parts.status = StatusCode::OK;
        }
    } else if close && !h2 {
        headers.insert(CONNECTION, CLOSE);
    }
    Verdict { upgraded: tunnel }
}
