//! The API server goes away, and comes back without its memory.

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use outrider_control::store::{Store as _, StoreError};

use super::Result;
use super::cluster::{Cluster, LIMIT, refused};
use super::store::{key, route};

pub(crate) async fn what_was_known_stays_and_what_was_missed_is_made_up_for(cluster: &mut Cluster) -> Result {
    cluster.namespace("outage").await?;
    let (gone, stays) = (route("outage", "gone", "a"), route("outage", "stays", "a"));
    cluster.apply(gone).await?;
    cluster.apply(stays.clone()).await?;
    let store = cluster.store().await?;
    let before = store.list().await?;
    let mut changes = store.watch(before.revision).await?;
    cluster.down().await?;

    let list = store.list().await?;
    ensure!(list.records == before.records, "what was known stays");
    let error = refused(store.get(&key("outage", "gone")).await)?;
    ensure!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");

    // While nobody watches an object goes, much else happens, and the past is forgotten: the server can only say 410.
    let path = "/registry/gateway.networking.k8s.io/httproutes/outage/gone";
    ensure!(cluster.etcdctl(&["del", path]).await?.trim() == "1", "{path}");
    for number in 0..20 {
        cluster.etcdctl(&["put", "/unrelated", &number.to_string()]).await?;
    }
    let status = cluster.etcdctl(&["endpoint", "status", "-w", "json"]).await?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let revision = status[0]["Status"]["header"]["revision"].as_u64().context("a revision")?;
    cluster.etcdctl(&["compact", &revision.to_string()]).await?;
    cluster.up().await?;

    let gone = loop {
        let change = tokio::time::timeout(LIMIT, changes.next()).await.context("no change came")?;
        let change = change.context("the watch ended")??;
        if &*change.key.namespace == "outage" {
            break change;
        }
    };
    ensure!(gone.key == key("outage", "gone") && gone.json.is_none(), "{gone:?}");
    cluster.apply(route("outage", "stays", "b")).await?;
    let changed = loop {
        let change = tokio::time::timeout(LIMIT, changes.next()).await.context("no change came")?;
        let change = change.context("the watch ended")??;
        if &*change.key.namespace == "outage" {
            break change;
        }
    };
    ensure!(changed.key == key("outage", "stays") && changed.json.is_some(), "{changed:?}");
    Ok(())
}
