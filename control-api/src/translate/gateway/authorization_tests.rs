//! Gateways enforce AuthorizationPolicies: asked of the real Envoy where there is one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::json;

use crate::translate::testing::{Running, as_json, ask, context, envoy_takes, sidecar};
use crate::translate::{Resources, Type, translate};
use crate::world::{Proxy, Role};

/// A gateway that answers HTTP with a redirect, and passes TCP on to this port.
fn world(tcp: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: outrider}}
spec: {{controllerName: outrider.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  gatewayClassName: outrider
  listeners: [{{name: web, port: 18080, protocol: HTTP}}, {{name: tcp, port: 18081, protocol: TCP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: shop}}
spec:
  parentRefs: [{{name: edge, sectionName: web}}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: elsewhere.example}}}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: tcp, namespace: shop}}
spec:
  parentRefs: [{{name: edge, sectionName: tcp}}]
  rules: [{{backendRefs: [{{group: outrider.dev, kind: ExternalService, name: echo, port: {tcp}}}]}}]
---
apiVersion: outrider.dev/v1
kind: ExternalService
metadata: {{name: echo, namespace: shop}}
spec: {{hosts: [echo.example], resolution: Static, addresses: [127.0.0.1], ports: [{{number: {tcp}, protocol: TCP}}]}}
"
    )
}

fn router(labels: &[(&str, &str)]) -> Proxy {
    Proxy {
        id: "router~10.0.0.9~edge-0.shop~shop.svc.cluster.local".into(),
        role: Role::Router,
        pod: "edge-0".into(),
        gateway: Some(("shop".into(), "edge".into())),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..sidecar()
    }
}

fn envoy(all: &Resources) -> Option<Running> {
    let mut listeners = as_json(all, Type::Listener, |_| true);
    for listener in &mut listeners {
        listener["address"]["socket_address"] = json!({"address": "127.0.0.1", "port_value": 0});
    }
    let clusters = as_json(all, Type::Cluster, |_| true);
    Running::start(&json!({"listeners": listeners, "clusters": clusters}))
}

/// Whether a connection gets to who answers it.
fn passes(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    // A connection that is refused may be closed before the write, or while it is read.
    let _ = stream.write_all(b"x");
    let mut answer = [0; 1];
    matches!(stream.read(&mut answer), Ok(1))
}

/// Answers each connection with what it sends first.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut first = [0; 1];
            if stream.read_exact(&mut first).is_ok() {
                let _ = stream.write_all(&first);
            }
        }
    });
    port
}

#[test]
fn a_gateway_refuses_what_policies_of_its_namespace_refuse() {
    let port = echo();
    let all_of = "{action: DENY, rules: [{to: [{paths: [/admin*]}]}, {from: [{ipBlocks: [192.0.2.0/24]}]}]}";
    let web = "{selector: {matchLabels: {app: edge}}, action: DENY, rules: [{to: [{methods: [DELETE]}]}]}";
    let from = "{selector: {matchLabels: {app: edge}}, rules: [{from: [{ipBlocks: [127.0.0.0/8]}]}]}";
    let nobody = "{selector: {matchLabels: {app: edge}}, rules: [{from: [{ipBlocks: [192.0.2.0/24]}]}]}";
    let (edge, other): (&[_], &[_]) = (&[("app", "edge")], &[("app", "other")]);
    // Policy, the router's labels, what becomes of three requests, and whether TCP passes.
    for (spec, labels, statuses, tcp) in [
        ("", edge, [302, 302, 302], true),
        // By what can be seen of TCP, the first rule is for every connection.
        (all_of, other, [302, 403, 302], false),
        (web, edge, [302, 302, 403], false),
        (web, other, [302, 302, 302], true),
        (web, &[], [302, 302, 403], false),
        (from, edge, [302, 302, 302], true),
        (nobody, edge, [403, 403, 403], false),
        (nobody, other, [302, 302, 302], true),
        (nobody, &[], [403, 403, 403], false),
    ] {
        let policy = if spec.is_empty() {
            String::new()
        } else {
            format!(
                "---\napiVersion: outrider.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
            )
        };
        let context = context(&format!("{}{policy}", world(port)));
        let all = translate(&context, &router(labels));
        envoy_takes(&all);
        let Some(envoy) = envoy(&all) else { return };
        let http = envoy.listener("0.0.0.0_18080");
        let asked = ["GET /", "GET //admin/x", "DELETE /"].map(|request| ask(http, request, "").0);
        assert_eq!(asked, statuses, "{spec} {labels:?}");
        assert_eq!(passes(envoy.listener("0.0.0.0_18081")), tcp, "{spec} {labels:?}");
    }
}
