//! Identities from an agent that speaks SDS on a unix socket as SPIRE's does.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    bootstrap::{Bootstrap, hcm_filter, indent},
    ca::{Authority, Leaf, Papers, Wish},
    client::{Conn, TlsOptions},
    ports::Lease,
    proxy::{Kind, Proxy},
    record::Diary,
    reply::Script,
    spire::Spire,
    upstream::{Speaks, Upstream},
    wait,
};

use crate::start::{ALL, places};

const SERVER: &str = "spiffe://test/server";

/// An agent, and a proxy that has all of it from there.
struct Scene {
    papers: Papers,
    here: Authority,
    elsewhere: Authority,
    agent: Spire,
    proxy: Proxy,
    port: u16,
    places: BTreeMap<String, String>,
    _leases: Vec<Lease>,
}

impl Scene {
    /// Starts both; the agent has nothing to give yet. `validation` names the secret that clients are verified by.
    async fn start(api: &str, validation: &str) -> Result<Self> {
        let sds = |name: &str| {
            format!(
                "{{ name: \"{name}\", sds_config: {{ resource_api_version: V3, api_config_source: {{ api_type: {api}, transport_api_version: V3, grpc_services: [ {{ envoy_grpc: {{ cluster_name: spire_agent }} }} ] }} }} }}"
            )
        };
        let context = format!(
            "\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\nrequire_client_certificate: true\ncommon_tls_context:\n  tls_certificate_sds_secret_configs: [ {} ]\n  combined_validation_context:\n    default_validation_context: {{ match_typed_subject_alt_names: [ {{ san_type: URI, matcher: {{ suffix: /client }} }} ] }}\n    validation_context_sds_secret_config: {}\n",
            sds(SERVER),
            sds(validation)
        );
        let listener = format!(
            "stat_prefix: main\nfilter_chains:\n- transport_socket:\n    name: tls\n    typed_config:\n{}  filters:\n{}",
            indent(6, &context),
            indent(2, &hcm_filter("main", ALL))
        );
        let bootstrap = Bootstrap::new().listener("main", &listener).hosts("up", &["up"], "");
        let (mut places, mut leases) = places(&bootstrap)?;
        let dir = PathBuf::from(&places["dir"]);
        let agent = Spire::listen(&dir)?;
        let bootstrap = bootstrap.cluster("spire_agent", &agent.cluster("spire_agent"));
        let papers = Papers::new(&dir.join("papers"))?;
        let lease = Lease::new()?;
        places.insert("up".to_owned(), lease.port().to_string());
        leases.push(lease);
        let port = places["main"].parse()?;
        let admin = places["admin"].parse()?;
        let proxy =
            Proxy::spawn(Kind::Outrider, &bootstrap.render(&places), admin, &["--drain-time-s", "2"])?;
        let (here, elsewhere) = (Authority::new("Here")?, Authority::new("Elsewhere")?);
        let scene = Self { papers, here, elsewhere, agent, proxy, port, places, _leases: leases };
        scene.keep("client", &scene.leaf(&scene.here, "spiffe://test/client", "client.test")?)?;
        scene.keep("friend", &scene.leaf(&scene.elsewhere, "spiffe://elsewhere/client", "friend.test")?)?;
        scene.keep("liar", &scene.leaf(&scene.elsewhere, "spiffe://test/client", "liar.test")?)?;
        Ok(scene)
    }

    fn leaf(&self, authority: &Authority, uri: &str, dns: &str) -> Result<Leaf> {
        authority.leaf(Wish { name: dns, dns: &[dns, "server.test"], uris: &[uri], ..Wish::default() })
    }

    /// Where clients find it.
    fn keep(&self, name: &str, leaf: &Leaf) -> Result<()> {
        fs::write(self.papers.dir.join(format!("{name}.pem")), &leaf.cert)?;
        Ok(fs::write(self.papers.dir.join(format!("{name}.key")), &leaf.key)?)
    }

    /// Issues the proxy's own SVID, which has this DNS name too.
    fn issue(&self, dns: &str) -> Result<()> {
        self.agent.svid(SERVER, &self.leaf(&self.here, SERVER, dns)?);
        Ok(())
    }

    async fn connect(&self, leaf: &str) -> Result<Conn> {
        let options = TlsOptions::new(&self.papers, "server.test")?.blind().cert(&self.papers, leaf)?;
        let mut conn = Conn::with_prefix(self.port, b"", Some(&options)).await?;
        ask(&mut conn).await?;
        Ok(conn)
    }

    async fn refused(&self, leaf: &str, reason: &str) -> Result<()> {
        let stat = format!("listener.main.outrider.peer_refused.{reason}");
        let before = self.proxy.stat(&stat).await?.unwrap_or(0);
        ensure!(self.connect(leaf).await.is_err(), "{leaf} got through");
        self.proxy.wait_stat(&stat, |count| count > before).await.map(drop)
    }

    async fn heard(&self, part: &str) -> Result<()> {
        wait::until(&format!("{part:?} at the agent"), wait::LIMIT, async || {
            Ok(self.agent.heard().iter().any(|line| line.contains(part)).then_some(()))
        })
        .await
        .with_context(|| format!("{:?}\n{}", self.agent.heard(), self.proxy.output()))
    }

    async fn is_ready(&self) -> bool {
        self.proxy.admin("/ready").await.is_ok_and(|answer| answer.status == 200)
    }

    async fn ready(&self) -> Result<()> {
        wait::until("the proxy to be ready", wait::LIMIT, async || Ok(self.is_ready().await.then_some(())))
            .await
            .with_context(|| self.proxy.output())
    }
}

async fn ask(conn: &mut Conn) -> Result<()> {
    conn.send("GET /direct HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    let response = conn.response("GET").await?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

fn shows(conn: &Conn, dns: &str) -> bool {
    conn.tls.as_ref().is_some_and(|facts| facts.server.contains(&format!("DNS:{dns}")))
}

#[tokio::test]
async fn svids_and_bundles_of_all_trust_domains_come_from_the_agent_and_rotate() -> Result<()> {
    for api in ["GRPC", "DELTA_GRPC"] {
        rotates(api).await.with_context(|| api.to_owned())?;
    }
    Ok(())
}

async fn rotates(api: &str) -> Result<()> {
    let scene = Scene::start(api, "ALL").await?;
    // The certificate is there, the roots are not: not ready, rather than unverified.
    scene.issue("first.test")?;
    scene.heard("ALL").await?;
    scene.heard("ack").await?;
    ensure!(!scene.is_ready().await, "it is ready without roots");
    let (here, elsewhere) = (scene.here.pem(), scene.elsewhere.pem());
    scene.agent.all(&[("test", &here), ("elsewhere", &elsewhere)]);
    scene.ready().await?;

    let mut client = scene.connect("client").await?;
    ensure!(shows(&client, "first.test"));
    let mut friend = scene.connect("friend").await?;
    // The roots of another domain do not vouch for this one.
    scene.refused("liar", "unknown_issuer").await?;
    // By the authority that is in a file of the tests, which the agent knows nothing of.
    scene.refused("stranger", "unknown_issuer").await?;

    // New handshakes show the new certificate, and the old connection knows nothing of it.
    scene.issue("second.test")?;
    wait::until("the second certificate", wait::LIMIT, async || {
        Ok(Some(scene.connect("client").await?).filter(|conn| shows(conn, "second.test")).map(drop))
    })
    .await?;
    ask(&mut client).await?;

    // No friends any more: their connections are closed, with a reason, and ours are not.
    scene.agent.all(&[("test", &here)]);
    let stat = "listener.main.outrider.closed_by_update.client_certificate_untrusted";
    scene.proxy.wait_stat(stat, |count| count == 1).await?;
    let (_, end) = friend.drain(wait::LIMIT).await;
    ensure!(end != "open", "the connection of the other domain is still open");
    scene.refused("friend", "trust_domain").await?;
    ask(&mut client).await?;

    // What is no bundle is refused with its name, and what is in force stays.
    scene.agent.all(&[("test", "no certificate")]);
    scene.heard("nack").await?;
    ensure!(scene.agent.heard().iter().any(|line| line.starts_with("nack") && line.contains("trust_bundle")));
    ask(&mut scene.connect("client").await?).await?;
    ask(&mut client).await
}

#[tokio::test]
async fn the_bundle_of_one_trust_domain_is_a_secret_of_its_own() -> Result<()> {
    for api in ["GRPC", "DELTA_GRPC"] {
        let scene = Scene::start(api, "spiffe://test").await?;
        scene.issue("first.test")?;
        scene.agent.bundle("test", &scene.here.pem());
        scene.ready().await?;
        scene.connect("client").await?;
        scene.refused("friend", "unknown_issuer").await?;
        // A new root beside the old one: both count.
        scene.agent.bundle("test", &format!("{}{}", scene.here.pem(), scene.elsewhere.pem()));
        wait::until("the second root", wait::LIMIT, async || {
            Ok(scene.connect("friend").await.ok().map(drop))
        })
        .await?;
        scene.connect("client").await?;
    }
    Ok(())
}

#[tokio::test]
async fn certs_tells_who_uses_what_and_how_long() -> Result<()> {
    let scene = Scene::start("GRPC", "ALL").await?;
    scene.issue("first.test")?;
    scene.agent.all(&[("test", &scene.here.pem())]);
    scene.ready().await?;
    let open = scene.connect("client").await?;
    let page = scene.proxy.admin("/certs").await?.text();
    for part in ["listener main", "spiffe://test/server", "percent_of_life_left", "CN=Here"] {
        ensure!(page.contains(part), "no {part}: {page}");
    }
    let age = "tls.oldest_open_certificate_age_seconds";
    // The leaf began in 1975.
    scene.proxy.wait_stat(age, |age| age > Duration::from_secs(1_000_000_000).as_secs()).await?;
    let days = scene.proxy.stat("server.days_until_first_cert_expiring").await?.context("no gauge")?;
    ensure!((1..7_000).contains(&days), "{days} days, of a leaf that ends in 2040; {:?}", scene.places);
    drop(open);
    scene.proxy.wait_stat(age, |age| age == 0).await.map(drop)
}

#[tokio::test]
async fn a_root_that_goes_takes_the_connections_to_upstreams_along() -> Result<()> {
    let sds = "{ name: \"spiffe://test\", sds_config: { resource_api_version: V3, api_config_source: { api_type: GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: spire_agent } } ] } } }";
    let socket = format!(
        "transport_socket:\n  name: tls\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n    sni: upstream.test\n    common_tls_context: {{ validation_context_sds_secret_config: {sds} }}\n"
    );
    let bootstrap = Bootstrap::new().http("main", ALL).hosts("up", &["up"], &socket);
    let (mut places, _leases) = places(&bootstrap)?;
    let dir = PathBuf::from(&places["dir"]);
    let (papers, agent) = (Papers::new(&dir.join("papers"))?, Spire::listen(&dir)?);
    let bootstrap = bootstrap.cluster("spire_agent", &agent.cluster("spire_agent"));
    let (diary, script) = (Diary::default(), Script::default());
    let tls = papers.server("upstream", &[], false)?;
    let upstream = Upstream::start("up", Speaks::Http, Some(tls), &diary, &script).await?;
    places.insert("up".to_owned(), upstream.address().port().to_string());
    let (own, other) = (papers.pem("ca.pem")?, papers.pem("other-ca.pem")?);
    agent.bundle("test", &own);
    let proxy = Proxy::outrider(&bootstrap.render(&places), places["admin"].parse()?).await?;
    let port: u16 = places["main"].parse()?;
    let get = async || -> Result<u16> {
        let mut conn = Conn::plain(port).await?;
        conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        Ok(conn.response("GET").await?.status)
    };
    ensure!(get().await? == 200);
    let renewed = "cluster.up.outrider.closed_by_update.server_certificate";

    // One root more touches nothing.
    agent.bundle("test", &format!("{own}{other}"));
    let acknowledged = |count: usize| {
        let agent = &agent;
        async move {
            wait::until("the agent to be answered", wait::LIMIT, async || {
                let acks = agent.heard().iter().filter(|line| line.starts_with("ack")).count();
                Ok((acks >= count).then_some(()))
            })
            .await
        }
    };
    acknowledged(2).await?;
    ensure!(get().await? == 200 && upstream.connections() == 1, "the connection was not used again");

    // Its root is gone: the connection that was opened under it is not used again.
    agent.bundle("test", &other);
    proxy.wait_stat(renewed, |count| count == 1).await?;
    ensure!(get().await? == 503);
    let requests = diary.len();
    agent.bundle("test", &own);
    wait::until("the upstream to be believed again", wait::LIMIT, async || {
        Ok((get().await? == 200).then_some(()))
    })
    .await?;
    ensure!(diary.len() == requests + 1 && upstream.connections() > 1);
    Ok(())
}
