//! Asking by gRPC's health service, `grpc.health.v1.Health/Check`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use outrider_config::model::GrpcProbe;

use super::probe::{Ask, Kept, authority, exchange, headers, keep};
use super::{Checks, Finding};
use crate::body::UpstreamBody;
use crate::cluster::ClusterShared;
use crate::host::Host;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// The status `SERVING`.
const SERVING: u64 = 1;
/// An answer is a few bytes.
const MOST: usize = 16 * 1024;

pub(super) async fn ask(
    cluster: &ClusterShared,
    checks: &Checks,
    probe: &GrpcProbe,
    host: &Host,
    kept: &mut Kept,
) -> Finding {
    let mut headers = headers(&probe.add);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let timeout = format!("{}m", checks.config.timeout.as_millis().min(99_999_999));
    if let Ok(value) = HeaderValue::from_str(&timeout) {
        headers.insert(HeaderName::from_static("grpc-timeout"), value);
    }
    let ask = Ask {
        method: Method::POST,
        authority: authority(cluster, host, &probe.authority),
        path: Arc::from(METHOD),
        headers,
        body: UpstreamBody::Full(request(&probe.service)),
    };
    let Some((response, sender)) = exchange(cluster, host, true, kept, ask).await else {
        return Finding::Broken;
    };
    let ill = Finding::Ill { retriable: false };
    let is_grpc = |headers: &HeaderMap| {
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    };
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK || !is_grpc(&head.headers) {
        // The stream ends with its body, the connection does not.
        keep(&checks.config, kept, || Kept::Http(sender));
        return ill;
    }
    let Some((message, trailers)) = read(&mut body).await else { return Finding::Broken };
    keep(&checks.config, kept, || Kept::Http(sender));
    // Without trailers it broke off, or there was no message: a status in the head stands for a response that is nothing else.
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    let ok = status.is_some_and(|status| status == "0");
    if ok && serving(&message) { Finding::Well { degraded: false } } else { ill }
}

/// The whole response: its data and its trailers. `None` when it broke off.
async fn read(body: &mut Incoming) -> Option<(Vec<u8>, Option<HeaderMap>)> {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        match frame.ok()?.into_data() {
            Ok(bytes) if data.len() + bytes.len() <= MOST => data.extend_from_slice(&bytes),
            Ok(_) => return None,
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Some((data, trailers))
}

/// A framed `HealthCheckRequest { service = 1 }`.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// Whether a framed `HealthCheckResponse { status = 1 }` is one message that says SERVING.
fn serving(frame: &[u8]) -> bool {
    let Some(([0, length @ ..], message)) = frame.split_first_chunk::<5>() else { return false };
    let length = u32::from_be_bytes(*length) as usize;
    message.len() == length && status(message) == Some(SERVING)
}

/// The last `status` of the message, whatever other fields it has; `None` where there is none or it is no message.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = Some(varint(&mut message)?),
            (_, 0) => _ = varint(&mut message)?,
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    status
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_names_its_service_and_an_answer_says_serving() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        assert_eq!(request(&"x".repeat(300)).len(), 5 + 1 + 2 + 300);
        assert!(serving(&[0, 0, 0, 0, 2, 8, 1]));
        assert!(!serving(&[0, 0, 0, 0, 2, 8, 2]), "NOT_SERVING");
        assert!(!serving(&[1, 0, 0, 0, 2, 8, 1]), "compressed");
        assert!(!serving(&[0, 0, 0, 0, 0]), "UNKNOWN");
        assert!(!serving(&[0, 0, 0, 0, 2, 8, 1, 0]), "more than one message");
        assert_eq!(status(&[18, 1, b'x', 8, 1]), Some(1), "other fields are skipped");
    }

    proptest! {
        #[test]
        fn no_answer_breaks_it(bytes: Vec<u8>) {
            let _ = serving(&bytes);
            let _ = status(&bytes);
        }
    }
}
