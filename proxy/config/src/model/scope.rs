//! Scoped routes: a request's own key chooses its route table.

use std::sync::Arc;

use outrider_core::matcher::HeaderRef;

use super::{ConfigSource, RouteConfiguration};

/// `ScopedRoutes`
#[derive(Debug, Clone)]
pub struct ScopedRoutes {
    /// Their name.
    pub name: Arc<str>,
    /// How a request's key is made.
    pub key: ScopeKeyBuilder,
    /// The scopes, or where they come from.
    pub scopes: Scopes,
}

/// The scopes of a connection manager.
#[derive(Debug, Clone)]
pub enum Scopes {
    /// `scoped_route_configurations_list`. As in Envoy, of two with the same name or key the later counts.
    Inline(Vec<Arc<Scope>>),
    /// `scoped_rds`
    Srds {
        /// Where scopes come from.
        source: ConfigSource,
        /// Where the tables come from that scopes name (`rds_config_source`).
        tables: Option<ConfigSource>,
    },
}

/// `ScopeKeyBuilder`: one extractor for each fragment of the key. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeKeyBuilder(pub Vec<HeaderValueExtractor>);

/// `HeaderValueExtractor`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderValueExtractor {
    /// The header; of several the first is read.
    pub header: HeaderRef,
    /// Between its elements; empty: the whole value is one.
    pub separator: Box<str>,
    /// Which element.
    pub extract: Extract,
}

/// What of a header's elements a fragment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extract {
    /// The element of this number, from 0.
    Index(usize),
    /// The value of the first element with this key.
    Element {
        /// Between key and value.
        separator: Box<str>,
        /// The key.
        key: Box<str>,
    },
}

/// `ScopedRouteConfiguration`
#[derive(Debug, Clone)]
pub struct Scope {
    /// Its name.
    pub name: Arc<str>,
    /// Its table is asked for when a request needs it.
    pub on_demand: bool,
    /// The fragments of its key. Never empty.
    pub key: Vec<Box<str>>,
    /// Its table.
    pub routes: ScopeRoutes,
}

/// The table of a scope.
#[derive(Debug, Clone)]
pub enum ScopeRoutes {
    /// `route_configuration`
    Inline(Arc<RouteConfiguration>),
    /// `route_configuration_name`
    Rds(Arc<str>),
}
