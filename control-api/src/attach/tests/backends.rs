//! References of routes, filters, and rules that are left out.

use super::{attachments, conditions, message};
use crate::attach::Attachments;
use crate::attach::ir::{Filter, HttpRule, PathChange, PathMatch, Target, TextMatch};
use crate::model::Kind;

const WORLD: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: outrider}
spec: {controllerName: outrider.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: outrider
  listeners: [{name: web, port: 80, protocol: HTTP}, {name: tcp, port: 81, protocol: TCP}, {name: tls, port: 82, protocol: TLS, tls: {mode: Passthrough}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: bank}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: shop}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
---
";

fn of(kind: &str, parent: &str, spec: &str, more: &str) -> Attachments {
    attachments(&format!(
        "{WORLD}
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: shop}}
spec: {{parentRefs: [{parent}], {spec}}}
---
{more}"
    ))
}

fn http(rules: &str) -> Attachments {
    of("HTTPRoute", "{name: edge}", &format!("rules: {rules}"), "")
}

fn told(all: &Attachments, kind: Kind) -> Vec<String> {
    conditions(all, kind, "shop/r", "/parents/0/conditions")
}

fn rules(all: &Attachments) -> Vec<HttpRule> {
    let gateway = &all.gateways[&("shop".into(), "edge".into())];
    gateway.listeners[0].http.first().map(|it| it.rules.clone()).unwrap_or_default()
}

fn web() -> Target {
    Target::Service { service: ("shop".into(), "web".into()), port: 80 }
}

#[test]
fn a_reference_that_leads_nowhere_keeps_its_share_and_says_why() {
    for (backend, reason) in [
        ("{name: gone, port: 80}", "BackendNotFound"),
        ("{name: web, port: 8080}", "BackendNotFound"),
        ("{name: web, port: 53}", "UnsupportedProtocol"),
        ("{name: web, port: 80, kind: Pod}", "InvalidKind"),
        ("{name: web, port: 80, group: example.com, kind: Service}", "InvalidKind"),
        ("{name: out, port: 80}", "InvalidKind"),
        ("{name: pay, namespace: bank, port: 80}", "RefNotPermitted"),
    ] {
        let all = http(&format!("[{{backendRefs: [{{name: web, port: 80, weight: 3}}, {backend}]}}]"));
        assert_eq!(
            told(&all, Kind::HttpRoute),
            ["Accepted=True:Accepted".to_owned(), format!("ResolvedRefs=False:{reason}")],
            "{backend}"
        );
        let backends: Vec<_> =
            rules(&all)[0].backends.iter().map(|it| (it.target.clone(), it.weight)).collect();
        assert_eq!(backends, [(web(), 3), (Target::Invalid, 1)], "{backend}");
    }
}

#[test]
fn a_grant_next_to_the_target_permits_a_reference_from_another_namespace() {
    let grant = |kind: &str, namespace: &str| {
        let all = of(
            "HTTPRoute",
            "{name: edge}",
            "rules: [{backendRefs: [{name: pay, namespace: bank, port: 80}]}]",
            &format!(
                "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: shop, namespace: {namespace}}}
spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: shop}}], to: [{{group: '', kind: Service}}]}}
"
            ),
        );
        told(&all, Kind::HttpRoute)[1].clone()
    };
    assert_eq!(grant("HTTPRoute", "bank"), "ResolvedRefs=True:ResolvedRefs");
    assert_eq!(grant("GRPCRoute", "bank"), "ResolvedRefs=False:RefNotPermitted");
    assert_eq!(grant("HTTPRoute", "shop"), "ResolvedRefs=False:RefNotPermitted");
}

#[test]
fn a_rule_that_cannot_be_is_left_out_and_the_others_stay() {
    let bad =
        "{matches: [{path: {type: RegularExpression, value: '/('}}], backendRefs: [{name: web, port: 80}]}";
    let good = "{matches: [{path: {value: /good}}], backendRefs: [{name: web, port: 80}]}";
    let all = http(&format!("[{bad}, {good}]"));
    assert_eq!(
        told(&all, Kind::HttpRoute),
        [
            "Accepted=True:Accepted",
            "ResolvedRefs=True:ResolvedRefs",
            "PartiallyInvalid=True:UnsupportedValue"
        ]
    );
    let why = message(&all, Kind::HttpRoute, "shop/r", "/parents/0/conditions", "PartiallyInvalid");
    assert!(why.starts_with("Dropped Rule 0 (spec.rules[0].matches[0].path.value: "), "{why}");
    let left = rules(&all);
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].index, &left[0].matches[0].path), (1, &PathMatch::Prefix("/good".into())));
    let none = http(&format!("[{bad}]"));
    assert_eq!(told(&none, Kind::HttpRoute)[0], "Accepted=False:UnsupportedValue");
    assert!(rules(&none).is_empty());
}

#[test]
fn a_filter_that_nobody_knows_fails_its_requests_and_no_others() {
    let filter = "filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}]";
    let all = http(&format!(
        "[{{{filter}, backendRefs: [{{name: web, port: 80}}]}}, {{backendRefs: [{{name: web, port: 80, {filter}}}, {{name: web, port: 80}}]}}]"
    ));
    assert_eq!(told(&all, Kind::HttpRoute), ["Accepted=True:Accepted", "ResolvedRefs=False:InvalidKind"]);
    let rules = rules(&all);
    assert!(rules[0].backends.is_empty() && rules[0].filters.is_empty(), "no backend and no redirect is 500");
    let targets: Vec<_> = rules[1].backends.iter().map(|it| it.target.clone()).collect();
    assert_eq!(targets, [Target::Invalid, web()]);
}

#[test]
fn filters_are_read_at_rules_and_at_backends_alike() {
    let all = http(
        "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, fraction: {numerator: 1, denominator: 8}}},
                     {type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}, percent: 42}},
                     {type: URLRewrite, urlRewrite: {hostname: a.b, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}],
           backendRefs: [{name: web, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-A, value: b}], add: [{name: c, value: d}], remove: [E]}}]}]},
          {filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443}}]}]",
    );
    assert_eq!(told(&all, Kind::HttpRoute)[1], "ResolvedRefs=False:BackendNotFound");
    let rules = rules(&all);
    assert_eq!(
        rules[0].filters,
        [
            Filter::Mirror { target: web(), per_million: 125_000 },
            Filter::Mirror { target: Target::Invalid, per_million: 420_000 },
            Filter::Rewrite { hostname: Some("a.b".into()), path: Some(PathChange::Prefix("/x".into())) },
        ]
    );
    let Filter::ResponseHeaders(change) = &rules[0].backends[0].filters[0] else { panic!("{rules:?}") };
    assert_eq!(change.set, [("x-a".into(), "b".into())]);
    assert_eq!(change.add, [("c".into(), "d".into())]);
    assert_eq!(change.remove, ["e".into()]);
    assert_eq!(
        rules[1].filters,
        [Filter::Redirect {
            scheme: Some("https".into()),
            hostname: None,
            path: None,
            port: Some(8443),
            status: 302
        }]
    );
    assert!(rules[1].backends.is_empty());
}

#[test]
fn a_grpc_method_is_a_path() {
    let all = of(
        "GRPCRoute",
        "{name: edge}",
        "rules: [{matches: [{method: {service: a.B, method: C}}, {method: {service: a.B}}, {method: {method: C}},
                  {method: {type: RegularExpression, service: 'a|b'}}, {headers: [{name: X, type: RegularExpression, value: y+}]}]}, {}]",
        "",
    );
    let rules = rules(&all);
    let paths: Vec<_> = rules[0].matches.iter().map(|it| it.path.clone()).collect();
    assert_eq!(
        paths,
        [
            PathMatch::Exact("/a.B/C".into()),
            PathMatch::Prefix("/a.B".into()),
            PathMatch::Regex("/[^/]+/C".into()),
            PathMatch::Regex("/(?:a|b)/[^/]+".into()),
            PathMatch::Prefix("/".into()),
        ]
    );
    assert_eq!(rules[0].matches[4].headers, [("x".into(), TextMatch::Regex("y+".into()))]);
    assert!(rules.iter().flat_map(|it| &it.matches).all(|it| it.grpc));
    assert_eq!(rules[1].matches.len(), 1, "a rule without matches matches all");
}

#[test]
fn tcp_and_tls_routes_go_to_listeners_of_their_protocol() {
    let tcp = of(
        "TCPRoute",
        "{name: edge}",
        "rules: [{backendRefs: [{name: web, port: 80}, {name: gone, port: 1, weight: 2}]}]",
        "",
    );
    let gateway = &tcp.gateways[&("shop".into(), "edge".into())];
    assert_eq!(gateway.listeners[1].tcp[0].backends, [(web(), 1), (Target::Invalid, 2)]);
    assert!(gateway.listeners[2].tcp.is_empty());
    assert_eq!(told(&tcp, Kind::TcpRoute), ["Accepted=True:Accepted", "ResolvedRefs=False:BackendNotFound"]);
    let wrong = of(
        "TCPRoute",
        "{name: edge, sectionName: web}",
        "rules: [{backendRefs: [{name: web, port: 80}]}]",
        "",
    );
    assert_eq!(told(&wrong, Kind::TcpRoute)[0], "Accepted=False:NotAllowedByListeners");
    let tls = of(
        "TLSRoute",
        "{name: edge}",
        "hostnames: [A.example.com], rules: [{backendRefs: [{name: web, port: 80}]}]"
            .replace('A', "a")
            .as_str(),
        "",
    );
    let gateway = &tls.gateways[&("shop".into(), "edge".into())];
    assert_eq!(gateway.listeners[2].tcp[0].hostnames, ["a.example.com".into()]);
    assert!(gateway.listeners[1].tcp.is_empty());
}

#[test]
fn what_cannot_be_done_for_one_of_several_backends_is_refused() {
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}";
    let path = "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}";
    let host = "{type: URLRewrite, urlRewrite: {hostname: x.example}}";
    let header = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}";
    let with = |filter: &str, other: &str| {
        let rules = format!("[{{backendRefs: [{{name: web, port: 80, filters: [{filter}]}}, {other}]}}]");
        told(&http(&rules), Kind::HttpRoute)[0].clone()
    };
    let another = "{name: web, port: 80, weight: 3}";
    for filter in [mirror, path] {
        assert_eq!(with(filter, another), "Accepted=False:UnsupportedValue", "{filter}");
        // The only one that gets requests is as the rule itself.
        assert_eq!(with(filter, "{name: web, port: 80, weight: 0}"), "Accepted=True:Accepted");
    }
    for filter in [host, header] {
        assert_eq!(with(filter, another), "Accepted=True:Accepted", "{filter}");
    }
}
