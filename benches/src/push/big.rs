//! Thousands of clusters with endpoints and as many routes: the time until all is there, and then the time that one
//! change takes.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outrider_proto::Descriptors;
use outrider_tests::control_plane::rds_listener;
use outrider_tests::ports::Lease;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use super::hosts::Hosts;
use super::plane::{Event, Plane};
use super::resources::{cluster, endpoints, host, json as resource, table};
use super::{Figures, Stage, get, quantile};
use crate::proxies::Proxy;

/// How long the whole configuration may take.
const LIMIT: Duration = Duration::from_secs(180);
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_secs(2);
/// How often an endpoint is changed.
const EVERY: Duration = Duration::from_millis(100);

pub(super) async fn run(stage: &Stage, proxy: &Proxy) -> Result<Figures> {
    let (old, new) = (Hosts::start("old").await?, Hosts::start("new").await?);
    let lease = Lease::new()?;
    let count = stage.args.clusters.max(1);
    let names: Vec<String> = (0..count).map(|ordinal| format!("cluster-{ordinal:05}")).collect();
    let at = |name: &str, port| endpoints(name, [(Ipv4Addr::LOCALHOST, port)].into_iter());
    let served = {
        let descriptors = Descriptors::load();
        let listener = rds_listener("in", lease.port(), "table", &json!({}));
        let mut served = vec![resource(&descriptors, &listener)?, table(&descriptors, &names)?];
        served.extend(names.iter().flat_map(|name| [cluster(name), at(name, old.port)]));
        served
    };
    let mut plane = Plane::start(served).await?;
    let mut follower = stage.follow(proxy, true, plane.address.port(), vec![lease], "big", &[])?;
    let all = timeout(LIMIT, everything(&mut plane, count)).await;
    let acknowledged = all.context("not everything was acknowledged in time")??;
    let last = count - 1;
    let mut conn = follower.serves(&host(last), &format!("/{}", names[last]), LIMIT).await?;
    tokio::time::sleep(SETTLE).await;
    let (rss, cpu) = (follower.rss_mb()?, follower.cpu_s()?);

    let (mut effects, mut acks) = (Vec::new(), Vec::new());
    let started = Instant::now();
    for swap in 0..stage.args.swaps.max(1) {
        sleep_until(started + EVERY * swap as u32).await;
        // All over the table, and each cluster once at first.
        let ordinal = swap * 7919 % count;
        let (name, (port, word)) = (
            &names[ordinal],
            if (swap / count).is_multiple_of(2) { (new.port, "new") } else { (old.port, "old") },
        );
        let pushed = plane.push(vec![at(name, port)]);
        while get(&mut conn, &host(ordinal), &format!("/{name}")).await? != word {
            if pushed.elapsed() > LIMIT {
                bail!("the new endpoint of {name} gets no request");
            }
        }
        effects.push(pushed.elapsed());
        acks.push(judged(&mut plane).await?.saturating_duration_since(pushed));
    }
    follower.process.check_alive()?;
    Ok(Figures::from([
        ("acknowledged_s", acknowledged.as_secs_f64()),
        ("rss_mb", rss),
        ("start_cpu_s", cpu),
        ("effect_p50_ms", quantile(&mut effects, 0.5)),
        ("effect_p99_ms", quantile(&mut effects, 0.99)),
        ("effect_max_ms", quantile(&mut effects, 1.0)),
        ("ack_p50_ms", quantile(&mut acks, 0.5)),
        ("ack_p99_ms", quantile(&mut acks, 0.99)),
    ]))
}

/// Waits until listener, table, clusters and all endpoints have been sent and acknowledged. The time since the first of
/// them left.
async fn everything(plane: &mut Plane, clusters: usize) -> Result<Duration> {
    let mut first = None;
    let (mut open, mut kinds, mut endpoints) = (HashSet::new(), HashSet::new(), 0);
    loop {
        match plane.events.recv().await.context("the control plane ended")? {
            Event::Sent { nonce, url, count } => {
                first.get_or_insert_with(std::time::Instant::now);
                open.insert(nonce);
                if url.ends_with("ClusterLoadAssignment") {
                    endpoints += count;
                }
                kinds.insert(url);
            }
            Event::Judged { error, .. } if !error.is_empty() => bail!("refused: {error}"),
            Event::Judged { nonce, at, .. } => {
                open.remove(&nonce);
                if let Some(first) = first
                    && open.is_empty()
                    && kinds.len() >= 4
                    && endpoints >= clusters
                {
                    return Ok(at - first);
                }
            }
        }
    }
}

/// When the next response was acknowledged.
async fn judged(plane: &mut Plane) -> Result<std::time::Instant> {
    loop {
        let event = timeout(LIMIT, plane.events.recv()).await.context("no acknowledgement")?;
        match event.context("the control plane ended")? {
            Event::Sent { .. } => {}
            Event::Judged { error, .. } if !error.is_empty() => bail!("refused: {error}"),
            Event::Judged { at, .. } => return Ok(at),
        }
    }
}
