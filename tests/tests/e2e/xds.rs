//! Configuration by xDS, from a real control plane, while traffic flows.

use std::{cell::Cell, rc::Rc};

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    bootstrap::Bootstrap,
    client::Conn,
    control_plane::{ControlPlane, TYPE, eds_cluster, endpoints, follower, listener, rds_listener, routes},
    ports::Lease,
    proxy::{Kind, Proxy},
    upstream::Upstream,
    wait,
};
use serde_json::{Value, json};

use crate::start::places;

/// A control plane and a proxy that follows it.
pub(crate) struct Mesh {
    pub(crate) plane: ControlPlane,
    pub(crate) proxy: Proxy,
    pub(crate) port: u16,
    _leases: Vec<Lease>,
}

impl Mesh {
    /// Starts both; the control plane serves `first` of the proxy's port.
    pub(crate) async fn start(delta: bool, first: impl FnOnce(u16) -> Vec<Value>) -> Result<Option<Self>> {
        Self::with(&follower(delta, ""), first).await
    }

    /// The same with a bootstrap that reaches the control plane by the cluster `plane`.
    pub(crate) async fn with(
        bootstrap: &Bootstrap,
        first: impl FnOnce(u16) -> Vec<Value>,
    ) -> Result<Option<Self>> {
        let Some(mut plane) = ControlPlane::start().await? else { return Ok(None) };
        let lease = Lease::new()?;
        let port = lease.port();
        plane.serve("1", &first(port)).await?;
        let (mut places, mut leases) = places(bootstrap)?;
        leases.push(lease);
        places.insert("plane".into(), plane.address.port().to_string());
        let admin = places["admin"].parse()?;
        let proxy =
            Proxy::start(Kind::Outrider, &bootstrap.render(&places), admin, &["--drain-time-s", "2"]).await?;
        Ok(Some(Self { plane, proxy, port, _leases: leases }))
    }

    /// Waits until a request gets this answer.
    pub(crate) async fn answers(&self, wanted: &str) -> Result<()> {
        wait::until(&format!("the answer {wanted:?}"), wait::LIMIT, async || {
            Ok(get(self.port).await.ok().filter(|answer| answer == wanted).map(drop))
        })
        .await
    }

    pub(crate) async fn dump(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.proxy.admin("/config_dump?include_eds").await?.text())?)
    }
}

pub(crate) async fn get(port: u16) -> Result<String> {
    let mut conn = Conn::plain(port).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await?;
    let response = conn.response("GET").await?;
    Ok(format!("{} {}", response.status, response.text()))
}

pub(crate) async fn upstream(name: &str) -> Result<(Upstream, u16)> {
    let (upstream, _diary, _script) = Upstream::http(name).await?;
    let port = upstream.address().port();
    Ok((upstream, port))
}

/// Both protocols, one after the other.
pub(crate) async fn both(test: impl AsyncFn(bool) -> Result<()>) -> Result<()> {
    test(true).await.context("delta")?;
    test(false).await.context("state of the world")
}

#[tokio::test]
async fn updates_of_every_kind_lose_no_request_and_no_connection() -> Result<()> {
    both(async |delta| {
        let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
        let plain = |port| rds_listener("in", port, "table", &json!({}));
        let first =
            |port| vec![eds_cluster("one"), endpoints("one", &[a]), plain(port), routes("table", "one")];
        let Some(mut mesh) = Mesh::start(delta, first).await? else { return Ok(()) };
        mesh.answers("200 a").await?;
        // One connection that asks all the time, through all that follows.
        let (port, stop, asked) = (mesh.port, Rc::new(Cell::new(false)), Rc::new(Cell::new(0_u32)));
        let asking = {
            let (stop, asked) = (stop.clone(), asked.clone());
            async move {
                let mut conn = Conn::plain(port).await?;
                while !stop.get() {
                    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
                    let response = conn.response("GET").await?;
                    ensure!(response.status == 200, "{} {}", response.status, response.text());
                    asked.set(asked.get() + 1);
                }
                anyhow::Ok(())
            }
        };
        let changing = async {
            // EDS alone; then a new cluster and a route to it at once; then the old one goes.
            mesh.plane
                .serve(
                    "2",
                    &[eds_cluster("one"), endpoints("one", &[b]), plain(port), routes("table", "one")],
                )
                .await?;
            mesh.answers("200 b").await?;
            let two =
                [eds_cluster("one"), eds_cluster("two"), endpoints("one", &[b]), endpoints("two", &[a])];
            let update = [&two[..], &[plain(port), routes("table", "two")]].concat();
            mesh.plane.serve("3", &update).await?;
            mesh.answers("200 a").await?;
            let only = [eds_cluster("two"), endpoints("two", &[a]), plain(port), routes("table", "two")];
            mesh.plane.serve("4", &only).await?;
            let gone = async || {
                let clusters = mesh.proxy.admin("/clusters").await?.text();
                Ok((!clusters.lines().any(|line| line.starts_with("one::"))).then_some(()))
            };
            wait::until("the old cluster to go", wait::LIMIT, gone).await?;
            // The listener changes behind its socket.
            let named = rds_listener("in", port, "table", &json!({ "server_name": "renamed" }));
            let update = [eds_cluster("two"), endpoints("two", &[a]), named, routes("table", "two")];
            mesh.plane.serve("5", &update).await?;
            mesh.proxy.wait_stat("listener_manager.listener_in_place_updated", |count| count == 1).await?;
            let before = asked.get();
            wait::until("more requests", wait::LIMIT, async || Ok((asked.get() > before + 20).then_some(())))
                .await?;
            anyhow::Ok(())
        };
        let changing = async {
            let changed = changing.await;
            stop.set(true);
            changed
        };
        let (asking, changing) = tokio::join!(asking, changing);
        asking?;
        changing?;
        ensure!(mesh.proxy.stat("listener_manager.total_filter_chains_draining").await? == Some(0));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_open_connection_takes_the_new_chain_at_its_next_request() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let with = |port: u16, name: &str| {
        let manager = rds_listener("in", port, "table", &json!({ "server_name": name }));
        vec![eds_cluster("one"), endpoints("one", &[a]), manager, routes("table", "one")]
    };
    let Some(mut mesh) = Mesh::start(true, |port| with(port, "before")).await? else { return Ok(()) };
    let mut conn = Conn::plain(mesh.port).await?;
    let mut server = async || {
        conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        anyhow::Ok(conn.response("GET").await?.header("server").map(str::to_owned))
    };
    assert_eq!(server().await?.as_deref(), Some("before"));
    mesh.plane.serve("2", &with(mesh.port, "after")).await?;
    wait::until("the new name", wait::LIMIT, async || {
        Ok((server().await?.as_deref() == Some("after")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_bad_resource_does_not_keep_the_good_ones_beside_it_back() -> Result<()> {
    both(async |delta| {
        let (_a, a) = upstream("a").await?;
        let first = |port| {
            let listener = rds_listener("in", port, "table", &json!({}));
            vec![eds_cluster("one"), endpoints("one", &[a]), listener, routes("table", "one")]
        };
        let Some(mut mesh) = Mesh::start(delta, first).await? else { return Ok(()) };
        mesh.answers("200 a").await?;
        let bad = json!({
            "@type": format!("{TYPE}config.cluster.v3.Cluster"), "name": "bad", "type": "STATIC",
            "connect_timeout": "1s", "load_assignment": { "cluster_name": "bad" }, "lb_policy": "CLUSTER_PROVIDED",
        });
        let mut good = bad.clone();
        good["name"] = "good".into();
        good["load_assignment"]["cluster_name"] = "good".into();
        good["lb_policy"] = "RANDOM".into();
        let update = [&first(mesh.port)[..], &[bad, good]].concat();
        mesh.plane.serve("2", &update).await?;
        let text = mesh.plane.refusal().await?;
        assert!(text.contains("bad") && text.contains("lb_policy"), "{text}");
        assert!(!text.contains("good"), "{text}");
        let clusters = mesh.proxy.admin("/clusters").await?.text();
        assert!(clusters.contains("good::added_via_api::true"), "{clusters}");
        assert!(!clusters.contains("bad::"), "{clusters}");
        let dump = mesh.dump().await?.to_string();
        assert!(dump.contains("\"error_state\"") && dump.contains("\"NACKED\""), "{dump}");
        assert_eq!(get(mesh.port).await?, "200 a", "traffic goes on");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_port_in_use_is_refused_even_while_the_listener_waits_for_its_table() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let first = |port| {
        let listener = rds_listener("in", port, "table", &json!({}));
        vec![eds_cluster("one"), endpoints("one", &[a]), listener, routes("table", "one")]
    };
    let Some(mut mesh) = Mesh::start(true, first).await? else { return Ok(()) };
    mesh.answers("200 a").await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let late = rds_listener("late", taken.local_addr()?.port(), "never", &json!({}));
    mesh.plane.serve("2", &[&first(mesh.port)[..], &[late]].concat()).await?;
    let text = mesh.plane.refusal().await?;
    assert!(text.contains("late") && text.contains("in use"), "{text}");
    assert_eq!(get(mesh.port).await?, "200 a", "traffic goes on");
    Ok(())
}

#[tokio::test]
async fn a_listener_that_is_taken_away_lets_its_clients_finish() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let first = |port| {
        let listener = rds_listener("in", port, "table", &json!({}));
        vec![eds_cluster("one"), endpoints("one", &[a]), listener, routes("table", "one")]
    };
    let Some(mut mesh) = Mesh::start(true, first).await? else { return Ok(()) };
    let mut conn = Conn::plain(mesh.port).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    assert_eq!(conn.response("GET").await?.status, 200);
    mesh.plane.serve("2", &[eds_cluster("one"), endpoints("one", &[a])]).await?;
    let port = mesh.port;
    wait::until("the port to close", wait::LIMIT, async || {
        Ok(Conn::plain(port).await.is_err().then_some(()))
    })
    .await?;
    // Clients are asked over the drain time, each at a request of theirs.
    wait::until("the good-bye", wait::LIMIT, async || {
        conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        let response = conn.response("GET").await?;
        assert_eq!(response.status, 200);
        Ok((response.header("connection") == Some("close")).then_some(()))
    })
    .await?;
    mesh.proxy.wait_stat("listener_manager.total_listeners_draining", |count| count == 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_removed_chain_is_drained_and_its_neighbour_is_not() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let chain = |source: &str, cluster: &str| {
        json!({
            "name": source,
            "filter_chain_match": { "source_prefix_ranges": [{ "address_prefix": source, "prefix_len": 32 }] },
            "filters": [{ "name": "tcp", "typed_config": {
                "@type": format!("{TYPE}extensions.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "tcp", "cluster": cluster,
            } }],
        })
    };
    let with = |port: u16, chains: &[&str]| {
        let chains: Vec<Value> = chains.iter().map(|source| chain(source, "one")).collect();
        vec![eds_cluster("one"), endpoints("one", &[a]), listener("in", port, &json!(chains))]
    };
    let Some(mut mesh) = Mesh::start(true, |port| with(port, &["127.0.0.1", "127.0.0.9"])).await? else {
        return Ok(());
    };
    let mut stays = Conn::plain(mesh.port).await?;
    let mut goes = Conn::from([127, 0, 0, 9].into(), mesh.port).await?;
    for conn in [&mut stays, &mut goes] {
        conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        assert_eq!(conn.response("GET").await?.status, 200);
    }
    mesh.plane.serve("2", &with(mesh.port, &["127.0.0.1"])).await?;
    let (_, end) = goes.drain(wait::LIMIT).await;
    assert_ne!(end, "open", "its chain is gone, and so is the drain time");
    stays.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    assert_eq!(stays.response("GET").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn without_a_control_plane_the_last_configuration_stays_and_the_next_is_taken() -> Result<()> {
    both(async |delta| {
        let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
        let with = |port, to| {
            let listener = rds_listener("in", port, "table", &json!({}));
            vec![eds_cluster("one"), endpoints("one", &[to]), listener, routes("table", "one")]
        };
        let Some(mut mesh) = Mesh::start(delta, |port| with(port, a)).await? else { return Ok(()) };
        mesh.answers("200 a").await?;
        mesh.plane.stop().await?;
        mesh.proxy.wait_stat("control_plane.connected_state", |state| state == 0).await?;
        assert_eq!(get(mesh.port).await?, "200 a");
        mesh.plane.serve("2", &with(mesh.port, b)).await?;
        mesh.plane.resume().await?;
        mesh.answers("200 b").await
    })
    .await
}

#[tokio::test]
async fn endpoints_that_do_not_come_hold_the_start_for_initial_fetch_timeout_alone() -> Result<()> {
    let mut cluster = eds_cluster("nobody");
    cluster["eds_cluster_config"]["eds_config"]["initial_fetch_timeout"] = "0.3s".into();
    let first =
        |port| vec![cluster, rds_listener("in", port, "table", &json!({})), routes("table", "nobody")];
    let Some(mesh) = Mesh::start(true, first).await? else { return Ok(()) };
    mesh.answers("503 no healthy upstream").await?;
    assert_eq!(mesh.proxy.stat("cluster.nobody.init_fetch_timeout").await?, Some(1));
    Ok(())
}

#[tokio::test]
async fn endpoints_that_are_not_renewed_in_time_are_forgotten_until_others_come() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let first = |port| {
        let mut stale = endpoints("one", &[a]);
        stale["policy"] = json!({ "endpoint_stale_after": "0.5s" });
        vec![eds_cluster("one"), stale, rds_listener("in", port, "table", &json!({})), routes("table", "one")]
    };
    let Some(mut mesh) = Mesh::start(true, first).await? else { return Ok(()) };
    mesh.answers("503 no healthy upstream").await?;
    assert_eq!(mesh.proxy.stat("cluster.one.assignment_stale").await?, Some(1));
    assert_eq!(mesh.proxy.stat("cluster.one.assignment_timeout_received").await?, Some(1));
    let mut update = first(mesh.port);
    update[1] = endpoints("one", &[a]);
    mesh.plane.serve("2", &update).await?;
    mesh.answers("200 a").await
}

#[tokio::test]
async fn a_route_to_a_cluster_that_is_not_there_says_so_until_it_comes() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let table = |port| vec![rds_listener("in", port, "table", &json!({})), routes("table", "one")];
    let Some(mut mesh) = Mesh::start(true, table).await? else { return Ok(()) };
    mesh.answers("503 ").await?;
    let update = [&table(mesh.port)[..], &[eds_cluster("one"), endpoints("one", &[a])]].concat();
    mesh.plane.serve("2", &update).await?;
    mesh.answers("200 a").await
}
