//! Changes by the hundred, under load, at nobody's cost.
//!
//! go-control-plane pushes one change after the other, each when the one before is acknowledged and every client has
//! been served since, while clients of all kinds run through the proxy. `OUTRIDER_CHURN_CHANGES` says how many changes
//! (1,000 in a minute is what a release build is held to; a debug build does the default).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    binary,
    ca::Papers,
    churn::{Backends, Ports, World},
    client::{Conn, TlsOptions},
    control_plane::{ControlPlane, follower},
    crowd::{Client, Crowd, Tally},
    ports::Lease,
    proxy::{Kind, Proxy},
    wait,
};

/// Changes of each of the two protocols.
const CHANGES: usize = 120;

/// How long connections of a removed chain have: shorter than the run, so that what is drained is closed in it.
const DRAIN: &str = "2";

const CROWD: [(Client, usize); 5] = [
    (Client::Http1, 4),
    (Client::Http2, 2),
    (Client::Grpc, 2),
    (Client::GrpcStream, 2),
    (Client::WebSocket, 3),
];

/// Those who come with a certificate.
const SECURE_CROWD: [(Client, usize); 5] = [
    (Client::Http1, 2),
    (Client::Http2, 1),
    (Client::Grpc, 1),
    (Client::GrpcStream, 1),
    (Client::WebSocket, 2),
];

/// How often each asks.
const PACE: Duration = Duration::from_millis(5);

/// Every client has been served since.
async fn round(crowds: &[Crowd]) -> Result<()> {
    for crowd in crowds {
        crowd.round().await?;
    }
    Ok(())
}

fn changes() -> Result<usize> {
    match std::env::var("OUTRIDER_CHURN_CHANGES") {
        Ok(text) => Ok(text.parse::<usize>().context("OUTRIDER_CHURN_CHANGES")?.div_ceil(2)),
        Err(_) => Ok(CHANGES),
    }
}

/// What a client sees of the configuration in force: table, connection manager and the server that answered.
async fn seen(conn: &mut Conn) -> Result<(String, String, String)> {
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    let response = conn.response("GET").await?;
    let header = |name: &str| response.header(name).unwrap_or_default().to_owned();
    Ok((header("x-table"), header("server"), response.text()))
}

async fn churn(delta: bool, changes: usize) -> Result<()> {
    let Some(mut plane) = ControlPlane::start().await? else { return Ok(()) };
    let backends = Backends::start().await?;
    let (lease, secure, admin) = (Lease::new()?, Lease::new()?, Lease::new()?);
    let dir = binary::scratch("churn")?;
    let (log, papers) = (dir.join("access.log"), Papers::new(&dir)?);
    let ports = Ports { plain: lease.port(), secure: secure.port() };
    let mut world = World::new(&backends, ports, &log.display().to_string(), &papers)?;
    plane.serve("0", &world.resources()).await?;
    let places = [("plane", plane.address.port()), ("admin", admin.port())];
    let places = places.map(|(name, port)| (name.to_owned(), port.to_string())).into();
    let bootstrap = follower(delta, "").render(&places);
    let proxy = Proxy::start(Kind::Outrider, &bootstrap, admin.port(), &["--drain-time-s", DRAIN]).await?;
    plane.acknowledged("0", delta, wait::LIMIT).await?;

    let mut witness = Conn::plain(lease.port()).await?;
    let tls = TlsOptions::new(&papers, "server.test")?.cert(&papers, "client")?;
    let mut crowds = [
        Crowd::start(lease.port(), None, &CROWD, PACE),
        Crowd::start(secure.port(), Some(&tls), &SECURE_CROWD, PACE),
    ];
    round(&crowds).await?;
    let started = Instant::now();
    for step in 1..=changes {
        let what = world.step();
        plane.serve(&step.to_string(), &world.resources()).await?;
        let pushed = plane.acknowledged(&step.to_string(), delta, wait::LIMIT).await;
        pushed.with_context(|| format!("step {step}: {what}; {}", proxy.last_words(5)))?;
        round(&crowds).await.with_context(|| format!("after step {step}: {what}"))?;
    }
    let took = started.elapsed();

    world.last_step();
    plane.serve("last", &world.resources()).await?;
    plane.acknowledged("last", delta, wait::LIMIT).await?;
    let ((table, server, mark), hosts) = (world.marks(), world.answering());
    wait::until(
        "the last table and connection manager, on a connection as old as the test",
        wait::LIMIT,
        async || {
            let (x_table, x_server, host) = seen(&mut witness).await?;
            Ok((x_table == table && x_server == server && hosts.contains(&host)).then_some(()))
        },
    )
    .await?;
    for _ in 0..20 {
        let (x_table, x_server, host) = seen(&mut Conn::plain(lease.port()).await?).await?;
        ensure!(x_table == table && x_server == server, "a new connection got {x_table} of {x_server}");
        ensure!(hosts.contains(&host), "{host} is not among {hosts:?}");
    }
    wait::until("the last access log", wait::LIMIT, async || {
        let log = tokio::fs::read_to_string(&log).await?;
        Ok(log.lines().last().is_some_and(|line| line.ends_with(&mark)).then_some(()))
    })
    .await?;
    // What was drained is over: nobody was on it.
    proxy.wait_stat("listener_manager.total_filter_chains_draining", |count| count == 0).await?;
    round(&crowds).await?;
    let mut exchanges = 0;
    for (ordinal, crowd) in crowds.iter_mut().enumerate() {
        crowd.leave().await?;
        for (name, tally) in Client::ALL.map(|client| (client.name(), crowd.tally(client))) {
            let done = tally.done;
            exchanges += done;
            let tls = ordinal == 1;
            assert_eq!(tally, Tally { done, ..Tally::default() }, "{name}, TLS {tls}, in {changes} changes");
        }
    }
    let closed = proxy.admin("/stats?filter=closed_by_update").await?.text();
    assert!(closed.trim().is_empty(), "{closed}");
    assert_eq!(proxy.stat("listener_manager.lds.update_rejected").await?.unwrap_or(0), 0);
    assert_eq!(proxy.stat("cluster_manager.cds.update_rejected").await?.unwrap_or(0), 0);
    say(&format!("{changes} changes and {exchanges} exchanges in {took:.1?} (delta: {delta})"))
}

/// For whoever asks for it by `--nocapture`.
fn say(line: &str) -> Result<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_every_kind_cost_no_request_and_no_connection() -> Result<()> {
    let changes = changes()?;
    churn(true, changes).await.context("delta")?;
    churn(false, changes).await.context("state of the world")
}
