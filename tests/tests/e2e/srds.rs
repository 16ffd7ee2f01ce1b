//! Scoped routes from a control plane (SRDS).

use anyhow::Result;
use outrider_tests::{
    client::Conn,
    control_plane::{TYPE, ads, eds_cluster, endpoints, listener, routes},
    wait,
};
use serde_json::{Value, json};

use crate::{
    on_demand::filters,
    xds::{Mesh, both, upstream},
};

/// The answer of a `GET /` with this `x-scope`: its status and body.
async fn get_in(port: u16, scope: &str) -> Result<String> {
    let mut conn = Conn::plain(port).await?;
    conn.send(format!("GET / HTTP/1.1\r\nhost: test\r\nx-scope: {scope}\r\nconnection: close\r\n\r\n"))
        .await?;
    let response = conn.response("GET").await?;
    Ok(format!("{} {}", response.status, response.text()))
}

/// Waits until a request in this scope gets this answer.
async fn answers_in(port: u16, scope: &str, wanted: &str) -> Result<()> {
    wait::until(&format!("the answer {wanted:?} in {scope}"), wait::LIMIT, async || {
        Ok(get_in(port, scope).await.ok().filter(|answer| answer == wanted).map(drop))
    })
    .await
}

/// A listener whose connection manager takes its scopes from the control plane.
fn scoped_listener(port: u16) -> Value {
    let manager = json!({
        "@type": format!("{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "scoped_routes": {
            "name": "scopes",
            "scope_key_builder": { "fragments": [{ "header_value_extractor": { "name": "x-scope", "index": 0 } }] },
            "rds_config_source": ads(),
            "scoped_rds": { "scoped_rds_config_source": ads() },
        },
        "http_filters": filters(&json!({})),
    });
    listener("in", port, &json!([{ "filters": [{ "name": "manager", "typed_config": manager }] }]))
}

fn scope(name: &str, key: &str, table: &str) -> Value {
    json!({
        "@type": format!("{TYPE}config.route.v3.ScopedRouteConfiguration"), "name": name,
        "key": { "fragments": [{ "string_key": key }] }, "route_configuration_name": table,
    })
}

fn scene(port: u16, (a, b): (u16, u16), more: &[Value]) -> Vec<Value> {
    let first = [
        eds_cluster("one"),
        eds_cluster("two"),
        endpoints("one", &[a]),
        endpoints("two", &[b]),
        scoped_listener(port),
        routes("to-one", "one"),
        routes("to-two", "two"),
    ];
    [&first[..], more].concat()
}

#[tokio::test]
async fn scopes_come_change_and_go_and_a_clash_of_keys_is_refused_by_name() -> Result<()> {
    both(async |delta| {
        let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
        let up = (a, b);
        let first = scope("first", "1", "to-one");
        let Some(mut mesh) = Mesh::start(delta, |port| scene(port, up, std::slice::from_ref(&first))).await?
        else {
            return Ok(());
        };
        let port = mesh.port;
        // The listener waited for the scope and its table.
        assert_eq!(get_in(port, "1").await?, "200 a");
        assert_eq!(get_in(port, "2").await?, "404 ");
        mesh.plane.serve("2", &scene(port, up, &[first.clone(), scope("second", "2", "to-two")])).await?;
        answers_in(port, "2", "200 b").await?;
        assert_eq!(get_in(port, "1").await?, "200 a");
        // A table that was not asked for before: the scope goes on with the old one until it is there.
        let mut moved = scene(port, up, &[scope("first", "1", "later"), scope("second", "2", "to-two")]);
        mesh.plane.serve("3", &moved).await?;
        mesh.plane
            .event("the question for the table", |line| {
                let names =
                    |field: &str| line[field].as_array().is_some_and(|all| all.contains(&json!("later")));
                line["type"] == "RouteConfiguration" && (names("names") || names("subscribe"))
            })
            .await?;
        assert_eq!(get_in(port, "1").await?, "200 a");
        moved.push(routes("later", "two"));
        mesh.plane.serve("4", &moved).await?;
        answers_in(port, "1", "200 b").await?;
        // Two with one key.
        let swapped = [first.clone(), scope("second", "1", "to-two"), scope("third", "3", "to-two")];
        mesh.plane.serve("5", &scene(port, up, &swapped)).await?;
        let text = mesh.plane.refusal().await?;
        assert!(text.contains("second") && text.contains("key"), "{text}");
        assert!(!text.contains("third"), "{text}");
        answers_in(port, "3", "200 b").await?;
        answers_in(port, "1", "200 a").await?;
        let others = [first.clone(), scope("fourth", "2", "to-two")];
        mesh.plane.serve("6", &scene(port, up, &others)).await?;
        answers_in(port, "3", "404 ").await?;
        assert_eq!(get_in(port, "2").await?, "200 b");
        let swapped = [scope("first", "2", "to-one"), scope("fourth", "1", "to-two")];
        mesh.plane.serve("7", &scene(port, up, &swapped)).await?;
        answers_in(port, "1", "200 b").await?;
        assert_eq!(get_in(port, "2").await?, "200 a");
        let dump = mesh.dump().await?;
        let sections = dump["configs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let scopes = sections.iter().find_map(|section| section["dynamic_scoped_route_configs"].as_array());
        let scopes = scopes.and_then(|all| all.first()).map(Value::to_string).unwrap_or_default();
        assert!(scopes.contains("\"first\"") && scopes.contains("\"fourth\""), "{dump}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_scope_can_bring_its_table_with_it() -> Result<()> {
    let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
    let mut own = scope("own", "1", "");
    own["route_configuration"] = routes("inside", "two");
    if let Some(table) = own["route_configuration"].as_object_mut() {
        table.remove("@type");
    }
    let mut bad = own.clone();
    (bad["name"], bad["key"]["fragments"][0]["string_key"]) = ("bad".into(), "2".into());
    bad["route_configuration"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = "absent".into();
    let Some(mut mesh) = Mesh::start(true, |port| scene(port, (a, b), &[own.clone(), bad.clone()])).await?
    else {
        return Ok(());
    };
    assert_eq!(get_in(mesh.port, "1").await?, "200 b");
    let text = mesh.plane.refusal().await?;
    assert!(text.contains("bad") && text.contains("route_configuration.virtual_hosts[0]"), "{text}");
    assert_eq!(get_in(mesh.port, "2").await?, "404 ");
    Ok(())
}

#[tokio::test]
async fn a_scope_on_demand_asks_for_its_table_when_a_request_needs_it() -> Result<()> {
    both(async |delta| {
        let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
        let mut lazy = scope("lazy", "1", "to-one");
        lazy["on_demand"] = true.into();
        let mut absent = scope("absent", "2", "nowhere");
        absent["on_demand"] = true.into();
        let more = [lazy, absent, scope("eager", "3", "to-two")];
        let Some(mut mesh) = Mesh::start(delta, |port| scene(port, (a, b), &more)).await? else {
            return Ok(());
        };
        assert_eq!(get_in(mesh.port, "3").await?, "200 b");
        assert_eq!(get_in(mesh.port, "1").await?, "200 a");
        let asked = mesh.plane.event("the question", |line| {
            let names =
                |field: &str| line[field].as_array().is_some_and(|all| all.contains(&json!("to-one")));
            line["type"] == "RouteConfiguration" && (names("names") || names("subscribe"))
        });
        let asked = asked.await?.to_string();
        assert!(!asked.contains("nowhere"), "nobody needed it: {asked}");
        Ok(())
    })
    .await
}
