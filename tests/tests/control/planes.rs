//! Three control planes on one etcd, one of them killed, one cut off.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use outrider_tests::control::{Control, Follower, Manifests, service};
use outrider_tests::etcd::{self, Etcd};
use outrider_tests::relay::Relay;
use outrider_tests::upstream::Upstream;
use outrider_tests::{left_out, wait};

use crate::proxies;
use crate::sidecar::comes;

/// Applies a file through one control plane; whether it was acknowledged.
async fn apply(control: &Control, manifests: &Manifests, name: &str, yaml: &str) -> Result<bool> {
    manifests.write(name, yaml)?;
    let file = manifests.dir().join(format!("{name}.yaml"));
    Ok(control.ctl(&["apply", "-f", &file.to_string_lossy()]).await?.0)
}

/// The names of the services that a control plane knows.
async fn known(control: &Control) -> Result<BTreeSet<String>> {
    let (content, text) = control.ctl(&["get", "services", "-n", "shop", "-o", "name"]).await?;
    ensure!(content, "{text}");
    Ok(text.lines().filter_map(|line| line.rsplit('/').next()).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_move_over_and_nothing_acknowledged_is_lost() -> Result<()> {
    if let Err(error) = etcd::program() {
        ensure!(!etcd::required(), "no etcd: {error:#}");
        left_out(format_args!("control planes on etcd: {error:#}"));
        return Ok(());
    }
    let etcd = Etcd::start().await?;
    let wire = Relay::start(etcd.port()).await?;
    let at = |port: u16| format!("etcd://127.0.0.1:{port}");
    let mut first = Control::start(&["--store", &at(etcd.port())]).await?;
    let second = Control::start(&["--store", &at(wire.port())]).await?;
    let third = Control::start(&["--store", &at(etcd.port())]).await?;
    let second_wire = Relay::start(second.xds()).await?;
    let planes = [first.xds(), second_wire.port(), third.xds()];

    let (one, _diary, _script) = Upstream::http("one").await?;
    let (two, _diary, _script) = Upstream::http("two").await?;
    let manifests = Manifests::new()?;
    let web = |upstream: &Upstream| service("shop", "web", 80, "http", &[upstream.address().port()]);
    ensure!(apply(&first, &manifests, "web", &web(&one)).await?, "the first control plane takes it");
    let mut followers = Vec::new();
    for kind in proxies() {
        for _ in 0..2 {
            followers.push(Follower::sidecar(kind, true, &planes, "shop").await?);
        }
    }
    for follower in &followers {
        comes(follower.http.port(), "web", |it| it.text() == "one").await?;
    }

    // Written through all three, then two of them are gone in the middle of it.
    let mut acknowledged = BTreeSet::new();
    for (index, control) in [&first, &second, &third, &first, &second].into_iter().enumerate() {
        let name = format!("before-{index}");
        if apply(control, &manifests, &name, &service("shop", &name, 80, "http", &[])).await? {
            acknowledged.insert(name);
        }
    }
    ensure!(acknowledged.len() == 5, "each control plane takes writes: {acknowledged:?}");
    first.kill().await?;
    wire.cut(true);
    second_wire.cut(true);
    ensure!(
        apply(&third, &manifests, "after", &service("shop", "after", 80, "http", &[])).await?,
        "the third one goes on"
    );
    acknowledged.insert("after".to_owned());
    let moved = web(&two);
    ensure!(apply(&third, &manifests, "web", &moved).await?, "and takes changes");
    let stale = format!("web-{}", one.address().port());
    let (gone, text) = third.ctl(&["delete", "endpointslice", &stale, "-n", "shop"]).await?;
    ensure!(gone, "{text}");
    for follower in &followers {
        comes(follower.http.port(), "web", |it| it.text() == "two")
            .await
            .with_context(|| format!("a proxy that was elsewhere:\n{}", follower.proxy.last_words(20)))?;
    }
    let all = known(&third).await?;
    ensure!(acknowledged.is_subset(&all), "acknowledged {acknowledged:?}, there are {all:?}");

    // The wire is mended, the killed one comes back: both know what happened meanwhile.
    wire.cut(false);
    second_wire.cut(false);
    first.restart().await?;
    for control in [&first, &second] {
        wait::until("a control plane to catch up", 3 * wait::LIMIT, async || {
            Ok(known(control).await.ok().filter(|known| acknowledged.is_subset(known)).map(drop))
        })
        .await?;
    }
    Ok(())
}
