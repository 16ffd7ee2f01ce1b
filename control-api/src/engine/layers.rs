//! Objects of several origins as one world: where two know the same object, one of them goes before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Key, Object};
use crate::source::{Input, Origin};
use crate::world::{Touched, World};

/// The objects of each origin, and the world that they come to.
#[derive(Debug, Default)]
pub(super) struct Layers {
    origins: BTreeMap<Origin, BTreeMap<Key, Arc<Object>>>,
    world: Arc<World>,
    revision: u64,
}

impl Layers {
    /// The world as it is now.
    pub(super) fn world(&self) -> Arc<World> {
        Arc::clone(&self.world)
    }

    /// The store's revision in it.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes what a source told.
    pub(super) fn take(&mut self, input: Input) -> Touched {
        let whole = matches!(input, Input::Reset { .. });
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
            // Changes of different kinds may come out of order from Kubernetes; what was seen stays seen.
            self.revision = if whole { revision } else { self.revision.max(revision) };
        }
        let mut touched = Touched::default();
        for (key, object) in changes {
            touched.merge(self.change(origin, key, object));
        }
        touched
    }

    fn change(&mut self, origin: Origin, key: Key, object: Option<Object>) -> Touched {
        let layer = self.origins.entry(origin).or_default();
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
