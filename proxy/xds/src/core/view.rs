//! What others may see of the state: `/config_dump`, CSDS, stats.

use std::sync::Arc;
use std::time::SystemTime;

use super::Core;
use crate::Kind;

/// Where a resource stands (`envoy.admin.v3.ClientResourceStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Asked for, not here yet.
    Requested,
    /// Here, and being decided.
    Received,
    /// The newest version is in force.
    Acked,
    /// The newest version was refused; the one before, if any, is in force.
    Nacked,
    /// The control plane says that it does not exist, or its TTL ran out.
    Absent,
    /// Did not come within `initial_fetch_timeout`.
    TimedOut,
}

/// A refusal, as `error_state` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorState {
    /// The refused version.
    pub version: Arc<str>,
    /// Why: "path: reason", several separated by "; ".
    pub details: String,
    /// When.
    pub at: SystemTime,
}

/// One resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceView {
    /// Its name.
    pub name: Arc<str>,
    /// Asked for by name.
    pub requested: bool,
    /// Where it stands.
    pub status: Status,
    /// The version in force.
    pub version: Option<Arc<str>>,
    /// When that was accepted.
    pub updated: Option<SystemTime>,
    /// The refused version beside it.
    pub error: Option<ErrorState>,
}

/// One kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindView {
    /// The kind.
    pub kind: Kind,
    /// Subscribed to all of it.
    pub all: bool,
    /// State of the world: `version_info` of the last response taken whole. Delta: `system_version_info` of the same.
    pub version: Arc<str>,
    /// What the last response was refused for; `None` when it was taken whole.
    pub error: Option<ErrorState>,
    /// Its resources, by name.
    pub resources: Vec<ResourceView>,
}

impl Core {
    /// The state of `kind`; `None` when it was never subscribed to.
    pub fn view(&self, kind: Kind) -> Option<KindView> {
        let sub = self.kinds.get(&kind)?;
        let resource = |(name, entry): (&Arc<str>, &super::subscription::Entry)| ResourceView {
            name: name.clone(),
            requested: entry.requested,
            status: entry.status,
            version: entry.version.clone(),
            updated: entry.updated,
            error: entry.error.as_deref().cloned(),
        };
        Some(KindView {
            kind,
            all: sub.all,
            version: sub.version.clone(),
            error: sub.error.clone(),
            resources: sub.resources.iter().map(resource).collect(),
        })
    }

    /// The state of one resource.
    pub fn status(&self, kind: Kind, name: &str) -> Option<Status> {
        Some(self.kinds.get(&kind)?.entry(name)?.status)
    }
}
