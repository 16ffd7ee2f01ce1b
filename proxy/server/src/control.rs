//! What all workers share, built once from the model on the control thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use outrider_config::convert::Ledger;
use outrider_config::model;
use outrider_core::matcher::StringMatcher;
use outrider_core::stats::Registry;
use outrider_http::HcmShared;
use outrider_net::drain::DrainController;
use outrider_net::listener::{GlobalConnections, ListenerShared, Sockets, WorkerSockets};
use outrider_tcp::TcpProxyShared;
use outrider_telemetry::access_log::LogFiles;
use outrider_telemetry::stats::Exposition;
use outrider_upstream::ClusterManager;

use crate::bootstrap::LoadedBootstrap;
use crate::lifecycle::{ListenerManagerStats, ServerStats};
use crate::logging::LogControl;
use crate::options::Options;

/// The process: its configuration, what was built from it, and its state.
#[derive(Debug)]
pub struct Control {
    /// The command line.
    pub options: Options,
    /// The configuration.
    pub model: model::Bootstrap,
    /// What of it has no effect.
    pub ledger: Ledger,
    /// The bootstrap on the wire, redacted.
    pub wire: Vec<u8>,
    /// Levels of the log.
    pub log: LogControl,
    /// All stats.
    pub registry: Registry,
    /// `server.`
    pub(crate) server_stats: ServerStats,
    /// `listener_manager.`
    pub(crate) listener_stats: ListenerManagerStats,
    /// How stats are read.
    pub exposition: Exposition,
    /// Access log files.
    pub log_files: LogFiles,
    /// Clusters.
    pub clusters: ClusterManager,
    /// Listeners with all that their chains need.
    pub listeners: Vec<Arc<BuiltListener>>,
    /// The addresses that they listen on, once bound: for each listener in order.
    pub bound: OnceLock<Vec<Vec<model::SocketAddress>>>,
    /// Worker threads.
    pub workers: usize,
    /// Gives memory back.
    pub(crate) memory: MemoryHooks,
    /// Where the process is.
    pub state: State,
}

/// What the binary, which owns the allocator, does to give memory back to the kernel.
#[derive(Debug, Clone, Copy)]
pub struct MemoryHooks {
    /// On the control thread, when the start is over.
    pub started: fn(),
    /// On a worker, when many of its connections have gone or fallen asleep.
    pub crowd_left: fn(),
}

impl Default for MemoryHooks {
    /// Gives nothing back.
    fn default() -> Self {
        Self { started: || {}, crowd_left: || {} }
    }
}

/// A listener and the filters of its chains.
#[derive(Debug)]
pub struct BuiltListener {
    /// The listener itself.
    pub shared: Arc<ListenerShared>,
    /// Tells its connections to finish.
    pub drain: DrainController,
    /// Its network filters, one for each chain, by the address of their configuration.
    pub filters: Vec<BuiltFilter>,
}

/// A network filter, built.
#[derive(Debug, Clone)]
pub enum BuiltFilter {
    /// The connection manager.
    Http(Arc<model::HttpConnectionManager>, Arc<HcmShared>),
    /// tcp_proxy.
    Tcp(Arc<model::TcpProxy>, Arc<TcpProxyShared>),
}

/// Where the process is in its life.
#[derive(Debug)]
pub struct State {
    /// When it started.
    pub started: Instant,
    /// The same on the wall clock.
    pub started_at: SystemTime,
    /// All workers accept.
    pub live: AtomicBool,
    /// It was told to go (`/drain_listeners`, SIGTERM).
    pub draining: AtomicBool,
    /// `POST /healthcheck/fail`
    pub health_check_failed: AtomicBool,
    /// Workers that run.
    pub workers_running: AtomicU64,
    /// Wakes the control thread to end the process.
    pub quit: tokio::sync::Notify,
    /// Wakes the control thread to close listening sockets.
    pub stop_listening: tokio::sync::watch::Sender<StopListening>,
}

/// Which listeners no longer accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StopListening {
    /// Those of inbound traffic.
    pub inbound: bool,
    /// All others.
    pub others: bool,
}

impl State {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            live: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            health_check_failed: AtomicBool::new(false),
            workers_running: AtomicU64::new(0),
            quit: tokio::sync::Notify::new(),
            stop_listening: tokio::sync::watch::Sender::default(),
        }
    }

    /// Envoy's words: `LIVE`, `DRAINING`, `PRE_INITIALIZING`, `INITIALIZING`.
    pub fn name(&self) -> &'static str {
        if self.draining.load(Relaxed) || self.health_check_failed.load(Relaxed) {
            "DRAINING"
        } else if self.live.load(Relaxed) {
            "LIVE"
        } else {
            "INITIALIZING"
        }
    }
}

impl Control {
    /// Builds everything and starts nothing.
    ///
    /// # Errors
    /// A certificate, a file or a value that only building can judge is bad: the error names it by path.
    pub fn new(options: Options, loaded: LoadedBootstrap, log: LogControl) -> anyhow::Result<Self> {
        let registry = Registry::new();
        set_filter(&registry, &loaded.model.stats);
        let log_files = LogFiles::new(&registry, options.file_flush_min_size);
        let clusters = ClusterManager::new(registry.clone());
        for cluster in &loaded.model.clusters {
            clusters.add(cluster.clone()).with_context(|| format!("cluster {:?}", cluster.name))?;
        }
        let global = GlobalConnections::new(loaded.model.max_downstream_connections);
        let build = |listener: &Arc<model::Listener>| {
            build_listener(listener, &clusters, &registry, &log_files, &global, &loaded.model.node)
                .with_context(|| format!("listener {:?}", listener.name))
        };
        let listeners = loaded.model.listeners.iter().map(build).collect::<anyhow::Result<Vec<_>>>()?;
        let tags = options.stats_tags.iter().filter_map(|tag| tag.split_once(':'));
        let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let workers = options
            .concurrency
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        Ok(Self {
            exposition: Exposition::new(registry.clone(), &loaded.model.stats, tags),
            options,
            model: loaded.model,
            ledger: loaded.ledger,
            wire: loaded.wire,
            log,
            server_stats: ServerStats::new(registry.scope("server.")),
            listener_stats: ListenerManagerStats::new(registry.scope("listener_manager.")),
            registry,
            log_files,
            clusters,
            listeners,
            bound: OnceLock::new(),
            workers,
            memory: MemoryHooks::default(),
            state: State::new(),
        })
    }

    /// The same, with a way to give memory back.
    #[must_use]
    pub fn with_memory(self, memory: MemoryHooks) -> Self {
        Self { memory, ..self }
    }

    /// Whether a process could be built from `loaded`, without opening a port.
    ///
    /// # Errors
    /// As [`Control::new`].
    pub fn validate(options: &Options, loaded: &LoadedBootstrap) -> anyhow::Result<()> {
        let copy =
            LoadedBootstrap { model: loaded.model.clone(), ledger: loaded.ledger.clone(), wire: Vec::new() };
        Self::new(options.clone(), copy, LogControl::detached()).map(drop)
    }

    /// Opens the sockets of all listeners: for each listener, one set for each worker.
    ///
    /// # Errors
    /// A port is in use or may not be opened; no socket stays open then.
    pub fn bind(&self) -> anyhow::Result<Vec<Vec<WorkerSockets>>> {
        let bind = |listener: &Arc<BuiltListener>| Ok(Sockets::bind(&listener.shared, self.workers)?);
        let sockets = self.listeners.iter().map(bind).collect::<anyhow::Result<Vec<Vec<WorkerSockets>>>>()?;
        let addresses = |(listener, sockets): (&Arc<BuiltListener>, &Vec<WorkerSockets>)| {
            // Port 0 became a port when it was bound; what is no IP address is as configured.
            let mut bound = sockets.first().map_or(&[][..], WorkerSockets::local_addrs).iter();
            let config = listener.shared.config();
            let now = |address: &model::ListenerAddress| match (&address.address, config.bind_to_port) {
                (model::SocketAddress::Ip(_), true) => bound.next().copied().map(model::SocketAddress::Ip),
                _ => None,
            };
            let now: Vec<_> = config.addresses.iter().map(now).collect();
            now.into_iter()
                .zip(&config.addresses)
                .map(|(now, given)| now.unwrap_or_else(|| given.address.clone()))
                .collect()
        };
        let _ = self.bound.set(self.listeners.iter().zip(&sockets).map(addresses).collect());
        Ok(sockets)
    }
}

fn build_listener(
    listener: &Arc<model::Listener>,
    clusters: &ClusterManager,
    registry: &Registry,
    files: &LogFiles,
    global: &GlobalConnections,
    node: &model::Node,
) -> anyhow::Result<Arc<BuiltListener>> {
    let mut filters = Vec::new();
    for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
        filters.push(match &chain.filter {
            model::NetworkFilter::Http(config) => {
                let scope = registry.scope(format!("listener.{}.", listener.stat_prefix));
                let shared = HcmShared::build(config, clusters, registry, files, &scope, node)?;
                BuiltFilter::Http(config.clone(), shared)
            }
            model::NetworkFilter::TcpProxy(config) => {
                BuiltFilter::Tcp(config.clone(), TcpProxyShared::build(config, clusters, registry, files)?)
            }
        });
    }
    let shared = ListenerShared::build(listener.clone(), registry, files, global)?;
    Ok(Arc::new(BuiltListener { shared, drain: DrainController::new(), filters }))
}

/// `stats_matcher`
fn set_filter(registry: &Registry, config: &model::StatsConfig) {
    let any = |matchers: &[StringMatcher], name: &str| matchers.iter().any(|matcher| matcher.matches(name));
    match config.matcher.clone() {
        model::StatsMatcher::All => {}
        model::StatsMatcher::None => registry.set_filter(Box::new(|_| false)),
        model::StatsMatcher::Include(matchers) => {
            registry.set_filter(Box::new(move |name| any(&matchers, name)))
        }
        model::StatsMatcher::Exclude(matchers) => {
            registry.set_filter(Box::new(move |name| !any(&matchers, name)))
        }
    }
}
