//! Routes whose parent is a Service (GAMMA).

use super::{attachments, conditions, message};
use crate::attach::ir::{PathMatch, Target};
use crate::model::Kind;

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {ports: [{port: 80}]}
---
";

#[test]
fn a_route_at_a_service_stands_at_each_of_its_ports_with_weights_and_matches() {
    let all = attachments(&format!(
        "{SERVICES}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: split, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web}}]
  hostnames: [ignored.example.com]
  rules:
  - matches: [{{path: {{value: /cart/}}, headers: [{{name: X-User, value: a}}], method: POST}}]
    timeouts: {{request: 1s500ms}}
    backendRefs: [{{name: web, port: 80, weight: 9}}, {{name: web-v2, port: 80, weight: 1}}, {{name: gone, port: 80}}]
"
    ));
    let named = ("shop".into(), "web".into());
    for port in [80, 9000] {
        let routes = &all.services[&(named.clone(), Some(port))].http;
        assert_eq!(routes.len(), 1);
        assert!(routes[0].hostnames.is_empty(), "host names mean nothing at a Service");
        let rule = &routes[0].rules[0];
        assert_eq!(rule.matches[0].path, PathMatch::Prefix("/cart".into()));
        assert_eq!(rule.matches[0].method.as_deref(), Some("POST"));
        assert_eq!(&*rule.matches[0].headers[0].0, "x-user");
        assert_eq!(rule.request_timeout.unwrap().as_millis(), 1500);
        let shares: Vec<_> = rule.backends.iter().map(|it| (it.target.clone(), it.weight)).collect();
        let service = |name: &str| Target::Service { service: ("shop".into(), name.into()), port: 80 };
        assert_eq!(shares, [(service("web"), 9), (service("web-v2"), 1), (Target::Invalid, 1)]);
    }
    assert_eq!(
        conditions(&all, Kind::HttpRoute, "shop/split", "/parents/0/conditions"),
        ["Accepted=True:Accepted", "ResolvedRefs=False:BackendNotFound"]
    );
    let why = message(&all, Kind::HttpRoute, "shop/split", "/parents/0/conditions", "ResolvedRefs");
    assert_eq!(why, "spec.rules[0].backendRefs[2]: Service shop/gone does not exist");
}

/// A route of some kind at the Service `web` of namespace `shop`.
fn at_web(kind: &str, name: &str, namespace: &str, created: u32, parent: &str) -> String {
    let (version, filler) = match kind {
        "TCPRoute" => ("v1alpha2", "backendRefs: [{name: web, namespace: shop, port: 80}]"),
        _ => ("v1", "backendRefs: [{name: web-v2, namespace: shop, port: 80}]"),
    };
    format!(
        "---
apiVersion: gateway.networking.k8s.io/{version}
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}-01-01T00:00:00Z'}}
spec: {{parentRefs: [{{group: '', kind: Service, name: web, namespace: shop{parent}}}], rules: [{{{filler}}}]}}
"
    )
}

fn names(all: &crate::attach::Attachments, port: u16) -> Vec<String> {
    let at = all.services.get(&(("shop".into(), "web".into()), Some(port)));
    let http = at.iter().flat_map(|it| it.http.iter().map(|route| route.key.name.to_string()));
    let tcp = at.iter().flat_map(|it| it.tcp.iter().map(|route| route.key.name.to_string()));
    http.chain(tcp).collect()
}

#[test]
fn routes_of_one_kind_stand_together_the_oldest_first() {
    let routes = [
        at_web("HTTPRoute", "a", "shop", 2025, ""),
        at_web("HTTPRoute", "b", "shop", 2024, ", port: 80"),
        at_web("HTTPRoute", "c", "shop", 2025, ", sectionName: admin"),
    ];
    let all = attachments(&format!("{SERVICES}{}", routes.concat()));
    assert_eq!(names(&all, 80), ["b", "a"]);
    assert_eq!(names(&all, 9000), ["a", "c"]);
}

#[test]
fn of_several_kinds_at_one_port_the_most_specific_one_has_it() {
    let routes = [
        at_web("TCPRoute", "tcp", "shop", 2020, ""),
        at_web("HTTPRoute", "http", "shop", 2024, ""),
        at_web("GRPCRoute", "grpc", "shop", 2025, ", port: 9000"),
    ];
    let all = attachments(&format!("{SERVICES}{}", routes.concat()));
    assert_eq!((names(&all, 80), names(&all, 9000)), (vec!["http".to_owned()], vec!["grpc".to_owned()]));
    let told = |kind: Kind, name: &str| conditions(&all, kind, name, "/parents/0/conditions")[0].clone();
    assert_eq!(told(Kind::TcpRoute, "shop/tcp"), "Accepted=False:Conflicted");
    assert_eq!(told(Kind::HttpRoute, "shop/http"), "Accepted=True:Accepted", "it has the other port");
}

#[test]
fn a_consumer_s_route_stands_beside_the_producer_s_and_needs_no_grant() {
    let routes = [
        at_web("GRPCRoute", "producer", "shop", 2025, ", port: 80"),
        at_web("HTTPRoute", "consumer", "client", 2025, ", port: 80"),
    ];
    let all = attachments(&format!("{SERVICES}{}", routes.concat()));
    assert_eq!(names(&all, 80).len(), 2, "clients of another namespace are other clients");
    assert_eq!(
        conditions(&all, Kind::HttpRoute, "client/consumer", "/parents/0/conditions"),
        ["Accepted=True:Accepted", "ResolvedRefs=True:ResolvedRefs"]
    );
}

#[test]
fn a_parent_that_is_not_there_is_told() {
    let all = attachments(&format!("{SERVICES}{}", at_web("HTTPRoute", "a", "shop", 2025, ", port: 81")));
    let pointer = "/parents/0/conditions";
    assert_eq!(conditions(&all, Kind::HttpRoute, "shop/a", pointer)[0], "Accepted=False:NoMatchingParent");
    assert_eq!(
        message(&all, Kind::HttpRoute, "shop/a", pointer, "Accepted"),
        "Service shop/web has no such TCP port"
    );
    assert!(all.services.is_empty());
}

#[test]
fn a_route_is_attached_where_its_kind_can_be_followed() {
    let ports = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: https, port: 443}, {name: tcp-db, port: 5432}, {name: http, port: 80}, {name: odd, port: 9000}]}
---
";
    let told = |kind: &str, parent: &str| {
        let all = attachments(&format!("{ports}{}", at_web(kind, "a", "shop", 2025, parent)));
        let kind = if kind == "HTTPRoute" { Kind::HttpRoute } else { Kind::TcpRoute };
        let attached: Vec<u16> = all.services.keys().filter_map(|(_, port)| *port).collect();
        (conditions(&all, kind, "shop/a", "/parents/0/conditions")[0].clone(), attached)
    };
    let yes = "Accepted=True:Accepted".to_owned();
    let no = "Accepted=False:NoMatchingParent".to_owned();
    assert_eq!(told("HTTPRoute", ""), (yes.clone(), vec![80, 9000]));
    assert_eq!(told("HTTPRoute", ", port: 443"), (no.clone(), vec![]));
    assert_eq!(told("HTTPRoute", ", sectionName: tcp-db"), (no.clone(), vec![]));
    assert_eq!(told("TCPRoute", ""), (yes, vec![443, 5432, 9000]));
    assert_eq!(told("TCPRoute", ", port: 80"), (no, vec![]));
    let all = attachments(&format!("{ports}{}", at_web("HTTPRoute", "a", "shop", 2025, ", port: 443")));
    let why = message(&all, Kind::HttpRoute, "shop/a", "/parents/0/conditions", "Accepted");
    assert_eq!(
        why,
        "Service shop/web speaks TLS or TCP at port 443, as its appProtocol or name says, where HTTPRoutes mean nothing"
    );
}
