//! The end of a sidecar: it serves its application until that has ended, too.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrider_tests::bootstrap::{Bootstrap, hcm_filter, indent};
use outrider_tests::client::{Conn, Response};
use outrider_tests::proxy::Proxy;
use outrider_tests::wait;
use rustix::process::Signal;
use tokio::net::TcpListener;

use crate::pod::{ADMIN, HERE, POD, Pod, answer};

const APP: u16 = 8080;
const INBOUND: u16 = 9001;
const OUTBOUND: u16 = 9002;

fn bootstrap(outside: SocketAddr) -> String {
    let cluster = |name: &str, to: SocketAddr| {
        format!(
            "connect_timeout: 5s\ntype: STATIC\nload_assignment:\n  cluster_name: {name}\n  endpoints:\n  - lb_endpoints:\n    \
             - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}\n",
            to.ip(),
            to.port()
        )
    };
    let listener = |name: &str, port: u16, cluster: &str| {
        let direction = name.to_uppercase();
        let routes = format!(
            "access_log: []\nroute_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    \
             - {{ match: {{ prefix: \"/\" }}, route: {{ cluster: {cluster} }} }}\n"
        );
        let filter = hcm_filter(cluster, &routes);
        format!(
            "- name: {name}\n  address: {{ socket_address: {{ address: {POD}, port_value: {port} }} }}\n  \
             traffic_direction: {direction}\n  filter_chains:\n  - filters:\n{}",
            indent(4, &filter)
        )
    };
    let text = Bootstrap::new()
        .cluster("application", &cluster("application", (POD, APP).into()))
        .cluster("outside", &cluster("outside", outside))
        .raw_listener(&listener("inbound", INBOUND, "application"))
        .raw_listener(&listener("outbound", OUTBOUND, "outside"))
        .render(&BTreeMap::from([("admin".to_owned(), ADMIN.to_string())]));
    let at = |host: Ipv4Addr| format!("address: {host}, port_value: {ADMIN}");
    text.replace(&at(Ipv4Addr::LOCALHOST), &at(POD))
}

async fn ask(port: u16, path: &str) -> Result<Response> {
    let mut conn = Conn::at((POD, port).into(), None).await?;
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await?;
    conn.response("GET").await
}

async fn ready(status: u16) -> Result<()> {
    wait::until("the proxy to be so ready", wait::LIMIT, async || {
        Ok(ask(ADMIN, "/ready").await.is_ok_and(|ready| ready.status == status).then_some(()))
    })
    .await
}

async fn start(pod: &Pod) -> Result<Proxy> {
    let outside = TcpListener::bind((HERE, 0)).await?;
    let proxy = pod
        .proxy_with(&bootstrap(outside.local_addr()?), &["--outlive-application", "--drain-time-s", "60"])?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = outside.accept().await {
            tokio::spawn(async { drop(answer(stream).await) });
        }
    });
    ready(200).await.with_context(|| proxy.output())?;
    Ok(proxy)
}

/// Told to end, the proxy goes on until its application has closed its socket; without an application it ends at once.
pub(crate) async fn play() -> Result<()> {
    let pod = Pod::bare().await?;
    let application = pod.application(APP)?;
    let mut proxy = start(&pod).await?;
    for port in [INBOUND, OUTBOUND] {
        let answer = ask(port, "/before").await?;
        ensure!((answer.status, answer.header("connection")) == (200, None), "{answer:?}");
    }
    proxy.signal(Signal::TERM)?;
    ready(503).await?;
    // The kernel is asked every 100 ms: several looks have found the application.
    wait::until("a line about the application", wait::LIMIT, async || {
        Ok(proxy.output().contains("one of which listens on 10.1.0.1:8080").then_some(()))
    })
    .await
    .with_context(|| proxy.output())?;
    let answer = ask(OUTBOUND, "/while").await?;
    ensure!((answer.status, answer.header("connection")) == (200, None), "{answer:?}");
    let answer = ask(INBOUND, "/while").await?;
    ensure!((answer.status, answer.header("connection")) == (200, Some("close")), "{answer:?}");
    application.abort();
    let status = proxy.exit(Duration::from_secs(20)).await?;
    ensure!(status.code() == Some(0), "{status}: {}", proxy.output());
    ensure!(proxy.output().contains("the application has no sockets any more"), "{}", proxy.output());

    let mut proxy = start(&pod).await?;
    proxy.signal(Signal::TERM)?;
    let status = proxy.exit(Duration::from_secs(20)).await?;
    ensure!(status.code() == Some(0), "{status}: {}", proxy.output());
    Ok(())
}
