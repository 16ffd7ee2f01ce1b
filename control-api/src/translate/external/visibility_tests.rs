//! Who sees an ExternalService, and who gets its secrets.

use outrider_proto::pb::envoy::config::listener::v3::Listener;

use crate::attach::tests::conditions as told;
use crate::model::Kind;
use crate::translate::testing::{WEB, context, envoy_takes, message, resources, sidecar};
use crate::translate::{Context, Resources, Type, translate};
use crate::world::Proxy;

const TOKEN: &str = "---\n{apiVersion: v1, kind: Secret, metadata: {name: token, namespace: shop}, stringData: {token: s3cret}}\n";

/// ExternalService `shop/pay`, with annotations, and a credential.
fn pay(annotations: &str) -> String {
    format!(
        "{WEB}{TOKEN}---
apiVersion: outrider.dev/v1
kind: ExternalService
metadata: {{name: pay, namespace: shop, annotations: {{{annotations}}}}}
spec: {{hosts: [api.pay.example], ports: [{{number: 443, protocol: HTTPS}}], credentials: [{{type: Bearer, secretRef: {{name: token}}}}]}}
"
    )
}

/// A Service `evil/own`, and an HTTPRoute at it that leads to `shop/pay`.
const EVIL: &str = "---
apiVersion: v1
kind: Service
metadata: {name: own, namespace: evil}
spec: {clusterIP: 10.96.0.66, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: steal, namespace: evil}
spec:
  parentRefs: [{group: '', kind: Service, name: own}]
  rules: [{backendRefs: [{group: outrider.dev, kind: ExternalService, name: pay, namespace: shop, port: 443}]}]
";

const GRANT: &str = "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: evil, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: evil}]
  to: [{group: outrider.dev, kind: ExternalService}]
";

/// What a sidecar of namespace `evil` gets.
fn of_evil(context: &Context) -> Resources {
    translate(
        context,
        &Proxy { namespace: "evil".into(), address: "10.0.0.66".parse().unwrap(), ..sidecar() },
    )
}

/// Whether the secret stands anywhere in what a proxy gets: as a secret, and nowhere else.
fn leaked(all: &Resources) -> bool {
    let within = |kind| all.of(kind).iter().any(|it| it.body.windows(6).any(|part| part == b"s3cret"));
    let shown = [Type::Cluster, Type::Listener, Type::Route].into_iter().any(within);
    assert!(!shown, "it stands where it is shown");
    within(Type::Secret)
}

#[test]
fn a_route_of_another_namespace_gets_the_secrets_only_where_it_may() {
    for (annotations, more, may) in [
        ("", "", false),
        ("", GRANT, true),
        ("outrider.dev/export-to: evil", "", true),
        ("outrider.dev/export-to: 'a, *'", "", true),
        ("outrider.dev/export-to: 'a,b'", "", false),
    ] {
        let context = context(&format!("{}{EVIL}{more}", pay(annotations)));
        let all = of_evil(&context);
        envoy_takes(&all);
        assert_eq!(leaked(&all), may, "{annotations:?} {more}");
        let said = told(&context.attachments, Kind::HttpRoute, "evil/steal", "/parents/0/conditions");
        let resolved =
            if may { "ResolvedRefs=True:ResolvedRefs" } else { "ResolvedRefs=False:RefNotPermitted" };
        assert!(said.contains(&resolved.to_owned()), "{annotations:?}: {said:?}");
    }
}

#[test]
fn a_route_for_everybody_gives_the_secrets_to_those_alone_who_may_have_them() {
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules: [{backendRefs: [{group: outrider.dev, kind: ExternalService, name: pay, port: 443}]}]
";
    let closed = context(&format!("{}{route}", pay("")));
    assert!(leaked(&resources(&closed)), "its own namespace calls in its name");
    let theirs = of_evil(&closed);
    envoy_takes(&theirs);
    assert!(!leaked(&theirs), "the credential went to another namespace");
    assert!(leaked(&of_evil(&context(&format!("{}{route}", pay("outrider.dev/export-to: evil"))))));
}

#[test]
fn hosts_and_ports_are_taken_over_in_its_own_namespace_alone_unless_exported() {
    let greedy = |annotations: &str| {
        format!(
            "{WEB}---
apiVersion: outrider.dev/v1
kind: ExternalService
metadata: {{name: greedy, namespace: evil, annotations: {{{annotations}}}}}
spec: {{hosts: [db.example], addresses: [db.example], ports: [{{number: 5433, name: db, protocol: TCP}}, {{number: 8081, name: web, protocol: HTTP}}]}}
"
        )
    };
    let all = resources(&context(&greedy("")));
    assert!(all.of(Type::Listener).get("0.0.0.0_5433").is_none(), "a stranger took port 5433");
    assert!(all.of(Type::Listener).get("0.0.0.0_8081").is_none(), "a stranger took port 8081");
    let all = resources(&context(&greedy("outrider.dev/export-to: '*'")));
    assert!(all.of(Type::Listener).get("0.0.0.0_5433").is_some());
}

#[test]
fn an_address_of_a_service_stays_its_own() {
    // Port 80 of the Service speaks HTTP, so that its connections arrive at 0.0.0.0_80.
    let claim = format!(
        "{WEB}---
apiVersion: outrider.dev/v1
kind: ExternalService
metadata: {{name: claim, namespace: shop}}
spec: {{hosts: [x.example], resolution: Static, addresses: [10.96.0.1, 192.0.2.7], ports: [{{number: 80, name: a, protocol: TCP}}, {{number: 5432, name: b, protocol: TCP}}]}}
"
    );
    let all = resources(&context(&claim));
    assert!(all.of(Type::Listener).get("10.96.0.1_80").is_none(), "requests to the Service went elsewhere");
    assert!(all.of(Type::Listener).get("192.0.2.7_80").is_some());
    let db: Listener = message(&all, Type::Listener, "10.96.0.1_5432");
    assert!(!format!("{db:?}").contains("external"), "{db:?}");
}
