//! A cluster of many endpoints that changes a hundred times a second: one host comes, one goes, all others stay.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outrider_proto::Descriptors;
use outrider_tests::client::Conn;
use outrider_tests::control_plane::{rds_listener, routes};
use outrider_tests::ports::Lease;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::hosts::Hosts;
use super::plane::{Event, Plane, Served};
use super::resources::{cluster, endpoints, json as resource};
use super::{Figures, Stage, get, quantile};
use crate::proxies::Proxy;

/// Updates a second.
const RATE: u32 = 100;
/// Time between two requests of the one client.
const PACE: Duration = Duration::from_millis(5);
/// How long anything else may take.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn run(stage: &Stage, proxy: &Proxy) -> Result<Figures> {
    let hosts = Hosts::start("here").await?;
    let lease = Lease::new()?;
    let count = stage.args.endpoints.max(1);
    let address = |ordinal: usize| Ipv4Addr::from_bits(0x7f01_0001 + ordinal as u32);
    let with = |more: Option<usize>| -> Served {
        let all = (0..count).chain(more).map(|ordinal| (address(ordinal), hosts.port));
        endpoints("many", all)
    };
    let served = {
        let descriptors = Descriptors::load();
        let listener = rds_listener("in", lease.port(), "table", &json!({}));
        let table = routes("table", "many");
        vec![resource(&descriptors, &listener)?, resource(&descriptors, &table)?, cluster("many"), with(None)]
    };
    let mut plane = Plane::start(served).await?;
    let mut follower = stage.follow(proxy, true, plane.address.port(), vec![lease], "eds", &[])?;
    let mut conn = follower.serves("push", "/", LIMIT).await?;
    // A connection to each host; one client, one request at a time, needs no second one.
    let until = Instant::now() + LIMIT;
    while hosts.accepted().len() < count {
        if Instant::now() > until {
            bail!("only {} of {count} hosts got a request", hosts.accepted().len());
        }
        get(&mut conn, "push", "/").await?;
    }
    let (before, cpu) = (hosts.accepted(), follower.cpu_s()?);
    while plane.events.try_recv().is_ok() {}

    let total = RATE * stage.args.seconds.max(1) as u32;
    let stop = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask(conn, stop.clone()));
    let started = Instant::now();
    let mut pushes = Vec::new();
    for update in 0..total {
        sleep_until(started + Duration::from_secs(1) / RATE * update).await;
        // Two hosts take turns beyond those that stay.
        pushes.push(plane.push(vec![with(Some(count + update as usize % 2))]));
    }
    let mut acks = acknowledgements(&mut plane, &pushes).await?;
    let cpu = follower.cpu_s()? - cpu;
    stop.store(true, Relaxed);
    let (requests, failed) = asking.await?;
    follower.process.check_alive()?;
    let after = hosts.accepted();
    let stayed = (0..count).map(|ordinal| IpAddr::V4(address(ordinal)));
    let fresh: u64 = stayed.map(|ip| after.get(&ip).unwrap_or(&0) - before.get(&ip).unwrap_or(&0)).sum();
    Ok(Figures::from([
        ("new_connections", fresh as f64),
        ("cpu_s", cpu),
        ("ack_p50_ms", quantile(&mut acks, 0.5)),
        ("ack_p99_ms", quantile(&mut acks, 0.99)),
        ("requests", requests as f64),
        ("failed", failed as f64),
        ("rss_mb", follower.rss_mb()?),
    ]))
}

/// One request after the other; how many, and how many failed.
async fn ask(mut conn: Conn, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut requests, mut failed) = (0, 0);
    let mut tick = interval(PACE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Relaxed) {
        tick.tick().await;
        requests += 1;
        if get(&mut conn, "push", "/").await.is_err() {
            failed += 1;
            // The connection may be out of step, or gone.
            return (requests, failed);
        }
    }
    (requests, failed)
}

/// How long each push took until it was acknowledged. They are sent in the order of the pushes.
async fn acknowledgements(plane: &mut Plane, pushes: &[std::time::Instant]) -> Result<Vec<Duration>> {
    let (mut sent, mut times) = (HashMap::new(), Vec::new());
    let mut pushes = pushes.iter();
    while times.len() < sent.len() || pushes.len() > 0 {
        let event = timeout(LIMIT, plane.events.recv()).await.context("no acknowledgement")?;
        match event.context("the control plane ended")? {
            Event::Sent { nonce, .. } => {
                if let Some(pushed) = pushes.next() {
                    sent.insert(nonce, *pushed);
                }
            }
            Event::Judged { error, .. } if !error.is_empty() => bail!("refused: {error}"),
            Event::Judged { nonce, at, .. } => {
                times.extend(sent.get(&nonce).map(|pushed| at.saturating_duration_since(*pushed)));
            }
        }
    }
    Ok(times)
}
