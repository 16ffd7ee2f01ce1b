//! `outrider demo --simple`: a proxy on a bundled bootstrap, two bundled upstreams behind it, and what happened.

mod certificates;
mod client;
mod upstream;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::bootstrap;
use crate::control::{Control, MemoryHooks};
use crate::lifecycle;
use crate::logging;
use crate::options::{LogOptions, Options};

const BOOTSTRAP: &str = include_str!("bootstrap.yaml");

/// Starts the demo; with `once` it ends after its requests. The proxy listens on `port`, `port` + 1 and, for admin,
/// `port` + 2 of 127.0.0.1.
///
/// # Errors
/// A port is in use, or a request did not get what it should.
pub(super) fn run(once: bool, port: u16, memory: MemoryHooks) -> anyhow::Result<bool> {
    let log = logging::init(&LogOptions { level: "warning".into(), ..LogOptions::default() })?;
    ensure!(port <= u16::MAX - 2, "--port {port} leaves no room for the next two ports");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let directory = certificates::Directory::new()?;
    certificates::write(directory.path())?;
    runtime.block_on(async {
        let plain = upstream::plain().await?;
        let secure = upstream::mutual_tls(directory.path()).await?;
        let text = BOOTSTRAP
            .replace("@HTTP_PORT@", &port.to_string())
            .replace("@TCP_PORT@", &(port + 1).to_string())
            .replace("@ADMIN_PORT@", &(port + 2).to_string())
            .replace("@PLAIN_PORT@", &plain.to_string())
            .replace("@SECURE_PORT@", &secure.to_string())
            .replace("@DIR@", &directory.path().display().to_string());
        let options = Options {
            config_yaml: Some(text),
            drain_time: Duration::from_secs(5),
            concurrency: Some(1),
            ..Options::default()
        };
        let loaded = bootstrap::load(&options)?;
        let control = Arc::new(Control::new(options, loaded, log)?.with_memory(memory));
        let tour = tokio::task::spawn_local(tour(control.clone(), port, once));
        let _ended = lifecycle::serve(control).await.context("choose other ports with --port")?;
        if tour.is_finished() { tour.await? } else { Ok(()) }
    })?;
    Ok(true)
}

/// Sends the requests and prints what came of them; then lets the proxy serve on, or ends it.
async fn tour(control: Arc<Control>, port: u16, once: bool) -> anyhow::Result<()> {
    while !control.state.live.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let outcome = requests(port).await;
    if let Err(error) = &outcome {
        tracing::error!("the demo failed: {error:#}");
    }
    if once || outcome.is_err() {
        control.state.quit.notify_one();
        return outcome;
    }
    print(&invitation(port))
}

async fn requests(port: u16) -> anyhow::Result<()> {
    print("Requests through the proxy:\n")?;
    for (path, wanted, what) in [
        ("/hello", "hello from the proxy itself", "answered by the proxy (direct_response)"),
        ("/", "plain upstream", "to the plain upstream"),
        (
            "/secure/orders",
            "spiffe://demo/proxy",
            "to the upstream behind mTLS, which names the client it verified",
        ),
        ("/flaky", "plain upstream", "the upstream fails twice with 503, the proxy retries"),
    ] {
        let answer = client::get(port, path).await.with_context(|| format!("GET {path}"))?;
        ensure!(answer.status == 200, "GET {path} was answered {} {:?}", answer.status, answer.body);
        ensure!(
            answer.body.contains(wanted),
            "GET {path} was answered {:?}, without {wanted:?}",
            answer.body
        );
        let route = answer.header("x-demo-route");
        print(&format!(
            "  GET {path:<15} {} route={route:<7} {}\n{:24}({what})\n",
            answer.status,
            answer.body.trim(),
            ""
        ))?;
    }
    let answer = client::get(port + 1, "/through-tcp").await.context("through tcp_proxy")?;
    print(&format!("  GET /through-tcp  {} (by the tcp_proxy listener, byte for byte)\n", answer.status))?;
    print("\nStats (names as in Envoy):\n")?;
    let filter =
        "upstream_rq_(total|2xx|5xx|retry|retry_success)$|ssl.handshake|demo.downstream_rq_(2xx|total)$";
    let stats = client::get(port + 2, &format!("/stats?filter={filter}")).await?;
    for line in stats.body.lines() {
        print(&format!("  {line}\n"))?;
    }
    let retries = stats.body.lines().find_map(|line| line.strip_prefix("cluster.plain.upstream_rq_retry: "));
    ensure!(retries == Some("2"), "two retries were expected, the stats say {retries:?}");
    Ok(())
}

fn invitation(port: u16) -> String {
    let (tcp, admin) = (port + 1, port + 2);
    format!(
        "\nThe proxy goes on serving; Ctrl-C ends it. Try:\n  \
         curl -i http://127.0.0.1:{port}/hello\n  \
         curl -i http://127.0.0.1:{port}/secure/orders\n  \
         curl -i --http2-prior-knowledge http://127.0.0.1:{port}/\n  \
         curl -i http://127.0.0.1:{tcp}/\n  \
         curl http://127.0.0.1:{admin}/stats/prometheus\n  \
         curl http://127.0.0.1:{admin}/clusters\n  \
         curl http://127.0.0.1:{admin}/help\n"
    )
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
