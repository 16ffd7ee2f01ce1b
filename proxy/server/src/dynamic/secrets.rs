//! Secrets that came from elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use outrider_config::model::{ConfigSourceKind, DynamicSecret, Secret};
use outrider_http::secrets::SecretSlot;

/// Secrets by source and name. Cloning gives another handle.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<Known>>);

/// Where a secret comes from, and its name.
type Key = (ConfigSourceKind, Arc<str>);

#[derive(Default)]
struct Known {
    here: HashMap<Key, Arc<Secret>>,
    /// The places in filters that each fills.
    slots: HashMap<Key, Vec<Weak<SecretSlot>>>,
    /// They did not come in time, or what came was no good.
    given_up: HashSet<Key>,
}

fn key(wanted: &DynamicSecret) -> Key {
    (wanted.source.kind.clone(), wanted.name.clone())
}

impl Secrets {
    /// The secret, if it came.
    pub fn find(&self, wanted: &DynamicSecret) -> Option<Arc<Secret>> {
        self.lock().here.get(&key(wanted)).cloned()
    }

    /// Whether a filter that can do without waits no longer: it came, or will not in time.
    pub(crate) fn is_settled(&self, wanted: &DynamicSecret) -> bool {
        let (key, known) = (key(wanted), self.lock());
        known.here.contains_key(&key) || known.given_up.contains(&key)
    }

    /// Nobody who can do without waits for it any longer.
    pub(crate) fn give_up(&self, wanted: &DynamicSecret) {
        self.lock().given_up.insert(key(wanted));
    }

    /// Fills `slot` with the secret that it wants, now if that is here, and whenever it changes.
    pub(crate) fn follow(&self, slot: &Arc<SecretSlot>) {
        let Some(wanted) = slot.wanted() else { return };
        let key = key(wanted);
        let mut known = self.lock();
        if let Some(secret) = known.here.get(&key) {
            fill(slot, secret);
        }
        let slots = known.slots.entry(key).or_default();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(slot));
    }

    /// Keeps a secret that came, and puts it where it is wanted.
    pub(crate) fn store(&self, source: ConfigSourceKind, secret: Arc<Secret>) {
        let key = (source, secret.name.clone());
        let mut known = self.lock();
        for slot in known.slots.get(&key).into_iter().flatten().filter_map(Weak::upgrade) {
            fill(&slot, &secret);
        }
        known.given_up.remove(&key);
        known.here.insert(key, secret);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fill(slot: &SecretSlot, secret: &Secret) {
    if let Err(error) = slot.fill(secret) {
        tracing::error!(secret = &*secret.name, "the credential in force stays: {error}");
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}
