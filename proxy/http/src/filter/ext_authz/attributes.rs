//! What a service is told of a request (`envoy.service.auth.v3.CheckRequest`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use outrider_config::model::ExtAuthz as Settings;
use outrider_core::MetadataValue;
use outrider_core::metadata::Metadata;
use outrider_core::stream::{Address, CertInfo, StreamInfo};
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::service::auth::v3 as pb;
use outrider_proto::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, TlsSession};
use outrider_proto::pb::google::protobuf::{ListValue, Struct, Timestamp, Value, value::Kind};

use super::Sent;
use crate::filter::RequestCx;
use crate::headers::names::SERVICE_CLUSTER;
use crate::headers::xfcc::url_encoded_pem;
use crate::stream::Stream;

/// Says whether there was more of the body than is sent. Clients cannot.
pub(super) const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// The question about the request at `cx`.
pub(super) fn check(
    settings: &Settings,
    cx: &mut RequestCx<'_>,
    extensions: HashMap<String, String>,
    sent: Option<Sent>,
) -> pb::CheckRequest {
    let stream = cx.stream;
    let http = http_request(settings, stream, cx.parts, sent);
    let service = cx.parts.headers.get(SERVICE_CLUSTER).map(|name| sanitized(name.as_bytes()));
    let (_, route) = cx.head_and_route();
    let route = route.and_then(|route| route.config()?.metadata.as_deref());
    let route = chosen(route, &settings.route_metadata_namespaces);
    let info = stream.info.borrow();
    let conn = &info.conn;
    let tls = conn.tls.as_deref();
    let peer = tls.and_then(|tls| tls.peer.as_deref());
    let certificate = peer.filter(|_| settings.include_peer_certificate);
    let source = Peer {
        address: Some(address(&conn.remote)),
        service: service.unwrap_or_default(),
        principal: peer.map(principal).unwrap_or_default(),
        certificate: certificate.map(|peer| url_encoded_pem(&peer.der)).unwrap_or_default(),
        ..Peer::default()
    };
    let destination = Peer {
        address: Some(address(&conn.local)),
        principal: tls.and_then(|tls| tls.local.as_deref()).map(principal).unwrap_or_default(),
        ..Peer::default()
    };
    let sni = tls.and_then(|tls| tls.sni.as_deref()).or(conn.sni.as_deref());
    let session = || TlsSession { sni: sni.unwrap_or_default().to_owned() };
    pb::CheckRequest {
        attributes: Some(pb::AttributeContext {
            source: Some(source),
            destination: Some(destination),
            request: Some(pb::attribute_context::Request { time: Some(time(&info)), http: Some(http) }),
            context_extensions: extensions,
            metadata_context: Some(chosen(info.dynamic.as_deref(), &settings.metadata_namespaces)),
            route_metadata_context: Some(route),
            tls_session: settings.include_tls_session.then(session),
        }),
    }
}

fn http_request(settings: &Settings, stream: &Stream, parts: &Parts, sent: Option<Sent>) -> HttpRequest {
    let view = stream.view(&parts.method, &parts.uri, &parts.headers);
    let info = stream.info.borrow();
    let mut message = HttpRequest {
        id: stream.random.get().to_string(),
        method: view.method.to_owned(),
        path: view.path.to_owned(),
        host: view.authority.to_owned(),
        scheme: view.scheme.to_owned(),
        size: i64::try_from(info.bytes_received).unwrap_or(i64::MAX),
        protocol: info.protocol.map(|protocol| protocol.as_str().to_owned()).unwrap_or_default(),
        ..HttpRequest::default()
    };
    let mut lines = Vec::new();
    each_header(settings, stream, parts, |name, value| lines.push((name.to_owned(), value.to_vec())));
    if let Some(Sent { bytes, partial }) = sent {
        let partial: &[u8] = if partial { b"true" } else { b"false" };
        lines.push((PARTIAL_BODY.as_str().to_owned(), partial.to_vec()));
        if settings.body.is_some_and(|body| body.as_bytes) {
            message.raw_body = bytes;
        } else {
            message.body = sanitized(&bytes);
        }
    }
    if settings.raw_headers {
        let lines = lines.into_iter();
        let headers =
            lines.map(|(key, raw_value)| core_pb::HeaderValue { key, value: String::new(), raw_value });
        message.header_map = Some(core_pb::HeaderMap { headers: headers.collect() });
        return message;
    }
    for (name, value) in lines {
        let value = sanitized(&value);
        match message.headers.entry(name) {
            Entry::Vacant(place) => {
                place.insert(value);
            }
            Entry::Occupied(mut known) => {
                known.get_mut().push(',');
                known.get_mut().push_str(&value);
            }
        }
    }
    message
}

/// Calls `f` for each header that the service gets to see, pseudo headers among them.
pub(super) fn each_header(
    settings: &Settings,
    stream: &Stream,
    parts: &Parts,
    mut f: impl FnMut(&str, &[u8]),
) {
    let mut pass = |name: &str, value: &[u8]| {
        let refused = settings.disallowed_headers.iter().any(|matcher| matcher.matches(name));
        let allowed = settings.allowed_headers.as_ref();
        if !refused && allowed.is_none_or(|list| list.iter().any(|matcher| matcher.matches(name))) {
            f(name, value);
        }
    };
    let view = stream.view(&parts.method, &parts.uri, &parts.headers);
    for (name, value) in [
        (":authority", view.authority),
        (":path", view.path),
        (":method", view.method),
        (":scheme", view.scheme),
    ] {
        if !value.is_empty() {
            pass(name, value.as_bytes());
        }
    }
    each_real(&parts.headers, &mut pass);
}

fn each_real(headers: &HeaderMap, f: &mut impl FnMut(&str, &[u8])) {
    for (name, value) in headers {
        if *name != HOST && *name != PARTIAL_BODY {
            f(name.as_str(), value.as_bytes());
        }
    }
}

fn time(info: &StreamInfo) -> Timestamp {
    let since = info.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

fn address(address: &Address) -> core_pb::Address {
    use core_pb::address::Address as Kind;
    use core_pb::socket_address::PortSpecifier;
    let kind = match address {
        Address::Ip(ip) => Kind::SocketAddress(core_pb::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(ip.port()))),
            ..core_pb::SocketAddress::default()
        }),
        Address::Pipe(path) => Kind::Pipe(core_pb::Pipe { path: path.to_string(), mode: 0 }),
    };
    core_pb::Address { address: Some(kind) }
}

/// Who a certificate is of: its first URI, its first name, or its subject.
fn principal(of: &CertInfo) -> String {
    let text = of.uri_sans.first().or(of.dns_sans.first()).unwrap_or(&of.subject);
    text.clone()
}

/// What `metadata` has of `namespaces`.
fn chosen(metadata: Option<&Metadata>, namespaces: &[Arc<str>]) -> core_pb::Metadata {
    let mut found = core_pb::Metadata::default();
    let Some(metadata) = metadata else { return found };
    for name in namespaces {
        if let Some(members) = metadata.namespaces.get(name) {
            found.filter_metadata.insert(name.to_string(), structure(members));
        }
    }
    found
}

fn structure(members: &BTreeMap<Arc<str>, MetadataValue>) -> Struct {
    Struct { fields: members.iter().map(|(name, it)| (name.to_string(), value(it))).collect() }
}

fn value(of: &MetadataValue) -> Value {
    let kind = match of {
        MetadataValue::Null => Kind::NullValue(0),
        MetadataValue::Bool(value) => Kind::BoolValue(*value),
        MetadataValue::Number(number) => Kind::NumberValue(*number),
        MetadataValue::Text(text) => Kind::StringValue(text.to_string()),
        MetadataValue::List(values) => {
            Kind::ListValue(ListValue { values: values.iter().map(value).collect() })
        }
        MetadataValue::Map(members) => Kind::StructValue(structure(members)),
    };
    Value { kind: Some(kind) }
}

/// `bytes` as text, with `!` for each byte that is none (Envoy: `sanitizeUtf8String`).
pub(super) fn sanitized(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '!'));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_text_becomes_marks() {
        assert_eq!(sanitized(b"plain"), "plain");
        assert_eq!(sanitized("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
        assert_eq!(sanitized(b"a\xff\xfeb"), "a!!b");
        assert_eq!(sanitized(b"\xe2\x82"), "!!");
    }

    #[test]
    fn a_certificate_is_somebodys() {
        let subject = CertInfo { subject: "CN=x".to_owned(), ..CertInfo::default() };
        let named = CertInfo { dns_sans: vec!["d".to_owned()], ..subject.clone() };
        let workload = CertInfo { uri_sans: vec!["spiffe://td/w".to_owned()], ..named.clone() };
        assert_eq!([&subject, &named, &workload].map(principal), ["CN=x", "d", "spiffe://td/w"]);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>) {
            let text = sanitized(&bytes);
            prop_assert!(text.len() <= bytes.len());
        }
    }
}
