//! Objects of several origins as one world: where two know the same object, one of them goes before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ca::identity::TrustDomain;
use crate::model::{Key, Object};
use crate::source::{Input, Origin};
use crate::world::{Touched, World};

/// How many objects that went are remembered.
const REMEMBERED: usize = 1024;

/// What went out of folders of manifests, which have no revisions: for watchers that come back and ask what happened meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    /// The store's revision since which this is known; `None`: there never was a manifest.
    since: Option<u64>,
    /// The store's revision when each went.
    keys: BTreeMap<Key, u64>,
}

impl Gone {
    /// What went while the store was at `revision` or later. `None`: that is not known.
    pub fn since(&self, revision: u64) -> Option<impl Iterator<Item = &Key>> {
        // At that revision itself another control plane may have been the one that told.
        if self.since.is_some_and(|since| revision <= since) {
            return None;
        }
        Some(self.keys.iter().filter(move |(_, at)| **at >= revision).map(|(key, _)| key))
    }

    fn note(&mut self, key: Key, revision: u64) {
        self.keys.insert(key, revision);
        if self.keys.len() > REMEMBERED
            && let Some((key, at)) =
                self.keys.iter().min_by_key(|(_, at)| **at).map(|(key, at)| (key.clone(), *at))
        {
            self.keys.remove(&key);
            self.since = self.since.max(Some(at));
        }
    }
}

/// The objects of each origin, and the world that they come to.
#[derive(Debug, Default)]
pub(super) struct Layers {
    origins: BTreeMap<Origin, BTreeMap<Key, Arc<Object>>>,
    world: Arc<World>,
    revision: u64,
    gone: Arc<Gone>,
}

impl Layers {
    /// Without anything, in this trust domain.
    pub(super) fn new(domain: TrustDomain) -> Self {
        Self { world: Arc::new(World::default().of_domain(domain)), ..Self::default() }
    }

    /// The world as it is now.
    pub(super) fn world(&self) -> Arc<World> {
        Arc::clone(&self.world)
    }

    /// The store's revision in it.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What went out of folders of manifests.
    pub(super) fn gone(&self) -> Arc<Gone> {
        Arc::clone(&self.gone)
    }

    /// All sources have told what they have: from here on it is known what goes.
    pub(super) fn complete(&mut self) {
        if self.origins.get(&Origin::Manifests).is_some_and(|layer| !layer.is_empty()) {
            *Arc::make_mut(&mut self.gone) = Gone { since: Some(self.revision), ..Gone::default() };
        }
    }

    /// Takes what a source told.
    pub(super) fn take(&mut self, input: Input) -> Touched {
        let (origin, revision, changes) = match input {
            Input::Reset { origin, revision, objects } => {
                let mut changes: Vec<_> =
                    objects.into_iter().map(|object| (object.key.clone(), Some(object))).collect();
                let kept: BTreeSet<&Key> = changes.iter().map(|(key, _)| key).collect();
                let known = self.origins.get(&origin).into_iter().flat_map(BTreeMap::keys);
                let gone: Vec<_> = known.filter(|key| !kept.contains(key)).cloned().collect();
                changes.extend(gone.into_iter().map(|key| (key, None)));
                (origin, revision, changes)
            }
            Input::Changes { origin, revision, changes } => (origin, revision, changes),
        };
        if origin == Origin::Store {
            self.revision = revision;
        }
        let mut touched = Touched::default();
        for (key, object) in changes {
            touched.merge(self.change(origin, key, object));
        }
        touched
    }

    fn change(&mut self, origin: Origin, key: Key, object: Option<Object>) -> Touched {
        let layer = self.origins.entry(origin).or_default();
        if origin == Origin::Manifests {
            let gone = Arc::make_mut(&mut self.gone);
            gone.since = gone.since.or(Some(self.revision));
            if object.is_some() {
                gone.keys.remove(&key);
            } else if layer.contains_key(&key) {
                gone.note(key.clone(), self.revision);
            }
        }
        match object {
            Some(object) => layer.insert(key.clone(), Arc::new(object)),
            None => layer.remove(&key),
        };
        // The last origin goes before.
        let found = self.origins.values().rev().find_map(|layer| layer.get(&key)).cloned();
        let world = Arc::make_mut(&mut self.world);
        match found {
            Some(object) => world.put(object),
            None => world.remove(&key),
        }
    }
}
