//! What all workers share, built once from the model on the control thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use outrider_config::convert::Ledger;
use outrider_config::model;
use outrider_core::matcher::StringMatcher;
use outrider_core::stats::Registry;
use outrider_http::fetch::Fetcher;
use outrider_http::on_demand::{self, Ask};
use outrider_net::listener::GlobalConnections;
use outrider_telemetry::access_log::LogFiles;
use outrider_telemetry::stats::Exposition;
use outrider_upstream::ClusterManager;
use tokio::sync::mpsc;

use crate::bootstrap::LoadedBootstrap;
use crate::dynamic::{self, Generations, Records, RouteTables, Secrets, Subscriptions, lock};
use crate::expiry::ExpiryStats;
use crate::keep::Keep;
use crate::lifecycle::ServerStats;
use crate::listeners::{Builder, BuiltListener, Listeners};
use crate::logging::LogControl;
use crate::options::Options;
use crate::runtime::RuntimeLayers;
use crate::upgrade::Upgrade;
use crate::upgrade::new::TakeOver;

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
    /// `tls.`
    pub(crate) expiry_stats: ExpiryStats,
    /// How stats are read.
    pub exposition: Exposition,
    /// Access log files.
    pub log_files: LogFiles,
    /// Runtime layers.
    pub runtime: RuntimeLayers,
    /// Clusters.
    pub clusters: ClusterManager,
    /// Listeners.
    pub listeners: Listeners,
    /// Those of the bootstrap, built, until they are started.
    pub(crate) first: Mutex<Vec<Arc<BuiltListener>>>,
    /// Those resources of the bootstrap that need some that come from elsewhere.
    pub(crate) later: Later,
    /// Route tables that come from elsewhere.
    pub routes: RouteTables,
    /// Secrets that come from elsewhere.
    pub secrets: Secrets,
    /// What is known of all that comes from elsewhere.
    pub records: Records,
    /// What of the configuration comes from disk.
    pub(crate) keep: Keep,
    /// What is counted of subscriptions.
    pub subscriptions: Subscriptions,
    /// Worker threads.
    pub workers: usize,
    /// Gives memory back.
    pub(crate) memory: MemoryHooks,
    /// The processes before this one and after it.
    pub(crate) upgrade: Upgrade,
    /// Where the process is.
    pub state: State,
}

/// Resources of the bootstrap that cannot be put in force before others have come from elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Later {
    pub(crate) clusters: Mutex<Vec<Arc<model::Cluster>>>,
    pub(crate) listeners: Mutex<Vec<Arc<model::Listener>>>,
    /// Where the questions of requests arrive.
    pub(crate) asks: Mutex<Option<mpsc::Receiver<Ask>>>,
    /// Where what filters of listeners that were built want fetched arrives.
    pub(crate) fetchers: Mutex<Option<mpsc::UnboundedReceiver<Fetcher>>>,
}

fn needs_more(cluster: &model::Cluster) -> bool {
    matches!(cluster.discovery, model::Discovery::Eds { .. }) || cluster.dynamic_secrets().next().is_some()
}

/// What the binary, which owns the allocator, does to give memory back to the kernel.
#[derive(Debug, Clone, Copy)]
pub struct MemoryHooks {
    /// On the control thread, when the start is over.
    pub started: fn(),
    /// On a worker, when many of its connections have gone or fallen asleep; on the control thread, when a large push
    /// of configuration is over.
    pub crowd_left: fn(),
}

impl Default for MemoryHooks {
    /// Gives nothing back.
    fn default() -> Self {
        Self { started: || {}, crowd_left: || {} }
    }
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
        dynamic::check_files(&loaded.model)?;
        let registry = Registry::new();
        set_filter(&registry, &loaded.model.stats);
        let subscriptions = Subscriptions::default();
        subscriptions.expose(&registry);
        let log_files = LogFiles::new(&registry, options.file_flush_min_size);
        let clusters = ClusterManager::with_runtime(registry.clone(), loaded.model.runtime.clone());
        let model = &loaded.model;
        let runtime =
            RuntimeLayers::new(&model.runtime_layers, model.runtime.clone(), clusters.clone(), &registry);
        let mut later = Later::default();
        for cluster in &loaded.model.clusters {
            if needs_more(cluster) {
                lock(&later.clusters).push(cluster.clone());
            } else {
                clusters.add(cluster.clone()).with_context(|| format!("cluster {:?}", cluster.name))?;
            }
        }
        let (routes, secrets) = (RouteTables::default(), Secrets::default());
        let global = GlobalConnections::new(loaded.model.max_downstream_connections.clone());
        let (asker, asks) = on_demand::channel();
        let (fetchers, fetched) = mpsc::unbounded_channel();
        let builder = Builder {
            clusters: clusters.clone(),
            registry: registry.clone(),
            log_files: log_files.clone(),
            global,
            node: loaded.model.node.clone(),
            routes: routes.clone(),
            secrets: secrets.clone(),
            asker,
            fetchers,
        };
        later.asks = Mutex::new(Some(asks));
        later.fetchers = Mutex::new(Some(fetched));
        let listeners = Listeners::new(builder, &registry, options.drain_time, options.drain_gradually);
        let build = |listener: &Arc<model::Listener>| {
            listeners.build(listener).with_context(|| format!("listener {:?}", listener.name))
        };
        let (waiting, ready): (Vec<_>, Vec<_>) = loaded.model.listeners.iter().partition(|listener| {
            dynamic::needs_routes(listener) || !dynamic::dynamic_secrets(listener).is_empty()
        });
        later.listeners = Mutex::new(waiting.into_iter().cloned().collect());
        let first = ready.into_iter().map(build).collect::<anyhow::Result<Vec<_>>>()?;
        let tags = options.stats_tags.iter().filter_map(|tag| tag.split_once(':'));
        let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let workers = options
            .concurrency
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let state = State::new();
        let keep = Keep::new(&registry);
        let generations = Generations::new(&registry, &loaded.model, state.started);
        Ok(Self {
            exposition: Exposition::new(registry.clone(), &loaded.model.stats, tags),
            options,
            model: loaded.model,
            ledger: loaded.ledger,
            wire: loaded.wire,
            log,
            server_stats: ServerStats::new(registry.scope("server.")),
            expiry_stats: ExpiryStats::new(registry.scope("tls.")),
            registry,
            log_files,
            runtime,
            clusters,
            listeners,
            first: Mutex::new(first),
            later,
            routes,
            secrets,
            subscriptions,
            records: Records::new(generations),
            keep,
            workers,
            memory: MemoryHooks::default(),
            upgrade: Upgrade::default(),
            state,
        })
    }

    /// The same, with a way to give memory back.
    #[must_use]
    pub fn with_memory(self, memory: MemoryHooks) -> Self {
        Self { memory, ..self }
    }

    /// The same, in the place of the process before.
    #[must_use]
    pub(crate) fn after(mut self, before: Option<TakeOver>) -> Self {
        if let Some(mut before) = before {
            before.sockets().into_iter().for_each(|socket| self.listeners.inherited.add(socket));
            before.tell(&self);
            self.upgrade = Upgrade::after(before);
        }
        self
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
