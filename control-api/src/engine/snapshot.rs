//! What is published: one consistent picture, and a short memory of how it came about.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::layers::Gone;
use crate::translate::{Context, Resources, Scope, TypeSet, shared};

/// How many steps are remembered.
const MEMORY: usize = 256;

/// One change from a generation to the next.
#[derive(Clone, Debug)]
pub struct Step {
    /// The generation that it led to.
    pub generation: u64,
    /// The endpoint resources that changed.
    pub endpoints: Arc<[Arc<str>]>,
    /// The addresses that became an endpoint or ceased to be one.
    pub addresses: BTreeSet<IpAddr>,
    /// Anything may have changed.
    pub rest: bool,
}

/// What changed since a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Anything.
    Anything,
    /// Endpoints alone.
    Endpoints {
        /// The resources.
        names: BTreeSet<Arc<str>>,
        /// The addresses that came or went.
        addresses: BTreeSet<IpAddr>,
    },
}

/// What a scope gets: worked out by the first that asks, while others wait for it and nobody else does.
type Shared = Arc<OnceLock<Arc<Resources>>>;

/// One consistent picture of everything.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts pictures; 0 is the empty one before the start.
    pub generation: u64,
    /// The store's revision that the world has. Routes and policies may be of an earlier one: see [`super::Engine::applied`].
    pub revision: u64,
    /// What went out of folders of manifests.
    pub gone: Arc<Gone>,
    /// The world and what follows from it.
    pub context: Arc<Context>,
    /// All endpoints.
    pub endpoints: Arc<TypeSet>,
    /// What scopes get, as far as it was worked out.
    scopes: Mutex<HashMap<Scope, Shared>>,
    steps: VecDeque<Step>,
}

impl Snapshot {
    /// The picture after a step.
    pub(super) fn next(
        &self,
        step: Step,
        context: Arc<Context>,
        endpoints: Arc<TypeSet>,
        scopes: HashMap<Scope, Arc<Resources>>,
    ) -> Self {
        let mut steps = self.steps.clone();
        if steps.len() >= MEMORY {
            steps.pop_front();
        }
        let generation = step.generation;
        steps.push_back(step);
        let scopes = scopes.into_iter().map(|(scope, it)| (scope, Arc::new(OnceLock::from(it)))).collect();
        let (revision, gone) = (self.revision, Arc::clone(&self.gone));
        Self { generation, revision, gone, context, endpoints, scopes: Mutex::new(scopes), steps }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Scope, Shared>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a scope gets, if somebody worked it out.
    pub(super) fn known(&self, scope: &Scope) -> Option<Arc<Resources>> {
        self.lock().get(scope)?.get().cloned()
    }

    /// All that was worked out.
    pub(super) fn all_shared(&self) -> HashMap<Scope, Arc<Resources>> {
        let scopes = self.lock();
        scopes.iter().filter_map(|(scope, it)| Some((scope.clone(), Arc::clone(it.get()?)))).collect()
    }

    /// What a scope gets. May take long.
    pub fn shared(&self, scope: &Scope) -> Arc<Resources> {
        let cell = Arc::clone(self.lock().entry(scope.clone()).or_default());
        Arc::clone(cell.get_or_init(|| Arc::new(shared(&self.context, scope))))
    }

    /// What changed since a generation, as far as that is remembered.
    pub fn since(&self, generation: u64) -> Since {
        let news = || self.steps.iter().filter(|step| step.generation > generation);
        let whole = self.steps.front().is_some_and(|oldest| oldest.generation <= generation + 1);
        if !whole || news().any(|step| step.rest) {
            return Since::Anything;
        }
        Since::Endpoints {
            names: news().flat_map(|step| step.endpoints.iter().cloned()).collect(),
            addresses: news().flat_map(|step| step.addresses.iter().copied()).collect(),
        }
    }
}
