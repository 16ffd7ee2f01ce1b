//! Make before break, whatever the order in which a control plane sends.
//!
//! A table whose clusters are not there yet does not replace one that works, and a cluster that a table in force still
//! names does not go. Both wait for the other half of the change, and [`PATIENCE`] is how long: then the control plane
//! is taken at its word.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use outrider_config::model::HttpFilterKind;
use outrider_http::Change;
use outrider_http::routing::RouteTable;
use outrider_xds::Kind;
use tokio::time::Instant;

use super::controller::Controller;
use super::generations::Step;
use super::routes::RouteKey;
use crate::listeners::BuiltFilter;

/// How long one half of a change waits for the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What waits for the other half of its change.
#[derive(Default)]
pub(super) struct Held {
    tables: HashMap<RouteKey, (Arc<RouteTable>, Instant)>,
    leaving: HashMap<Arc<str>, Instant>,
}

impl Held {
    /// When the next of them has waited long enough.
    pub(super) fn next(&self) -> Option<Instant> {
        let tables = self.tables.values().map(|(_, until)| *until);
        tables.chain(self.leaving.values().copied()).min()
    }

    /// Whether a table of `key` waits for its clusters.
    pub(super) fn holds(&self, key: &RouteKey) -> bool {
        self.tables.contains_key(key)
    }

    /// The cluster is wanted again.
    pub(super) fn stays(&mut self, name: &str) {
        self.leaving.remove(name);
    }
}

impl Controller {
    /// Puts a table in force, or holds it back while it would break what works.
    pub(super) fn put_table(&mut self, key: &RouteKey, table: &Arc<RouteTable>) {
        let current = self.control.routes.current(key);
        let breaks = current.is_some_and(|current| breaks(table, &current));
        if breaks && !self.brings_clusters_on_demand() {
            // The wait began with the first of the tables that wait: a control plane that sends often waits no longer.
            let until = self.held.tables.get(key).map_or_else(|| Instant::now() + PATIENCE, |held| held.1);
            self.held.tables.insert(key.clone(), (table.clone(), until));
        } else {
            self.held.tables.remove(key);
            self.publish_table(key, table);
        }
    }

    /// Whether a connection manager asks for the clusters that its routes lead to when a request needs them: then one that
    /// is not there breaks nothing.
    fn brings_clusters_on_demand(&self) -> bool {
        let listeners = self.control.listeners.active();
        let mut chains = listeners.iter().flat_map(|active| &active.listener.chains);
        chains.any(|chain| {
            match &chain.filter {
            BuiltFilter::Http(shared) => shared.config.filters.iter().any(|filter| {
                matches!(&filter.kind, HttpFilterKind::OnDemand(settings) if settings.clusters.is_some())
            }),
            BuiltFilter::Tcp(_) | BuiltFilter::Missing => false,
        }
        })
    }

    pub(super) fn publish_table(&self, key: &RouteKey, table: &Arc<RouteTable>) {
        let store = || self.control.routes.store(key, table.clone());
        if let Some(slot) = self.control.records.generations().time(Step::Publish, store) {
            self.control.listeners.review(&Change::Table(slot));
        }
        self.control.records.promoted(Kind::Route, &key.1);
    }

    /// Removes a cluster, or lets it be while something in force names it (is in `named`).
    pub(super) fn let_go(&mut self, name: &Arc<str>, named: &HashSet<Arc<str>>) {
        if self.clusters.is_fixed(name) {
            // The bootstrap's: no control plane takes it away.
            return;
        }
        if self.clusters.is_active(name) && named.contains(name) {
            self.held.leaving.entry(name.clone()).or_insert_with(|| Instant::now() + PATIENCE);
        } else {
            self.remove_cluster(name);
        }
    }

    /// Takes the second half of changes whose first has come, or is late.
    pub(super) fn release_held(&mut self) {
        let now = Instant::now();
        let ready = |(table, until): &(Arc<RouteTable>, Instant)| *until <= now || is_complete(table);
        let tables: Vec<_> =
            self.held.tables.iter().filter(|(_, held)| ready(held)).map(|(key, _)| key.clone()).collect();
        for key in tables {
            if let Some((table, _)) = self.held.tables.remove(&key) {
                self.publish_table(&key, &table);
            }
        }
        if self.held.leaving.is_empty() {
            return;
        }
        let named = self.named_clusters();
        let leaving = self.held.leaving.iter();
        let gone: Vec<_> = leaving
            .filter(|(name, until)| **until <= now || !named.contains(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.held.leaving.remove(&name);
            self.remove_cluster(&name);
        }
    }

    /// The clusters that listeners in force name.
    pub(super) fn named_clusters(&self) -> HashSet<Arc<str>> {
        let mut named = HashSet::new();
        for active in self.control.listeners.active() {
            for chain in &active.listener.chains {
                match &chain.filter {
                    BuiltFilter::Http(shared) => {
                        shared.routes.each_table(|table| {
                            named.extend(table.clusters().map(|slot| slot.name.clone()));
                        });
                    }
                    BuiltFilter::Tcp(shared) => named.extend(shared.clusters().map(|slot| slot.name.clone())),
                    BuiltFilter::Missing => {}
                }
            }
        }
        named
    }
}

/// Whether `next` names a cluster that is not there, and that `current` does without.
fn breaks(next: &RouteTable, current: &RouteTable) -> bool {
    let missing = next.clusters().filter(|slot| slot.current.load().is_none());
    let missing: Vec<u32> = missing.map(|slot| slot.id).collect();
    if missing.is_empty() {
        return false;
    }
    let known: HashSet<u32> = current.clusters().map(|slot| slot.id).collect();
    missing.iter().any(|id| !known.contains(id))
}

fn is_complete(table: &RouteTable) -> bool {
    table.clusters().all(|slot| slot.current.load().is_some())
}
