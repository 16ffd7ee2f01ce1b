//! Whom the listeners of Gateways let in.

use serde_json::json;

use super::gateways::{OPEN, accepted, gateway, listener, route, served};
use super::{conditions, message};
use crate::model::{Key, Kind};

#[test]
fn routes_are_let_in_by_namespace_and_kind() {
    let from = |allowed: &str| {
        let all = gateway(
            &format!("[{{name: web, port: 80, protocol: HTTP, allowedRoutes: {allowed}}}]"),
            &route("web", "{name: edge, namespace: infra}", "[]"),
        );
        accepted(&all, "web")
    };
    let (yes, no) = ("Accepted=True:Accepted", "Accepted=False:NotAllowedByListeners");
    assert_eq!(from("{}"), no);
    assert_eq!(from("{namespaces: {from: All}}"), yes);
    assert_eq!(from("{namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}"), no);
    let selector = |it: &str| from(&format!("{{namespaces: {{from: Selector, selector: {it}}}}}"));
    assert_eq!(selector("{matchLabels: {team: shop}}"), yes);
    assert_eq!(selector("{matchLabels: {team: other}}"), no);
    assert_eq!(selector("{matchLabels: {kubernetes.io/metadata.name: shop}}"), yes);
    assert_eq!(selector("{matchExpressions: [{key: team, operator: In, values: [a, shop]}]}"), yes);
    assert_eq!(selector("{matchExpressions: [{key: team, operator: NotIn, values: [shop]}]}"), no);
    assert_eq!(selector("{matchExpressions: [{key: gone, operator: DoesNotExist}]}"), yes);
    assert_eq!(selector("{}"), yes);
}

#[test]
fn kinds_that_a_listener_cannot_have_are_told_and_the_others_stay() {
    let all = gateway(
        "[{name: web, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: TLSRoute}, {kind: HTTPRoute}]}}]",
        "",
    );
    assert_eq!(listener(&all, 0)[2], "ResolvedRefs=False:InvalidRouteKinds");
    let status = &all.statuses[&Key::new(Kind::Gateway, "infra", "edge")];
    assert_eq!(
        status["listeners"][0]["supportedKinds"],
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}])
    );
    assert_eq!(served(&all), [("web", 80)]);
}

#[test]
fn a_parent_is_chosen_by_section_and_port() {
    let listeners = format!(
        "[{{name: a, port: 80, protocol: HTTP, {OPEN}}}, {{name: b, port: 81, protocol: HTTP, {OPEN}}}]"
    );
    let at = |choice: &str| {
        let all =
            gateway(&listeners, &route("web", &format!("{{name: edge, namespace: infra{choice}}}"), "[]"));
        let gateway = &all.gateways[&("infra".into(), "edge".into())];
        let names: Vec<_> =
            gateway.listeners.iter().filter(|it| !it.http.is_empty()).map(|it| it.name.to_string()).collect();
        (accepted(&all, "web"), names.join(","))
    };
    let yes = "Accepted=True:Accepted".to_owned();
    let no = "Accepted=False:NoMatchingParent".to_owned();
    assert_eq!(at(""), (yes.clone(), "a,b".to_owned()));
    assert_eq!(at(", sectionName: b"), (yes.clone(), "b".to_owned()));
    assert_eq!(at(", port: 80"), (yes, "a".to_owned()));
    assert_eq!(at(", sectionName: c"), (no.clone(), String::new()));
    assert_eq!(at(", sectionName: a, port: 81"), (no.clone(), String::new()));
    let gone = gateway(&listeners, &route("web", "{name: gone}", "[]"));
    assert_eq!(accepted(&gone, "web"), no);
}

#[test]
fn hosts_of_a_route_are_narrowed_to_those_of_the_listener() {
    let hosts = |listener: &str, hostnames: &str| {
        let listener = if listener.is_empty() { String::new() } else { format!("hostname: '{listener}', ") };
        let all = gateway(
            &format!("[{{name: web, port: 80, protocol: HTTP, {listener}{OPEN}}}]"),
            &route("web", "{name: edge, namespace: infra}", hostnames),
        );
        let gateway = &all.gateways[&("infra".into(), "edge".into())];
        let hosts = gateway.listeners[0].http.first().map(|it| it.hostnames.join(" "));
        hosts.ok_or_else(|| accepted(&all, "web"))
    };
    let none = Err("Accepted=False:NoMatchingListenerHostname".to_owned());
    assert_eq!(hosts("", "[]"), Ok(String::new()));
    assert_eq!(hosts("", "[a.b, '*.c']"), Ok("a.b *.c".to_owned()));
    assert_eq!(hosts("a.example.com", "[]"), Ok("a.example.com".to_owned()));
    assert_eq!(
        hosts("a.example.com", "['*.example.com', '*.com', b.example.com]"),
        Ok("a.example.com".to_owned())
    );
    assert_eq!(
        hosts("*.example.com", "[a.b.example.com, example.com, '*.com', other.com]"),
        Ok("a.b.example.com *.example.com".to_owned())
    );
    assert_eq!(hosts("*.a.example.com", "['*.example.com']"), Ok("*.a.example.com".to_owned()));
    assert_eq!(hosts("*.example.com", "[example.com]"), none);
    assert_eq!(hosts("a.example.com", "[b.example.com]"), none);
}

/// A route of a kind for hosts, of some year.
fn of_kind(kind: &str, name: &str, year: u32, hostnames: &str) -> String {
    let stamp = format!("namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z'");
    route(name, "{name: edge, namespace: infra}", hostnames)
        .replace("kind: HTTPRoute", &format!("kind: {kind}"))
        .replace("namespace: shop}\nspec", &format!("{stamp}}}\nspec"))
}

#[test]
fn of_http_and_grpc_routes_for_the_same_hosts_the_older_one_is_accepted() {
    let listeners = format!("[{{name: web, port: 80, protocol: HTTP, {OPEN}}}]");
    let told = |routes: &[String]| {
        let all = gateway(&listeners, &routes.concat());
        let of = |kind| conditions(&all, kind, "shop/r", "/parents/0/conditions")[0].clone();
        let attached = all.gateways[&("infra".into(), "edge".into())].listeners[0].http.len();
        (of(Kind::HttpRoute), of(Kind::GrpcRoute), attached)
    };
    let (yes, no) = ("Accepted=True:Accepted".to_owned(), "Accepted=False:Conflicted".to_owned());
    let http = |year, hosts| of_kind("HTTPRoute", "r", year, hosts);
    let grpc = |year, hosts| of_kind("GRPCRoute", "r", year, hosts);
    assert_eq!(told(&[http(2024, "[a.x]"), grpc(2025, "[a.x]")]), (yes.clone(), no.clone(), 1));
    assert_eq!(told(&[http(2025, "['*.x']"), grpc(2024, "[a.x]")]), (no.clone(), yes.clone(), 1));
    assert_eq!(told(&[http(2025, "[a.x]"), grpc(2024, "[]")]), (no, yes.clone(), 1));
    assert_eq!(told(&[http(2025, "[b.x]"), grpc(2024, "[a.x]")]), (yes.clone(), yes, 2));
    // One that was refused refuses nobody.
    let third = of_kind("HTTPRoute", "third", 2026, "[b.x]");
    let all = gateway(&listeners, &[http(2024, "[a.x]"), grpc(2025, "[a.x, b.x]"), third].concat());
    assert_eq!(accepted(&all, "third"), "Accepted=True:Accepted");
    let why = message(&all, Kind::GrpcRoute, "shop/r", "/parents/0/conditions", "Accepted");
    assert!(
        why.starts_with("HTTPRoute shop/r is older and has the same host names at listener web"),
        "{why}"
    );
}
