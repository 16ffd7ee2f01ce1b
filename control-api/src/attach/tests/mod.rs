//! Worlds in YAML, and what becomes of them.

mod backend_tls;
mod backends;
mod gateway_routes;
mod gateways;
mod properties;
mod services;

use serde_json::Value;

use super::Attachments;
use crate::model::{Key, Kind, documents, read_value};
use crate::world::World;

/// The time of all changes in these tests: 2026-01-02T03:04:05Z.
const NOW: i64 = 1_767_323_045;

/// A world of the documents in a text of YAML. Panics when one of them is refused.
pub(crate) fn world(yaml: &str) -> World {
    let objects = documents("test.yaml", yaml).expect("YAML").into_iter().filter_map(|value| {
        read_value("test.yaml", value, "default").unwrap_or_else(|problems| panic!("{problems:?}"))
    });
    World::of(objects.collect::<Vec<_>>())
}

/// What becomes of a text of YAML.
fn attachments(yaml: &str) -> Attachments {
    Attachments::after(&world(yaml), NOW, None)
}

/// The conditions at a place in a status, as `Type=Status:Reason`.
pub(crate) fn conditions(all: &Attachments, kind: Kind, name: &str, pointer: &str) -> Vec<String> {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let status = all.statuses.get(&Key::new(kind, namespace, name)).unwrap_or(&Value::Null);
    let list = status.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    list.iter()
        .map(|it| format!("{}={}:{}", text(it, "type"), text(it, "status"), text(it, "reason")))
        .collect()
}

/// The message of one condition.
fn message(all: &Attachments, kind: Kind, name: &str, pointer: &str, condition: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let status = all.statuses.get(&Key::new(kind, namespace, name)).unwrap_or(&Value::Null);
    let list = status.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let found = list.iter().find(|it| it["type"] == condition).cloned().unwrap_or_default();
    found["message"].as_str().unwrap_or_default().to_owned()
}

/// A certificate and its key, in PEM, indented to stand in a block of YAML.
fn certificate(indent: usize) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["web.example.com".to_owned()]).expect("a certificate");
    let indented = |pem: &str| {
        let pad = " ".repeat(indent);
        pem.lines().map(|line| format!("{pad}{line}\n")).collect()
    };
    (indented(&made.cert.pem()), indented(&made.signing_key.serialize_pem()))
}

/// A Secret for TLS.
pub(crate) fn tls_secret(name: &str, namespace: &str) -> String {
    let (chain, key) = certificate(4);
    format!(
        "---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{chain}  tls.key: |
{key}---
"
    )
}

/// A class of ours.
const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: outrider}
spec: {controllerName: outrider.dev/gateway-controller}
---
";

/// A gateway with a route to the Service `web`.
const CLASS_AND_EDGE: &str = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: outrider}
spec: {controllerName: outrider.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: outrider, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 443}]}]}
";
