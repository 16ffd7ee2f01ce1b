//! `--state-dir`: a start without a control plane.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    bootstrap::Bootstrap,
    ca::{Authority, Wish},
    control_plane::{ControlPlane, TYPE, eds_cluster, endpoints, follower, listener, rds_listener, routes},
    ports::Lease,
    proxy::{Kind, Proxy},
    wait,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    start::places,
    xds::{both, get, upstream},
};

/// Where a proxy that keeps its state starts, and starts again.
struct Home {
    bootstrap: Bootstrap,
    places: BTreeMap<String, String>,
    state: PathBuf,
    port: u16,
    _leases: Vec<Lease>,
}

impl Home {
    fn new(delta: bool, more: &str, plane: u16) -> Result<Self> {
        let bootstrap = follower(delta, more);
        let (mut places, mut leases) = places(&bootstrap)?;
        places.insert("plane".into(), plane.to_string());
        let lease = Lease::new()?;
        let port = lease.port();
        leases.push(lease);
        let state = PathBuf::from(&places["dir"]).join("state");
        Ok(Self { bootstrap, places, state, port, _leases: leases })
    }

    async fn start(&self) -> Result<Proxy> {
        let admin = self.places["admin"].parse()?;
        let dir = self.state.to_str().context("a path")?;
        let args = ["--drain-time-s", "1", "--state-dir", dir];
        Proxy::start(Kind::Outrider, &self.bootstrap.render(&self.places), admin, &args).await
    }

    async fn answers(&self, wanted: &str) -> Result<()> {
        wait::until(&format!("the answer {wanted:?}"), wait::LIMIT, async || {
            Ok(get(self.port).await.ok().filter(|answer| answer == wanted).map(drop))
        })
        .await
    }

    fn file(&self) -> PathBuf {
        self.state.join("state.bin")
    }

    /// Starts with a control plane that serves `resources`, and ends when they were kept.
    async fn earlier_life(&self, plane: &mut ControlPlane, resources: &[Value]) -> Result<()> {
        plane.serve("1", resources).await?;
        let mut proxy = self.start().await?;
        self.answers("200 a").await?;
        proxy.wait_stat("server.outrider.state_written", |count| count > 0).await?;
        ensure!(proxy.stat("server.outrider.state_restored").await?.is_none_or(|restored| restored == 0));
        stop(&mut proxy).await
    }
}

async fn stop(proxy: &mut Proxy) -> Result<()> {
    proxy.signal(Signal::TERM)?;
    proxy.exit(Duration::from_secs(10)).await.map(drop)
}

fn simple(port: u16, cluster: &str, to: u16) -> Vec<Value> {
    let listener = rds_listener("in", port, "table", &json!({}));
    vec![eds_cluster(cluster), endpoints(cluster, &[to]), listener, routes("table", cluster)]
}

#[tokio::test]
async fn a_restart_without_a_control_plane_serves_what_was_kept_until_one_answers() -> Result<()> {
    both(async |delta| {
        let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
        let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
        let home = Home::new(delta, "", plane.address.port())?;
        let mut first = simple(home.port, "one", a);
        first.extend([eds_cluster("gone"), endpoints("gone", &[a])]);
        home.earlier_life(&mut plane, &first).await?;
        plane.stop().await?;

        let proxy = home.start().await?;
        home.answers("200 a").await?;
        assert_eq!(proxy.stat("server.outrider.state_restored").await?, Some(1));
        let ready = proxy.admin("/ready").await?;
        let body = ready.text();
        assert!(ready.status == 200 && body.starts_with("LIVE\n") && body.contains("state.bin"), "{body}");
        proxy.wait_log("the control plane does not answer: 6 resources that were kept in").await?;
        assert!(proxy.admin("/generations").await?.text().contains("state.bin"));
        assert!(proxy.admin("/clusters").await?.text().contains("gone::"));

        // The control plane comes back with another cluster: nobody notices but by the answer.
        let (stop, asked, port) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0_u32)), home.port);
        let asking = async {
            while !stop.get() {
                let answer = get(port).await?;
                ensure!(answer.starts_with("200 "), "{answer}");
                asked.set(asked.get() + 1);
            }
            Ok(())
        };
        let changing = async {
            plane.serve("2", &simple(port, "two", b)).await?;
            plane.resume().await?;
            let changed = home.answers("200 b").await;
            stop.set(true);
            changed
        };
        let (asking, changing): (Result<()>, Result<()>) = tokio::join!(asking, changing);
        changing?;
        asking?;
        assert!(asked.get() > 0);
        proxy.wait_stat("server.outrider.state_restored", |restored| restored == 0).await?;
        assert_eq!(proxy.admin("/ready").await?.text(), "LIVE\n");
        // What was kept and is no more goes, though this process never had it from the control plane.
        wait::until("the old clusters to go", wait::LIMIT, async || {
            let clusters = proxy.admin("/clusters").await?.text();
            let old = |line: &str| line.starts_with("gone::") || line.starts_with("one::");
            Ok((!clusters.lines().any(old)).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_control_plane_that_says_nothing_is_given_up_after_initial_fetch_timeout() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
    let mut home = Home::new(true, ", initial_fetch_timeout: 0.5s", plane.address.port())?;
    home.earlier_life(&mut plane, &simple(home.port, "one", a)).await?;
    // It accepts and goes silent.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    home.places.insert("plane".into(), silent.local_addr()?.port().to_string());
    let proxy = home.start().await?;
    assert_eq!(proxy.stat("server.outrider.state_restored").await?, Some(1));
    home.answers("200 a").await
}

#[tokio::test]
async fn a_state_that_is_damaged_is_set_aside_and_the_start_goes_on_without() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
    let home = Home::new(true, ", initial_fetch_timeout: 0.5s", plane.address.port())?;
    home.earlier_life(&mut plane, &simple(home.port, "one", a)).await?;
    plane.stop().await?;
    let mut bytes = fs::read(home.file())?;
    let half = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(half) {
        *byte ^= 0x40;
    }
    fs::write(home.file(), bytes)?;
    let proxy = home.start().await?;
    proxy.wait_log("is not used: its checksum is wrong").await?;
    assert_eq!(proxy.stat("server.outrider.state_rejected").await?, Some(1));
    assert!(home.state.join("state.bad").exists() && !home.file().exists());
    assert!(get(home.port).await.is_err(), "nothing of it is in force");
    // With the control plane all is well again, and kept anew.
    plane.resume().await?;
    home.answers("200 a").await?;
    proxy.wait_stat("server.outrider.state_written", |count| count > 0).await.map(drop)
}

#[tokio::test]
async fn private_keys_are_not_kept_and_what_holds_one_is_named() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
    let home = Home::new(true, "", plane.address.port())?;
    let (inline, secret) = (Lease::new()?, Lease::new()?);
    let authority = Authority::new("ca")?;
    let leaf = authority.leaf(Wish { dns: &["test"], ..Wish::default() })?;
    let pair = json!({
        "certificate_chain": { "inline_string": leaf.cert }, "private_key": { "inline_string": leaf.key },
    });
    let tls = |name: &str, port: u16, common: Value| {
        let chain = json!([{
            "filters": [{ "name": "tcp", "typed_config": {
                "@type": format!("{TYPE}extensions.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "tcp", "cluster": "one",
            } }],
            "transport_socket": { "name": "tls", "typed_config": {
                "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": common,
            } },
        }]);
        listener(name, port, &chain)
    };
    let sds =
        json!({ "tls_certificate_sds_secret_configs": [{ "name": "pair", "sds_config": { "ads": {} } }] });
    let mut resources = simple(home.port, "one", a);
    resources.extend([
        tls("inline", inline.port(), json!({ "tls_certificates": [pair] })),
        tls("secret", secret.port(), sds),
        json!({
            "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.Secret"),
            "name": "pair", "tls_certificate": pair,
        }),
    ]);
    home.earlier_life(&mut plane, &resources).await?;
    plane.stop().await?;
    let kept = fs::read(home.file())?;
    let holds = |text: &str| kept.windows(text.len()).any(|part| part == text.as_bytes());
    let line = leaf.key.lines().nth(1).context("a line of the key")?;
    assert!(!holds(line) && !holds("PRIVATE KEY"), "a key is on disk");
    let line = leaf.cert.lines().nth(1).context("a line of the certificate")?;
    assert!(!holds(line), "the listener with the key is not there, not even in part");
    assert!(holds("table"), "the rest is");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(home.file())?.permissions().mode() & 0o777, 0o600);
    // What needs the secret waits for it, and holds nobody up.
    let proxy = home.start().await?;
    home.answers("200 a").await?;
    assert_eq!(proxy.stat("listener_manager.total_listeners_warming").await?, Some(1));
    plane.resume().await?;
    proxy.wait_stat("listener_manager.total_listeners_active", |count| count == 3).await?;
    proxy.wait_log("listener \"inline\" holds secrets: it is not kept").await?;
    proxy.wait_stat("server.outrider.state_left_out", |count| count == 1).await.map(drop)
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_a_warning_and_no_more() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
    let mut home = Home::new(true, "", plane.address.port())?;
    home.state = "/dev/full/state".into();
    plane.serve("1", &simple(home.port, "one", a)).await?;
    let proxy = home.start().await?;
    home.answers("200 a").await?;
    proxy.wait_stat("server.outrider.state_write_failed", |count| count > 0).await?;
    proxy.wait_log("the state cannot be kept in /dev/full/state").await?;
    home.answers("200 a").await
}

fn holds(home: &Home, text: &str) -> Result<bool> {
    Ok(fs::read(home.file())?.windows(text.len()).any(|part| part == text.as_bytes()))
}

#[tokio::test]
async fn a_start_from_disk_does_not_write_over_what_still_waits_for_its_secret() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
    let home = Home::new(true, "", plane.address.port())?;
    let mut secure = eds_cluster("secure");
    secure["transport_socket"] = json!({ "name": "tls", "typed_config": {
        "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": { "validation_context_sds_secret_config": {
            "name": "trust", "sds_config": { "ads": {} },
        } },
    } });
    let mut resources = simple(home.port, "one", a);
    resources.extend([
        secure,
        endpoints("secure", &[a]),
        json!({
            "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.Secret"), "name": "trust",
            "validation_context": { "trusted_ca": { "inline_string": Authority::new("ca")?.pem() } },
        }),
    ]);
    home.earlier_life(&mut plane, &resources).await?;
    assert!(holds(&home, "secure")?);
    plane.stop().await?;
    let before = fs::read(home.file())?;
    // A life without control plane and without secrets, longer than the writer waits, and another one.
    let mut proxy = home.start().await?;
    home.answers("200 a").await?;
    let begin = Instant::now();
    wait::until("the writer's turn to be over", wait::LIMIT, async || {
        ensure!(fs::read(home.file())? == before, "the file was written over");
        Ok((begin.elapsed() > Duration::from_secs(2)).then_some(()))
    })
    .await?;
    assert_eq!(proxy.stat("server.outrider.state_written").await?.unwrap_or(0), 0);
    stop(&mut proxy).await?;
    let proxy = home.start().await?;
    home.answers("200 a").await?;
    plane.resume().await?;
    proxy.wait_stat("server.outrider.state_restored", |restored| restored == 0).await?;
    wait::until("the cluster with its secret", wait::LIMIT, async || {
        let clusters = proxy.admin("/clusters").await?.text();
        Ok(clusters.contains("secure::127.0.0.1").then_some(()))
    })
    .await?;
    proxy.wait_stat("server.outrider.state_written", |count| count > 0).await?;
    assert!(holds(&home, "secure")?);
    Ok(())
}

#[tokio::test]
async fn what_a_control_plane_refuses_to_say_or_says_badly_is_not_lost_from_disk() -> Result<()> {
    let (_a, a) = upstream("a").await?;
    let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
    let home = Home::new(true, "", plane.address.port())?;
    let mut resources = simple(home.port, "one", a);
    let manager = &mut resources[2]["filter_chains"][0]["filters"][0]["typed_config"];
    manager["rds"]["config_source"]["initial_fetch_timeout"] = "0.5s".into();
    resources.extend([eds_cluster("other"), endpoints("other", &[a])]);
    home.earlier_life(&mut plane, &resources).await?;
    assert!(holds(&home, "RouteConfiguration")? && holds(&home, "other")?);
    // Now the table does not come, and one of the clusters is bad.
    let table = resources.remove(3);
    resources[3]["connect_timeout"] = "-1s".into();
    plane.serve("2", &resources).await?;
    let mut proxy = home.start().await?;
    home.answers("404 ").await?;
    proxy.wait_stat("server.outrider.state_written", |count| count > 0).await?;
    assert!(holds(&home, "RouteConfiguration")? && holds(&home, "other")?);
    stop(&mut proxy).await?;
    plane.stop().await?;
    let mut proxy = home.start().await?;
    home.answers("200 a").await?;
    assert!(proxy.admin("/clusters").await?.text().contains("other::"));
    stop(&mut proxy).await?;
    // What the control plane takes away goes.
    resources.truncate(3);
    resources.push(table);
    plane.serve("3", &resources).await?;
    plane.resume().await?;
    let proxy = home.start().await?;
    home.answers("200 a").await?;
    proxy.wait_stat("server.outrider.state_written", |count| count > 0).await?;
    assert!(!holds(&home, "other")?);
    Ok(())
}
