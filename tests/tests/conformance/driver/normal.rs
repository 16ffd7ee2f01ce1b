//! Making observations comparable: only what truly varies from run to run is replaced.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use outrider_proto::pb::envoy::service::auth::v3::CheckRequest;
use outrider_proto::prost::Message as _;
use outrider_tests::record::{Ending, Seen};
use serde_json::Value;

/// Bodies up to this length are shown whole.
const SHOWN: usize = 600;

/// Questions to an authorization service are shown by their fields.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Bytes as a line.
pub(crate) fn show(bytes: &[u8]) -> String {
    if bytes.len() <= SHOWN {
        return format!("{:?}", String::from_utf8_lossy(bytes));
    }
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{} bytes, hash {:x}", bytes.len(), hasher.finish())
}

/// Header fields as lines, sorted by name; fields of one name keep their order.
pub(crate) fn field_lines(label: &str, fields: &[(String, String)]) -> Vec<String> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields.into_iter().map(|(name, value)| format!("{label} {name}: {}", field_value(name, value))).collect()
}

fn field_value(name: &str, value: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "date" if value.ends_with(" GMT") => "<date>".into(),
        "x-envoy-upstream-service-time" if value.parse::<u64>().is_ok() => "<ms>".into(),
        _ => value.to_owned(),
    }
}

/// Raw HTTP/1 responses as lines: heads with their fields sorted, bodies as they are.
pub(crate) fn raw_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = Vec::new();
    for (i, part) in text.split("HTTP/1.").enumerate() {
        if i == 0 {
            if !part.is_empty() {
                lines.push(format!("client raw {part:?}"));
            }
            continue;
        }
        let (head, body) = part.split_once("\r\n\r\n").unwrap_or((part, "<head not ended>"));
        let mut head = head.split("\r\n");
        lines.push(format!("client raw HTTP/1.{}", head.next().unwrap_or_default()));
        let fields: Vec<(String, String)> = head
            .map(|line| line.split_once(": ").unwrap_or((line, "<no colon>")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        lines.extend(field_lines("client raw header", &fields));
        lines.push(format!("client raw body {}", show(body.as_bytes())));
    }
    lines
}

/// What an upstream saw, as lines.
pub(crate) fn seen_lines(ordinal: usize, seen: &Seen, blur: bool) -> Vec<String> {
    let name = if blur { "any" } else { &seen.upstream };
    let label = format!("upstream[{ordinal}] {name}");
    let ending = match seen.ending {
        Ending::Open => "open",
        Ending::Complete => "complete",
        Ending::Cut => "cut",
    };
    let mut lines = vec![format!("{label} {} {} {} {ending}", seen.protocol, seen.method, seen.path)];
    let mut headers = seen.headers.clone();
    if ordinal > 0 {
        // A later attempt is told what is left of the time.
        let left = headers.iter_mut().filter(|(name, _)| name == "x-envoy-expected-rq-timeout-ms");
        left.for_each(|(_, value)| "<left>".clone_into(value));
    }
    lines.extend(field_lines(&format!("{label} header"), &headers));
    lines.push(format!("{label} body {} {}", seen.framing, show(&seen.body)));
    if seen.path.ends_with(CHECK) {
        lines.extend(check_lines(&label, &seen.body));
    }
    lines.extend(field_lines(&format!("{label} trailer"), &seen.trailers));
    if let Some(tls) = &seen.tls {
        lines.push(format!(
            "{label} TLS {} sni={} alpn={} peer={}",
            tls.version,
            tls.sni.as_deref().unwrap_or("-"),
            tls.alpn.as_deref().unwrap_or("-"),
            tls.peer.join(",")
        ));
    }
    lines
}

/// The fields of a question to an authorization service. Its time and its number vary.
fn check_lines(label: &str, body: &[u8]) -> Vec<String> {
    let label = format!("{label} check");
    let message = body.get(5..).map(CheckRequest::decode);
    let Some(Ok(CheckRequest { attributes: Some(told) })) = message else {
        return vec![format!("{label} is none")];
    };
    let mut lines = Vec::new();
    for (side, peer) in [("source", &told.source), ("destination", &told.destination)] {
        lines.push(format!("{label} {side} {peer:?}"));
    }
    let request = told.request.unwrap_or_default();
    lines.push(format!("{label} time {}", request.time.is_some()));
    let mut http = request.http.unwrap_or_default();
    lines.push(format!("{label} id {}", !http.id.is_empty()));
    let mut headers: Vec<_> = std::mem::take(&mut http.headers).into_iter().collect();
    headers.sort();
    let mut raw = http.header_map.take().map(|map| map.headers).unwrap_or_default();
    raw.sort_by(|a, b| a.key.cmp(&b.key));
    let raw = raw.into_iter().map(|header| (header.key, format!("{:?}", header.raw_value)));
    for (name, value) in headers.into_iter().chain(raw) {
        let value = if name == "x-request-id" { "<id>" } else { &value };
        lines.push(format!("{label} header {name}: {value}"));
    }
    http.id.clear();
    lines.push(format!("{label} http {http:?}"));
    let mut extensions: Vec<_> = told.context_extensions.into_iter().collect();
    extensions.sort();
    lines.push(format!("{label} extensions {extensions:?}"));
    lines.push(format!("{label} metadata {:?}", told.metadata_context));
    lines.push(format!("{label} route metadata {:?}", told.route_metadata_context));
    lines.push(format!("{label} session {:?}", told.tls_session));
    lines
}

/// A page of the admin interface as lines: JSON by its values, whatever its layout and the order of its members, and the
/// labels of Prometheus in order.
pub(crate) fn page_lines(text: &str) -> Vec<String> {
    if let Ok(json) = serde_json::from_str::<Value>(text) {
        let mut lines = Vec::new();
        flatten("", &json, &mut lines);
        lines.sort();
        return lines;
    }
    text.lines().filter(|line| !line.is_empty()).map(sort_labels).collect()
}

fn flatten(path: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(k, v)| flatten(&format!("{path}.{k}"), v, lines)),
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(i, v)| flatten(&format!("{path}[{i}]"), v, lines));
        }
        leaf => lines.push(format!("{path} = {leaf}")),
    }
}

fn sort_labels(line: &str) -> String {
    match line.split_once('{').and_then(|(name, rest)| Some((name, rest.rsplit_once('}')?))) {
        Some((name, (labels, value))) if !name.contains(' ') => {
            let mut labels: Vec<&str> = labels.split(',').collect();
            labels.sort_unstable();
            format!("{name}{{{}}}{value}", labels.join(","))
        }
        _ => line.to_owned(),
    }
}

/// Replaces ports by their names and UUIDs by `<uuid>`, everywhere in a line, and what logins make up.
pub(crate) fn normal(line: &str, ports: &BTreeMap<String, String>) -> String {
    let line = super::masks::logins(&without_tls_words(line));
    let mut out = String::with_capacity(line.len());
    let mut rest = line.as_str();
    while let Some(first) = rest.chars().next() {
        let word: usize = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        if word >= 36 && is_uuid(&rest[word - 36..word]) {
            out.push_str(&rest[..word - 36]);
            out.push_str("<uuid>");
            rest = &rest[word..];
            continue;
        }
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits > 0 {
            match ports.get(&rest[..digits]) {
                Some(name) => out.push_str(&format!("<{name}>")),
                None => out.push_str(&rest[..digits]),
            }
            rest = &rest[digits..];
            continue;
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// What a TLS library says of a failed handshake is its own; that it is said, and where, is not. With the words the
/// number of bytes sent differs too.
fn without_tls_words(line: &str) -> String {
    let Some((before, rest)) = line.split_once("TLS_error:") else { return line.to_owned() };
    let end = match rest.split_once("TLS_error_end") {
        Some((words, _)) => words.len() + "TLS_error_end".len(),
        None => rest.find([' ', '}']).unwrap_or(rest.len()),
    };
    let after = rest.get(end..).unwrap_or_default();
    let before: Vec<_> =
        before.split(' ').map(|word| if word.starts_with("out=") { "out=<n>" } else { word }).collect();
    without_tls_words(&format!("{}<TLS error>{after}", before.join(" ")))
}

fn is_uuid(text: &str) -> bool {
    text.char_indices().all(
        |(i, c)| {
            if matches!(i, 8 | 13 | 18 | 23) { c == '-' } else { c.is_ascii_hexdigit() }
        },
    )
}
