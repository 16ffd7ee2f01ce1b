//! What is said of requests at a sidecar of a small world, and the rules one by one.

use std::sync::Arc;

use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::pb::envoy::config::route::v3 as route;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::read_value;
use crate::translate::translate;
use crate::world::World;

const SIDECAR: &str = "sidecar~10.0.0.9~client-0.shop~shop.svc.cluster.local";

fn world(objects: &[serde_json::Value]) -> (Context, Proxy, Resources) {
    let objects = objects.iter().map(|it| read_value("", it.clone(), "shop").unwrap().unwrap());
    let context = Context::of(Arc::new(World::of(objects)));
    let proxy = Proxy::from_node(&Node { id: SIDECAR.into(), ..Default::default() }).unwrap();
    let resources = translate(&context, &proxy);
    (context, proxy, resources)
}

fn shop() -> Vec<serde_json::Value> {
    let service = |name: &str, address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
            "spec": { "clusterIP": address, "ports": [{ "name": "http", "port": 80, "appProtocol": "http" }] },
        })
    };
    let slice = |name: &str, ready: bool| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": name },
            },
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }],
        })
    };
    vec![service("web", "10.96.0.1"), slice("web", true), service("down", "10.96.0.2"), slice("down", false)]
}

fn ask(url: &str, port: u32) -> Asked {
    let (authority, path) = url.split_once('/').unwrap_or((url, ""));
    Asked::read(&pb::ExplainRequest {
        proxy: SIDECAR.into(),
        port,
        authority: authority.into(),
        path: format!("/{path}"),
        ..Default::default()
    })
    .unwrap()
}

fn verdict(url: &str, port: u32) -> String {
    let (context, proxy, resources) = world(&shop());
    explain(&context, &proxy, &resources, &ask(url, port)).verdict
}

#[test]
fn a_request_goes_to_the_service_that_its_host_names() {
    let (context, proxy, resources) = world(&shop());
    let answer = explain(&context, &proxy, &resources, &ask("web.shop/a?b", 0));
    assert_eq!(answer.verdict, "route to outbound|80||web.shop.svc.cluster.local");
    assert_eq!(answer.clusters["outbound|80||web.shop.svc.cluster.local"], 100.0);
    let stages: Vec<_> =
        answer.steps.iter().map(|it| (it.stage.as_str(), it.name.as_str(), it.taken)).collect();
    assert!(stages.contains(&("listener", "http_proxy", true)), "{stages:?}");
    let cluster = answer.steps.iter().find(|it| it.stage == "cluster").unwrap();
    assert_eq!(cluster.reason, "1 of 1 endpoints are healthy");
    let origin = cluster.origin.as_ref().unwrap();
    assert_eq!(
        (origin.kind.as_str(), origin.namespace.as_str(), origin.name.as_str()),
        ("Service", "shop", "web")
    );
}

#[test]
fn verdicts_name_what_went_wrong() {
    assert_eq!(
        verdict("down/", 0),
        "503 no healthy endpoint: there is none at all (outbound|80||down.shop.svc.cluster.local)"
    );
    assert_eq!(
        verdict("nowhere.test/", 0),
        "404 no virtual host for \"nowhere.test\" in table \"http_proxy\""
    );
    // Captured: what no service claims goes on to where it was going.
    assert_eq!(verdict("nowhere.test/", 80), "route to PassthroughCluster");
    assert_eq!(verdict("web/", 80), "route to outbound|80||web.shop.svc.cluster.local");
    assert_eq!(verdict("web/", 9999), "bytes to PassthroughCluster: HTTP is not looked at here");
}

#[test]
fn a_host_that_is_nearly_right_is_told() {
    let (context, proxy, resources) = world(&shop());
    let answer = explain(&context, &proxy, &resources, &ask("wbe.shop/", 0));
    let step = answer.steps.last().unwrap();
    assert!(step.reason.ends_with("did you mean web.shop?"), "{}", step.reason);
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let read = |change: fn(&mut pb::ExplainRequest)| {
        let mut request =
            pb::ExplainRequest { proxy: "p".into(), authority: "a".into(), ..Default::default() };
        change(&mut request);
        Asked::read(&request).err().unwrap_or_default()
    };
    assert_eq!(read(|_| {}), "");
    assert!(read(|it| it.proxy.clear()).contains("proxy"));
    assert!(read(|it| it.port = 70_000).contains("70000"));
    assert!(read(|it| it.direction = "up".into()).contains("outbound or inbound"));
    assert!(read(|it| it.path = "a".into()).contains("slash"));
    assert!(read(|it| it.scheme = "ftp".into()).contains("ftp"));
}

fn host(name: &str, domains: &[&str]) -> route::VirtualHost {
    let domains = domains.iter().map(|it| (*it).to_owned()).collect();
    route::VirtualHost { name: name.into(), domains, ..Default::default() }
}

#[test]
fn domains_are_tried_exact_suffix_prefix_any() {
    let config = route::RouteConfiguration {
        virtual_hosts: vec![
            host("any", &["*"]),
            host("front", &["www.*"]),
            host("back", &["*.example.com"]),
            host("longer", &["*.deep.example.com"]),
            host("exact", &["www.example.com", "with.port:8080"]),
        ],
        ..Default::default()
    };
    let choose = |authority: &str, ignore: bool| {
        let config = route::RouteConfiguration { ignore_port_in_host_matching: ignore, ..config.clone() };
        let asked = Asked { authority: authority.into(), ..Default::default() };
        host::choose(&config, &asked, &mut Story::default()).unwrap().name.clone()
    };
    assert_eq!(choose("www.example.com", false), "exact");
    assert_eq!(choose("www.example.com:80", false), "front");
    assert_eq!(choose("www.example.com:80", true), "exact");
    assert_eq!(choose("with.port:8080", false), "exact");
    assert_eq!(choose("a.example.com", false), "back");
    assert_eq!(choose(".example.com", false), "any");
    assert_eq!(choose("x.deep.example.com", false), "longer");
    assert_eq!(choose("www.other.org", false), "front");
    assert_eq!(choose("[::1]:80", true), "any");
}

#[test]
fn redirects_say_where_to() {
    let redirect = |change: fn(&mut route::RedirectAction)| {
        let mut redirect = route::RedirectAction::default();
        change(&mut redirect);
        let prefix = route::route_match::PathSpecifier::PathSeparatedPrefix("/old".into());
        let route = route::Route {
            r#match: Some(route::RouteMatch { path_specifier: Some(prefix), ..Default::default() }),
            action: Some(route::route::Action::Redirect(redirect)),
            ..Default::default()
        };
        action::of(&route, &Resources::default(), &ask("web.shop:80/old/a?b=1", 0), &mut Story::default())
    };
    use route::redirect_action::{PathRewriteSpecifier as Path, SchemeRewriteSpecifier as Scheme};
    let https = |it: &mut route::RedirectAction| {
        it.scheme_rewrite_specifier = Some(Scheme::HttpsRedirect(true));
    };
    assert_eq!(redirect(https), "301 to https://web.shop/old/a?b=1");
    let elsewhere = |it: &mut route::RedirectAction| {
        it.host_redirect = "new.test".into();
        it.port_redirect = 8443;
        it.response_code = route::redirect_action::RedirectResponseCode::Found as i32;
        it.path_rewrite_specifier = Some(Path::PrefixRewrite("/new".into()));
    };
    assert_eq!(redirect(elsewhere), "302 to http://new.test:8443/new/a?b=1");
    let bare = |it: &mut route::RedirectAction| {
        it.strip_query = true;
        it.path_rewrite_specifier = Some(Path::PathRedirect("/x".into()));
    };
    assert_eq!(redirect(bare), "301 to http://web.shop:80/x");
}

#[test]
fn paths_are_normalized_as_the_proxy_does() {
    for (path, want) in [
        ("/a/./b/../c", "/a/c"),
        ("/../a", "/a"),
        ("/a/..", "/"),
        ("/a/b/.", "/a/b/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a//b", "/a//b"),
        ("/", "/"),
    ] {
        assert_eq!(normalized(path), want, "{path}");
    }
}

proptest! {
    #[test]
    fn no_request_makes_it_panic(
        authority in "[a-z0-9.:*\\[\\]-]{1,30}", path in "(/[a-z.%?#=&]{0,6}){0,5}", port in 0u32..100_000,
        inbound in any::<bool>(),
    ) {
        let (context, proxy, resources) = world(&shop());
        let direction = if inbound { "inbound" } else { "outbound" }.to_owned();
        let request = pb::ExplainRequest { proxy: "p".into(), authority, path, port, direction, ..Default::default() };
        if let Ok(asked) = Asked::read(&request) {
            prop_assert!(!explain(&context, &proxy, &resources, &asked).verdict.is_empty());
        }
    }
}

#[test]
fn clusters_on_demand_are_known_and_a_proxy_that_is_behind_is_told() {
    let mut objects = shop();
    objects.push(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "shop", "annotations": { "outrider.dev/depends-on": "observed" } },
    }));
    let (context, proxy, resources) = world(&objects);
    assert!(!resources.on_demand.is_empty(), "HTTP services come on demand");
    let asked = ask("web/", 0);
    let mut answer = explain(&context, &proxy, &resources, &asked);
    assert!(answer.verdict.starts_with("route to outbound|80||web.shop"), "{}", answer.verdict);
    warn(&mut answer, &proxy, &[]);
    assert_ne!(answer.steps[0].stage, "proxy");
    warn(&mut answer, &proxy, &["it refused some Clusters (no)".to_owned()]);
    assert_eq!((answer.steps[0].stage.as_str(), answer.steps[0].taken), ("proxy", false));
    assert!(answer.steps[0].reason.contains("refused some Clusters"), "{:?}", answer.steps[0]);
}
