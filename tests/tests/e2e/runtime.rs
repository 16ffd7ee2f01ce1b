//! The runtime: values from files and from a control plane, and what they do to traffic.

use std::path::Path;

use anyhow::Result;
use outrider_tests::{
    binary,
    bootstrap::Bootstrap,
    client::Conn,
    control_plane::{ControlPlane, TYPE, follower},
    ports::Lease,
    proxy::{Kind, Proxy},
    wait,
};
use serde_json::{Value, json};

use crate::start::{Stage, places};

/// 201 for requests in the share `test.share`, which is none without the runtime; else 404.
const GATE: &str = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ \
     { match: { prefix: /, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: test.share } }, \
       direct_response: { status: 201 } }, \
     { match: { prefix: / }, direct_response: { status: 404 } } ] } ] }";

fn gate() -> Bootstrap {
    Bootstrap::new().http("main", GATE).hosts("up", &["up"], "")
}

async fn status(port: u16) -> Result<u16> {
    let mut conn = Conn::plain(port).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await?;
    Ok(conn.response("GET").await?.status)
}

async fn becomes(port: u16, wanted: u16) -> Result<()> {
    wait::until(&format!("the status {wanted}"), wait::LIMIT, async || {
        Ok((status(port).await? == wanted).then_some(()))
    })
    .await
}

/// Points the link `current` at the directory `version`, as configuration is rolled out: by a move.
fn flip(root: &Path, version: &str) -> Result<()> {
    std::os::unix::fs::symlink(version, root.join("next"))?;
    Ok(std::fs::rename(root.join("next"), root.join("current"))?)
}

#[tokio::test]
async fn files_are_followed_when_their_link_is_moved() -> Result<()> {
    let root = binary::scratch("runtime-files")?;
    for (version, share) in [("v1", "100"), ("v2", "0"), ("v3", "numerator: 1000000\ndenominator: MILLION\n")]
    {
        std::fs::create_dir_all(root.join(version).join("envoy/test"))?;
        std::fs::write(root.join(version).join("envoy/test/share"), share)?;
    }
    std::fs::create_dir_all(root.join("v3/override/test-cluster"))?;
    std::fs::write(root.join("v3/override/test-cluster/test.share"), "# nobody\n0\n")?;
    flip(&root, "v1")?;
    let bootstrap = gate().top(
        "layered_runtime: { layers: [ \
         { name: files, disk_layer: { symlink_root: @{root}/current, subdirectory: envoy } }, \
         { name: own, disk_layer: { symlink_root: @{root}/current, subdirectory: override, append_service_cluster: true } }, \
         { name: admin, admin_layer: {} } ] }",
    );
    let stage = Stage::with(&bootstrap, &[("root", &root.display().to_string())], &[]).await?;
    let port = stage.port("main");
    assert_eq!(status(port).await?, 201, "the files hold from the first request on");
    flip(&root, "v2")?;
    becomes(port, 404).await?;
    assert_eq!(stage.proxy.stat("runtime.num_layers").await?, Some(2));
    flip(&root, "v1")?;
    becomes(port, 201).await?;
    flip(&root, "v3")?;
    becomes(port, 404).await?;
    assert_eq!(stage.proxy.stat("runtime.num_layers").await?, Some(3), "the cluster's own is there now");
    let dump: Value = serde_json::from_str(&stage.proxy.admin("/runtime").await?.text())?;
    assert_eq!(dump["layers"], json!(["files", "own", "admin"]));
    let key = &dump["entries"]["test.share"];
    assert_eq!(key["layer_values"], json!(["numerator: 1000000\ndenominator: MILLION", "0", ""]));
    assert_eq!(key["final_value"], "0");
    // The operator has the last word.
    assert_eq!(stage.proxy.admin_post("/runtime_modify?test.share=100").await?.status, 200);
    assert_eq!(status(port).await?, 201);
    Ok(())
}

fn layer(name: &str, values: &Value) -> Value {
    json!({ "@type": format!("{TYPE}service.runtime.v3.Runtime"), "name": name, "layer": values })
}

/// A proxy with two layers of RTDS, `low` under `high`.
async fn with_rtds(plane: &ControlPlane, delta: bool, timeout: &str) -> Result<(Proxy, u16, Vec<Lease>)> {
    let rtds = |name: &str| {
        format!(
            "{{ name: {name}, rtds_layer: {{ name: {name}-resource, rtds_config: {{ ads: {{}}, resource_api_version: V3{timeout} }} }} }}"
        )
    };
    // There are neither clusters nor listeners, and in state of the world the control plane does not say so.
    let bootstrap = follower(delta, ", initial_fetch_timeout: 0.3s")
        .top(&format!("layered_runtime: {{ layers: [ {}, {} ] }}", rtds("low"), rtds("high")))
        .http("main", GATE);
    let (mut places, leases) = places(&bootstrap)?;
    places.insert("plane".into(), plane.address.port().to_string());
    let (admin, port) = (places["admin"].parse()?, places["main"].parse()?);
    let proxy = Proxy::start(Kind::Outrider, &bootstrap.render(&places), admin, &[]).await?;
    Ok((proxy, port, leases))
}

#[tokio::test]
async fn a_control_plane_moves_shares_of_traffic() -> Result<()> {
    for delta in [true, false] {
        let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
        let low = |share: Value| layer("low-resource", &json!({ "test": { "share": share } }));
        let high = |values: Value| layer("high-resource", &values);
        plane.serve("1", &[low(json!(100)), high(json!({}))]).await?;
        let (proxy, port, _leases) = with_rtds(&plane, delta, "").await?;
        assert_eq!(status(port).await?, 201, "the start waits for the layers");
        plane.serve("2", &[low(json!({ "numerator": 0 })), high(json!({}))]).await?;
        becomes(port, 404).await?;
        plane.serve("3", &[low(json!(0)), high(json!({ "test.share": 100 }))]).await?;
        becomes(port, 201).await?;
        // A layer that is none is refused, alone: the one beside it holds, and so does what was.
        plane.serve("4", &[low(json!(50)), high(json!({ "test.share": [1, 2] }))]).await?;
        let text = plane.refusal().await?;
        assert!(text.contains("high-resource") && text.contains("layer.test.share"), "{text}");
        assert_eq!(status(port).await?, 201);
        wait::until("the layer beside it", wait::LIMIT, async || {
            let dump: Value = serde_json::from_str(&proxy.admin("/runtime").await?.text())?;
            Ok((dump["entries"]["test.share"]["layer_values"] == json!(["50", "100"])).then_some(()))
        })
        .await?;
        if delta {
            plane.serve("5", &[low(json!(0))]).await?;
            becomes(port, 404).await?;
        }
        assert!(proxy.stat("runtime.update_rejected").await? >= Some(1));
    }
    Ok(())
}

#[tokio::test]
async fn a_layer_that_does_not_come_holds_the_start_for_initial_fetch_timeout_alone() -> Result<()> {
    let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
    plane.serve("1", &[layer("low-resource", &json!({ "test.share": 100 }))]).await?;
    let (proxy, port, _leases) = with_rtds(&plane, true, ", initial_fetch_timeout: 0.3s").await?;
    assert_eq!(status(port).await?, 201);
    assert_eq!(proxy.stat("runtime.init_fetch_timeout").await?, Some(1));
    Ok(())
}
