//! The status page, as somebody at a browser sees it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use outrider_tests::browser::{self, Browser};
use outrider_tests::client::Conn;
use outrider_tests::control::{Control, Follower, Manifests, service};
use outrider_tests::crowd::{Client, Crowd};
use outrider_tests::ports::Lease;
use outrider_tests::proxy::Kind;
use outrider_tests::reply::Reply;
use outrider_tests::upstream::Upstream;
use outrider_tests::{binary, left_out};
use serde_json::json;

/// A third of the requests goes to the next version.
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: test, namespace: shop }
spec:
  parentRefs: [ { kind: Service, group: \"\", name: test, port: 80 } ]
  rules:
  - backendRefs: [ { name: test, port: 80, weight: 3 }, { name: next, port: 80, weight: 1 } ]
";

/// What no browser must take for anything but words.
const STRANGE: &str = "apiVersion: v1
kind: Service
metadata: { name: \"<img src=x onerror=document.title='taken'>\", namespace: shop }
spec: { ports: [ { port: 80 } ] }
";

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_shows_the_mesh_in_a_real_browser() -> Result<()> {
    let browser = match Browser::ready().await {
        Ok(browser) => browser,
        Err(error) if browser::required() => panic!("no browser: {error:#}"),
        Err(error) => {
            left_out(format_args!("the status page in a browser: {error:#}"));
            return Ok(());
        }
    };
    let (test, _diary, _script) = Upstream::http("test").await?;
    let (next, _diary, script) = Upstream::http("next").await?;
    script.set(&[], &[("next".to_owned(), Reply::text("next").after(20))]);
    let manifests = Manifests::new()?;
    for (name, upstream) in [("test", &test), ("next", &next)] {
        manifests.write(name, &service("shop", name, 80, "http", &[upstream.address().port()]))?;
    }
    manifests.write("route", ROUTE)?;
    manifests.write("strange", STRANGE)?;
    let (page, http, admin) = (Lease::new()?, Lease::new()?, Lease::new()?);
    let pod = format!("client-{}", http.port());
    let address = format!("127.0.0.1:{}", page.port());
    let asked = format!("{pod}.shop=127.0.0.1:{}", admin.port());
    let dir = manifests.dir().to_string_lossy();
    let args: [&str; 6] = ["--manifests", &dir, "--status-address", &address, "--status-admin", &asked];
    let control = Control::start(&args).await?;
    let follower =
        Follower::sidecar_at(Kind::Outrider, true, &[control.xds()], "shop", (http, admin)).await?;
    let clients = [(Client::Http1, 4), (Client::Http2, 1)];
    let mut crowd = Crowd::start(follower.http.port(), None, &clients, Duration::from_millis(20));
    crowd.round().await?;
    let expected = json!({
        "client": ["shop", pod],
        "services": ["shop/test", "shop/next"],
        "proxies": 1,
        "route": ["shop/test:80.*75 %", "shop/next:80.*25 %"],
        "problem": "<img src=x onerror",
    });
    let shot = match std::env::var_os("OUTRIDER_SCREENSHOT") {
        Some(path) => PathBuf::from(path),
        None => binary::scratch("status")?.join("status.png"),
    };
    browser.check(&format!("http://{address}/"), &shot, &expected).await?;
    ensure!(shot.is_file(), "no picture at {}", shot.display());
    crowd.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_is_nobodys_but_this_hosts() -> Result<()> {
    let manifests = Manifests::new()?;
    let page = Lease::new()?;
    let address = format!("127.0.0.1:{}", page.port());
    let dir = manifests.dir().to_string_lossy();
    let _control = Control::start(&["--manifests", &dir, "--status-address", &address]).await?;
    for (host, wanted) in [("localhost", 200), ("127.0.0.1:1", 200), ("rebound.example", 421)] {
        let mut conn = Conn::plain(page.port()).await?;
        conn.send(format!("GET /api/overview HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await?;
        let answer = conn.response("GET").await?;
        ensure!(answer.status == wanted, "{host}: {answer:?}");
    }
    Ok(())
}
