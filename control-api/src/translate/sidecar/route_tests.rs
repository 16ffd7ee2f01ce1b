//! The clusters that routes lead to.

use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;

use crate::translate::testing::{Table, WEB, context, envoy_takes, message, resources, sidecar};
use crate::translate::{Context, Resources, Type, translate};
use crate::world::Proxy;

/// A Service whose port `https` a policy is for, one with a port of gRPC without a name, and routes at `shop/web`.
fn world(routes: &str) -> String {
    format!(
        "{WEB}---
apiVersion: v1
kind: Service
metadata: {{name: safe, namespace: shop}}
spec: {{clusterIP: 10.96.0.7, ports: [{{name: https, port: 443}}, {{name: odd, port: 9100}}, {{name: tcp, port: 9200}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: safe, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: safe, sectionName: https}}]
  validation: {{hostname: safe.example, wellKnownCACertificates: System}}
---
{routes}"
    )
}

/// A route of a kind at a port of `shop/web`, with this rule.
fn route(kind: &str, name: &str, port: u16, rule: &str) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: {port}}}], rules: [{rule}]}}
---
"
    )
}

const PLAIN: &str = "outbound|443||safe.shop.svc.cluster.local";
const TLS: &str = "outbound|443|tls|safe.shop.svc.cluster.local";

#[test]
fn requests_in_clear_to_a_port_of_tls_are_wrapped_as_its_policy_says() {
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: safe, port: 443}}}";
    for rule in [
        "{backendRefs: [{name: safe, port: 443}]}",
        "{backendRefs: [{name: safe, port: 443}, {name: web, port: 80}]}",
        &format!("{{backendRefs: [{{name: web, port: 80}}], filters: [{mirror}]}}"),
    ] {
        let all = resources(&context(&world(&route("HTTPRoute", "r", 80, rule))));
        envoy_takes(&all);
        let table: Table = message(&all, Type::Route, "80");
        let text = format!("{table:?}");
        assert!(text.contains(TLS), "{rule}: {text}");
        assert!(!text.contains(PLAIN), "requests leave in clear: {rule}");
        let cluster: Cluster = message(&all, Type::Cluster, TLS);
        assert!(cluster.transport_socket.is_some(), "{rule}");
        assert_eq!(cluster.eds_cluster_config.unwrap().service_name, PLAIN);
        assert!(all.of(Type::Endpoints).get(PLAIN).is_some());
        // Connections of applications bring TLS of their own.
        let cluster: Cluster = message(&all, Type::Cluster, PLAIN);
        assert!(cluster.transport_socket.is_none());
    }
    let none = resources(&context(&world("")));
    assert!(none.of(Type::Cluster).get(TLS).is_none(), "nobody needs it");
}

#[test]
fn a_grpc_client_speaks_tls_itself() {
    let yaml = world(&route("GRPCRoute", "r", 9000, "{backendRefs: [{name: safe, port: 443}]}"));
    let all = translate(&context(&yaml), &Proxy { grpc: true, ..sidecar() });
    let cluster: Cluster = message(&all, Type::Cluster, PLAIN);
    assert!(cluster.transport_socket.is_some(), "it would call in clear");
    assert!(all.of(Type::Cluster).get(TLS).is_none());
}

fn protocol(all: &Resources, name: &str) -> &'static str {
    let cluster: Cluster = message(all, Type::Cluster, name);
    let packed = cluster.typed_extension_protocol_options.values().next().unwrap();
    let options: HttpProtocolOptions = outrider_proto::any::unpack(packed).unwrap();
    let text = format!("{:?}", options.upstream_protocol_options);
    if text.contains("UseDownstream") {
        "as the client"
    } else if text.contains("Http2ProtocolOptions(") {
        "HTTP/2"
    } else {
        "HTTP/1.1"
    }
}

#[test]
fn what_nobody_named_is_spoken_to_as_the_client_speaks() {
    let odd = "outbound|9100||safe.shop.svc.cluster.local";
    let web = "outbound|80||web.shop.svc.cluster.local";
    let all = resources(&context(&world("")));
    assert_eq!((protocol(&all, odd), protocol(&all, web)), ("as the client", "HTTP/1.1"));
    let grpc = route("GRPCRoute", "r", 9000, "{backendRefs: [{name: web, port: 80}]}");
    assert_eq!(protocol(&resources(&context(&world(&grpc))), web), "as the client");
}

#[test]
fn what_cannot_be_waited_for_is_sent_at_once() {
    let observed = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, annotations: {outrider.dev/depends-on: observed}}}\n---\n";
    let of = |routes: &str| resources(&context(&world(&format!("{observed}{routes}"))));
    let grpc = "outbound|9000||web.shop.svc.cluster.local";
    let here = |all: &Resources| {
        envoy_takes(all);
        all.of(Type::Cluster).get(grpc).is_some()
    };
    assert!(!here(&of("")), "it comes when it is asked for");
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 9000}}}";
    let rule = format!("{{backendRefs: [{{name: web, port: 80}}], filters: [{mirror}]}}");
    assert!(here(&of(&route("HTTPRoute", "r", 80, &rule))), "a copy waits for nothing");
    let tcp = route("TCPRoute", "r", 5432, "{backendRefs: [{name: web, port: 9000}]}");
    assert!(here(&of(&tcp)), "a connection waits for nothing");
}

#[test]
fn filters_are_found_once_for_a_scope() {
    let context: Context = context(WEB);
    let scope = crate::translate::Scope::of(&context.world, &sidecar());
    assert!(context.once.limits(&scope, || true));
    assert!(context.once.limits(&scope, || panic!("asked twice")));
}
