//! How a gateway speaks to backends.

use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::core::v3::transport_socket::ConfigType;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use outrider_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;

use crate::attach::tests::tls_secret;
use crate::translate::testing::{context, envoy_takes, message, sidecar};
use crate::translate::{Resources, Type, translate};
use crate::world::{Proxy, Role};

fn of(kind: &str, tls: &str) -> Resources {
    let yaml = format!(
        "{}apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: outrider}}
spec: {{controllerName: outrider.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec: {{gatewayClassName: outrider, listeners: [{{name: web, port: 80, protocol: HTTP}}]{tls}}}
---
apiVersion: v1
kind: Service
metadata: {{name: safe, namespace: shop}}
spec: {{ports: [{{name: https, port: 443}}, {{name: odd, port: 9100}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: safe, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: safe, sectionName: https}}]
  validation: {{hostname: safe.example, wellKnownCACertificates: System}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: shop}}
spec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: safe, port: 443}}, {{name: safe, port: 9100}}]}}]}}
",
        tls_secret("client", "shop")
    );
    let router = Proxy { role: Role::Router, gateway: Some(("shop".into(), "edge".into())), ..sidecar() };
    let all = translate(&context(&yaml), &router);
    envoy_takes(&all);
    all
}

fn cluster(all: &Resources, port: u16) -> Cluster {
    message(all, Type::Cluster, &format!("outbound|{port}||safe.shop.svc.cluster.local"))
}

fn tls(cluster: Cluster) -> UpstreamTlsContext {
    let Some(ConfigType::TypedConfig(any)) = cluster.transport_socket.unwrap().config_type else { panic!() };
    outrider_proto::any::unpack(&any).unwrap()
}

#[test]
fn a_gateway_shows_its_certificate_to_backends() {
    let all = of("HTTPRoute", ", tls: {backend: {clientCertificateRef: {name: client}}}");
    let common = tls(cluster(&all, 443)).common_tls_context.unwrap();
    let name = "kubernetes://shop/client";
    assert_eq!(common.tls_certificate_sds_secret_configs[0].name, name);
    assert!(all.of(Type::Secret).get(name).is_some(), "nobody would send it");
    let common = tls(cluster(&of("HTTPRoute", ""), 443)).common_tls_context.unwrap();
    assert!(common.tls_certificate_sds_secret_configs.is_empty());
}

#[test]
fn calls_go_out_as_http2() {
    let http2 = |all: &Resources, port: u16| {
        let cluster = cluster(all, port);
        let packed = cluster.typed_extension_protocol_options.values().next().unwrap();
        let options: HttpProtocolOptions = outrider_proto::any::unpack(packed).unwrap();
        format!("{:?}", options.upstream_protocol_options).contains("Http2ProtocolOptions(")
    };
    let (grpc, http) = (of("GRPCRoute", ""), of("HTTPRoute", ""));
    assert!(http2(&grpc, 9100) && http2(&grpc, 443), "gRPC is HTTP/2");
    assert_eq!(tls(cluster(&grpc, 443)).common_tls_context.unwrap().alpn_protocols, ["h2"]);
    // What browsers speak to the gateway says nothing of what the backend understands.
    assert!(!http2(&http, 9100) && !http2(&http, 443));
}
