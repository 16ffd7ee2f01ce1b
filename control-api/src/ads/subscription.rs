//! What a client asked for of one type, and what it has of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use crate::engine::View;
use crate::translate::{Resource, Type};

/// The version of a name of which the client knows that there is nothing.
const NOTHING: u64 = 0;

/// One type of a stream.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// It asked for this type at all.
    pub(super) asked: bool,
    /// It wants all there is.
    pub(super) wildcard: bool,
    /// What it wants by name.
    pub(super) names: BTreeSet<Arc<str>>,
    /// What it was sent, by version; [`NOTHING`] for names of which it was told that there is nothing.
    pub(super) sent: HashMap<Arc<str>, u64>,
    /// Names that are to be looked at; `None`: all.
    pub(super) look: Look,
    /// The response that it has not answered.
    pub(super) outstanding: Option<Outstanding>,
    /// An answer is due whatever changed: the client asked anew.
    pub(super) answer: bool,
    /// Clusters that are gone but may still be in use.
    pub(super) held: BTreeMap<Arc<str>, Arc<Resource>>,
    /// What was refused last, in the client's words; `None` after it accepted something newer.
    pub(super) refused: Option<String>,
    /// Versions, for people.
    pub(super) version_sent: String,
    /// The version that was acknowledged last.
    pub(super) version_acked: String,
    /// When the last response went out.
    pub(super) sent_at: Option<Instant>,
    /// When the last acknowledgement came.
    pub(super) acked_at: Option<Instant>,
}

/// A response on its way.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) nonce: String,
    pub(super) since: Instant,
}

/// Which names may have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Look {
    /// None.
    #[default]
    None,
    /// These.
    At(BTreeSet<Arc<str>>),
    /// Any.
    All,
}

impl Look {
    pub(super) fn at(&mut self, more: impl IntoIterator<Item = Arc<str>>) {
        match self {
            Self::All => {}
            Self::At(names) => names.extend(more),
            Self::None => {
                let names: BTreeSet<_> = more.into_iter().collect();
                if !names.is_empty() {
                    *self = Self::At(names);
                }
            }
        }
    }
}

/// What differs between what a client has and what it should have.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) changed: Vec<Arc<Resource>>,
    pub(super) removed: Vec<Arc<str>>,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Subscription {
    /// Whether a resource of this name is wanted.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// What should be sent now.
    pub(super) fn difference(&self, kind: Type, view: &View, delta: bool) -> Difference {
        let mut out = Difference::default();
        let mut look = |name: &Arc<str>| self.compare(kind, view, delta, name, &mut out);
        match &self.look {
            Look::None => {}
            Look::At(names) => names.iter().filter(|name| self.wants(name)).for_each(&mut look),
            Look::All => {
                if self.wildcard {
                    view.all(kind).for_each(|resource| look(&resource.name));
                }
                self.names.iter().for_each(&mut look);
                // What it has and should not have any more.
                let gone = self.sent.iter().filter(|(_, version)| **version != NOTHING).map(|(name, _)| name);
                gone.filter(|name| !self.names.contains(*name) && view.get(kind, name).is_none())
                    .for_each(&mut look);
            }
        }
        out
    }

    fn compare(&self, kind: Type, view: &View, delta: bool, name: &Arc<str>, out: &mut Difference) {
        match (view.get(kind, name), self.sent.get(name)) {
            (Some(new), Some(old)) if new.version == *old => {}
            (Some(new), _) => out.changed.push(Arc::clone(new)),
            (None, Some(&NOTHING)) => {}
            // Endpoints go with their cluster, which may still be in use while routes change.
            (None, Some(_)) if kind == Type::Endpoints => {}
            (None, Some(_)) if self.held.contains_key(name) => {}
            (None, Some(_)) => out.removed.push(Arc::clone(name)),
            // In state of the world there is no way to say that there is nothing.
            (None, None) if delta => out.removed.push(Arc::clone(name)),
            (None, None) => {}
        }
    }

    /// Notes that this was sent.
    pub(super) fn note(&mut self, difference: &Difference, delta: bool) {
        for resource in &difference.changed {
            self.sent.insert(Arc::clone(&resource.name), resource.version);
        }
        for name in &difference.removed {
            if delta && self.names.contains(name) {
                self.sent.insert(Arc::clone(name), NOTHING);
            } else {
                self.sent.remove(name);
            }
        }
    }

    /// How many resources it has.
    pub(super) fn count(&self) -> usize {
        self.sent.values().filter(|version| **version != NOTHING).count()
    }
}
