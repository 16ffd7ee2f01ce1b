//! Route tables that come from elsewhere: one place for each, whoever uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use outrider_config::model::ConfigSource;
use outrider_http::routing::{RouteSlot, RouteTable};

use super::scopes::ScopePlaces;

/// A table's name, and where it comes from.
pub type RouteKey = (ConfigSource, Arc<str>);

/// The places of route tables. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct RouteTables {
    places: Arc<Mutex<HashMap<RouteKey, Place>>>,
    /// The places of scopes.
    pub scopes: ScopePlaces,
}

#[derive(Debug)]
struct Place {
    // As long as a connection manager holds on to it.
    slot: Weak<RouteSlot>,
    // Set once a table came, or will not come in time.
    table: Option<Arc<RouteTable>>,
}

impl RouteTables {
    /// The place of the table `name` from `source`; empty until it comes.
    pub fn slot(&self, source: &ConfigSource, name: &Arc<str>) -> Arc<RouteSlot> {
        let mut places = self.lock();
        let place = places
            .entry((source.clone(), name.clone()))
            .or_insert_with(|| Place { slot: Weak::new(), table: None });
        if let Some(slot) = place.slot.upgrade() {
            return slot;
        }
        let slot = Arc::new(RouteSlot::default());
        if let Some(table) = &place.table {
            slot.store(table.clone());
        }
        place.slot = Arc::downgrade(&slot);
        slot
    }

    /// The table whose place `slot` is.
    pub fn key_of(&self, slot: &Arc<RouteSlot>) -> Option<RouteKey> {
        let places = self.lock();
        let of = |place: &Place| std::ptr::eq(place.slot.as_ptr(), Arc::as_ptr(slot));
        places.iter().find(|(_, place)| of(place)).map(|(key, _)| key.clone())
    }

    /// Puts `table` in force wherever it is used; the place, if it is.
    pub fn store(&self, key: &RouteKey, table: Arc<RouteTable>) -> Option<Arc<RouteSlot>> {
        let mut places = self.lock();
        let place = places.get_mut(key)?;
        let slot = place.slot.upgrade();
        if let Some(slot) = &slot {
            slot.store(table.clone());
        }
        place.table = Some(table);
        slot
    }

    /// The tables that are used.
    pub fn used(&self) -> Vec<RouteKey> {
        let places = self.lock();
        let used = places.iter().filter(|(_, place)| place.slot.strong_count() > 0);
        used.map(|(key, _)| key.clone()).collect()
    }

    /// Forgets the tables that nobody uses; false when there are none.
    pub fn forget_unused(&self) -> bool {
        let mut places = self.lock();
        let before = places.len();
        places.retain(|_, place| place.slot.strong_count() > 0);
        places.len() != before
    }

    /// The table in force.
    pub fn current(&self, key: &RouteKey) -> Option<Arc<RouteTable>> {
        self.lock().get(key)?.table.clone()
    }

    /// Whether the table came, or its time is over.
    pub fn is_settled(&self, key: &RouteKey) -> bool {
        self.lock().get(key).is_some_and(|place| place.table.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RouteKey, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
