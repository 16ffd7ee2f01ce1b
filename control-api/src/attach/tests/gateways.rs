//! Gateways and their listeners.

use serde_json::json;

use super::{CLASS, NOW, attachments, conditions, message, tls_secret, world};
use crate::attach::{Attachments, Protocol};
use crate::model::{Key, Kind};

/// A world with a gateway of these listeners, and more.
pub(super) fn gateway(listeners: &str, more: &str) -> Attachments {
    attachments(&format!(
        "{CLASS}
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: infra, generation: 3}}
spec: {{gatewayClassName: outrider, listeners: {listeners}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{team: shop}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{ports: [{{port: 80}}]}}
---
{more}"
    ))
}

/// An HTTPRoute of namespace `shop`.
pub(super) fn route(name: &str, parent: &str, hostnames: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec: {{parentRefs: [{parent}], hostnames: {hostnames}, rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}
---
"
    )
}

pub(super) fn listener(all: &Attachments, at: usize) -> Vec<String> {
    conditions(all, Kind::Gateway, "infra/edge", &format!("/listeners/{at}/conditions"))
}

pub(super) fn accepted(all: &Attachments, route: &str) -> String {
    conditions(all, Kind::HttpRoute, &format!("shop/{route}"), "/parents/0/conditions")
        .into_iter()
        .find(|it| it.starts_with("Accepted="))
        .unwrap_or_default()
}

pub(super) fn served(all: &Attachments) -> Vec<(&str, u16)> {
    let gateway = &all.gateways[&("infra".into(), "edge".into())];
    gateway.listeners.iter().map(|it| (&*it.name, it.port)).collect()
}

pub(super) const OPEN: &str = "allowedRoutes: {namespaces: {from: All}}";

#[test]
fn the_status_of_a_gateway_says_all_that_the_gateway_api_wants() {
    let all = gateway(
        &format!("[{{name: web, port: 80, protocol: HTTP, {OPEN}}}]"),
        &route("web", "{name: edge, namespace: infra}", "[]"),
    );
    let status = &all.statuses[&Key::new(Kind::Gateway, "infra", "edge")];
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-02T03:04:05Z", "observedGeneration": 3})
    };
    assert_eq!(
        *status,
        json!({
            "conditions": [
                condition("Accepted", "True", "Accepted", "all listeners are valid"),
                condition("Programmed", "True", "Programmed", "routers of this gateway are given its listeners"),
                condition("ResolvedRefs", "True", "ResolvedRefs", "all references are resolved"),
            ],
            "listeners": [{
                "name": "web",
                "attachedRoutes": 1,
                "supportedKinds": [
                    {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"},
                    {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"},
                ],
                "conditions": [
                    condition("Accepted", "True", "Accepted", "the listener is valid"),
                    condition("Programmed", "True", "Programmed", "routers of this gateway are given it"),
                    condition("ResolvedRefs", "True", "ResolvedRefs", "all references are resolved"),
                    condition("Conflicted", "False", "NoConflicts", "no other listener stands in its way"),
                ],
            }],
        })
    );
    let of_class = conditions(&all, Kind::GatewayClass, "outrider", "/conditions");
    assert_eq!(of_class, ["Accepted=True:Accepted"]);
}

#[test]
fn a_gateway_of_another_class_is_not_ours() {
    let all = attachments(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: other, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: edge}]}
",
    );
    assert!(all.gateways.is_empty() && all.statuses.is_empty(), "{:?}", all.statuses);
}

#[test]
fn listeners_that_cannot_be_told_apart_are_all_refused_and_the_others_served() {
    let all = gateway(
        "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP},
          {name: c, port: 81, protocol: HTTP, hostname: x.example.com}, {name: d, port: 81, protocol: HTTP, hostname: y.example.com},
          {name: u, port: 82, protocol: UDP}]",
        "",
    );
    for at in [0, 1] {
        assert_eq!(
            listener(&all, at),
            [
                "Accepted=False:ProtocolConflict",
                "Programmed=False:Invalid",
                "ResolvedRefs=True:ResolvedRefs",
                "Conflicted=True:ProtocolConflict"
            ]
        );
    }
    assert_eq!(listener(&all, 4)[0], "Accepted=False:UnsupportedProtocol");
    assert_eq!(served(&all), [("c", 81), ("d", 81)]);
    let of_gateway = conditions(&all, Kind::Gateway, "infra/edge", "/conditions");
    assert_eq!(of_gateway[0], "Accepted=True:ListenersNotValid");
    let only = gateway("[{name: u, port: 82, protocol: UDP}]", "");
    assert_eq!(
        conditions(&only, Kind::Gateway, "infra/edge", "/conditions")[0],
        "Accepted=False:ListenersNotValid"
    );
}

#[test]
fn https_and_tls_share_a_port_by_server_name_unless_it_is_the_same() {
    let tls = "tls: {certificateRefs: [{name: cert}]}";
    let both = |one: &str, other: &str| {
        gateway(
            &format!(
                "[{{name: a, port: 443, protocol: HTTPS, hostname: {one}, {tls}}},
                  {{name: b, port: 443, protocol: TLS, hostname: {other}, tls: {{mode: Passthrough}}}}]"
            ),
            &tls_secret("cert", "infra"),
        )
    };
    let apart = both("a.example.com", "b.example.com");
    assert_eq!(served(&apart), [("a", 443), ("b", 443)]);
    let same = both("a.example.com", "a.example.com");
    assert_eq!(listener(&same, 0)[0], "Accepted=False:HostnameConflict");
    assert!(served(&same).is_empty());
    let overlapping = both("a.example.com", "'*.example.com'");
    assert_eq!(listener(&overlapping, 1)[4], "OverlappingTLSConfig=True:OverlappingHostnames");
}

#[test]
fn certificates_are_real_and_granted() {
    let https =
        "[{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: certs}]}}]";
    let secret = tls_secret("cert", "certs");
    let grant = |name: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: edge, namespace: certs}}
spec: {{from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}}], to: [{{group: '', kind: Secret{name}}}]}}
"
        )
    };
    let resolved = |all: &Attachments| listener(all, 0)[2].clone();
    assert_eq!(resolved(&gateway(https, &secret)), "ResolvedRefs=False:RefNotPermitted");
    let other = gateway(https, &format!("{secret}{}", grant(", name: other")));
    assert_eq!(resolved(&other), "ResolvedRefs=False:RefNotPermitted");
    let missing = gateway(https, &grant(""));
    assert_eq!(resolved(&missing), "ResolvedRefs=False:InvalidCertificateRef");
    assert_eq!(listener(&missing, 0)[1], "Programmed=False:Invalid");
    assert!(served(&missing).is_empty());
    let good = gateway(https, &format!("{secret}{}", grant(", name: cert")));
    assert_eq!(resolved(&good), "ResolvedRefs=True:ResolvedRefs");
    let listeners = &good.gateways[&("infra".into(), "edge".into())].listeners;
    assert_eq!(listeners[0].protocol, Protocol::Https(vec![("certs".into(), "cert".into())]));
}

#[test]
fn a_key_that_does_not_belong_to_its_certificate_is_no_certificate() {
    let (one, other) = (super::certificate(4), super::certificate(4));
    let all = gateway(
        "[{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]",
        &format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: cert, namespace: infra}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
            one.0, other.1
        ),
    );
    assert_eq!(listener(&all, 0)[2], "ResolvedRefs=False:InvalidCertificateRef");
    let why = message(&all, Kind::Gateway, "infra/edge", "/listeners/0/conditions", "ResolvedRefs");
    assert_eq!(
        why,
        "tls.certificateRefs[0]: Secret infra/cert has a tls.key that does not belong to its tls.crt"
    );
}

#[test]
fn addresses_are_those_of_the_services_of_the_gateway() {
    let with = |addresses: &str| {
        let all = attachments(&format!(
            "{CLASS}
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: infra}}
spec: {{gatewayClassName: outrider, addresses: {addresses}, listeners: [{{name: web, port: 80, protocol: HTTP}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: edge, namespace: infra, labels: {{gateway.networking.k8s.io/gateway-name: edge}}}}
spec: {{type: LoadBalancer, clusterIP: 10.0.0.7, ports: [{{port: 80}}]}}
status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1}}]}}}}
"
        ));
        let status = all.statuses[&Key::new(Kind::Gateway, "infra", "edge")]["addresses"].clone();
        (status, conditions(&all, Kind::Gateway, "infra/edge", "/conditions")[..2].join(" "))
    };
    let known = json!([{"type": "IPAddress", "value": "192.0.2.1"}]);
    let good = "Accepted=True:Accepted Programmed=True:Programmed".to_owned();
    assert_eq!(with("[]"), (known.clone(), good.clone()));
    assert_eq!(with("[{value: 192.0.2.1}]"), (known.clone(), good));
    assert_eq!(with("[{value: 192.0.2.9}]").1, "Accepted=True:Accepted Programmed=False:AddressNotUsable");
    assert_eq!(with("[{type: Hostname}]").1, "Accepted=True:Accepted Programmed=False:AddressNotAssigned");
    assert_eq!(
        with("[{type: example.com/x, value: a}]").1,
        "Accepted=False:UnsupportedAddress Programmed=False:Invalid"
    );
}

#[test]
fn clients_are_asked_for_certificates_where_the_gateway_says() {
    let (ca, _) = super::certificate(4);
    let with = |frontend: &str| {
        attachments(&format!(
            "{CLASS}
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: infra}}
spec:
  gatewayClassName: outrider
  tls: {{frontend: {frontend}}}
  listeners:
  - {{name: a, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}
  - {{name: b, port: 444, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}
{}
apiVersion: v1
kind: ConfigMap
metadata: {{name: roots, namespace: infra}}
data:
  ca.crt: |
{ca}",
            tls_secret("cert", "infra")
        ))
    };
    let refs = |name: &str| format!("{{caCertificateRefs: [{{group: '', kind: ConfigMap, name: {name}}}]}}");
    let all =
        with(&format!("{{default: {{validation: {}}}, perPort: [{{port: 444, tls: {{}}}}]}}", refs("roots")));
    let listeners = &all.gateways[&("infra".into(), "edge".into())].listeners;
    let asked = listeners[0].client_validation.as_ref().unwrap();
    assert!(asked.required && asked.roots.contains("BEGIN CERTIFICATE"));
    assert_eq!(listeners[1].client_validation, None, "the port's own setting goes before");
    let broken = with(&format!("{{default: {{validation: {}}}}}", refs("gone")));
    assert_eq!(
        listener(&broken, 0)[..3],
        [
            "Accepted=False:NoValidCACertificate",
            "Programmed=False:Invalid",
            "ResolvedRefs=False:InvalidCACertificateRef"
        ]
    );
    assert!(served(&broken).is_empty(), "nobody is let in unverified");
}

#[test]
fn a_condition_keeps_its_time_until_it_changes_and_others_keep_theirs() {
    let yaml = format!(
        "{CLASS}
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: infra}}
spec: {{gatewayClassName: outrider, listeners: [{{name: web, port: 80, protocol: HTTP}}]}}
status:
  conditions:
  - {{type: Accepted, status: 'True', reason: Accepted, message: '', lastTransitionTime: '2020-01-01T00:00:00Z'}}
  - {{type: Programmed, status: 'False', reason: Pending, message: '', lastTransitionTime: '2020-01-01T00:00:00Z'}}
  - {{type: example.com/Theirs, status: 'True', reason: Mine, message: '', lastTransitionTime: '2020-01-01T00:00:00Z'}}
  listeners: []
"
    );
    let world = world(&yaml);
    let first = Attachments::after(&world, NOW, None);
    let times = |all: &Attachments| {
        let status = all.statuses[&Key::new(Kind::Gateway, "infra", "edge")].clone();
        let list = status["conditions"].as_array().unwrap().clone();
        let each = list.iter().map(|it| {
            format!("{} {}", it["type"].as_str().unwrap(), it["lastTransitionTime"].as_str().unwrap())
        });
        each.collect::<Vec<_>>()
    };
    let expected = [
        "Accepted 2020-01-01T00:00:00Z",
        "Programmed 2026-01-02T03:04:05Z",
        "ResolvedRefs 2026-01-02T03:04:05Z",
        "example.com/Theirs 2020-01-01T00:00:00Z",
    ];
    assert_eq!(times(&first), expected);
    let later = Attachments::after(&world, NOW + 1000, Some(&first));
    assert_eq!(times(&later), expected, "what was said before is as good as what the object carries");
}

#[test]
fn a_class_says_what_is_supported_in_the_order_of_the_alphabet() {
    let all = attachments(CLASS);
    let status = &all.statuses[&Key::new(Kind::GatewayClass, "", "outrider")];
    let names: Vec<_> = status["supportedFeatures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.is_sorted() && names.contains(&"HTTPRouteRequestMirror".to_owned()), "{names:?}");
    assert!(names.len() <= 64, "the API takes no more");
}
