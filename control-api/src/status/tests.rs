//! What browsers are told, and how.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3::Node;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::admin::Admin;
use super::overview::picture;
use super::topology::{Topology, node_of};
use super::traffic::{self, Window};
use super::{Sources, StatusArgs};
use crate::ads::Connected;
use crate::api::auth::AuthArgs;
use crate::engine::Engine;
use crate::model::{Object, read_json};
use crate::source::{Input, Origin, Problems};
use crate::world::{Proxy, World};

const LIMIT: Duration = Duration::from_secs(30);

fn object(value: &Value) -> Object {
    read_json("", value.to_string().as_bytes(), "shop").unwrap().unwrap()
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "ports": [{ "name": "http", "port": 80 }], "selector": { "app": name } },
    })
}

/// `web` with two endpoints, one of them ready, and a route that gives a quarter to `next`.
fn shop() -> Vec<Object> {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "endpoints": [
            { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
            { "addresses": ["10.0.0.2"], "conditions": { "ready": false } },
        ],
        "ports": [{ "name": "http", "port": 8080 }],
    });
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "web", "port": 80 }],
            "rules": [{
                "matches": [{ "headers": [{ "name": "x-api-key", "value": "open-sesame" }] }],
                "backendRefs": [
                    { "name": "web", "port": 80, "weight": 3 }, { "name": "next", "port": 80, "weight": 1 },
                ],
            }],
        },
    });
    [service("web"), service("next"), slice, route].iter().map(object).collect()
}

async fn sources(objects: Vec<Object>) -> Sources {
    let (engine, inputs) = Engine::start(BTreeSet::from([Origin::Manifests]));
    inputs.send(Input::Reset { origin: Origin::Manifests, revision: 0, objects }).await.unwrap();
    engine.until_ready().await;
    Sources {
        engine,
        connected: Arc::new(Connected::default()),
        problems: Problems::default(),
        roots: None,
        instance: "test".into(),
    }
}

/// The element of a list with this value in a field.
fn find<'v>(list: &'v Value, field: &str, wanted: &str) -> &'v Value {
    let found = list.as_array().and_then(|it| it.iter().find(|one| one[field] == wanted));
    found.unwrap_or_else(|| panic!("no {field} {wanted} in {list}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_has_services_and_routes_and_no_values_of_headers() {
    let sources = sources(shop()).await;
    let target = "web-0.shop=127.0.0.1:1".parse().unwrap();
    let picture = picture(&sources, &[Admin::new(target)]);
    let web = find(&picture["nodes"], "id", "service/shop/web");
    assert_eq!((&web["endpoints"], &web["ready"], &web["ports"]), (&json!(2), &json!(1), &json!([80])));
    let edge = find(&picture["edges"], "to", "service/shop/next");
    assert_eq!((&edge["from"], &edge["share"]), (&json!("service/shop/web"), &json!(0.25)));
    assert_eq!(edge["observed"], json!(false), "nobody has seen a request");
    let route = find(&picture["routes"], "name", "web");
    assert_eq!(route["parent"], json!("Service shop/web:80"));
    assert_eq!(route["matches"], json!(["/* header x-api-key"]));
    assert!(!picture.to_string().contains("open-sesame"));
    assert_eq!(picture["control"]["ready"], json!(true));
    assert_eq!(picture["proxies"], json!([]));
}

#[test]
fn a_sidecar_is_part_of_the_service_that_selects_it() {
    let world = World::of(shop());
    let proxy = |id: &str| Proxy::from_node(&Node { id: id.to_owned(), ..Default::default() }).unwrap();
    let mut web = proxy("sidecar~10.9.9.9~web-0.shop~x");
    web.labels.insert("app".to_owned(), "web".to_owned());
    assert_eq!(node_of(&world, &web), "service/shop/web", "by its labels");
    assert_eq!(
        node_of(&world, &proxy("sidecar~10.0.0.1~web-0.shop~x")),
        "service/shop/web",
        "by its address"
    );
    assert_eq!(node_of(&world, &proxy("sidecar~10.0.0.1~web-0.other~x")), "workload/other/web-0");
    assert_eq!(node_of(&world, &proxy("sidecar~10.0.0.9~job-1.shop~x")), "workload/shop/job-1");
    assert_eq!(node_of(&world, &proxy("router~10.0.0.9~public.edge~x")), "gateway/edge/public");
}

#[test]
fn what_several_proxies_of_a_service_send_is_one_edge() {
    let stats = |count: u64| {
        traffic::read(&format!(
            "cluster.outbound|80||web.shop.svc.cluster.local.upstream_rq_completed: {count}\n\
             cluster.outbound|80||web.shop.svc.cluster.local.upstream_rq_time: B1(0,{count}) B5(0,{count})\n"
        ))
    };
    let began = std::time::Instant::now();
    let mut topology = Topology::default();
    for _ in 0..2 {
        let mut window = Window::default();
        window.push(began, stats(0));
        window.push(began + Duration::from_secs(10), stats(50));
        for (cluster, rate) in window.rates() {
            let to = super::topology::node_of_cluster(cluster).unwrap();
            topology.traffic("workload/shop/client", to, &rate);
        }
    }
    let edges = topology.edges();
    assert_eq!(edges.len(), 1);
    let traffic = &edges[0]["traffic"];
    assert_eq!((&traffic["rps"], &traffic["total"]), (&json!(10.0), &json!(100)));
    assert!(traffic["p99"].as_f64().is_some_and(|it| it <= 1.0), "{traffic}");
}

/// Serves the page of these objects on the loopback.
async fn page() -> SocketAddr {
    let sources = sources(shop()).await;
    let args = AuthArgs { insecure_loopback: true, ..Default::default() };
    let security = args.build(None, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    StatusArgs::default().start(listener, &security, sources).unwrap();
    address
}

/// Sends a request and reads until `enough`, or to the end.
async fn ask(address: SocketAddr, request: &str, enough: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&all).contains(enough) {
            if socket.read_buf(&mut all).await.unwrap() == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(LIMIT, read).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_the_page_and_nothing_from_elsewhere() {
    let address = page().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let html = ask(address, &get("/"), "</html>").await;
    assert!(html.starts_with("HTTP/1.1 200 OK\r\n"), "{html}");
    assert!(html.contains("content-security-policy: default-src 'none';"), "{html}");
    for outside in ["http://", "https://", "src=\"//", "style=\"", "<style", "onclick"] {
        assert!(!html.contains(outside), "{outside}");
    }
    for asset in ["/status.js", "/graph.js", "/dom.js", "/status.css", "/favicon.svg"] {
        let answer = ask(address, &get(asset), "\0").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{asset}: {answer}");
        assert!(!answer.contains("innerHTML"), "{asset} takes words for HTML");
    }
    assert!(ask(address, &get("/../etc/passwd"), "\0").await.starts_with("HTTP/1.1 404"));
    let post = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    assert!(ask(address, post, "\0").await.starts_with("HTTP/1.1 405"));
    let stranger = "GET /api/overview HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert!(ask(address, stranger, "\0").await.starts_with("HTTP/1.1 421"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_come_for_as_long_as_somebody_looks() {
    let address = page().await;
    let request = "GET /api/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let stream = ask(address, request, "\n\n\r\n").await;
    assert!(stream.contains("content-type: text/event-stream"), "{stream}");
    let event = stream.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let picture: Value = serde_json::from_str(event).unwrap();
    assert_eq!(picture["control"]["instance"], json!("test"));
    let request = "GET /api/overview HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let again = ask(address, request, "\0").await;
    assert!(again.ends_with('}') && again.contains("\"instance\":\"test\""), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_to_other_hosts_in_clear() {
    let args = AuthArgs { insecure_loopback: true, ..Default::default() };
    let security = args.build(None, &[]).unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = StatusArgs::default().start(listener, &security, sources(shop()).await);
    assert!(refused.unwrap_err().to_string().contains("on the loopback alone"));
}
