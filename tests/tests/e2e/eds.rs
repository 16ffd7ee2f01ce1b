//! Endpoints that change by the hundred: those that stay keep their connections, and their turn.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    client::Conn,
    control_plane::{eds_cluster, endpoints, rds_listener, routes},
    upstream::Upstream,
    wait,
};
use serde_json::json;

use crate::xds::Mesh;

/// Endpoints that stay.
const HOSTS: usize = 100;
/// Updates, in each of which one endpoint comes and one goes.
const UPDATES: usize = 200;

async fn ask(conn: &mut Conn) -> Result<String> {
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    let response = conn.response("GET").await?;
    ensure!(response.status == 200, "{response:?}");
    Ok(response.text())
}

#[tokio::test]
async fn hundreds_of_updates_open_no_connection_to_a_host_that_stays() -> Result<()> {
    let mut hosts = Vec::new();
    for ordinal in 0..HOSTS + 2 {
        hosts.push(Upstream::http(&format!("host-{ordinal}")).await?.0);
    }
    let ports: Vec<u16> = hosts.iter().map(|host| host.address().port()).collect();
    // One of the last two, by turns.
    let with = |port: u16, update: usize| {
        let mut now: Vec<u16> = ports.iter().copied().take(HOSTS).collect();
        now.extend(ports.get(HOSTS + update % 2));
        let listener = rds_listener("in", port, "table", &json!({}));
        vec![eds_cluster("many"), endpoints("many", &now), listener, routes("table", "many")]
    };
    let Some(mut mesh) = Mesh::start(true, |port| with(port, 0)).await? else { return Ok(()) };
    let mut conn = Conn::plain(mesh.port).await?;
    // One request at a time: no host needs a second connection.
    while hosts.iter().take(HOSTS).any(|host| host.connections() == 0) {
        ask(&mut conn).await?;
    }
    let mut answered = HashSet::new();
    for update in 1..=UPDATES {
        mesh.plane.serve(&format!("update-{update}"), &with(mesh.port, update)).await?;
        answered.insert(ask(&mut conn).await.with_context(|| format!("update {update}"))?);
    }
    mesh.plane.acknowledged(&format!("update-{UPDATES}"), true, wait::LIMIT).await?;
    for _ in 0..2 * HOSTS {
        ask(&mut conn).await?;
    }
    for host in hosts.iter().take(HOSTS) {
        assert_eq!(host.connections(), 1, "{}", host.name());
    }
    // Were the balancer made anew by each update, the first hosts would get all requests.
    assert!(answered.len() > HOSTS / 2, "only {} hosts had a turn during the updates", answered.len());
    Ok(())
}
