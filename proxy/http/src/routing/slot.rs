//! The place of a route table: what connection managers hold on to while tables come and go.

use std::sync::Arc;

use arc_swap::ArcSwap;

use outrider_config::model;
use outrider_core::stats::Registry;
use outrider_upstream::ClusterManager;

use super::{RouteTable, RouteTableError, ScopeSlot};

/// The place of a route table. One that waits for route discovery holds an empty table: every request is answered 404,
/// as Envoy does when no table came in time.
#[derive(Debug, Default)]
pub struct RouteSlot(ArcSwap<RouteTable>);

impl RouteSlot {
    /// A slot with `table` in it.
    pub fn new(table: RouteTable) -> Self {
        Self(ArcSwap::from_pointee(table))
    }

    /// A slot for routes that are in the configuration itself.
    ///
    /// # Errors
    /// As [`RouteTable::build`].
    pub fn fixed(
        routes: &Arc<model::RouteConfiguration>,
        clusters: &ClusterManager,
        registry: &Registry,
    ) -> Result<Arc<Self>, RouteTableError> {
        Ok(Arc::new(Self::new(RouteTable::build(routes, clusters, registry)?)))
    }

    /// Puts `table` in the place of what is there: requests that are routed from now on use it.
    pub fn store(&self, table: Arc<RouteTable>) {
        self.0.store(table);
    }

    /// The table in force, to be kept.
    pub fn load_full(&self) -> Arc<RouteTable> {
        self.0.load_full()
    }

    /// The table in force.
    #[inline]
    pub fn load(&self) -> arc_swap::Guard<Arc<RouteTable>> {
        self.0.load()
    }
}

/// Where a connection manager finds its routes.
#[derive(Debug, Clone)]
pub enum RoutePlace {
    /// One table for all requests.
    One(Arc<RouteSlot>),
    /// A table for each scope.
    Scoped(Arc<ScopeSlot>),
}

impl From<Arc<RouteSlot>> for RoutePlace {
    fn from(slot: Arc<RouteSlot>) -> Self {
        Self::One(slot)
    }
}

impl RoutePlace {
    /// Calls `f` with each table in force.
    pub fn each_table(&self, mut f: impl FnMut(&RouteTable)) {
        match self {
            Self::One(slot) => f(&slot.load()),
            Self::Scoped(slot) => slot.load().scopes().iter().for_each(|scope| f(&scope.routes.load())),
        }
    }
}
