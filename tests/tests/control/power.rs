//! A control plane that loses its power while it is written to.

use anyhow::{Context, Result, ensure};
use outrider_tests::binary;
use outrider_tests::control::{Control, Follower, Manifests, service};
use outrider_tests::proxy::Kind;
use outrider_tests::upstream::Upstream;
use outrider_tests::wait;

use crate::sidecar::comes;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_kill_9() -> Result<()> {
    let (one, _diary, _script) = Upstream::http("one").await?;
    let (data, manifests) = (binary::scratch("data")?, Manifests::new()?);
    let mut control = Control::start(&["--data-dir", &data.to_string_lossy()]).await?;
    manifests.write("web", &service("shop", "web", 80, "http", &[one.address().port()]))?;
    let (content, text) = control.ctl(&["apply", "-f", &manifests.dir().to_string_lossy()]).await?;
    ensure!(content, "{text}");
    let follower = Follower::sidecar(Kind::Outrider, true, &[control.xds()], "shop").await?;
    comes(follower.http.port(), "web", |it| it.text() == "one").await?;
    for round in 0..3 {
        let name = format!("round-{round}");
        manifests.write(&name, &service("shop", &name, 80, "http", &[]))?;
        let file = manifests.dir().join(format!("{name}.yaml"));
        let (content, text) = control.ctl(&["apply", "-f", &file.to_string_lossy()]).await?;
        ensure!(content, "{text}");
        control.kill().await?;
        // What the proxy has goes on while nobody is there to tell it.
        comes(follower.http.port(), "web", |it| it.text() == "one").await?;
        control.restart().await?;
        let (_, names) = control.ctl(&["get", "services", "-n", "shop", "-o", "name"]).await?;
        for known in (0..=round).map(|round| format!("round-{round}")) {
            ensure!(names.contains(&known), "{known} is lost; there are {names}");
        }
    }
    // And the proxy is served again: a change arrives.
    manifests.write("late", &service("shop", "late", 80, "http", &[one.address().port()]))?;
    let file = manifests.dir().join("late.yaml");
    let (content, text) = control.ctl(&["apply", "-f", &file.to_string_lossy()]).await?;
    ensure!(content, "{text}");
    comes(follower.http.port(), "late", |it| it.text() == "one").await?;

    // Everything that was written is in the audit log.
    let audit = std::fs::read_to_string(data.join("audit.log")).context("the audit log")?;
    ensure!(audit.lines().any(|line| line.contains("round-2")), "{audit}");
    wait::until("the proxy to be listed", wait::LIMIT, async || {
        let (_, text) = control.ctl(&["proxy-status"]).await?;
        Ok(text.contains("shop").then_some(()))
    })
    .await
}
