//! The identity agent with the real authority: two proxies that know each other by their certificates alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrider_tests::bootstrap::{Bootstrap, hcm_filter, indent};
use outrider_tests::ca::Papers;
use outrider_tests::client::{Conn, TlsOptions};
use outrider_tests::control::Control;
use outrider_tests::crowd::{Client, Crowd};
use outrider_tests::identity::{Agent, transport_socket};
use outrider_tests::ports::Lease;
use outrider_tests::proxy::{Kind, Proxy};
use outrider_tests::record::Diary;
use outrider_tests::relay::Relay;
use outrider_tests::upstream::Upstream;
use outrider_tests::{binary, wait};

use crate::sidecar::ask;

/// What must not be read on the wire.
const SECRET: &str = "nobody-reads-this";

/// A proxy in front of a server: it takes mutual TLS alone, and tells the server who asks.
async fn server(agent: &Agent, port: &Lease, to: u16) -> Result<(Proxy, Lease)> {
    let hcm = "forward_client_cert_details: SANITIZE_SET\nset_current_client_cert_details: { uri: true }\n\
               route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, route: { cluster: app } } ] } ] }\n";
    let socket =
        transport_socket("Downstream", "spiffe://cluster.local/", "require_client_certificate: true");
    let chain =
        format!("filter_chains:\n- filters:\n{}{}", indent(2, &hcm_filter("in", hcm)), indent(2, &socket));
    start(
        agent,
        Bootstrap::new().listener("in", &chain).hosts("app", &["app"], ""),
        ("in", port.port()),
        ("app", to),
    )
    .await
}

/// A proxy in front of a client, which asks in clear; behind it there is mutual TLS, with a server that is `web`.
async fn client(agent: &Agent, port: &Lease, to: u16) -> Result<(Proxy, Lease)> {
    let routes = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, route: { cluster: web } } ] } ] }\n";
    let socket = transport_socket("Upstream", "spiffe://cluster.local/ns/shop/sa/web", "sni: web");
    start(
        agent,
        Bootstrap::new().http("out", routes).hosts("web", &["web"], &socket),
        ("out", port.port()),
        ("web", to),
    )
    .await
}

fn places(agent: &Agent, admin: &Lease, of: [(&str, u16); 2]) -> BTreeMap<String, String> {
    let mut places: BTreeMap<_, _> =
        of.iter().map(|(name, port)| ((*name).to_owned(), port.to_string())).collect();
    places.insert("admin".to_owned(), admin.port().to_string());
    places.insert("dir".to_owned(), agent.dir().display().to_string());
    places
}

async fn start(
    agent: &Agent,
    bootstrap: Bootstrap,
    near: (&str, u16),
    far: (&str, u16),
) -> Result<(Proxy, Lease)> {
    let admin = Lease::new()?;
    let bootstrap = bootstrap.top(&agent.extension("")).cluster("sds-grpc", &agent.cluster());
    let text = bootstrap.render(&places(agent, &admin, [near, far]));
    Ok((Proxy::start(Kind::Outrider, &text, admin.port(), &[]).await?, admin))
}

/// Two proxies with a recording wire between them.
struct Pair {
    control: Control,
    agents: [Agent; 2],
    proxies: [(Proxy, Lease); 2],
    ports: [Lease; 2],
    wire: Relay,
    diary: Diary,
    _upstream: Upstream,
}

impl Pair {
    async fn start() -> Result<Self> {
        let control = Control::secure("127.0.0.1", &[]).await?;
        let (upstream, diary, _script) = Upstream::http(SECRET).await?;
        let web = Agent::new(&control, "127.0.0.1", "shop/web").await?;
        let cart = Agent::new(&control, "127.0.0.1", "shop/cart").await?;
        let ports = [Lease::new()?, Lease::new()?];
        let wire = Relay::start(ports[1].port()).await?;
        let of_web = server(&web, &ports[1], upstream.address().port()).await?;
        let of_cart = client(&cart, &ports[0], wire.port()).await?;
        Ok(Self {
            control,
            agents: [cart, web],
            proxies: [of_cart, of_web],
            ports,
            wire,
            diary,
            _upstream: upstream,
        })
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_know_each_other_by_what_their_agents_got() -> Result<()> {
    let pair = Pair::start().await?;
    let answer = ask(
        pair.ports[0].port(),
        "web",
        &format!("/{SECRET}"),
        "x-forwarded-client-cert: URI=spiffe://forged\r\n",
    )
    .await?;
    ensure!(answer.text() == SECRET, "{answer:?}");
    let seen = pair.diary.since(0);
    let cert =
        seen.first().and_then(|it| it.header("x-forwarded-client-cert")).context("no XFCC")?.to_owned();
    ensure!(cert.contains("URI=spiffe://cluster.local/ns/shop/sa/cart"), "{cert}");
    ensure!(cert.contains("By=spiffe://cluster.local/ns/shop/sa/web") && !cert.contains("forged"), "{cert}");
    let wire = pair.wire.seen();
    ensure!(wire.starts_with(&[0x16, 3, 1]), "no TLS handshake: {:?}", &wire.get(..8));
    ensure!(!contains(&wire, SECRET) && !contains(&wire, "HTTP/1.1"), "the wire can be read");
    for (proxy, _) in &pair.proxies {
        ensure!(proxy.stat("identity.issued").await? == Some(1), "issued once");
        ensure!(proxy.stat("identity.roots").await? == Some(1), "one root");
        let certs = proxy.admin("/certs").await?.text();
        ensure!(
            certs.contains("spiffe://cluster.local/ns/shop/sa/"),
            "the admin interface does not show it: {certs}"
        );
    }
    // The key is for whoever may open the socket.
    let mode = fs::metadata(pair.agents[0].socket())?.permissions().mode();
    ensure!(mode & 0o007 == 0, "others of this host may ask for the key: {mode:o}");

    strangers(&pair).await
}

/// Who has no certificate of the mesh gets nothing through.
async fn strangers(pair: &Pair) -> Result<()> {
    let port = pair.ports[1].port();
    let papers = Papers::new(&binary::scratch("strangers")?)?;
    let before = pair.diary.since(0).len();
    ensure!(ask(port, "web", "/", "").await.is_err(), "a client in clear was answered");
    let nobody = TlsOptions::new(&papers, "web.test")?.blind();
    for (who, tls) in
        [("without", nobody.clone()), ("with a foreign", nobody.clone().cert(&papers, "client")?)]
    {
        let answered = async {
            let mut conn = Conn::with_prefix(port, b"", Some(&tls)).await?;
            conn.send("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await?;
            conn.response("GET").await
        };
        let answer = answered.await;
        ensure!(answer.is_err(), "a client {who} certificate was answered: {answer:?}");
    }
    ensure!(pair.diary.since(0).len() == before, "something came through");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_costs_no_request() -> Result<()> {
    let pair = Pair::start().await?;
    let mut crowd = Crowd::start(
        pair.ports[0].port(),
        None,
        &[(Client::Http1, 4), (Client::Http2, 2)],
        Duration::from_millis(5),
    );
    crowd.round().await?;
    for turn in 0..2_u64 {
        for (agent, account, index) in [(&pair.agents[0], "shop/cart", 0), (&pair.agents[1], "shop/web", 1)] {
            agent.join(&pair.control, account).await?;
            pair.proxies[index].0.wait_stat("identity.issued", |it| it == turn + 2).await?;
            crowd.round().await?;
        }
    }
    crowd.leave().await?;
    for client in [Client::Http1, Client::Http2] {
        let tally = crowd.tally(client);
        ensure!(tally.done > 0 && tally.failed == 0, "{client:?}: {tally:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_comes_to_the_proxies_and_costs_no_request() -> Result<()> {
    let pair = Pair::start().await?;
    let clients = [(Client::Http1, 4), (Client::Http2, 2)];
    let mut crowd = Crowd::start(pair.ports[0].port(), None, &clients, Duration::from_millis(5));
    crowd.round().await?;
    pair.control.rotate_ca().await?;
    for (proxy, _) in &pair.proxies {
        // It comes over the stream that the agent keeps as the workload that it is.
        proxy.wait_stat("identity.roots", |it| it == 2).await?;
    }
    crowd.round().await?;
    for (agent, account, index) in [(&pair.agents[0], "shop/cart", 0), (&pair.agents[1], "shop/web", 1)] {
        agent.join(&pair.control, account).await?;
        pair.proxies[index].0.wait_stat("identity.issued", |it| it == 2).await?;
        crowd.round().await?;
    }
    crowd.leave().await?;
    for (client, _) in clients {
        let tally = crowd.tally(client);
        ensure!(tally.done > 0 && tally.failed == 0, "{client:?}: {tally:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_authority_nothing_is_ready_and_the_log_says_why() -> Result<()> {
    let mut control = Control::secure("127.0.0.1", &[]).await?;
    let (upstream, ..) = Upstream::http("app").await?;
    let agent = Agent::new(&control, "127.0.0.1", "shop/web").await?;
    control.kill().await?;
    let (port, admin) = (Lease::new()?, Lease::new()?);
    let hcm = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, route: { cluster: app } } ] } ] }\n";
    let socket =
        transport_socket("Downstream", "spiffe://cluster.local/", "require_client_certificate: true");
    let chain =
        format!("filter_chains:\n- filters:\n{}{}", indent(2, &hcm_filter("in", hcm)), indent(2, &socket));
    let bootstrap = Bootstrap::new()
        .listener("in", &chain)
        .hosts("app", &["app"], "")
        .top(&agent.extension(&format!("state_dir: {}", agent.dir().join("state").display())))
        .cluster("sds-grpc", &agent.cluster());
    let text =
        bootstrap.render(&places(&agent, &admin, [("in", port.port()), ("app", upstream.address().port())]));
    let proxy = Proxy::spawn(Kind::Outrider, &text, admin.port(), &[])?;
    let said = proxy.wait_log("no certificate yet").await?;
    ensure!(said.contains(&format!("127.0.0.1:{}", control.xds())), "the log does not say where: {said}");
    let ready = async |proxy: &Proxy| Ok::<_, anyhow::Error>(proxy.admin("/ready").await?.status);
    ensure!(ready(&proxy).await? == 503, "ready without a certificate");
    ensure!(ask(port.port(), "web", "/", "").await.is_err(), "served without a certificate");
    control.restart().await?;
    wait::until("the proxy to be ready", wait::LIMIT, async || {
        Ok((ready(&proxy).await? == 200).then_some(()))
    })
    .await?;
    drop(proxy);

    // The token is spent; what was kept is credential enough for the next start.
    let again = Proxy::start(Kind::Outrider, &text, admin.port(), &[]).await?;
    again.wait_log("the kept identity is in use").await?;
    again.wait_stat("identity.issued", |it| it == 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_takes_the_identity_along_although_the_token_is_spent() -> Result<()> {
    let control = Control::secure("127.0.0.1", &[]).await?;
    let (upstream, ..) = Upstream::http("app").await?;
    let agent = Agent::new(&control, "127.0.0.1", "shop/web").await?;
    let (port, admin) = (Lease::new()?, Lease::new()?);
    let hcm = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, route: { cluster: app } } ] } ] }\n";
    let socket =
        transport_socket("Downstream", "spiffe://cluster.local/", "require_client_certificate: true");
    let chain =
        format!("filter_chains:\n- filters:\n{}{}", indent(2, &hcm_filter("in", hcm)), indent(2, &socket));
    let bootstrap = Bootstrap::new()
        .listener("in", &chain)
        .hosts("app", &["app"], "")
        .top(&agent.extension(""))
        .cluster("sds-grpc", &agent.cluster());
    let text =
        bootstrap.render(&places(&agent, &admin, [("in", port.port()), ("app", upstream.address().port())]));
    let door = agent.dir().join("up");
    let door = door.display().to_string();
    let more = ["--upgrade-socket", &door, "--drain-time-s", "5"];
    let proxy = Proxy::start(Kind::Outrider, &text, admin.port(), &more).await?;
    proxy.wait_stat("identity.issued", |it| it == 1).await?;
    let binary = binary::outrider()?;
    let mut command = tokio::process::Command::new(&binary);
    command.args(["upgrade", "--socket", &door, "--binary"]).arg(&binary).kill_on_drop(true);
    let said = wait::within("the upgrade", 3 * wait::LIMIT, async { Ok(command.output().await?) }).await?;
    ensure!(said.status.success(), "{said:?}\n{}", proxy.output());
    // It has what the other had, and renews by it: one more than was counted before.
    proxy.wait_log("the kept identity is in use").await?;
    proxy.wait_stat("identity.issued", |it| it == 2).await?;
    proxy.wait_stat("server.hot_restart_epoch", |it| it == 1).await?;
    ensure!(proxy.stat("identity.failed").await?.unwrap_or(0) == 0, "{}", proxy.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_believed_is_told_with_its_reason() -> Result<()> {
    let control = Control::secure("127.0.0.1", &[]).await?;
    let agent = Agent::new(&control, "127.0.0.1", "shop/web").await?;
    fs::write(agent.token(), "outrider_join.shop.nothing.0000")?;
    let admin = Lease::new()?;
    let bootstrap = Bootstrap::new().top(&agent.extension("")).cluster("sds-grpc", &agent.cluster());
    let text = bootstrap.render(&places(&agent, &admin, [("a", 0), ("b", 0)]));
    let proxy = Proxy::spawn(Kind::Outrider, &text, admin.port(), &[])?;
    let said = proxy.wait_log("no certificate yet").await?;
    ensure!(said.contains("refused: ") && said.contains("token"), "{said}");
    // Another token is used at once.
    agent.join(&control, "shop/web").await?;
    proxy.wait_stat("identity.issued", |it| it == 1).await?;
    Ok(())
}
