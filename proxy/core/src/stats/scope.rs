//! Scopes name stats; slots remember them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::registry::{Kind, Registry, StatId};

/// A prefix under which stats are named.
#[derive(Debug, Clone)]
pub struct Scope {
    registry: Registry,
    prefix: Arc<str>,
}

impl Scope {
    pub(super) fn new(registry: Registry, prefix: Arc<str>) -> Self {
        Self { registry, prefix }
    }

    /// The prefix, with its final dot.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The registry behind.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The scope `prefix` + `suffix` (with its final dot).
    #[must_use]
    pub fn child(&self, suffix: &str) -> Self {
        Self { registry: self.registry.clone(), prefix: format!("{}{suffix}", self.prefix).into() }
    }

    /// Gives the text readout `name` of this scope its text. Takes the registry's lock.
    pub fn set_text(&self, name: &str, text: &str) {
        self.registry.set_text(&format!("{}{name}", self.prefix), text);
    }

    /// The number `name` of this scope: see [`Registry::shared_number`].
    pub fn shared_number(&self, name: &str) -> Arc<AtomicU64> {
        self.registry.shared_number(&format!("{}{name}", self.prefix))
    }

    /// The slot of the stat `name` of this scope. Takes the registry's lock.
    pub fn intern(&self, name: &str, kind: Kind) -> StatId {
        self.registry.intern(&format!("{}{name}", self.prefix), kind)
    }
}

/// Four bytes that remember a stat's slot after its first use.
#[derive(Debug)]
pub struct StatSlot(AtomicU32);

impl StatSlot {
    /// A slot whose stat has not been used.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl Default for StatSlot {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Handle<'a> {
    pub(super) scope: &'a Scope,
    pub(super) slot: &'a StatSlot,
    pub(super) name: &'static str,
}

impl Handle<'_> {
    #[inline]
    pub(super) fn id(&self, kind: Kind) -> StatId {
        match self.slot.0.load(Relaxed) {
            0 => self.first_use(kind),
            id => StatId(id),
        }
    }

    #[cold]
    fn first_use(&self, kind: Kind) -> StatId {
        let id = self.scope.intern(self.name, kind);
        self.slot.0.store(id.0, Relaxed);
        id
    }
}

/// Counters named by a status code: `<prefix>503` for each, made at the code's first use.
#[derive(Debug)]
pub struct CodeCounters {
    prefix: &'static str,
    slots: OnceLock<Box<[StatSlot; 500]>>,
}

impl CodeCounters {
    /// The counters `prefix` + code, as `upstream_rq_`.
    pub const fn new(prefix: &'static str) -> Self {
        Self { prefix, slots: OnceLock::new() }
    }

    /// Counts one `code` (100 to 599; others are not counted, as in Envoy).
    pub fn inc(&self, scope: &Scope, code: u16) {
        let slots = self.slots.get_or_init(|| Box::new([const { StatSlot::new() }; 500]));
        let Some(slot) = usize::from(code).checked_sub(100).and_then(|i| slots.get(i)) else { return };
        let id = match slot.0.load(Relaxed) {
            0 => {
                let id = scope.intern(&format!("{}{code}", self.prefix), Kind::Counter);
                slot.0.store(id.0, Relaxed);
                id
            }
            id => StatId(id),
        };
        id.add(1);
    }
}
