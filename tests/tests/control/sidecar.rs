//! A folder of manifests, and sidecars that follow it, in both protocols.

use anyhow::{Context, Result, ensure};
use outrider_tests::client::{Conn, Response};
use outrider_tests::control::{Control, Follower, Manifests, service};
use outrider_tests::upstream::Upstream;
use outrider_tests::wait;

use crate::proxies;

/// Asks the explicit HTTP listener for a host.
pub(crate) async fn ask(port: u16, host: &str, path: &str, more: &str) -> Result<Response> {
    let mut conn = Conn::plain(port).await?;
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n")).await?;
    conn.response("GET").await
}

/// Waits until a request is answered as wanted.
pub(crate) async fn comes(port: u16, host: &str, wanted: impl Fn(&Response) -> bool) -> Result<()> {
    let what = format!("the wanted answer of {host}");
    wait::until(&what, wait::LIMIT, async || {
        Ok(ask(port, host, "/", "").await.ok().filter(|it| wanted(it)).map(drop))
    })
    .await
    .context(format!("last: {:?}", ask(port, host, "/", "").await))
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_reached_by_their_names_and_follow_the_folder() -> Result<()> {
    let (one, _diary, _script) = Upstream::http("one").await?;
    let (two, _diary, _script) = Upstream::http("two").await?;
    for kind in proxies() {
        for delta in [false, true] {
            let manifests = Manifests::new()?;
            manifests.write("web", &service("shop", "web", 80, "http", &[one.address().port()]))?;
            let control = Control::start(&["--manifests", &manifests.dir().to_string_lossy()]).await?;
            let follower = Follower::sidecar(kind, delta, &[control.xds()], "shop").await?;
            let port = follower.http.port();
            for host in ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "web:80"] {
                comes(port, host, |it| it.text() == "one").await?;
            }
            ensure!(ask(port, "nobody", "/", "").await?.status == 404, "a host that no service has");

            // Another endpoint.
            manifests.write("web", &service("shop", "web", 80, "http", &[two.address().port()]))?;
            comes(port, "web", |it| it.text() == "two").await?;

            // A second service, then the first one is gone.
            manifests.write("api", &service("shop", "api", 8080, "http", &[one.address().port()]))?;
            comes(port, "api:8080", |it| it.text() == "one").await?;
            manifests.remove("web")?;
            comes(port, "web", |it| it.status == 404).await?;
            comes(port, "api", |it| it.text() == "one").await?;

            // Half a file is not taken, and takes nothing away.
            manifests.write(
                "api",
                "apiVersion: v1\nkind: Service\nmetadata: { name: api, namespace: shop }\nspec: [",
            )?;
            control.process().wait_log("api.yaml").await?;
            // When a later change has come, one by the broken file would have come too.
            manifests.write("late", &service("shop", "late", 80, "http", &[two.address().port()]))?;
            comes(port, "late", |it| it.text() == "two").await?;
            ensure!(ask(port, "api", "/", "").await?.text() == "one", "a broken file took a service away");
        }
    }
    Ok(())
}
