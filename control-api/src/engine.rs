//! Keeps the translation current: takes what sources tell, works out what follows, publishes it.
//!
//! Endpoints go out at once; everything else waits until it has been quiet for a moment, so that a folder of changes is one change.

mod layers;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
pub use layers::Gone;
pub use snapshot::{Since, Snapshot, Step};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::ca::identity::TrustDomain;
use crate::source::{Input, Inputs, Origin};
use crate::translate::{Resources, Scope, Type, TypeSet, endpoints, names, shared};
use crate::world::{Named, Touched};
use layers::Layers;

/// How long it must be quiet before a change is worked out.
const QUIET: Duration = Duration::from_millis(100);
/// How long a change waits at most.
const LONGEST: Duration = Duration::from_secs(1);
/// Inputs that wait; then sources do.
const QUEUE: usize = 1024;
/// How many scopes are kept current at a time, unless somebody says otherwise: each is worked out anew with each change.
pub const SCOPES: usize = 1000;

/// The current state of everything. Cheap to share.
#[derive(Debug)]
pub struct Engine {
    snapshot: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    /// The store's revision that is in the published world.
    revision: watch::Sender<u64>,
    /// Scopes that somebody uses, with what they get: kept current as long as a stream holds the key.
    scopes: Mutex<HashMap<Scope, Weak<ScopeKey>>>,
    /// How many of them there may be.
    most: usize,
}

/// There are as many scopes as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "proxies of {0} scopes (namespaces, Gateways, declared dependencies, labels that policies select by) are connected, the most \
     that this control plane keeps current; raise --max-scopes, or look for proxies that make namespaces up"
)]
pub struct TooManyScopes(usize);

/// Whoever holds one keeps the resources of its scope worked out.
#[derive(Debug)]
pub struct ScopeKey(pub Scope);

impl Engine {
    /// Starts it; it is ready when each of `origins` has told all it has. Must be called in a runtime of several threads.
    pub fn start(origins: BTreeSet<Origin>) -> (Arc<Self>, Inputs) {
        Self::bounded(origins, SCOPES, TrustDomain::default())
    }

    /// As [`Engine::start`], with `most` scopes at a time, for workloads of this trust domain.
    pub fn bounded(origins: BTreeSet<Origin>, most: usize, domain: TrustDomain) -> (Arc<Self>, Inputs) {
        let engine = Arc::new(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            generation: watch::channel(0).0,
            revision: watch::channel(0).0,
            scopes: Mutex::default(),
            most,
        });
        let (inputs, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(run(Arc::clone(&engine), receiver, origins, domain));
        (engine, inputs)
    }

    /// What is published now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Tells of each new generation. The value is 0 until all sources have told what they have.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Whether all sources have told what they have.
    pub fn ready(&self) -> bool {
        *self.generation.borrow() > 0
    }

    /// Waits until all sources have told what they have.
    pub async fn until_ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.news().wait_for(|generation| *generation > 0).await;
    }

    /// Waits until the published world has this revision of the store.
    pub async fn applied(&self, revision: u64) {
        let _ = self.revision.subscribe().wait_for(|known| *known >= revision).await;
    }

    /// Enters a scope, whose resources are kept current until the key is dropped.
    ///
    /// # Errors
    /// When there are too many already, and this is another one.
    pub fn enter(&self, scope: &Scope) -> Result<Arc<ScopeKey>, TooManyScopes> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = scopes.get(scope).and_then(Weak::upgrade) {
            return Ok(key);
        }
        scopes.retain(|_, key| key.strong_count() > 0);
        if scopes.len() >= self.most {
            return Err(TooManyScopes(self.most));
        }
        let key = Arc::new(ScopeKey(scope.clone()));
        scopes.insert(scope.clone(), Arc::downgrade(&key));
        Ok(key)
    }

    /// What a scope gets in a snapshot, worked out on a thread that may be busy if nobody did before. `None`: it could not be
    /// worked out, which is a fault of ours; what the proxy has must stay.
    pub async fn shared(&self, snapshot: &Arc<Snapshot>, scope: &Scope) -> Option<Arc<Resources>> {
        if let Some(known) = snapshot.known(scope) {
            return Some(known);
        }
        let (snapshot, scope) = (Arc::clone(snapshot), scope.clone());
        tokio::task::spawn_blocking(move || snapshot.shared(&scope)).await.ok()
    }

    fn scopes_in_use(&self) -> Vec<Scope> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.retain(|_, key| key.strong_count() > 0);
        scopes.keys().cloned().collect()
    }

    fn publish(&self, snapshot: Snapshot, ready: bool, revision: u64) {
        let generation = snapshot.generation;
        self.snapshot.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
        if ready {
            self.generation.send_replace(generation);
        }
    }
}

async fn run(
    engine: Arc<Engine>,
    mut inputs: mpsc::Receiver<Input>,
    origins: BTreeSet<Origin>,
    domain: TrustDomain,
) {
    let mut state =
        State { engine, layers: Layers::new(domain), missing: origins, waiting: Touched::default() };
    let (mut first, mut last): (Option<Instant>, Option<Instant>) = (None, None);
    let mut batch = Vec::new();
    if state.missing.is_empty() {
        guarded(|| state.publish_all());
    }
    loop {
        let due = first.zip(last).map(|(first, last)| (first + LONGEST).min(last + QUIET));
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            count = inputs.recv_many(&mut batch, QUEUE) => {
                if count == 0 {
                    return;
                }
                let started = !state.missing.is_empty();
                guarded(|| state.take(batch.drain(..)));
                let now = Instant::now();
                if state.waiting.rest {
                    first.get_or_insert(now);
                    last = Some(now);
                }
                // The first whole picture waits for nobody.
                if started && state.missing.is_empty() {
                    guarded(|| state.publish_all());
                    (first, last) = (None, None);
                }
            }
            () = wait => {
                guarded(|| state.publish_all());
                (first, last) = (None, None);
            }
        }
    }
}

/// Does work that takes its time. A fault in it (a panic) leaves what is published as it is: the engine goes on, with the next
/// change if not with this one.
fn guarded(work: impl FnOnce()) {
    let work = std::panic::AssertUnwindSafe(work);
    if tokio::task::block_in_place(|| std::panic::catch_unwind(work)).is_err() {
        tracing::error!(
            "a change could not be worked out, which is a fault of this control plane; the configuration before it stays in force"
        );
    }
}

/// What the engine's task keeps.
struct State {
    engine: Arc<Engine>,
    layers: Layers,
    /// Origins that have told nothing yet.
    missing: BTreeSet<Origin>,
    /// What changed and is not published.
    waiting: Touched,
}

impl State {
    /// Takes inputs; publishes endpoints at once, where nothing but endpoints changed.
    fn take(&mut self, inputs: impl Iterator<Item = Input>) {
        let mut touched = Touched::default();
        for input in inputs {
            let last = matches!(&input, Input::Reset { origin, .. } if self.missing.remove(origin));
            touched.merge(self.layers.take(input));
            if last && self.missing.is_empty() {
                self.layers.complete();
            }
        }
        if !self.missing.is_empty() {
            self.waiting.merge(touched);
            return;
        }
        // Before anything is published: of what waits, it must not say that it is served.
        self.waiting.rest |= touched.rest;
        if !touched.endpoints.is_empty() && self.engine.ready() {
            self.publish_endpoints(&touched.endpoints, touched.addresses.clone());
        } else if !self.waiting.rest && self.engine.ready() {
            // Nothing that a proxy could notice, but readers want to see their writes.
            self.publish_endpoints(&BTreeSet::new(), BTreeSet::new());
        }
    }

    /// Publishes the endpoints of these services, with routes and policies as they are.
    fn publish_endpoints(&self, services: &BTreeSet<Named>, addresses: BTreeSet<IpAddr>) {
        let old = self.engine.snapshot();
        let world = self.layers.world();
        let mut set: TypeSet = (*old.endpoints).clone();
        let mut changed = Vec::new();
        let context = Arc::new(old.context.with_endpoints(world));
        for service in services {
            for resource in endpoints::of_service(&context, service) {
                if set.get(&resource.name).is_none_or(|known| known.version != resource.version) {
                    changed.push(Arc::clone(&resource.name));
                    set.insert(resource);
                }
            }
        }
        let step = Step { generation: old.generation + 1, endpoints: changed.into(), addresses, rest: false };
        // What was worked out for those who have left meanwhile is not kept.
        let in_use: HashSet<Scope> = self.engine.scopes_in_use().into_iter().collect();
        let mut scopes = old.all_shared();
        scopes.retain(|scope, _| in_use.contains(scope));
        let mut snapshot = old.next(step, context, Arc::new(set), scopes);
        snapshot.revision = self.layers.revision();
        snapshot.gone = self.layers.gone();
        // With something else waiting, the store's revision is not in what is served yet.
        let revision =
            if self.waiting.rest { *self.engine.revision.borrow() } else { self.layers.revision() };
        self.engine.publish(snapshot, true, revision);
    }

    /// Works everything out anew.
    fn publish_all(&mut self) {
        let began = std::time::Instant::now();
        let old = self.engine.snapshot();
        let now = chrono::Utc::now().timestamp();
        let context = Arc::new(old.context.after(self.layers.world(), now));
        let mut set = endpoints::all(&context, |_| true);
        set.share_with(&old.endpoints);
        let mut scopes = HashMap::new();
        for scope in self.engine.scopes_in_use() {
            let mut resources = shared(&context, &scope);
            if let Some(old) = old.known(&scope) {
                resources.share_with(&old);
            }
            scopes.insert(scope, Arc::new(resources));
        }
        let step = Step {
            generation: old.generation + 1,
            endpoints: Arc::default(),
            addresses: BTreeSet::new(),
            rest: true,
        };
        let generation = step.generation;
        let (objects, count) = (context.world.objects().count(), scopes.len());
        let mut snapshot = old.next(step, context, Arc::new(set), scopes);
        snapshot.revision = self.layers.revision();
        snapshot.gone = self.layers.gone();
        self.engine.publish(snapshot, self.missing.is_empty(), self.layers.revision());
        // Not before it is done: after a fault it still waits, and the next change tries again.
        self.waiting = Touched::default();
        let took = began.elapsed();
        tracing::info!(generation, objects, scopes = count, ?took, "a new configuration is published");
    }
}

/// What a proxy gets in all: the part of its scope, its own, and the endpoints of the clusters in both.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What the scope shares.
    pub shared: Arc<Resources>,
    /// Its own.
    pub own: Arc<Resources>,
    /// The endpoints of everything.
    pub endpoints: Arc<TypeSet>,
}

impl View {
    /// One resource by name. Endpoints are given for clusters that the proxy has.
    pub fn get(&self, kind: Type, name: &str) -> Option<&Arc<crate::translate::Resource>> {
        if kind == Type::Endpoints {
            let own =
                self.own.of(Type::Endpoints).get(name).or_else(|| self.shared.of(Type::Endpoints).get(name));
            return own.or_else(|| {
                let beside = || names::beside(name).find_map(|it| self.get(Type::Cluster, &it));
                self.get(Type::Cluster, name).or_else(beside)?;
                self.endpoints.get(name)
            });
        }
        let found = self.own.of(kind).get(name).or_else(|| self.shared.of(kind).get(name));
        let on_demand = || self.shared.on_demand.get(name).filter(|_| kind == Type::Cluster);
        found.or_else(on_demand)
    }

    /// All resources of a type that a wildcard means; not for endpoints.
    pub fn all(&self, kind: Type) -> impl Iterator<Item = &Arc<crate::translate::Resource>> {
        let own = self.own.of(kind);
        own.iter().chain(self.shared.of(kind).iter().filter(|it| own.get(&it.name).is_none()))
    }
}
