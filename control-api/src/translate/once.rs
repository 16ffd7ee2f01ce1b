//! What follows from a world and is asked for again and again: by each proxy, for each port.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock, PoisonError};

use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::{Scope, mtls::Accounts};
use crate::world::Named;

/// Answers, as they were worked out first. They depend on nothing but the world and what they are kept by.
#[derive(Debug, Default)]
pub(super) struct Once {
    limits: Mutex<HashMap<Scope, bool>>,
    credentials: Mutex<HashMap<Scope, Vec<HttpFilter>>>,
    accounts: OnceLock<Accounts>,
    meshed: OnceLock<BTreeSet<Named>>,
}

impl Once {
    /// Which accounts serve which service.
    pub(super) fn accounts(&self, find: impl FnOnce() -> Accounts) -> &Accounts {
        self.accounts.get_or_init(find)
    }

    /// The services all of whose Pods speak mutual TLS.
    pub(super) fn meshed(&self, find: impl FnOnce() -> BTreeSet<Named>) -> &BTreeSet<Named> {
        self.meshed.get_or_init(find)
    }

    /// Whether a policy limits rates of something that a scope sees or reaches.
    pub(super) fn limits(&self, scope: &Scope, find: impl FnOnce() -> bool) -> bool {
        kept(&self.limits, scope, find)
    }

    /// The filters for credentials that a scope sees or reaches.
    pub(super) fn credentials(
        &self,
        scope: &Scope,
        find: impl FnOnce() -> Vec<HttpFilter>,
    ) -> Vec<HttpFilter> {
        kept(&self.credentials, scope, find)
    }
}

fn kept<T: Clone>(all: &Mutex<HashMap<Scope, T>>, scope: &Scope, find: impl FnOnce() -> T) -> T {
    let known = || all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known().get(scope) {
        return found.clone();
    }
    // Without the lock: whoever asks at the same time finds the same.
    let found = find();
    known().insert(scope.clone(), found.clone());
    found
}
