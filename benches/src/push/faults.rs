//! Responses in which one resource of six is bad: is it named, and do the others apply?
//!
//! Clusters, endpoints, listeners and tables, in both protocols: in delta the bad one breaks a rule that the API itself
//! puts on its fields, in state of the world one that only a proxy knows.

use std::time::Duration;

use anyhow::{Context, Result};
use outrider_proto::Descriptors;
use outrider_tests::control_plane::{eds_cluster, endpoints, rds_listener, routes};
use outrider_tests::ports::Lease;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::plane::{Event, Plane, Served};
use super::resources::json as resource;
use super::{Figures, Follower, Stage};
use crate::proxies::Proxy;

/// Resources of a response.
const COUNT: usize = 6;
/// The bad one among them.
const BAD: usize = 3;
/// How long the start and an answer may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long good resources may take to apply.
const APPLY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Clusters,
    Endpoints,
    Listeners,
    Tables,
}

pub(super) async fn run(stage: &Stage, proxy: &Proxy) -> Result<Figures> {
    let descriptors = Descriptors::load();
    let (mut named, mut applied) = (0, 0);
    for delta in [true, false] {
        let leases = (0..COUNT).map(|_| Lease::new()).collect::<Result<Vec<_>>>()?;
        let ports: Vec<u16> = leases.iter().map(Lease::port).collect();
        let first = [What::Clusters, What::Endpoints, What::Listeners, What::Tables];
        let first = first.into_iter().flat_map(|what| (0..COUNT).map(move |ordinal| (what, ordinal)));
        let first: Vec<Served> = first
            .map(|(what, ordinal)| resource(&descriptors, &one(what, ordinal, &ports, "one", None)))
            .collect::<Result<_>>()?;
        let mut plane = Plane::start(first).await?;
        let label = if delta { "faults-delta" } else { "faults-sotw" };
        let mut follower = stage.follow(proxy, delta, plane.address.port(), leases, label, &[])?;
        let until = Instant::now() + LIMIT;
        while count(&follower, "one").await.unwrap_or(0) < COUNT && Instant::now() < until {
            follower.process.check_alive()?;
            sleep(Duration::from_millis(50)).await;
        }
        for what in [What::Endpoints, What::Clusters, What::Tables, What::Listeners] {
            while plane.events.try_recv().is_ok() {}
            let bad = |ordinal| (ordinal == BAD).then_some(delta);
            let update = (0..COUNT).map(|ordinal| one(what, ordinal, &ports, "two", bad(ordinal)));
            let update = update.map(|one| resource(&descriptors, &one)).collect::<Result<Vec<_>>>()?;
            let name = update.get(BAD).map_or_else(String::new, |bad| bad.name.clone());
            plane.push(update);
            if refusal(&mut plane).await?.contains(&name) {
                named += 1;
            }
            let until = Instant::now() + APPLY;
            let mut now = 0;
            while now < COUNT - 1 && Instant::now() < until {
                now = in_force(&follower, what).await?;
                sleep(Duration::from_millis(50)).await;
            }
            applied += now;
        }
    }
    Ok(Figures::from([("named", named as f64), ("applied", applied as f64)]))
}

/// The resource of this ordinal. `mark` is in it; `fault` says whether, and which way, it is bad.
fn one(what: What, ordinal: usize, ports: &[u16], mark: &str, fault: Option<bool>) -> Value {
    let name = |what: &str| format!("{what}-{ordinal}");
    let mark = format!("{mark}-{ordinal}");
    match what {
        What::Clusters => {
            let mut cluster = eds_cluster(&name("cluster"));
            cluster["alt_stat_name"] = mark.into();
            match fault {
                Some(true) => cluster["connect_timeout"] = "-1s".into(),
                Some(false) => cluster["lb_policy"] = "CLUSTER_PROVIDED".into(),
                None => {}
            }
            cluster
        }
        What::Endpoints => {
            let mut endpoints = endpoints(&name("cluster"), &[port(&mark)]);
            let group = &mut endpoints["endpoints"][0];
            match fault {
                Some(true) => group["priority"] = 200.into(),
                Some(false) => {
                    group["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"] =
                        "nowhere".into();
                }
                None => {}
            }
            endpoints
        }
        What::Listeners => {
            let port = ports.get(ordinal).copied().unwrap_or(0);
            let mut listener =
                rds_listener(&name("listener"), port, &name("table"), &json!({ "stat_prefix": mark }));
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            match fault {
                Some(true) => manager["stat_prefix"] = "".into(),
                Some(false) => {
                    let router = manager["http_filters"][0].clone();
                    manager["http_filters"] = json!([router, router]);
                }
                None => {}
            }
            listener
        }
        What::Tables => {
            let mut table = routes(&name("table"), &name("cluster"));
            let host = &mut table["virtual_hosts"][0];
            host["name"] = mark.into();
            match fault {
                Some(true) => host["domains"] = json!([]),
                Some(false) => {
                    host["routes"][0]["match"] = json!({ "safe_regex": { "regex": "(" } });
                }
                None => {}
            }
            table
        }
    }
}

/// A port that stands for a mark.
fn port(mark: &str) -> u16 {
    let (word, ordinal) = mark.split_once('-').unwrap_or_default();
    let ordinal: u16 = ordinal.parse().unwrap_or(0);
    ordinal + if word == "one" { 21_110 } else { 22_220 }
}

/// The text of the refusal, or nothing where all was taken.
async fn refusal(plane: &mut Plane) -> Result<String> {
    let mut open = 0;
    loop {
        let event = timeout(LIMIT, plane.events.recv()).await;
        // Nobody says anything: that is no refusal.
        let Ok(event) = event else { return Ok(String::new()) };
        match event.context("the control plane ended")? {
            Event::Sent { .. } => open += 1,
            Event::Judged { error, .. } if !error.is_empty() => return Ok(error),
            Event::Judged { .. } => {
                open -= 1;
                if open <= 0 {
                    return Ok(String::new());
                }
            }
        }
    }
}

/// How many good resources of an update are in force, by `/config_dump`.
async fn in_force(follower: &Follower, what: What) -> Result<usize> {
    let dump = dump(follower).await?;
    let good = (0..COUNT).filter(|ordinal| *ordinal != BAD);
    Ok(good.filter(|ordinal| dump.contains(&marked(what, &format!("two-{ordinal}")))).count())
}

/// How many listeners are in force.
async fn count(follower: &Follower, mark: &str) -> Result<usize> {
    let dump = dump(follower).await?;
    let whats = [What::Clusters, What::Endpoints, What::Listeners, What::Tables];
    let there = |ordinal: &usize| {
        whats.iter().all(|what| dump.contains(&marked(*what, &format!("{mark}-{ordinal}"))))
    };
    Ok((0..COUNT).filter(there).count())
}

fn marked(what: What, mark: &str) -> String {
    match what {
        What::Endpoints => format!("\"port_value\":{}", port(mark)),
        What::Clusters => format!("\"alt_stat_name\":\"{mark}\""),
        What::Listeners => format!("\"stat_prefix\":\"{mark}\""),
        What::Tables => format!("\"name\":\"{mark}\""),
    }
}

/// `/config_dump` without what is not in force.
async fn dump(follower: &Follower) -> Result<String> {
    let mut dump: Value = serde_json::from_str(&follower.admin("/config_dump?include_eds").await?)?;
    strip(&mut dump);
    Ok(dump.to_string())
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in ["error_state", "warming_state", "draining_state", "dynamic_warming_clusters"] {
                fields.remove(field);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
