//! Reading and writing.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use outrider_control::model::{Key, Kind, read_json};
use outrider_control::store::kubernetes::Kubernetes;
use outrider_control::store::{Change, Expect, Store as _, StoreError, Write};
use serde_json::{Value, json};

use super::Result;
use super::cluster::{Cluster, LIMIT, eventually, refused};

/// A route of HTTP with this host name.
pub(crate) fn route(namespace: &str, name: &str, host: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"hostnames": [host], "parentRefs": [{"name": "edge"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}})
}

/// The key of a route.
pub(crate) fn key(namespace: &str, name: &str) -> Key {
    Key::new(Kind::HttpRoute, namespace, name)
}

fn put(value: &Value, expect: Expect) -> Write {
    let meta = &value["metadata"];
    let name = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
    let kind = if value["kind"] == "Secret" { Kind::Secret } else { Kind::HttpRoute };
    Write {
        key: Key::new(kind, &name("namespace"), &name("name")),
        expect,
        json: Some(Bytes::from(value.to_string())),
    }
}

fn delete(key: Key, expect: Expect) -> Write {
    Write { key, expect, json: None }
}

async fn hosts(store: &Kubernetes, key: &Key) -> Result<Option<Value>> {
    let Some(record) = store.get(key).await? else { return Ok(None) };
    let value: Value = serde_json::from_slice(&record.json)?;
    Ok(Some(value["spec"]["hostnames"].clone()))
}

async fn next(
    stream: &mut (impl futures_util::Stream<Item = std::result::Result<Change, StoreError>> + Unpin),
) -> Result<Change> {
    let next = tokio::time::timeout(LIMIT, stream.next()).await.context("no change came")?;
    Ok(next.context("the watch ended")??)
}

pub(crate) async fn kinds_without_a_crd_are_left_out_and_taken_up(cluster: &mut Cluster) -> Result {
    let store = cluster.store().await?;
    let listing = store.list().await?;
    ensure!(listing.records.iter().any(|it| &*it.key.name == "kube-system"), "core kinds are there");
    ensure!(!store.kinds().contains(&Kind::HttpRoute) && store.kinds().contains(&Kind::EndpointSlice));
    let error = refused(store.commit(vec![put(&route("default", "r", "a"), Expect::Any)]).await)?;
    ensure!(error.to_string().contains("install its CRD"), "{error}");
    let mut changes = store.watch(listing.revision).await?;
    cluster.install_crds().await?;
    eventually("all kinds are watched", async || Ok((store.kinds().len() == Kind::ALL.len()).then_some(())))
        .await?;
    cluster.apply(route("default", "late", "late.example")).await?;
    loop {
        let change = next(&mut changes).await?;
        if change.key == key("default", "late") {
            let object = read_json("", &change.json.context("it is there")?, "");
            let object = object.map_err(|problems| anyhow::anyhow!("{problems:?}"))?.context("an object")?;
            ensure!(object.key == change.key);
            break;
        }
    }
    cluster.delete(&route("default", "late", "")).await
}

pub(crate) async fn what_is_written_is_there_and_expectations_are_kept(cluster: &mut Cluster) -> Result {
    cluster.namespace("writes").await?;
    let store = cluster.store().await?;
    let at = key("writes", "r");
    let first = store.commit(vec![put(&route("writes", "r", "a"), Expect::Absent)]).await?;
    let listed = store.list().await?;
    ensure!(listed.revision >= first, "who wrote reads what was written");
    let record = listed.records.iter().find(|it| it.key == at).context("listed")?.clone();
    ensure!(store.get(&at).await?.as_ref() == Some(&record), "both ways give the same");

    let again = refused(store.commit(vec![put(&route("writes", "r", "b"), Expect::Absent)]).await)?;
    ensure!(matches!(&again, StoreError::Conflict { key, .. } if **key == at), "{again:?}");
    store.commit(vec![put(&route("writes", "r", "b"), Expect::Revision(record.revision))]).await?;
    ensure!(hosts(&store, &at).await? == Some(json!(["b"])));
    let stale = refused(
        store.commit(vec![put(&route("writes", "r", "c"), Expect::Revision(record.revision))]).await,
    )?;
    ensure!(matches!(stale, StoreError::Conflict { .. }), "{stale:?}");
    ensure!(hosts(&store, &at).await? == Some(json!(["b"])));

    // A field that is no longer written is gone; what others need at the object is not.
    let mut live = cluster.get(&route("writes", "r", "")).await?;
    live["metadata"]["finalizers"] = json!(["example.com/keep"]);
    live["metadata"].as_object_mut().context("a map")?.remove("managedFields");
    cluster.apply(live).await?;
    let mut bare = route("writes", "r", "d");
    bare["spec"].as_object_mut().context("a map")?.remove("parentRefs");
    store.commit(vec![put(&bare, Expect::Any)]).await?;
    let live = cluster.get(&bare).await?;
    ensure!(
        live["spec"].get("parentRefs").is_none()
            && live["metadata"]["finalizers"] == json!(["example.com/keep"]),
        "{live}"
    );

    let gone = refused(store.commit(vec![delete(at.clone(), Expect::Revision(record.revision))]).await)?;
    ensure!(matches!(gone, StoreError::Conflict { .. }), "{gone:?}");
    let mut live = cluster.get(&bare).await?;
    live["metadata"]["finalizers"] = json!([]);
    live["metadata"].as_object_mut().context("a map")?.remove("managedFields");
    cluster.apply(live).await?;
    let current = store.get(&at).await?.context("there")?.revision;
    store.commit(vec![delete(at.clone(), Expect::Revision(current))]).await?;
    ensure!(store.get(&at).await?.is_none() && store.list().await?.records.iter().all(|it| it.key != at));
    store.commit(vec![delete(at, Expect::Any)]).await?;
    Ok(())
}

pub(crate) async fn nothing_is_written_when_one_object_is_refused(cluster: &mut Cluster) -> Result {
    cluster.namespace("whole").await?;
    let store = cluster.store().await?;
    let good = route("whole", "good", "a");
    let mut bad = route("whole", "bad", "a");
    bad["spec"]["rules"][0]["backendRefs"][0]["port"] = "eighty".into();
    let mut unknown = route("whole", "unknown", "a");
    unknown["spec"]["hostname"] = "a".into();
    let nowhere = route("no-such-namespace", "r", "a");
    for (other, named) in [(&bad, "port"), (&unknown, "hostname"), (&nowhere, "no-such-namespace")] {
        let error = refused(store.commit(vec![put(&good, Expect::Any), put(other, Expect::Any)]).await)?;
        ensure!(matches!(error, StoreError::Refused { .. }) && error.to_string().contains(named), "{error}");
        ensure!(store.get(&key("whole", "good")).await?.is_none(), "nothing was written");
    }
    let secret =
        json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"namespace": "whole", "name": "s"}});
    let error = refused(store.commit(vec![put(&secret, Expect::Any)]).await)?;
    ensure!(matches!(error, StoreError::ReadOnly(_)) && error.to_string().contains("kubectl"), "{error}");
    Ok(())
}

/// A quota counts what is there, not what others of the same commit would add: the trial run passes, the second write does not.
pub(crate) async fn a_commit_that_stops_half_way_tells_what_was_written(cluster: &mut Cluster) -> Result {
    cluster.namespace("quota").await?;
    let store = cluster.store().await?;
    let resource = "count/httproutes.gateway.networking.k8s.io";
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"namespace": "quota", "name": "one"},
        "spec": {"hard": {resource: "1"}}, "status": {"hard": {resource: "1"}, "used": {resource: "0"}}});
    cluster.apply(quota.clone()).await?;
    cluster.apply_status(quota).await?;
    let writes = ["a", "b", "c"].map(|name| put(&route("quota", name, "x"), Expect::Any));
    // Until its cache has the quota's status, admission refuses everything.
    let error = eventually("the quota is known", async || match store.commit(writes.to_vec()).await {
        Err(StoreError::Refused { reason, .. }) if reason.contains("status unknown") => Ok(None),
        outcome => Ok(Some(refused(outcome)?)),
    })
    .await?;
    let StoreError::Partial { written, failed, reason } = &error else { anyhow::bail!("{error:?}") };
    ensure!(
        *written == [key("quota", "a")] && **failed == key("quota", "b") && reason.contains("quota"),
        "{error}"
    );
    for (name, there) in [("a", true), ("b", false), ("c", false)] {
        ensure!(store.get(&key("quota", name)).await?.is_some() == there, "{name}");
    }
    Ok(())
}

pub(crate) async fn changes_come_once_and_a_watch_resumes(cluster: &mut Cluster) -> Result {
    cluster.namespace("watch").await?;
    let store = cluster.store().await?;
    let from = store.list().await?.revision;
    let mut changes = store.watch(from).await?;
    let mut told = Vec::new();
    for number in 0..20 {
        store
            .commit(vec![put(
                &route("watch", &format!("r{}", number % 3), &format!("h{number}")),
                Expect::Any,
            )])
            .await?;
    }
    store.commit(vec![delete(key("watch", "r0"), Expect::Any)]).await?;
    while told.len() < 21 {
        let change = next(&mut changes).await?;
        if &*change.key.namespace == "watch" && change.key.kind == Kind::HttpRoute {
            told.push(change);
        }
    }
    ensure!(told.windows(2).all(|pair| pair[0].revision < pair[1].revision), "in order: {told:?}");
    ensure!(told[20].json.is_none());
    // Resumed in the middle, the same follows.
    let mut resumed = store.watch(told[9].revision).await?;
    for want in &told[10..] {
        let found = loop {
            let change = next(&mut resumed).await?;
            if &*change.key.namespace == "watch" {
                break change;
            }
        };
        ensure!(found == *want, "{found:?} {want:?}");
    }
    // What this process did not give out is not taken for its own.
    let unknown = store.watch(told[20].revision + 1_000_000).await.err().context("refused")?;
    ensure!(matches!(unknown, StoreError::Compacted { .. }), "{unknown:?}");
    // Another control plane sees the same objects at the same revisions.
    let other = cluster.store().await?;
    ensure!(other.list().await?.records == store.list().await?.records);
    Ok(())
}

pub(crate) async fn helm_releases_never_come_here(cluster: &mut Cluster) -> Result {
    cluster.namespace("secrets").await?;
    let secret = |name: &str, kind: &str, data: Value| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "secrets", "name": name},
            "type": kind, "data": data})
    };
    let store = cluster.store().await?;
    let mut changes = store.watch(store.list().await?.revision).await?;
    cluster.apply(secret("release", "helm.sh/release.v1", json!({"release": "AAAA"}))).await?;
    cluster.apply(secret("token", "Opaque", json!({"token": "AAAA"}))).await?;
    cluster.apply(secret("edge", "kubernetes.io/tls", json!({"tls.crt": "AAAA", "tls.key": "AAAA"}))).await?;
    let configs = [json!({"big": "x"}), json!({"ca.crt": "x"})];
    for (name, data) in ["big", "ca"].into_iter().zip(configs) {
        cluster
            .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": {"namespace": "secrets", "name": name}}))
            .await?;
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let change = next(&mut changes).await?;
        if &*change.key.namespace == "secrets" {
            seen.push(change.key.name.to_string());
        }
    }
    seen.sort();
    ensure!(seen == ["ca", "edge", "token"], "{seen:?}");
    let names = store.list().await?.records;
    let there = |name: &str| names.iter().any(|it| &*it.key.namespace == "secrets" && &*it.key.name == name);
    ensure!(there("edge") && there("token") && there("ca") && !there("release") && !there("big"));
    Ok(())
}
