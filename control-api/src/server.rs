//! Puts it together: store, sources, engine, the two ports, and a graceful end.

mod identity;
mod options;
mod statuses;
mod webhook;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
pub use options::{Command, Options};
use tokio::net::TcpListener;
use tokio::sync::watch;
pub use webhook::WebhookArgs;

use crate::ads::{Ads, AdsServer, Connected, Limits};
use crate::api::audit::Audit;
use crate::api::auth::{Bounds, Guard, Security, incoming};
use crate::api::{ControlService, Parts, Served};
use crate::ca::service::CertificateService;
use crate::engine::Engine;
use crate::source::{Origin, Problems, manifests, stored};
use crate::status::Sources;
use crate::store::{self, Place, SharedStore, kubernetes};

/// How often a silent client is asked whether it is there, and how long it may take to say so.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Streams of one connection at a time. A proxy has one or two; several may share a connection.
const STREAMS: u32 = 256;

/// How long connections may take to end once their streams were told to go elsewhere.
const FAREWELL: Duration = Duration::from_secs(5);

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
/// What keeps it from starting: an address in use, a folder that cannot be read, a store that is damaged.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // First: with its store open the data directory is this process's own, to make certificates and tokens in.
    let Opened { store, writer, kubernetes, shared } = open_store(&options).await?;
    tracing::info!(store = store.describe(), "what is applied is kept in");
    let listens: Vec<_> =
        [options.xds, options.api].into_iter().chain(options.status.status_address).collect();
    let security = Arc::new(options.auth.build(options.data_dir.as_deref(), &listens)?);
    let (leave, leaving) = watch::channel(false);
    webhook::start(&options.injection, kubernetes.as_ref(), security.ca(), &leaving).await?;
    let xds = TcpListener::bind(options.xds).await.with_context(|| format!("--xds {}", options.xds))?;
    let api = TcpListener::bind(options.api).await.with_context(|| format!("--api {}", options.api))?;
    let audit = Arc::new(audit(&options)?);
    let page = match options.status.status_address {
        Some(address) => {
            Some(TcpListener::bind(address).await.with_context(|| format!("--status-address {address}"))?)
        }
        None => None,
    };
    let certificates = identity::start(&options, &security, &audit, &store, kubernetes, shared, &leaving)?;

    let mut origins = BTreeSet::from([Origin::Store]);
    origins.extend(options.manifests.as_ref().map(|_| Origin::Manifests));
    let (engine, inputs) = Engine::bounded(origins, options.max_scopes, options.ca.trust_domain.clone());
    let certificates = certificates.following(Arc::clone(&engine));
    let problems = Problems::default();
    if let Some(dir) = &options.manifests {
        manifests::start(dir, inputs.clone(), problems.clone())
            .await
            .with_context(|| format!("--manifests {}", dir.display()))?;
    }
    stored::start(Arc::clone(&store), inputs, problems.clone());
    if let Some(writer) = writer {
        tokio::spawn(writer.run(statuses::follow(Arc::clone(&engine))));
    }
    tokio::spawn(Arc::clone(&security).watch());

    let connected = Arc::new(Connected::default());
    if let Some(page) = page {
        let sources = Sources {
            engine: Arc::clone(&engine),
            connected: Arc::clone(&connected),
            problems: problems.clone(),
            roots: certificates.bundle(),
            instance: instance().into(),
        };
        options.status.start(page, &security, sources)?;
    }
    let service = ControlService::new(Parts {
        store,
        engine: Arc::clone(&engine),
        connected: Arc::clone(&connected),
        audit,
        instance: instance().into(),
        problems,
        leaving: leaving.clone(),
    });
    let limits = Limits::of(options.max_proxies);
    let ads = Ads::new(engine, connected, limits, leaving.clone());
    tracing::info!(xds = %xds.local_addr()?, api = %api.local_addr()?, instance = instance(), "listening");
    tokio::spawn(async move {
        end_signal().await;
        tracing::info!("leaving: proxies go to another control plane");
        leave.send_replace(true);
    });
    let served = Served::new(service)?;
    let both = async {
        tokio::try_join!(
            serve_xds(ads, certificates, xds, &security, gone(leaving.clone())),
            served.serve(api, &security, gone(leaving.clone())),
        )
    };
    tokio::select! {
        ended = both => ended.map(drop),
        () = async { gone(leaving.clone()).await; tokio::time::sleep(FAREWELL).await } => Ok(()),
    }
}

/// Serves xDS, and certificates, until `shutdown` resolves, and then until the streams are done.
async fn serve_xds(
    ads: Ads,
    certificates: CertificateService,
    listener: TcpListener,
    security: &Security,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let bounds = Bounds::new(ads.limits().streams, security.of_one_address);
    // Several proxies may share a connection, seldom do.
    let connections = incoming(listener, security.tls.clone(), bounds);
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .layer(Guard::new(Arc::clone(&security.authenticator), None))
        .add_service(AdsServer::new(ads))
        .add_service(certificates.own())
        .add_service(certificates.istio())
        .serve_with_incoming_shutdown(connections, shutdown)
        .await
        .context("the xDS port")
}

/// The store, and what comes with it.
struct Opened {
    store: SharedStore,
    /// What writes statuses into it where the store is somebody else's API.
    writer: Option<kubernetes::status::Writer>,
    /// What speaks to Kubernetes where that is the store.
    kubernetes: Option<kube::Client>,
    /// Other control planes may use it as well.
    shared: bool,
}

async fn open_store(options: &Options) -> anyhow::Result<Opened> {
    if let Some(text) = options.store.as_deref().filter(|text| text.starts_with("kubernetes")) {
        let at = kubernetes::Options::parse(text).with_context(|| format!("--store {text}"))?;
        let store = kubernetes::Kubernetes::open(&at).await.with_context(|| format!("--store {text}"))?;
        let (writer, kubernetes) = (Some(store.status_writer()), Some(store.client()));
        return Ok(Opened { store: Arc::new(store), writer, kubernetes, shared: true });
    }
    let place = match (&options.store, &options.data_dir) {
        (Some(text), _) => place(text)?,
        (None, Some(dir)) => Place::Dir(dir.clone()),
        (None, None) => Place::Memory,
    };
    let shared = matches!(place, Place::Etcd(_));
    Ok(Opened { store: store::open(&place).await?, writer: None, kubernetes: None, shared })
}

fn place(text: &str) -> anyhow::Result<Place> {
    // Without the text, as there may be a password in it.
    Place::parse(text).map_err(|reason| anyhow::anyhow!("--store: {reason}"))
}

fn audit(options: &Options) -> anyhow::Result<Audit> {
    let file = options.audit_log.clone().or_else(|| Some(options.data_dir.as_ref()?.join("audit.log")));
    match file {
        Some(path) => Audit::file(&path).with_context(|| format!("--audit-log {}", path.display())),
        None => Ok(Audit::stderr()),
    }
}

async fn gone(mut leaving: watch::Receiver<bool>) {
    let _ = leaving.wait_for(|leaving| *leaving).await;
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
