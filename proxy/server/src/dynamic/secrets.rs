//! Secrets that came from elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrider_config::model::{ConfigSourceKind, DynamicSecret, Secret};

/// Secrets by source and name. Cloning gives another handle.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<ByName>>);

type ByName = HashMap<(ConfigSourceKind, Arc<str>), Arc<Secret>>;

impl Secrets {
    /// The secret, if it came.
    pub fn find(&self, wanted: &DynamicSecret) -> Option<Arc<Secret>> {
        self.lock().get(&(wanted.source.kind.clone(), wanted.name.clone())).cloned()
    }

    /// Keeps a secret that came.
    pub(crate) fn store(&self, source: ConfigSourceKind, secret: Arc<Secret>) {
        self.lock().insert((source, secret.name.clone()), secret);
    }

    fn lock(&self) -> MutexGuard<'_, ByName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}
