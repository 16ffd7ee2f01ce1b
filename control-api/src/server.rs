//! Puts it together: sources, engine, the two ports, and a graceful end.

mod options;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
pub use options::Options;
use outrider_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;

use crate::ads::{Ads, Connected, Limits};
use crate::engine::Engine;
use crate::source::{Input, Origin};

/// How often a silent client is asked whether it is there, and how long it may take to say so.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// The name of this control plane, as proxies and operators see it.
pub fn instance() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "unknown" } else { host.trim() };
        format!("outrider-control/{}/{host}/{}", env!("CARGO_PKG_VERSION"), std::process::id())
    })
}

/// Runs until a signal asks to end.
///
/// # Errors
/// What keeps it from starting: an address in use, a folder that cannot be read.
pub async fn run(options: Options) -> anyhow::Result<()> {
    if options.insecure_loopback {
        if !options.xds.ip().is_loopback() || !options.api.ip().is_loopback() {
            bail!(
                "--insecure-loopback: --xds {} and --api {} must both be loopback addresses",
                options.xds,
                options.api
            );
        }
        tracing::warn!(
            "INSECURE: no TLS, no authentication; whoever is on this machine is admin. For development only"
        );
    }
    let mut origins = BTreeSet::new();
    if options.manifests.is_some() {
        origins.insert(Origin::Manifests);
    }
    let (engine, inputs) = Engine::start(origins);
    if let Some(dir) = &options.manifests {
        let mut objects = Vec::new();
        for entry in std::fs::read_dir(dir).with_context(|| format!("--manifests {}", dir.display()))? {
            let path = entry?.path();
            let name = path.display().to_string();
            for value in crate::model::documents(&name, &std::fs::read_to_string(&path)?)? {
                match crate::model::read_value(&name, value, "default") {
                    Ok(object) => objects.extend(object),
                    Err(problems) => problems.iter().for_each(|problem| tracing::error!("{problem}")),
                }
            }
        }
        inputs.send(Input::Reset { origin: Origin::Manifests, revision: 0, objects }).await?;
    }
    let (leave, leaving) = watch::channel(false);
    let connected = Arc::new(Connected::default());
    let ads = Ads::new(Arc::clone(&engine), Arc::clone(&connected), Limits::default(), leaving);
    let listener = TcpListener::bind(options.xds).await.with_context(|| format!("--xds {}", options.xds))?;
    tracing::info!(xds = %listener.local_addr()?, api = %options.api, "serving");
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .tcp_nodelay(true)
        .add_service(AggregatedDiscoveryServiceServer::new(ads))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
            end_signal().await;
            tracing::info!("leaving: proxies go to another control plane");
            leave.send_replace(true);
        });
    server.await.context("the xDS port")?;
    drop(inputs);
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
async fn end_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
