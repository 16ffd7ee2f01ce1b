//! Updates that narrow who may connect: they close the connections that would not be let in any more, and no others.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use outrider_tests::{
    binary,
    ca::Papers,
    client::{
        Conn, TlsOptions,
        http2::{H2, H2Request},
    },
    control_plane::{TYPE, ads, eds_cluster, endpoints, listener, rds_listener, routes},
    ports::Lease,
    record::Diary,
    reply::{Reply, Script},
    upstream::{Speaks, Upstream},
    wait,
};
use serde_json::{Value, json};

use crate::xds::Mesh;

/// What a listener asks of its clients.
#[derive(Clone, Copy)]
struct Asks<'a> {
    /// The authorities, as PEM; empty: no certificate is verified.
    authorities: &'a str,
    crl: &'a str,
    require: bool,
    min_version: &'a str,
    /// The validation context comes by SDS.
    by_sds: bool,
    /// The certificate.
    leaf: &'a str,
}

/// Papers, with a client `late` by the authority that signed the others, and one more authority.
struct Scene {
    papers: Papers,
    web: u16,
    sockets: u16,
    _upstreams: [Upstream; 2],
}

impl Scene {
    async fn new() -> Result<Self> {
        let papers = Papers::new(&binary::scratch("narrowing")?)?;
        let script = Script::default();
        let web = Upstream::start("web", Speaks::Http, None, &Diary::default(), &script).await?;
        let script = Script::default();
        script.set(&[Reply::switch("websocket")], &[]);
        let sockets = Upstream::start("sockets", Speaks::Http, None, &Diary::default(), &script).await?;
        let ports = (web.address().port(), sockets.address().port());
        Ok(Self { papers, web: ports.0, sockets: ports.1, _upstreams: [web, sockets] })
    }

    fn asks<'a>(&self, authorities: &'a str) -> Asks<'a> {
        let (crl, min_version, leaf) = ("", "TLSv1_2", "server");
        Asks { authorities, crl, require: true, min_version, by_sds: false, leaf }
    }

    fn resources(&self, port: u16, asks: Asks<'_>) -> Result<Vec<Value>> {
        let inline = |text: &str| json!({ "inline_string": text });
        let mut validation = json!({});
        if !asks.authorities.is_empty() {
            validation["trusted_ca"] = inline(asks.authorities);
        }
        if !asks.crl.is_empty() {
            validation["crl"] = inline(asks.crl);
        }
        let mut common = json!({
            "tls_params": { "tls_minimum_protocol_version": asks.min_version },
            "tls_certificates": [{
                "certificate_chain": inline(&self.papers.pem(&format!("{}.pem", asks.leaf))?),
                "private_key": inline(&self.papers.pem(&format!("{}.key", asks.leaf))?),
            }],
        });
        let mut all = vec![
            eds_cluster("web"),
            endpoints("web", &[self.web]),
            eds_cluster("sockets"),
            endpoints("sockets", &[self.sockets]),
        ];
        if asks.by_sds {
            common["validation_context_sds_secret_config"] = json!({ "name": "peers", "sds_config": ads() });
            all.push(json!({
                "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.Secret"), "name": "peers",
                "validation_context": validation,
            }));
        } else if !asks.authorities.is_empty() {
            common["validation_context"] = validation;
        }
        let upgrades = json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] });
        let mut listener = rds_listener("in", port, "table", &upgrades);
        listener["filter_chains"][0]["transport_socket"] = json!({ "name": "tls", "typed_config": {
            "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": asks.require, "common_tls_context": common,
        } });
        let mut table = routes("table", "web");
        let socket =
            json!({ "match": { "prefix": "/ws" }, "route": { "cluster": "sockets", "timeout": "0s" } });
        if let Some(routes) = table["virtual_hosts"][0]["routes"].as_array_mut() {
            routes.insert(0, socket);
        }
        all.extend([listener, table]);
        Ok(all)
    }

    async fn connect(&self, port: u16, leaf: Option<&str>) -> Result<Conn> {
        let mut options = TlsOptions::new(&self.papers, "server.test")?;
        if let Some(leaf) = leaf {
            options = options.cert(&self.papers, leaf)?;
        }
        // In TLS 1.3 the client learns of a refusal with the first answer.
        let mut conn = Conn::with_prefix(port, b"", Some(&options)).await?;
        ask(&mut conn).await?;
        Ok(conn)
    }

    async fn socket(&self, port: u16, leaf: &str) -> Result<Conn> {
        let options = TlsOptions::new(&self.papers, "server.test")?.cert(&self.papers, leaf)?;
        let mut conn = Conn::with_prefix(port, b"", Some(&options)).await?;
        conn.send("GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await?;
        ensure!(conn.response("GET").await?.status == 101);
        echo(&mut conn).await?;
        Ok(conn)
    }
}

async fn ask(conn: &mut Conn) -> Result<()> {
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    let response = conn.response("GET").await?;
    ensure!(response.status == 200 && response.header("connection").is_none(), "{response:?}");
    Ok(())
}

async fn echo(conn: &mut Conn) -> Result<()> {
    conn.send("hello").await?;
    let back = conn.read_until(|all| all.len() >= 5).await?;
    ensure!(back == b"hello", "{back:?}");
    Ok(())
}

/// Waits until it is closed, with or without an announcement.
async fn closed(mut conn: Conn) -> Result<()> {
    let (_, end) = conn.drain(wait::LIMIT).await;
    ensure!(end != "open", "it is still open");
    Ok(())
}

impl Mesh {
    async fn closed_by_update(&self, reason: &str, count: u64) -> Result<()> {
        let stat = format!("listener.127.0.0.1_{}.outrider.closed_by_update.{reason}", self.port);
        self.proxy.wait_stat(&stat, |closed| closed == count).await.map(drop)
    }

    /// Nothing else was closed by an update.
    async fn closed_in_all(&self, count: u64) -> Result<()> {
        let stats = self.proxy.admin("/stats?filter=closed_by_update").await?.text();
        let values = stats.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        ensure!(values.sum::<u64>() == count, "{stats}");
        Ok(())
    }
}

#[tokio::test]
async fn an_authority_that_goes_takes_its_clients_along_and_no_others() -> Result<()> {
    for by_sds in [false, true] {
        let scene = Scene::new().await?;
        let (a, b) = (scene.papers.pem("ca.pem")?, scene.papers.pem("other-ca.pem")?);
        let both = format!("{a}{b}");
        let with = |authorities| Asks { by_sds, ..scene.asks(authorities) };
        let start = |port| scene.resources(port, with(&both)).unwrap_or_default();
        let Some(mut mesh) = Mesh::start(true, start).await? else { return Ok(()) };
        let port = mesh.port;
        let (gone, gone_socket) =
            (scene.connect(port, Some("client")).await?, scene.socket(port, "client").await?);
        let mut stays = scene.connect(port, Some("stranger")).await?;
        let mut stays_socket = scene.socket(port, "stranger").await?;
        mesh.plane.serve("2", &scene.resources(port, with(&b))?).await?;
        mesh.closed_by_update("client_certificate_untrusted", 2).await?;
        closed(gone).await?;
        closed(gone_socket).await?;
        assert!(scene.connect(port, Some("client")).await.is_err());
        // The drain time of two seconds is over for those that went; the others know nothing of it.
        ask(&mut stays).await?;
        echo(&mut stays_socket).await?;
        mesh.closed_in_all(2).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_revocation_list_closes_the_connections_of_those_in_it() -> Result<()> {
    let scene = Scene::new().await?;
    let (ca, crl) = (scene.papers.pem("ca.pem")?, scene.papers.pem("crl.pem")?);
    let asks = scene.asks(&ca);
    let start = |port| scene.resources(port, asks).unwrap_or_default();
    let Some(mut mesh) = Mesh::start(true, start).await? else { return Ok(()) };
    let revoked = scene.connect(mesh.port, Some("revoked")).await?;
    let mut good = scene.connect(mesh.port, Some("client")).await?;
    mesh.plane.serve("2", &scene.resources(mesh.port, Asks { crl: &crl, ..asks })?).await?;
    mesh.closed_by_update("client_certificate_revoked", 1).await?;
    closed(revoked).await?;
    ask(&mut good).await?;
    mesh.closed_in_all(1).await
}

#[tokio::test]
async fn a_certificate_that_is_asked_for_from_now_on_closes_the_connections_without_one() -> Result<()> {
    let scene = Scene::new().await?;
    let ca = scene.papers.pem("ca.pem")?;
    let asks = Asks { require: false, ..scene.asks(&ca) };
    let start = |port| scene.resources(port, asks).unwrap_or_default();
    let Some(mut mesh) = Mesh::start(true, start).await? else { return Ok(()) };
    let without = scene.connect(mesh.port, None).await?;
    let mut with = scene.connect(mesh.port, Some("client")).await?;
    mesh.plane.serve("2", &scene.resources(mesh.port, Asks { require: true, ..asks })?).await?;
    mesh.closed_by_update("client_certificate_missing", 1).await?;
    closed(without).await?;
    ask(&mut with).await?;
    mesh.closed_in_all(1).await
}

#[tokio::test]
async fn what_does_not_narrow_closes_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let (ca, other) = (scene.papers.pem("ca.pem")?, scene.papers.pem("other-ca.pem")?);
    let both = format!("{ca}{other}");
    let asks = scene.asks(&ca);
    let start = |port| scene.resources(port, asks).unwrap_or_default();
    let Some(mut mesh) = Mesh::start(true, start).await? else { return Ok(()) };
    let mut old = scene.connect(mesh.port, Some("client")).await?;
    // Another certificate, then one more authority, then nobody has to show one.
    let updates =
        [Asks { leaf: "alt", ..asks }, Asks { authorities: &both, ..asks }, Asks { require: false, ..asks }];
    for (ordinal, asks) in updates.into_iter().enumerate() {
        let version = format!("{}", ordinal + 2);
        mesh.plane.serve(&version, &scene.resources(mesh.port, asks)?).await?;
        mesh.plane.acknowledged(&version, true, wait::LIMIT).await?;
        ask(&mut old).await?;
    }
    // In force: without a certificate one gets in.
    ask(&mut scene.connect(mesh.port, None).await?).await?;
    // Longer than the drain time: nothing was to be closed when it is over.
    let until = tokio::time::Instant::now() + Duration::from_millis(2500);
    while tokio::time::Instant::now() < until {
        ask(&mut old).await?;
    }
    mesh.closed_in_all(0).await
}

#[tokio::test]
async fn the_end_of_a_chain_or_a_listener_is_counted_with_its_reason() -> Result<()> {
    let scene = Scene::new().await?;
    let asks = scene.asks("");
    let asks = Asks { require: false, ..asks };
    let start = |port| scene.resources(port, asks).unwrap_or_default();
    let Some(mut mesh) = Mesh::start(true, start).await? else { return Ok(()) };
    let mut tls =
        Conn::with_prefix(mesh.port, b"", Some(&TlsOptions::new(&scene.papers, "server.test")?)).await?;
    ask(&mut tls).await?;
    // TLS no more.
    let mut plain = scene.resources(mesh.port, asks)?;
    for one in &mut plain {
        if let Some(chain) = one.pointer_mut("/filter_chains/0").and_then(Value::as_object_mut) {
            chain.remove("transport_socket");
        }
    }
    mesh.plane.serve("2", &plain).await?;
    closed(tls).await?;
    mesh.closed_by_update("transport_changed", 1).await?;
    let mut bare = Conn::plain(mesh.port).await?;
    ask(&mut bare).await?;
    plain.retain(|one| one["name"] != "in");
    mesh.plane.serve("3", &plain).await?;
    closed(bare).await?;
    mesh.closed_by_update("listener_removed", 1).await
}

#[tokio::test]
async fn a_chain_that_gains_names_keeps_its_connections_and_one_that_loses_some_closes_theirs() -> Result<()>
{
    let scene = Scene::new().await?;
    let asks = Asks { require: false, ..scene.asks("") };
    let named = |port: u16, names: &[&str]| {
        let mut all = scene.resources(port, asks).unwrap_or_default();
        for one in &mut all {
            if one["name"] == "in" {
                one["listener_filters"] = json!([{ "name": "tls", "typed_config": {
                    "@type": format!("{TYPE}extensions.filters.listener.tls_inspector.v3.TlsInspector"),
                } }]);
                one["filter_chains"][0]["filter_chain_match"] = json!({ "server_names": names });
            }
        }
        all
    };
    let Some(mut mesh) = Mesh::start(true, |port| named(port, &["server.test"])).await? else {
        return Ok(());
    };
    let connect = async |port: u16, name: &str| {
        let options = TlsOptions::new(&scene.papers, name)?;
        let mut conn = Conn::with_prefix(port, b"", Some(&options)).await?;
        ask(&mut conn).await?;
        anyhow::Ok(conn)
    };
    let mut first = connect(mesh.port, "server.test").await?;
    assert!(connect(mesh.port, "localhost").await.is_err());
    mesh.plane.serve("2", &named(mesh.port, &["server.test", "localhost"])).await?;
    let port = mesh.port;
    let second =
        wait::until("the second name", wait::LIMIT, async || Ok(connect(port, "localhost").await.ok()));
    let mut second = second.await?;
    ask(&mut first).await?;
    mesh.plane.serve("3", &named(mesh.port, &["localhost"])).await?;
    mesh.closed_by_update("server_name", 1).await?;
    closed(first).await?;
    ask(&mut second).await?;
    mesh.closed_in_all(1).await
}

/// The filters of a chain that refuses the clients of these addresses, and ends in what ends the chain of `listener`.
fn refuse(listener: &mut Value, denied: &[&str]) {
    let source = |ip| json!({ "source_ip": { "address_prefix": ip, "prefix_len": 32 } });
    let principals: Vec<Value> = denied.iter().map(source).collect();
    let gate = json!({ "name": "rbac", "typed_config": {
        "@type": format!("{TYPE}extensions.filters.network.rbac.v3.RBAC"), "stat_prefix": "gate",
        "rules": { "action": "DENY", "policies": {
            "p": { "permissions": [{ "any": true }], "principals": principals },
        } },
    } });
    if let Some(filters) = listener.pointer_mut("/filter_chains/0/filters").and_then(Value::as_array_mut)
        && !denied.is_empty()
    {
        filters.insert(0, gate);
    }
}

#[tokio::test]
async fn a_policy_that_comes_or_tightens_closes_the_open_connections_that_it_refuses() -> Result<()> {
    let (_web, web) = crate::xds::upstream("web").await?;
    let tcp = Lease::new()?;
    let resources = |port: u16, denied: &[&str]| {
        let proxy = json!([{ "filters": [{ "name": "tcp", "typed_config": {
            "@type": format!("{TYPE}extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "tcp", "cluster": "web",
        } }] }]);
        let mut listeners =
            [rds_listener("in", port, "table", &json!({})), listener("tcp", tcp.port(), &proxy)];
        listeners.iter_mut().for_each(|listener| refuse(listener, denied));
        let mut all = vec![eds_cluster("web"), endpoints("web", &[web]), routes("table", "web")];
        all.extend(listeners);
        all
    };
    let Some(mut mesh) = Mesh::start(true, |port| resources(port, &[])).await? else { return Ok(()) };
    mesh.answers("200 web").await?;
    let (port, tcp_port) = (mesh.port, tcp.port());
    let connect = async |last: u8, port: u16| {
        let mut conn = Conn::from(Ipv4Addr::new(127, 0, 0, last), port).await?;
        ask(&mut conn).await?;
        anyhow::Ok(conn)
    };
    let session = wait::until("the TCP listener", wait::LIMIT, async || Ok(connect(2, tcp_port).await.ok()));
    let (session, mut other_session) = (session.await?, connect(3, tcp_port).await?);
    let mut other = connect(3, port).await?;
    let mut h2 = H2::start(Conn::from(Ipv4Addr::new(127, 0, 0, 2), port).await?).await?;
    let get = H2Request {
        method: "GET".into(),
        scheme: "http".into(),
        authority: "test".into(),
        path: "/".into(),
        ..H2Request::default()
    };
    ensure!(h2.request(&get).await?.status == 200);
    let stat = |port: u16| format!("listener.127.0.0.1_{port}.outrider.closed_by_update.rbac");
    mesh.plane.serve("2", &resources(port, &["127.0.0.2"])).await?;
    mesh.proxy.wait_stat(&stat(port), |closed| closed == 1).await?;
    mesh.proxy.wait_stat(&stat(tcp_port), |closed| closed == 1).await?;
    closed(session).await?;
    wait::until("the end of the HTTP/2 connection", wait::LIMIT, async || {
        Ok(h2.request(&get).await.map_or(true, |response| response.status != 200).then_some(()))
    })
    .await?;
    ensure!(connect(2, port).await.is_err() && connect(2, tcp_port).await.is_err());
    // The others know nothing of it, until they are refused too.
    ask(&mut other).await?;
    ask(&mut other_session).await?;
    mesh.closed_in_all(2).await?;
    mesh.plane.serve("3", &resources(port, &["127.0.0.2", "127.0.0.3"])).await?;
    mesh.proxy.wait_stat(&stat(port), |closed| closed == 2).await?;
    mesh.proxy.wait_stat(&stat(tcp_port), |closed| closed == 2).await?;
    closed(other).await?;
    closed(other_session).await?;
    // What is allowed again closes nobody.
    let mut last = connect(1, port).await?;
    mesh.plane.serve("4", &resources(port, &[])).await?;
    wait::until("an open door", wait::LIMIT, async || Ok(connect(2, port).await.ok())).await?;
    ask(&mut last).await?;
    mesh.closed_in_all(4).await
}
