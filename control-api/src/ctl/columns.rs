//! Which columns each kind's users expect.

use chrono::DateTime;
use serde_json::Value;

use super::table::{Cell, Style, age};
use crate::model::Kind;

/// A table's columns for a kind: those always shown, then those of `-o wide`.
pub(super) struct Columns {
    pub(super) head: &'static [&'static str],
    pub(super) wide: &'static [&'static str],
}

/// The columns of a kind, after NAMESPACE and before AGE.
pub(super) fn columns(kind: Kind) -> Columns {
    let (head, wide): (&[&str], &[&str]) = match kind {
        Kind::Namespace => (&["NAME"], &["LABELS"]),
        Kind::Secret => (&["NAME", "TYPE", "DATA"], &[]),
        Kind::ConfigMap => (&["NAME", "DATA"], &[]),
        Kind::Service => (&["NAME", "TYPE", "CLUSTER-IP", "PORTS"], &["SELECTOR"]),
        Kind::EndpointSlice => (&["NAME", "SERVICE", "PORTS", "ENDPOINTS"], &["ADDRESSES"]),
        Kind::Pod => (&["NAME", "IP"], &["LABELS"]),
        Kind::GatewayClass => (&["NAME", "CONTROLLER", "ACCEPTED"], &[]),
        Kind::Gateway => (&["NAME", "CLASS", "ADDRESS", "PROGRAMMED"], &["LISTENERS"]),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute => {
            (&["NAME", "HOSTNAMES", "PARENTS", "ACCEPTED"], &["RESOLVED", "RULES"])
        }
        Kind::TcpRoute => (&["NAME", "PARENTS", "ACCEPTED"], &["RESOLVED", "RULES"]),
        Kind::ReferenceGrant => (&["NAME", "FROM", "TO"], &[]),
        Kind::BackendTlsPolicy => (&["NAME", "TARGETS", "HOSTNAME", "ACCEPTED"], &[]),
        Kind::ExternalService => (&["NAME", "HOSTS", "PORTS", "ACCEPTED"], &[]),
        Kind::PeerPolicy => (&["NAME", "TARGETS", "MODE", "ACCEPTED"], &[]),
        Kind::AuthorizationPolicy => (&["NAME", "TARGETS", "ACTION", "ACCEPTED"], &["RULES"]),
        Kind::JoinToken => (&["NAME", "ACCOUNT", "USES", "EXPIRES"], &[]),
        Kind::Revocation => (&["NAME", "ACCEPTED"], &[]),
        Kind::TrafficPolicy | Kind::Telemetry => (&["NAME", "TARGETS", "ACCEPTED"], &[]),
    };
    Columns { head, wide }
}

/// What stands in a column for an object.
pub(super) fn cell(object: &Value, column: &str) -> Cell {
    let at = |pointer: &str| object.pointer(pointer);
    let text = |pointer: &str| at(pointer).map(plain).unwrap_or_default();
    let condition = |kind: &str| {
        let status = condition(object.get("status"), kind);
        let style = Style::of_status(&status);
        Cell::new(or_dash(status), style)
    };
    match column {
        "NAME" => text("/metadata/name").into(),
        "TYPE" => dash(&text("/type"), &text("/spec/type"), "ClusterIP").into(),
        "DATA" => at("/data").and_then(Value::as_object).map_or(0, serde_json::Map::len).to_string().into(),
        "CLUSTER-IP" => or_dash(text("/spec/clusterIP")).into(),
        "PORTS" => or_dash(ports(object)).into(),
        "SELECTOR" => or_dash(labels(at("/spec/selector"))).into(),
        "LABELS" => or_dash(labels(at("/metadata/labels"))).into(),
        "SERVICE" => or_dash(text("/metadata/labels/kubernetes.io~1service-name")).into(),
        "ENDPOINTS" => endpoints(object),
        "ADDRESSES" => {
            or_dash(each(at("/endpoints"), |it| it.get("addresses").map(plain).unwrap_or_default())).into()
        }
        "IP" => or_dash(text("/status/podIP")).into(),
        "CONTROLLER" => text("/spec/controllerName").into(),
        "CLASS" => text("/spec/gatewayClassName").into(),
        "ADDRESS" => or_dash(each(at("/status/addresses"), |it| field(it, "value"))).into(),
        "LISTENERS" => each(at("/spec/listeners"), |it| {
            format!("{}:{}/{}", field(it, "name"), field(it, "port"), field(it, "protocol"))
        })
        .into(),
        "HOSTNAMES" => match text("/spec/hostnames") {
            empty if empty.is_empty() => "*".into(),
            hosts => hosts.into(),
        },
        "PARENTS" => or_dash(each(at("/spec/parentRefs"), target)).into(),
        "TARGETS" => or_dash(targets(object)).into(),
        "ACCEPTED" => condition("Accepted"),
        "RESOLVED" => condition("ResolvedRefs"),
        "PROGRAMMED" => condition("Programmed"),
        "RULES" => at("/spec/rules").and_then(Value::as_array).map_or(0, Vec::len).to_string().into(),
        "FROM" => {
            each(at("/spec/from"), |it| format!("{}/{}", field(it, "kind"), field(it, "namespace"))).into()
        }
        "TO" => each(at("/spec/to"), target).into(),
        "HOSTNAME" => text("/spec/validation/hostname").into(),
        "HOSTS" => or_dash(dash(&text("/spec/hosts"), &text("/spec/host"), "")).into(),
        "MODE" => or_dash(dash(&text("/spec/mode"), &text("/spec/mtls/mode"), "")).into(),
        "ACCOUNT" => text("/spec/serviceAccount").into(),
        "USES" => text("/spec/uses").into(),
        "EXPIRES" => text("/spec/expires").into(),
        "ACTION" => or_dash(text("/spec/action")).into(),
        _ => Cell::default(),
    }
}

/// How old an object is.
pub(super) fn age_of(object: &Value, now: i64) -> String {
    let created = object.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    let created = created.and_then(|it| DateTime::parse_from_rfc3339(it).ok());
    created.map_or_else(|| "-".to_owned(), |it| age(now - it.timestamp()))
}

/// What all conditions of a type in a status say together: `True`, `False`, or how many of how many are true.
pub(super) fn condition(status: Option<&Value>, kind: &str) -> String {
    let mut found = Vec::new();
    let own = status.and_then(|it| it.get("conditions")).and_then(Value::as_array).into_iter().flatten();
    let parents = ["parents", "ancestors"]
        .into_iter()
        .filter_map(|name| status?.get(name)?.as_array())
        .flatten()
        .filter_map(|it| it.get("conditions")?.as_array())
        .flatten();
    for condition in own.chain(parents) {
        if condition.get("type").and_then(Value::as_str) == Some(kind) {
            found.push(field(condition, "status"));
        }
    }
    let Some(first) = found.first() else { return String::new() };
    if found.iter().all(|it| it == first) {
        return first.clone();
    }
    format!("{}/{}", found.iter().filter(|it| *it == "True").count(), found.len())
}

fn targets(object: &Value) -> String {
    let many = each(object.pointer("/spec/targetRefs"), target);
    if !many.is_empty() {
        return many;
    }
    if let Some(one) = object.pointer("/spec/targetRef") {
        return target(one);
    }
    let selector = object.pointer("/spec/selector");
    labels(selector.and_then(|it| it.get("matchLabels")).or(selector))
}

/// `Gateway/edge`, `Service/web:80`, `infra/Gateway/edge`.
fn target(reference: &Value) -> String {
    let kind = match field(reference, "kind") {
        empty if empty.is_empty() => "Gateway".to_owned(),
        kind => kind,
    };
    let mut out = match field(reference, "name") {
        empty if empty.is_empty() => kind,
        name => format!("{kind}/{name}"),
    };
    let namespace = field(reference, "namespace");
    if !namespace.is_empty() {
        out = format!("{namespace}/{out}");
    }
    for part in ["sectionName", "port"] {
        let part = field(reference, part);
        if !part.is_empty() {
            out = format!("{out}:{part}");
        }
    }
    out
}

fn ports(object: &Value) -> String {
    let listed = object.pointer("/spec/ports").or_else(|| object.get("ports"));
    each(listed, |port| {
        let protocol = match field(port, "protocol") {
            empty if empty.is_empty() => "TCP".to_owned(),
            known => known,
        };
        let number = match field(port, "port") {
            empty if empty.is_empty() => field(port, "number"),
            number => number,
        };
        format!("{number}/{protocol}")
    })
}

/// How many are ready of how many.
fn endpoints(object: &Value) -> Cell {
    let listed = object.get("endpoints").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let ready = |it: &&Value| it.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
    let count = listed.iter().filter(ready).count();
    let style = if count == listed.len() && count > 0 { Style::Plain } else { Style::Odd };
    Cell::new(format!("{count}/{}", listed.len()), style)
}

fn labels(value: Option<&Value>) -> String {
    let map = value.and_then(Value::as_object).into_iter().flatten();
    map.map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(",")
}

fn each(list: Option<&Value>, show: impl Fn(&Value) -> String) -> String {
    let items = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().map(show).filter(|it| !it.is_empty()).collect::<Vec<_>>().join(",")
}

fn field(value: &Value, name: &str) -> String {
    value.get(name).map(plain).unwrap_or_default()
}

/// A value without quotes.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn dash(first: &str, second: &str, last: &str) -> String {
    [first, second, last].into_iter().find(|it| !it.is_empty()).unwrap_or_default().to_owned()
}

pub(super) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
