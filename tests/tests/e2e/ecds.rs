//! Filters whose settings come by themselves (ECDS), from a real control plane.

use anyhow::{Context, Result};
use outrider_tests::{
    client::Conn,
    control_plane::{TYPE, ads, eds_cluster, endpoints, listener, rds_listener, routes},
    wait,
};
use serde_json::{Value, json};

use crate::xds::{Mesh, both, get, upstream};

const MUTATION: &str = "extensions.filters.http.header_mutation.v3.HeaderMutation";

/// Settings that mark responses with `x-by: <value>`.
fn marks(value: &str) -> Value {
    json!({
        "@type": format!("{TYPE}{MUTATION}"),
        "mutations": { "response_mutations": [{ "append": { "header": { "key": "x-by", "value": value } } }] },
    })
}

/// What comes for the filter `name`.
fn extension(name: &str, settings: Value) -> Value {
    let mut extension =
        json!({ "@type": format!("{TYPE}config.core.v3.TypedExtensionConfig"), "name": name });
    extension["typed_config"] = settings;
    extension
}

/// A filter that comes by itself, of one of `types`; `more` goes into its source.
fn discovered(name: &str, types: &[&str], more: Value) -> Value {
    let mut source = json!({
        "config_source": ads(),
        "type_urls": types.iter().map(|name| format!("{TYPE}{name}")).collect::<Vec<_>>(),
    });
    if let (Value::Object(source), Value::Object(more)) = (&mut source, more) {
        source.extend(more);
    }
    json!({ "name": name, "config_discovery": source })
}

fn with_filter(port: u16, filter: Value) -> Value {
    let router = json!({
        "name": "router", "typed_config": { "@type": format!("{TYPE}extensions.filters.http.router.v3.Router") },
    });
    rds_listener("in", port, "table", &json!({ "http_filters": [filter, router] }))
}

/// Asks on `conn`; status and `x-by`.
async fn ask(conn: &mut Conn) -> Result<String> {
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    let response = conn.response("GET").await?;
    Ok(format!("{} {}", response.status, response.header("x-by").unwrap_or("-")))
}

async fn becomes(conn: &mut Conn, wanted: &str) -> Result<()> {
    wait::until(&format!("the answer {wanted:?}"), wait::LIMIT, async || {
        Ok((ask(conn).await? == wanted).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_filter_comes_changes_is_refused_and_goes_on_an_open_connection() -> Result<()> {
    both(async |delta| {
        let (_a, a) = upstream("a").await?;
        let plain = |port| {
            let listener = rds_listener("in", port, "table", &json!({}));
            vec![eds_cluster("one"), endpoints("one", &[a]), listener, routes("table", "one")]
        };
        let Some(mut mesh) = Mesh::start(delta, plain).await? else { return Ok(()) };
        let port = mesh.port;
        mesh.answers("200 a").await?;
        let mut conn = Conn::plain(port).await?;
        let listener = with_filter(port, discovered("mark", &[MUTATION], json!({})));
        let first = [eds_cluster("one"), endpoints("one", &[a]), listener, routes("table", "one")];
        mesh.plane.serve("1b", &first).await?;
        let warms = async || Ok(mesh.dump().await?.to_string().contains("\"warming_state\"").then_some(()));
        wait::until("the listener to wait", wait::LIMIT, warms).await?;
        assert_eq!(ask(&mut conn).await?, "200 -", "the old listener serves while the new one waits");
        let with = |settings| [&first[..], &[extension("mark", settings)]].concat();
        mesh.plane.serve("2", &with(marks("one"))).await?;
        becomes(&mut conn, "200 one").await?;
        mesh.plane.serve("3", &with(marks("two"))).await?;
        becomes(&mut conn, "200 two").await?;
        // Of a type that the listener did not ask for, and good otherwise.
        let fault = json!({ "@type": format!("{TYPE}extensions.filters.http.fault.v3.HTTPFault") });
        mesh.plane.serve("4", &with(fault)).await?;
        let text = mesh.plane.refusal().await?;
        assert!(
            text.contains("mark") && text.contains("HTTPFault") && text.contains("HeaderMutation"),
            "{text}"
        );
        assert_eq!(ask(&mut conn).await?, "200 two");
        let dump = mesh.dump().await?;
        let sections = dump["configs"].as_array().context("sections")?;
        let of_ecds =
            |section: &&Value| section["@type"].as_str().is_some_and(|name| name.ends_with("EcdsConfigDump"));
        let section = &sections.iter().find(of_ecds).context("no section of filters")?["ecds_filters"][0];
        assert!(section["ecds_filter"].to_string().contains("two"), "{section}");
        assert_eq!(section["ecds_filter"]["name"], "mark");
        assert_eq!(section["client_status"], "NACKED");
        let stat = async |name: &str| {
            mesh.proxy.stat(&format!("extension_config_discovery.http_filter.mark.{name}")).await
        };
        assert_eq!(stat("config_reload").await?, Some(2));
        // In state of the world a control plane sends again what was refused.
        assert!(stat("config_fail").await? >= Some(1));
        if delta {
            mesh.plane.serve("5", &first).await?;
            becomes(&mut conn, "500 -").await?;
            mesh.plane.serve("6", &with(marks("three"))).await?;
            becomes(&mut conn, "200 three").await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_default_serves_until_a_filter_comes_where_nobody_is_to_wait() -> Result<()> {
    both(async |delta| {
        let (_a, a) = upstream("a").await?;
        let first = |port| {
            let more =
                json!({ "default_config": marks("default"), "apply_default_config_without_warming": true });
            let filter = discovered("mark", &[MUTATION], more);
            vec![
                eds_cluster("one"),
                endpoints("one", &[a]),
                with_filter(port, filter),
                routes("table", "one"),
            ]
        };
        let Some(mut mesh) = Mesh::start(delta, first).await? else { return Ok(()) };
        mesh.answers("200 a").await?;
        let mut conn = Conn::plain(mesh.port).await?;
        assert_eq!(ask(&mut conn).await?, "200 default");
        let with = [&first(mesh.port)[..], &[extension("mark", marks("one"))]].concat();
        mesh.plane.serve("2", &with).await?;
        becomes(&mut conn, "200 one").await?;
        if delta {
            mesh.plane.serve("3", &first(mesh.port)).await?;
            becomes(&mut conn, "200 default").await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn network_and_listener_filters_come_by_themselves_too() -> Result<()> {
    both(async |delta| {
        let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
        let proxy = "extensions.filters.network.tcp_proxy.v3.TcpProxy";
        let inspector = "extensions.filters.listener.http_inspector.v3.HttpInspector";
        let clusters =
            [eds_cluster("one"), endpoints("one", &[a]), eds_cluster("two"), endpoints("two", &[b])];
        let first = |port| {
            let chains = json!([{
                "filter_chain_match": { "application_protocols": ["http/1.1"] },
                "filters": [discovered("proxy", &[proxy], json!({}))],
            }]);
            let mut listener = listener("in", port, &chains);
            listener["listener_filters"] = json!([discovered("inspector", &[inspector], json!({}))]);
            [&clusters[..], &[listener]].concat()
        };
        let to = |port: u16, cluster: &str| {
            let settings =
                json!({ "@type": format!("{TYPE}{proxy}"), "stat_prefix": "t", "cluster": cluster });
            let inspects = extension("inspector", json!({ "@type": format!("{TYPE}{inspector}") }));
            [&first(port)[..], &[extension("proxy", settings), inspects]].concat()
        };
        let Some(mut mesh) = Mesh::start(delta, |port| to(port, "one")).await? else { return Ok(()) };
        let port = mesh.port;
        mesh.answers("200 a").await?;
        let mut conn = Conn::plain(port).await?;
        assert_eq!(ask(&mut conn).await?, "200 -");
        mesh.plane.serve("3", &to(port, "two")).await?;
        mesh.answers("200 b").await?;
        // What is open stays as it is.
        conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        assert_eq!(conn.response("GET").await?.text(), "a");
        if delta {
            let without: Vec<Value> =
                to(port, "two").into_iter().filter(|item| item["name"] != "inspector").collect();
            mesh.plane.serve("4", &without).await?;
            let closed = async || Ok(get(port).await.is_err().then_some(()));
            wait::until("connections to be closed", wait::LIMIT, closed).await?;
        }
        Ok(())
    })
    .await
}
