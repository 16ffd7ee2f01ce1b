//! Statuses, written back.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use outrider_control::model::Key;
use outrider_control::store::kubernetes::status::{CONTROLLER, Statuses};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Result;
use super::cluster::{Cluster, eventually};
use super::store::{key, route};

fn entry(controller: &str, parent: &str, holds: &str) -> Value {
    json!({"controllerName": controller, "parentRef": {"name": parent}, "conditions": [{"type": "Accepted",
        "status": holds, "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

fn said(of: &[(Key, &str)]) -> Statuses {
    let one =
        |(key, holds): &(Key, &str)| (key.clone(), json!({"parents": [entry(CONTROLLER, "edge", holds)]}));
    Arc::new(of.iter().map(one).collect::<BTreeMap<_, _>>())
}

/// A control plane that writes what it is told.
struct Plane {
    statuses: watch::Sender<Statuses>,
    task: JoinHandle<()>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn plane(cluster: &Cluster, first: Statuses) -> Result<Plane> {
    let store = cluster.store().await?;
    let (statuses, told) = watch::channel(first);
    let task = tokio::spawn(store.status_writer().run(told));
    Ok(Plane { statuses, task })
}

/// By controller, whether the route is accepted.
async fn accepted(cluster: &Cluster, of: &Value) -> Result<Vec<(String, String)>> {
    let live = cluster.get(of).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parents = live["status"]["parents"].as_array().cloned().unwrap_or_default();
    let mut out: Vec<_> = parents
        .iter()
        .map(|it| (text(&it["controllerName"]), text(&it["conditions"][0]["status"])))
        .collect();
    out.sort();
    Ok(out)
}

async fn until(cluster: &Cluster, of: &Value, want: &[(&str, &str)]) -> Result {
    let want: Vec<_> = want.iter().map(|(who, what)| ((*who).to_owned(), (*what).to_owned())).collect();
    eventually(&format!("the status is {want:?}"), async || {
        Ok((accepted(cluster, of).await? == want).then_some(()))
    })
    .await
}

pub(crate) async fn entries_of_others_stay_and_ours_follow_the_map(cluster: &mut Cluster) -> Result {
    cluster.namespace("status").await?;
    let other = "example.com/other";
    let mut web = route("status", "web", "a");
    cluster.apply(web.clone()).await?;
    web["status"] = json!({"parents": [entry(other, "theirs", "True")]});
    cluster.apply_status(web.clone()).await?;
    let plane = plane(cluster, said(&[(key("status", "web"), "True")])).await?;
    until(cluster, &web, &[(other, "True"), (CONTROLLER, "True")]).await?;
    plane.statuses.send_replace(said(&[(key("status", "web"), "False")]));
    until(cluster, &web, &[(other, "True"), (CONTROLLER, "False")]).await?;
    // Somebody wipes it out: it is there again.
    web["status"] = json!({"parents": [entry(other, "theirs", "True")]});
    cluster.apply_status(web.clone()).await?;
    until(cluster, &web, &[(other, "True"), (CONTROLLER, "False")]).await?;
    // The route belongs to us no longer.
    plane.statuses.send_replace(said(&[]));
    until(cluster, &web, &[(other, "True")]).await
}

pub(crate) async fn several_control_planes_write_once(cluster: &mut Cluster) -> Result {
    cluster.namespace("many").await?;
    let routes: Vec<Value> = (0..5).map(|number| route("many", &format!("r{number}"), "a")).collect();
    for route in &routes {
        cluster.apply(route.clone()).await?;
    }
    let keys: Vec<Key> = (0..5).map(|number| key("many", &format!("r{number}"))).collect();
    let all = |holds| said(&keys.iter().map(|key| (key.clone(), holds)).collect::<Vec<_>>());
    let planes = [plane(cluster, all("True")).await?, plane(cluster, all("True")).await?];
    for route in &routes {
        until(cluster, route, &[(CONTROLLER, "True")]).await?;
    }
    let mut versions = Vec::new();
    for route in &routes[1..] {
        versions.push(cluster.get(route).await?["metadata"]["resourceVersion"].clone());
    }
    // A third one comes, and then says something else of the first route: when that is there, it has looked at the others.
    let third = plane(cluster, all("True")).await?;
    let mut map = (*all("True")).clone();
    map.insert(keys[0].clone(), json!({"parents": [entry(CONTROLLER, "edge", "False")]}));
    let map = Arc::new(map);
    for plane in planes.iter().chain([&third]) {
        plane.statuses.send_replace(Arc::clone(&map));
    }
    until(cluster, &routes[0], &[(CONTROLLER, "False")]).await?;
    for (route, version) in routes[1..].iter().zip(versions) {
        let live = cluster.get(route).await?;
        ensure!(live["metadata"]["resourceVersion"] == version, "written once: {live}");
        let times = live["status"]["parents"].as_array().context("a list")?;
        ensure!(times.len() == 1, "{live}");
    }
    Ok(())
}
