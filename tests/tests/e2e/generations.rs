//! Each applied change has a number, which whoever looks into a fault finds in logs, stats and dumps.

use anyhow::{Context, Result};
use outrider_tests::{
    control_plane::{eds_cluster, endpoints, rds_listener, routes},
    wait,
};
use serde_json::{Value, json};

use crate::xds::{Mesh, get, upstream};

fn logged(port: u16) -> Value {
    let log = json!({ "access_log": [{ "name": "stdout", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": { "text_format_source": { "inline_string": "generation=%OUTRIDER_GENERATION%=\n" } },
    } }] });
    rds_listener("in", port, "table", &log)
}

#[tokio::test]
async fn a_change_has_a_number_that_logs_dumps_and_stats_agree_on() -> Result<()> {
    let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
    let with =
        |port, to| vec![eds_cluster("one"), endpoints("one", &[to]), logged(port), routes("table", "one")];
    let Some(mut mesh) = Mesh::start(true, |port| with(port, a)).await? else { return Ok(()) };
    mesh.answers("200 a").await?;
    let list = async || -> Result<Value> {
        Ok(serde_json::from_str(&mesh.proxy.admin("/generations?format=json").await?.text())?)
    };
    let before = list().await?;
    let first =
        before["generations"].as_array().context("a list")?.last().context("the bootstrap's")?.clone();
    assert_eq!((&first["number"], &first["changes"][0]["from"]), (&json!(1), &json!("bootstrap")));
    let number = before["generation"].as_u64().context("a number")?;
    mesh.proxy.wait_log(&format!("generation={number}=")).await?;

    mesh.plane.serve("2", &with(mesh.port, b)).await?;
    mesh.answers("200 b").await?;
    let list: Value = serde_json::from_str(&mesh.proxy.admin("/generations?format=json").await?.text())?;
    assert_eq!(list["generation"], number + 1, "one update is one generation: {list}");
    let newest = &list["generations"][0];
    let change = &newest["changes"][0];
    assert_eq!((&change["kind"], &change["change"]), (&json!("endpoint"), &json!("updated")), "{newest}");
    assert_eq!((&change["count"], &change["resources"][0]["name"]), (&json!(1), &json!("one")), "{newest}");
    assert_eq!(change["from"], "plane", "{newest}");
    for step in ["convert", "publish", "total"] {
        assert!(newest["took_ms"][step].as_f64().is_some_and(|took| took > 0.0), "{step}: {newest}");
    }
    assert_eq!(get(mesh.port).await?, "200 b");
    mesh.proxy.wait_log(&format!("generation={}=", number + 1)).await?;
    assert_eq!(mesh.proxy.stat("server.outrider.generation").await?, Some(number + 1));
    let configs = mesh.dump().await?["configs"].take();
    let ours = configs.as_array().and_then(|all| all.last()).context("sections")?.clone();
    assert_eq!(ours["value"]["generation"], number + 1, "{ours}");
    let text = mesh.proxy.admin("/generations").await?.text();
    assert!(text.starts_with(&format!("{} since ", number + 1)), "{text}");
    assert!(text.contains("  1 endpoint updated from plane: one at "), "{text}");

    // What says the same again is no change.
    mesh.plane.serve("3", &with(mesh.port, b)).await?;
    let mut other = with(mesh.port, b);
    other.push(eds_cluster("two"));
    other.push(endpoints("two", &[a]));
    mesh.plane.serve("4", &other).await?;
    wait::until("the cluster", wait::LIMIT, async || {
        let list: Value = serde_json::from_str(&mesh.proxy.admin("/generations?format=json").await?.text())?;
        let newest = &list["generations"][0];
        Ok((newest["changes"].to_string().contains("\"two\"")).then_some(newest["number"].clone()))
    })
    .await?;
    let text = mesh.proxy.admin("/generations").await?.text();
    assert_eq!(text.matches("one at").count(), 3, "once as cluster, twice as endpoints: {text}");
    Ok(())
}
