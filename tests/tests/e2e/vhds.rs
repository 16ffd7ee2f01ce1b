//! Virtual hosts that come by themselves (VHDS).

use anyhow::Result;
use outrider_tests::{
    client::Conn,
    control_plane::{TYPE, ads, eds_cluster, endpoints, rds_listener, routes},
    wait,
};
use serde_json::{Value, json};

use crate::xds::{Mesh, upstream};

/// The answer of a `GET /` to this host: its status and body.
pub(crate) async fn get_of(port: u16, host: &str) -> Result<String> {
    let mut conn = Conn::plain(port).await?;
    conn.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await?;
    let response = conn.response("GET").await?;
    Ok(format!("{} {}", response.status, response.text()))
}

/// Waits until a request to `host` gets this answer.
pub(crate) async fn answers_for(port: u16, host: &str, wanted: &str) -> Result<()> {
    wait::until(&format!("the answer {wanted:?} for {host}"), wait::LIMIT, async || {
        Ok(get_of(port, host).await.ok().filter(|answer| answer == wanted).map(drop))
    })
    .await
}

/// A virtual host of the table `table`, all of whose requests go to one cluster.
pub(crate) fn virtual_host(name: &str, domains: &[&str], cluster: &str) -> Value {
    json!({
        "@type": format!("{TYPE}config.route.v3.VirtualHost"), "name": name, "domains": domains,
        "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }],
    })
}

/// A table with a virtual host of its own for `own.test`, and others by VHDS.
pub(crate) fn open_table(name: &str, cluster: &str) -> Value {
    let mut table = routes(name, cluster);
    table["virtual_hosts"][0]["domains"] = json!(["own.test"]);
    table["vhds"] = json!({ "config_source": ads() });
    table
}

fn scene(port: u16, upstream: u16, hosts: &[Value]) -> Vec<Value> {
    let listener = rds_listener("in", port, "table", &json!({}));
    let first = [eds_cluster("one"), endpoints("one", &[upstream]), listener, open_table("table", "one")];
    [&first[..], hosts].concat()
}

#[tokio::test]
async fn virtual_hosts_come_and_go_beside_those_of_the_table() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let first = virtual_host("table/first", &["first.test"], "one");
    let Some(mut mesh) = Mesh::start(true, |port| scene(port, a, std::slice::from_ref(&first))).await? else {
        return Ok(());
    };
    let port = mesh.port;
    // The listener waited for it: not one request is turned away.
    assert_eq!(get_of(port, "first.test").await?, "200 a");
    assert_eq!(get_of(port, "own.test").await?, "200 a");
    assert_eq!(get_of(port, "second.test").await?, "404 ");
    let second = virtual_host("table/second", &["second.test"], "one");
    mesh.plane.serve("2", &scene(port, a, &[first.clone(), second.clone()])).await?;
    answers_for(port, "second.test", "200 a").await?;
    // The table changes, and its virtual hosts stay.
    let mut renamed = scene(port, a, &[first.clone(), second.clone()]);
    renamed[3]["virtual_hosts"][0]["domains"] = json!(["renamed.test"]);
    mesh.plane.serve("3", &renamed).await?;
    answers_for(port, "renamed.test", "200 a").await?;
    assert_eq!(get_of(port, "first.test").await?, "200 a");
    let dump = mesh.dump().await?.to_string();
    assert!(dump.contains("table/second") && dump.contains("renamed.test"), "{dump}");
    renamed.pop();
    mesh.plane.serve("4", &renamed).await?;
    answers_for(port, "second.test", "404 ").await?;
    assert_eq!(get_of(port, "first.test").await?, "200 a");
    // A domain moves from one to the other.
    let moved = virtual_host("table/other", &["first.test"], "one");
    mesh.plane.serve("5", &scene(port, a, &[moved])).await?;
    answers_for(port, "own.test", "200 a").await?;
    assert_eq!(get_of(port, "first.test").await?, "200 a");
    Ok(())
}

#[tokio::test]
async fn a_bad_virtual_host_is_refused_by_its_name_and_the_others_are_in_force() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let Some(mut mesh) = Mesh::start(true, |port| scene(port, a, &[])).await? else { return Ok(()) };
    let port = mesh.port;
    assert_eq!(get_of(port, "own.test").await?, "200 a");
    let mut bad = virtual_host("table/bad", &["bad.test"], "one");
    bad["routes"][0]["match"] = json!({ "safe_regex": { "regex": "(" } });
    let good = virtual_host("table/good", &["good.test"], "one");
    let thief = virtual_host("table/thief", &["own.test"], "one");
    mesh.plane.serve("2", &scene(port, a, &[bad, good, thief])).await?;
    let text = mesh.plane.refusal().await?;
    assert!(text.contains("table/bad") && text.contains("safe_regex"), "{text}");
    assert!(text.contains("table/thief") && text.contains("own.test"), "{text}");
    assert!(!text.contains("table/good"), "{text}");
    assert_eq!(get_of(port, "good.test").await?, "200 a");
    assert_eq!(get_of(port, "bad.test").await?, "404 ");
    assert_eq!(get_of(port, "own.test").await?, "200 a");
    Ok(())
}

#[tokio::test]
async fn a_table_whose_virtual_hosts_need_delta_is_refused_over_state_of_the_world() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let Some(mut mesh) = Mesh::start(false, |port| scene(port, a, &[])).await? else { return Ok(()) };
    let text = mesh.plane.refusal().await?;
    assert!(text.contains("table") && text.contains("vhds.config_source"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_validates_its_clusters_may_name_those_that_are_warming() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let mut slow = eds_cluster("slow");
    slow["eds_cluster_config"]["eds_config"]["initial_fetch_timeout"] = "0s".into();
    let with = |port: u16, to: &str, validate: bool, more: &[Value]| {
        let mut table = routes("table", to);
        table["validate_clusters"] = validate.into();
        let first = [
            eds_cluster("one"),
            endpoints("one", &[a]),
            rds_listener("in", port, "table", &json!({})),
            table,
        ];
        [&first[..], more].concat()
    };
    let Some(mut mesh) = Mesh::start(true, |port| with(port, "one", false, &[])).await? else {
        return Ok(());
    };
    let port = mesh.port;
    mesh.plane.serve("2", &with(port, "one", false, std::slice::from_ref(&slow))).await?;
    wait::until("the cluster to warm", wait::LIMIT, async || {
        let dump = mesh.dump().await?.to_string();
        Ok(dump.contains("dynamic_warming_clusters").then_some(()))
    })
    .await?;
    mesh.plane.serve("3", &with(port, "nowhere", true, std::slice::from_ref(&slow))).await?;
    let text = mesh.plane.refusal().await?;
    assert!(text.contains("nowhere"), "{text}");
    mesh.plane.serve("4", &with(port, "slow", true, std::slice::from_ref(&slow))).await?;
    // It is accepted: what it leads to is not there yet.
    answers_for(port, "test", "503 ").await
}
