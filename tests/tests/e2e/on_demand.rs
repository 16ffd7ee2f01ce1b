//! What comes when a request needs it: virtual hosts, clusters, the tables of scopes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outrider_tests::{
    bootstrap::Bootstrap,
    client::Conn,
    control_plane::{TYPE, ads, eds_cluster, endpoints, rds_listener, routes},
};
use serde_json::{Value, json};

use crate::{
    vhds::{answers_for, get_of, open_table, virtual_host},
    xds::{Mesh, upstream},
};

/// The filters `on_demand` (with these settings) and the router.
pub(crate) fn filters(settings: &Value) -> Value {
    let mut filter = json!({ "@type": format!("{TYPE}extensions.filters.http.on_demand.v3.OnDemand") });
    if let (Value::Object(filter), Value::Object(settings)) = (&mut filter, settings) {
        filter.extend(settings.clone());
    }
    json!([
        { "name": "envoy.filters.http.on_demand", "typed_config": filter },
        { "name": "router", "typed_config": { "@type": format!("{TYPE}extensions.filters.http.router.v3.Router") } },
    ])
}

/// A bootstrap whose clusters come on demand alone.
fn without_cds() -> Bootstrap {
    Bootstrap::new()
        .top(
            "dynamic_resources:\n  ads_config: { api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [ \
             { envoy_grpc: { cluster_name: plane } } ] }\n  lds_config: { ads: {}, resource_api_version: V3 }",
        )
        .hosts(
            "plane",
            &["plane"],
            "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
             \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
             explicit_http_config: { http2_protocol_options: {} }",
        )
}

fn odcds(timeout: &str) -> Value {
    json!({ "odcds": { "source": ads(), "timeout": timeout } })
}

#[tokio::test]
async fn a_request_to_an_unknown_host_waits_for_its_virtual_host() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let scene = |port| {
        vec![
            eds_cluster("one"),
            endpoints("one", &[a]),
            rds_listener("in", port, "table", &json!({ "http_filters": filters(&json!({})) })),
            open_table("table", "one"),
            virtual_host("table/lazy-first", &["first.test", "alias.test"], "one"),
            virtual_host("table/lazy-second", &["second.test:80"], "one"),
        ]
    };
    let Some(mut mesh) = Mesh::start(true, scene).await? else { return Ok(()) };
    let port = mesh.port;
    assert_eq!(get_of(port, "own.test").await?, "200 a");
    // Requests that come together share one question.
    let all = [get_of(port, "First.test"), get_of(port, "first.test"), get_of(port, "first.test")];
    let [one, two, three] = all;
    let (one, two, three) = tokio::join!(one, two, three);
    assert_eq!([one?, two?, three?], ["200 a", "200 a", "200 a"]);
    let asked = mesh
        .plane
        .event("the question", |line| {
            line["type"] == "VirtualHost"
                && line["subscribe"]
                    .as_array()
                    .is_some_and(|names| names.contains(&json!("table/first.test")))
        })
        .await?;
    assert_eq!(asked["subscribe"], json!(["table/first.test"]));
    assert_eq!(get_of(port, "alias.test").await?, "200 a", "it came with the other domain");
    assert_eq!(get_of(port, "second.test:80").await?, "200 a", "the port is part of the name");
    let asked = Instant::now();
    assert_eq!(get_of(port, "none.test").await?, "404 ");
    assert_eq!(get_of(port, "none.test").await?, "404 ");
    ensure!(asked.elapsed() < Duration::from_secs(10), "the control plane said that there is none");
    // What was found by its alias is followed under its own name.
    let mut changed = scene(port);
    changed[4]["domains"] = json!(["first.test", "new.test"]);
    mesh.plane.serve("2", &changed).await?;
    answers_for(port, "new.test", "200 a").await?;
    assert_eq!(get_of(port, "alias.test").await?, "404 ");
    Ok(())
}

#[tokio::test]
async fn a_body_waits_with_its_request() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let scene = |port| {
        vec![
            eds_cluster("one"),
            endpoints("one", &[a]),
            rds_listener("in", port, "table", &json!({ "http_filters": filters(&json!({})) })),
            open_table("table", "one"),
            virtual_host("table/lazy-first", &["first.test"], "one"),
        ]
    };
    let Some(mesh) = Mesh::start(true, scene).await? else { return Ok(()) };
    let mut conn = Conn::plain(mesh.port).await?;
    let body = "x".repeat(300_000);
    conn.send(format!("POST / HTTP/1.1\r\nhost: first.test\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
        .await?;
    assert_eq!(conn.response("POST").await?.status, 200);
    // The connection goes on.
    conn.send("GET / HTTP/1.1\r\nhost: first.test\r\n\r\n").await?;
    assert_eq!(conn.response("GET").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_request_to_an_unknown_cluster_waits_for_it_up_to_the_timeout() -> Result<()> {
    let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
    let scene = |port| {
        let mut table = routes("table", "one");
        let by_header = json!({ "match": { "prefix": "/", "headers": [{ "name": "x-to", "present_match": true }] },
            "route": { "cluster_header": "x-to" } });
        let never = json!({ "match": { "prefix": "/", "headers": [{ "name": "x-not", "present_match": true }] },
            "route": { "cluster": "two" },
            "typed_per_filter_config": { "envoy.filters.http.on_demand": {
                "@type": format!("{TYPE}extensions.filters.http.on_demand.v3.PerRouteConfig") } } });
        if let Some(routes) = table["virtual_hosts"][0]["routes"].as_array_mut() {
            routes.insert(0, by_header);
            routes.insert(0, never);
        }
        let more = json!({ "http_filters": filters(&odcds("1s")) });
        vec![
            eds_cluster("one"),
            eds_cluster("two"),
            eds_cluster("three"),
            endpoints("one", &[a]),
            endpoints("two", &[b]),
            endpoints("three", &[b]),
            rds_listener("in", port, "table", &more),
            table,
        ]
    };
    let Some(mut mesh) = Mesh::with(&without_cds(), scene).await? else { return Ok(()) };
    let port = mesh.port;
    let get = async |header: &str| {
        let mut conn = Conn::plain(port).await?;
        conn.send(format!("GET / HTTP/1.1\r\nhost: test\r\n{header}connection: close\r\n\r\n")).await?;
        let response = conn.response("GET").await?;
        anyhow::Ok(format!("{} {}", response.status, response.text()))
    };
    assert_eq!(get("x-not: 1\r\n").await?, "503 ", "this route does not ask");
    assert_eq!(get("").await?, "200 a");
    assert_eq!(get("x-to: two\r\n").await?, "200 b");
    assert_eq!(get("x-not: 1\r\n").await?, "200 b", "now it is there");
    let asked = Instant::now();
    assert_eq!(get("x-to: none\r\n").await?, "503 ");
    let waited = asked.elapsed();
    ensure!(waited >= Duration::from_millis(900), "{waited:?}");
    assert_eq!(get("x-to: \r\n").await?, "503 ");
    // One that comes is asked for anew.
    let mut more = scene(port);
    more.extend([eds_cluster("none"), endpoints("none", &[a])]);
    mesh.plane.serve("2", &more).await?;
    assert_eq!(get("x-to: none\r\n").await?, "200 a");
    let clusters = mesh.proxy.admin("/clusters").await?.text();
    ensure!(!clusters.contains("three::"), "nobody asked for it: {clusters}");
    Ok(())
}

#[tokio::test]
async fn a_virtual_host_and_then_its_cluster_come_for_one_request() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let scene = |port| {
        let more = json!({ "http_filters": filters(&odcds("5s")) });
        vec![
            eds_cluster("one"),
            endpoints("one", &[a]),
            rds_listener("in", port, "table", &more),
            open_table("table", "one"),
            virtual_host("table/lazy-first", &["first.test"], "one"),
        ]
    };
    let Some(mesh) = Mesh::with(&without_cds(), scene).await? else { return Ok(()) };
    assert_eq!(get_of(mesh.port, "first.test").await?, "200 a");
    Ok(())
}
