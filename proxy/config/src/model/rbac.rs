//! Role-based access control.

use std::sync::Arc;
use std::time::Duration;

use outrider_core::rbac::{Engine, Names};

/// `envoy.filters.http.rbac`, and what a route says in its place.
#[derive(Debug, Clone)]
pub struct Rbac {
    /// What is enforced; `None` for nothing.
    pub enforced: Option<Engine>,
    /// How it is named.
    pub enforced_names: Names,
    /// What is only counted and noted; `None` for nothing.
    pub shadow: Option<Engine>,
    /// How it is named.
    pub shadow_names: Names,
    /// Each policy is counted by itself.
    pub per_rule: bool,
}

/// `envoy.filters.network.rbac`
#[derive(Debug, Clone)]
pub struct NetworkRbac {
    /// Prefix of its stats (`<prefix>.rbac.`).
    pub stat_prefix: Arc<str>,
    /// What is enforced; `None` for nothing.
    pub enforced: Option<Engine>,
    /// How it is named.
    pub enforced_names: Names,
    /// What is only counted and noted; `None` for nothing.
    pub shadow: Option<Engine>,
    /// How it is named.
    pub shadow_names: Names,
    /// How long what is refused stays open without being read.
    pub delay_deny: Duration,
}
