//! Changes of every kind under load from every kind of client: what that costs the clients.

use std::time::Duration;

use anyhow::{Context, Result};
use outrider_tests::ca::Papers;
use outrider_tests::churn::{Backends, Ports, World};
use outrider_tests::control_plane::ControlPlane;
use outrider_tests::crowd::{Client, Crowd};
use outrider_tests::ports::Lease;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Figures, Stage, text};
use crate::proxies::Proxy;

/// How long all changes take together.
const SPREAD: Duration = Duration::from_secs(20);
/// What proxies give connections to finish (`--drain-time-s`), and how long after it they are looked at.
const DRAIN: (&str, Duration) = ("5", Duration::from_secs(8));
/// The clients.
const CROWD: [(Client, usize); 5] = [
    (Client::Http1, 16),
    (Client::Http2, 4),
    (Client::Grpc, 4),
    (Client::GrpcStream, 8),
    (Client::WebSocket, 16),
];
/// How often each asks.
const PACE: Duration = Duration::from_millis(10);

pub(super) async fn run(stage: &Stage, proxy: &Proxy) -> Result<Figures> {
    let plane = ControlPlane::start().await?;
    let mut plane = plane.context("the changes are pushed by go-control-plane, which needs Go")?;
    let backends = Backends::start().await?;
    let (lease, secure) = (Lease::new()?, Lease::new()?);
    let papers = Papers::new(&stage.dir.join("push-papers"))?;
    let log = stage.dir.join(format!("push-churn-{}.access.log", proxy.kind));
    let ports = Ports { plain: lease.port(), secure: secure.port() };
    let mut world = World::new(&backends, ports, &text(&log)?, &papers)?;
    plane.serve("0", &world.resources()).await?;
    let (port, more) = (plane.address.port(), ["--drain-time-s", DRAIN.0]);
    let mut follower = stage.follow(proxy, true, port, vec![lease, secure], "churn", &more)?;
    drop(follower.serves("test", "/", Duration::from_secs(60)).await?);

    let mut crowd = Crowd::start(follower.port, None, &CROWD, PACE);
    crowd.round().await?;
    let (cpu, started) = (follower.cpu_s()?, Instant::now());
    let changes = stage.args.changes.max(1);
    for step in 1..=changes {
        sleep_until(started + SPREAD.mul_f64(step as f64 / changes as f64)).await;
        world.step();
        plane.serve(&step.to_string(), &world.resources()).await?;
    }
    let pushed = Instant::now();
    plane.acknowledged(&changes.to_string(), true, Duration::from_secs(120)).await?;
    let acknowledged = pushed.elapsed();
    let cpu = follower.cpu_s()? - cpu;
    // What a change drains is closed when its time is over.
    sleep(DRAIN.1).await;
    crowd.round().await?;
    crowd.leave().await?;
    follower.process.check_alive()?;

    let of = |client| crowd.tally(client);
    let (h1, h2, grpc) = (of(Client::Http1), of(Client::Http2), of(Client::Grpc));
    let (streams, sockets) = (of(Client::GrpcStream), of(Client::WebSocket));
    for tally in [&h1, &h2, &grpc] {
        tally.troubles.iter().for_each(|trouble| crate::say!("  {trouble}"));
    }
    Ok(Figures::from([
        ("failed", (h1.failed + h2.failed + grpc.failed) as f64),
        ("closed", (h1.closed + h2.closed + grpc.closed) as f64),
        ("streams_closed", streams.closed as f64),
        ("sockets_closed", sockets.closed as f64),
        ("exchanges", (h1.done + h2.done + grpc.done + streams.done + sockets.done) as f64),
        ("acknowledged_ms", acknowledged.as_secs_f64() * 1e3),
        ("cpu_s", cpu),
    ]))
}
