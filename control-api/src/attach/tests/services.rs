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
