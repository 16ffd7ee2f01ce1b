//! The controller: the one that puts dynamic configuration in force.
//!
//! It runs on the control thread and takes one event after the other. A resource is converted, built and judged by
//! itself: one that is refused never keeps another from taking effect. What is good waits (is *warm*ed) until what it
//! needs is there, and only then takes the place of what it replaces.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use outrider_config::model::{ConfigSource, DynamicResources, DynamicSecret};
use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::prost::Message as _;
use outrider_upstream::WorkerClusters;
use outrider_xds::{Event, Handle, Kind, Refusal, Resource, Token, Update};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::clusters::Clusters;
use super::decode::Decoder;
use super::demand::Demand;
use super::extensions::Extensions;
use super::listeners::WaitingListeners;
use super::order::Held;
use super::records::Version;
use super::restore::Restore;
use super::runtime::RuntimeSubscriptions;
use super::scopes::RouteScopes;
use super::secret_files::SecretFiles;
use super::stale::Stale;
use super::stats::SubscriptionStats;
use super::streams::{QUEUE, StreamId, Streams};
use super::tidy::Tidy;
use super::vhosts::VirtualHosts;
use crate::control::Control;
use crate::keep;

/// How far the first configuration has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Runtime layers are awaited.
    Runtime,
    /// Clusters are awaited, with all that they need.
    Clusters,
    /// Listeners are awaited, with all that they need.
    Listeners,
    /// All is there, or its time is over.
    Done,
}

/// The controller.
pub(crate) struct Controller {
    pub(super) control: Arc<Control>,
    pub(super) streams: Streams,
    pub(super) clusters: Clusters,
    pub(super) listeners: WaitingListeners,
    pub(super) extensions: Extensions,
    pub(super) decoder: Decoder,
    pub(super) wanted_secrets: Vec<(StreamId, Arc<DynamicSecret>)>,
    /// The secrets in force, each by a number that is another when it is another.
    pub(super) secrets_here: HashMap<(StreamId, Arc<str>), u64>,
    pub(super) secret_files: SecretFiles,
    pub(super) held: Held,
    pub(super) stale: Stale,
    tidy: Tidy,
    pub(super) vhosts: VirtualHosts,
    pub(super) runtime: RuntimeSubscriptions,
    pub(super) restore: Restore,
    pub(super) scopes: RouteScopes,
    pub(super) demand: Demand,
    events: mpsc::Receiver<(StreamId, Event)>,
    pub(super) cds: Option<(StreamId, SubscriptionStats)>,
    pub(super) lds: Option<(StreamId, SubscriptionStats)>,
    dynamic: DynamicResources,
    pub(super) stage: Stage,
    // The answer of CDS or LDS that the stage waits for has come, or is late.
    answered: bool,
    initialized: watch::Sender<bool>,
}

impl Controller {
    /// A controller for what the bootstrap of `control` says. The receiver turns true when the first configuration
    /// is in force.
    pub(crate) fn new(control: Arc<Control>) -> (Self, watch::Receiver<bool>) {
        let (queue, events) = mpsc::channel(QUEUE);
        let (initialized, done) = watch::channel(false);
        let node = Node::decode(&*control.model.node.wire).unwrap_or_default();
        let dynamic = control.model.dynamic.clone();
        let clusters = WorkerClusters::new(control.clusters.clone());
        let streams = Streams::new(
            dynamic.ads.clone(),
            node,
            clusters,
            control.registry.clone(),
            control.options.reject_unknown_dynamic_fields,
            queue,
        );
        let runtime = SubscriptionStats::new(control.registry.scope("runtime."));
        let runtime = RuntimeSubscriptions::new(runtime);
        let known_clusters = Clusters::new(&control);
        let asks = lock(&control.later.asks).take().unwrap_or_else(|| outrider_http::on_demand::channel().1);
        let controller = Self {
            listeners: WaitingListeners::default(),
            extensions: Extensions::default(),
            decoder: Decoder::new(control.clone(), known_clusters.expected()),
            clusters: known_clusters,
            streams,
            wanted_secrets: Vec::new(),
            secrets_here: HashMap::new(),
            secret_files: SecretFiles::default(),
            held: Held::default(),
            stale: Stale::default(),
            tidy: Tidy::default(),
            vhosts: VirtualHosts::default(),
            runtime,
            restore: Restore::new(control.options.state_dir.clone()),
            scopes: RouteScopes::default(),
            demand: Demand::new(asks),
            events,
            cds: None,
            lds: None,
            dynamic,
            stage: Stage::Runtime,
            answered: false,
            initialized,
            control,
        };
        (controller, done)
    }

    /// Runs until the process ends.
    pub(crate) async fn run(mut self) {
        let mut changes = self.control.clusters.changes();
        self.subscribe_runtime();
        self.settle();
        loop {
            let due = self.next_due();
            tokio::select! {
                Some((stream, event)) = self.events.recv() => self.take(stream, event),
                Ok(()) = changes.changed() => self.clusters.hosts_changed(),
                Some(ask) = self.demand.asks.recv() => self.asked(ask),
                Some(place) = self.secret_files.changes.recv() => self.secret_files_changed(&place),
                () = until(due) => {}
            }
            self.settle();
            while self.restore_more() {
                self.settle();
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let (held, stale, tidy) = (self.held.next(), self.stale.next(), self.tidy.next());
        [held, stale, tidy, self.restore.next(), self.demand.next()].into_iter().flatten().min()
    }

    /// Promotes what is warm, and goes to the next stage when all that this one waits for is there.
    fn settle(&mut self) {
        if self.tidy.is_due(Instant::now()) {
            (self.control.memory.crowd_left)();
        }
        self.forget_stale();
        self.promote_clusters();
        self.release_held();
        self.promote_scopes();
        self.promote_listeners();
        if self.stage == Stage::Runtime && self.runtime.is_settled() {
            self.stage = Stage::Clusters;
            super::load::start(&self.control);
            let clusters = std::mem::take(&mut *lock(&self.control.later.clusters));
            for cluster in clusters {
                self.put_cluster(cluster, None);
            }
            let source = self.dynamic.cds.clone();
            self.cds = self.subscribe_all(source.as_ref(), Kind::Cluster, "cluster_manager.cds.");
            self.answered = self.cds.is_none();
            self.promote_clusters();
        }
        if self.stage == Stage::Clusters && self.answered && !self.clusters.is_warming(self.restore.is_used())
        {
            self.stage = Stage::Listeners;
            super::keys::start(&self.control);
            let listeners = std::mem::take(&mut *lock(&self.control.later.listeners));
            for listener in listeners {
                if let Err(refusals) = self.put_listener(listener, None) {
                    tracing::error!(?refusals, "a static listener cannot be put in force");
                }
            }
            let source = self.dynamic.lds.clone();
            self.lds = self.subscribe_all(source.as_ref(), Kind::Listener, "listener_manager.lds.");
            self.answered = self.lds.is_none();
            self.promote_listeners();
        }
        if self.stage == Stage::Listeners
            && self.answered
            && !self.listeners.is_warming(self.restore.is_used())
        {
            self.stage = Stage::Done;
            self.initialized.send_replace(true);
        }
        self.answer_demand();
        self.control.records.generations().close();
    }

    fn subscribe_all(
        &mut self,
        source: Option<&ConfigSource>,
        kind: Kind,
        scope: &str,
    ) -> Option<(StreamId, SubscriptionStats)> {
        let source = source?;
        let stream = self.streams.of(&source.kind, kind)?;
        let stats = SubscriptionStats::new(self.control.registry.scope(scope.to_owned()));
        stats.update_attempt().inc();
        self.restore.asked(stream, source.initial_fetch_timeout);
        self.streams.get(stream)?.subscribe_all(kind, source.initial_fetch_timeout);
        Some((stream, stats))
    }

    fn take(&mut self, stream: StreamId, event: Event) {
        match event {
            Event::Connected { service } => {
                self.streams.connected(stream, service);
                tracing::info!(stream, service, "connected to a control plane");
            }
            Event::Disconnected { service, why, attempt, retry_in } => {
                tracing::warn!(stream, service, attempt, ?retry_in, "no control plane: {why}");
                self.count_failure(stream);
                self.control.subscriptions.disconnected(stream);
                self.not_reached(stream, attempt);
            }
            Event::Unreadable { why } => {
                tracing::warn!(stream, "what was read before stays in force: {why}");
                self.count_failure(stream);
            }
            Event::Update(update) => self.update(stream, update),
            Event::FetchTimedOut { kind, name } => self.timed_out(stream, kind, name.as_ref()),
            Event::Expired { kind: Kind::Endpoint, name } => self.lose_endpoints(stream, &name),
            Event::Expired { kind, name } => self.removed(stream, kind, &name),
        }
    }

    pub(super) fn update(&mut self, stream: StreamId, update: Update) {
        self.begin_update(stream, &update);
        self.tidy.pushed(update.resources.iter().map(|resource| resource.body.len()).sum());
        let Update { kind, token, version, resources, removed, .. } = update;
        self.control.registry.set_text("control_plane.identifier", &update.control_plane);
        let mut refusals = Vec::new();
        let mut any_good = resources.is_empty() && update.refused.is_empty();
        // What is not in the answer is not missing: there is no such thing.
        removed
            .iter()
            .chain([&keep::ALL.into()])
            .for_each(|name| self.control.keep.misses_no_more(kind, name));
        // Make before break: what goes is let go after what comes, unless it stands in its way.
        for name in removed.iter().filter(|_| kind == Kind::Listener) {
            self.removed(stream, kind, name);
        }
        for resource in resources {
            let accepted = match kind {
                Kind::Cluster => self.cluster(&resource),
                Kind::Endpoint => self.endpoints(stream, &resource),
                Kind::Listener => self.listener(&resource),
                Kind::Route => self.routes(stream, &resource),
                Kind::VirtualHost => self.virtual_host(stream, &resource),
                Kind::ScopedRoute => self.scope(stream, &resource),
                Kind::Secret => self.secret(stream, &resource),
                Kind::Runtime => self.runtime_layer(stream, &resource),
                Kind::Extension => self.extension(stream, &resource),
            };
            self.control.subscriptions.answered(kind, &resource.name, &version, &accepted);
            if accepted.is_ok() {
                any_good = true;
                self.control.keep.misses_no_more(kind, &resource.name);
            }
            if let Err(bad) = accepted {
                let details: Vec<String> = bad.iter().map(text).collect();
                let details = details.join("; ");
                tracing::warn!(%kind, name = &*resource.name, version = &*resource.version, "refused: {details}");
                let mut version = version_of(&resource);
                if kind == Kind::Secret {
                    version.body = Bytes::new();
                }
                if self.control.records.refused(kind, &resource.name, version, details) {
                    self.control.keep.misses(kind, &resource.name);
                }
                refusals.extend(bad);
                // As in Envoy: who waits for it waits no longer.
                match kind {
                    Kind::Endpoint => self.give_up_endpoints(stream, &resource.name),
                    Kind::Route => self.give_up_routes(stream, &resource.name),
                    Kind::Extension => self.give_up_extension(stream, &resource.name, false),
                    Kind::Secret => self.give_up_secret(stream, &resource.name),
                    _ => {}
                }
            }
        }
        if kind == Kind::Cluster && !removed.is_empty() {
            let named = self.named_clusters();
            removed.iter().for_each(|name| self.let_go(name, &named));
        } else if kind == Kind::VirtualHost {
            refusals.extend(self.publish_virtual_hosts(stream, &removed));
        } else if kind == Kind::ScopedRoute {
            refusals.extend(self.publish_scopes(stream, &removed));
        } else if kind != Kind::Listener {
            removed.iter().for_each(|name| self.removed(stream, kind, name));
        }
        self.decoder.release();
        if any_good && matches!(kind, Kind::Cluster | Kind::Listener) {
            self.list_accepted(kind, token);
        }
        let good = refusals.is_empty() && update.refused.is_empty();
        self.count(kind, (token != Token::NONE).then_some(&*version), good);
        if let Some(handle) = self.streams.get(stream) {
            handle.verdict(token, refusals);
        }
    }

    /// Counts a failure for CDS and LDS, if they come by `stream`.
    fn count_failure(&self, stream: StreamId) {
        for (_, stats) in [&self.cds, &self.lds].into_iter().flatten().filter(|(of, _)| *of == stream) {
            stats.update_failure().inc();
        }
    }

    /// Counts an answer of a control plane in `version`; without one it is not a control plane's.
    fn count(&mut self, kind: Kind, version: Option<&str>, good: bool) {
        let stats = match kind {
            Kind::Cluster => &self.cds,
            Kind::Listener => &self.lds,
            _ => return,
        };
        if let Some((_, stats)) = stats {
            if let Some(version) = version {
                stats.answered(version, good);
            }
            self.answered |= (kind == Kind::Cluster) == (self.stage == Stage::Clusters);
        }
    }

    fn removed(&mut self, stream: StreamId, kind: Kind, name: &Arc<str>) {
        self.control.subscriptions.removed(kind, name);
        self.control.keep.misses_no_more(kind, name);
        match kind {
            Kind::Cluster => self.let_go(name, &self.named_clusters()),
            Kind::Listener => self.remove_listener(name),
            Kind::Endpoint => self.no_such_endpoints(stream, name),
            Kind::VirtualHost => drop(self.publish_virtual_hosts(stream, std::slice::from_ref(name))),
            Kind::Runtime => self.lose_runtime_layer(stream, name),
            Kind::ScopedRoute => drop(self.publish_scopes(stream, std::slice::from_ref(name))),
            Kind::Extension => self.lose_extension(stream, name),
            // Who has it keeps it; a filter that waits for it goes on without.
            Kind::Secret => self.give_up_secret(stream, name),
            // Tables stay in force until nobody uses them.
            _ => {}
        }
    }

    fn timed_out(&mut self, stream: StreamId, kind: Kind, name: Option<&Arc<str>>) {
        tracing::warn!(%kind, name = name.map_or("*", |name| &**name), "did not come within initial_fetch_timeout");
        name.inspect(|name| self.control.subscriptions.timed_out(kind, name));
        self.fall_back(stream);
        self.control.keep.misses(kind, name.unwrap_or(&keep::ALL.into()));
        match (kind, name) {
            (Kind::Cluster | Kind::Listener, _) => {
                let stats = if kind == Kind::Cluster { &self.cds } else { &self.lds };
                if let Some((_, stats)) = stats {
                    stats.init_fetch_timeout().inc();
                }
                self.answered |= (kind == Kind::Cluster) == (self.stage == Stage::Clusters);
            }
            (Kind::Endpoint, Some(name)) => self.give_up_endpoints(stream, name),
            (Kind::Route, Some(name)) => self.give_up_routes(stream, name),
            (Kind::VirtualHost, None) => self.give_up_virtual_hosts(stream),
            (Kind::Runtime, Some(name)) => self.give_up_runtime_layer(stream, name),
            (Kind::ScopedRoute, None) => self.give_up_scopes(stream),
            (Kind::Extension, Some(name)) => self.give_up_extension(stream, name, true),
            // TLS that waits for a secret goes on waiting: it cannot serve without.
            (Kind::Secret, Some(name)) => self.give_up_secret(stream, name),
            _ => {}
        }
    }

    /// The stream that brings `kind` from `source`, and its handle.
    pub(super) fn stream(&mut self, source: &ConfigSource, kind: Kind) -> Option<(StreamId, Handle)> {
        let id = self.streams.of(&source.kind, kind)?;
        Some((id, self.streams.get(id)?.clone()))
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What is known of a version for the records.
pub(super) fn version_of(resource: &Resource) -> Version {
    Version {
        version: resource.version.clone(),
        body: resource.body.clone(),
        at: SystemTime::now(),
        // The records know which; what has a TTL is to vanish with its control plane.
        origin: resource.ttl.is_none().then(Arc::default),
    }
}

fn text(refusal: &Refusal) -> String {
    if refusal.path.is_empty() {
        refusal.reason.clone()
    } else {
        format!("{}: {}", refusal.path, refusal.reason)
    }
}

pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
