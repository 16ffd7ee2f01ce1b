//! What a client asked for of one type, and what it has of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;
use xxhash_rust::xxh64::xxh64;

use super::refusals::Refusals;
use crate::engine::View;
use crate::translate::{Resource, Type};

/// The version of a name of which the client knows that there is nothing.
pub(super) const NOTHING: u64 = 0;

/// One type of a stream.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// It asked for this type at all.
    pub(super) asked: bool,
    /// It wants all there is.
    pub(super) wildcard: bool,
    /// It gave a name once, `*` or another one (state of the world).
    pub(super) named: bool,
    /// What it wants by name.
    pub(super) names: BTreeSet<Arc<str>>,
    /// The bytes of `names`.
    pub(super) bytes: usize,
    /// What it was sent, by version; [`NOTHING`] for names that it asked for, of which it was told that there is nothing.
    pub(super) sent: BTreeMap<Arc<str>, u64>,
    /// Names that are to be looked at; `None`: all.
    pub(super) look: Look,
    /// The response that it has not answered.
    pub(super) outstanding: Option<Outstanding>,
    /// An answer is due whatever changed: the client asked anew.
    pub(super) answer: bool,
    /// Clusters that are gone but may still be in use.
    pub(super) held: BTreeMap<Arc<str>, Arc<Resource>>,
    /// What it refused, and has accepted nothing newer of.
    pub(super) refusals: Refusals,
    /// Versions, for people.
    pub(super) version_sent: String,
    /// The version that was acknowledged whole last.
    pub(super) version_acked: String,
    /// When the last response went out.
    pub(super) sent_at: Option<Instant>,
    /// When the last acknowledgement came.
    pub(super) acked_at: Option<Instant>,
}

/// A response on its way.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// Its nonce is this number.
    pub(super) number: u64,
    pub(super) since: Instant,
    /// What is in it, with versions.
    pub(super) resources: Vec<(Arc<str>, u64)>,
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

    /// Looks at no others than these.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        if let Self::At(names) = self {
            names.retain(|name| keep(name));
            if names.is_empty() {
                *self = Self::None;
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

    fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.changed.iter().map(|it| &it.name).chain(&self.removed)
    }

    /// Cuts it down to a response of so many bytes, or one resource that is larger; gives what is left for the next.
    pub(super) fn cut(&mut self, most: usize) -> Look {
        let mut size = 0;
        let fit = self.changed.iter().take_while(|resource| {
            size += resource.body.len();
            size <= most
        });
        let fit = fit.count().max(1);
        if fit >= self.changed.len() {
            return Look::None;
        }
        Look::At(self.changed.drain(fit..).map(|resource| Arc::clone(&resource.name)).collect())
    }
}

/// Whether so many are added to so many one by one. A tree that is made at once takes half the memory of one that grew, and there
/// are a thousand streams.
fn few(added: usize, to: usize) -> bool {
    added < to / 8
}

impl Subscription {
    /// Whether a resource of this name is wanted.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Wants names from now on.
    pub(super) fn want(&mut self, names: Vec<Arc<str>>) {
        if few(names.len(), self.names.len()) {
            for name in names {
                let bytes = name.len();
                self.bytes += if self.names.insert(name) { bytes } else { 0 };
            }
        } else {
            self.names = std::mem::take(&mut self.names).into_iter().chain(names).collect();
            self.bytes = self.names.iter().map(|name| name.len()).sum();
        }
    }

    /// Notes what the client has of these names.
    pub(super) fn has_now(&mut self, resources: &[Arc<Resource>]) {
        let versions = resources.iter().map(|it| (Arc::clone(&it.name), it.version));
        if few(resources.len(), self.sent.len()) {
            self.sent.extend(versions);
        } else {
            self.sent = std::mem::take(&mut self.sent).into_iter().chain(versions).collect();
        }
    }

    /// Wants a name no more. What there is of it under the wildcard stays.
    pub(super) fn leave(&mut self, kind: Type, name: &str, view: &View) {
        if self.names.remove(name) {
            self.bytes -= name.len();
        }
        let known = self.sent.get(name).is_some_and(|version| *version != NOTHING);
        if !self.wildcard || !(known || view.get(kind, name).is_some()) {
            self.sent.remove(name);
            self.refusals.remove(name);
            self.look.retain(|it| it != name);
        }
        if self.names.is_empty() && !self.wildcard {
            self.refusals = Refusals::default();
        }
    }

    /// Takes the answer to the response that is on its way; says whether it was that.
    pub(super) fn answered(&mut self, nonce: &str, refused: Option<&str>, now: Instant) -> bool {
        let Some(it) = self.outstanding.take_if(|it| nonce.parse() == Ok(it.number)) else { return false };
        match refused {
            Some(words) if it.resources.is_empty() => self.refusals.note(it.number, words, ["".into()]),
            Some(words) => {
                // What it left meanwhile, or is sent anew, it does not refuse.
                let still =
                    it.resources.into_iter().filter(|(name, version)| self.sent.get(name) == Some(version));
                self.refusals.note(it.number, words, still.map(|(name, _)| name));
            }
            None => {
                it.resources.iter().for_each(|(name, _)| self.refusals.remove(name));
                self.refusals.remove("");
                if self.refusals.is_empty() {
                    self.version_acked.clone_from(&self.version_sent);
                }
                self.acked_at = Some(now);
            }
        }
        true
    }

    /// What should be sent now. What was refused in one response with something that is sent now goes along: only so it can be
    /// seen which of them the client takes.
    pub(super) fn due(&mut self, kind: Type, view: &View, delta: bool) -> Difference {
        let difference = self.difference(kind, view, delta);
        let beside = self.refusals.beside(difference.names());
        let again = |name: &Arc<str>| {
            view.get(kind, name).is_some_and(|it| self.sent.get(name) == Some(&it.version))
                && self.wants(name)
        };
        let again: Vec<_> = beside.into_iter().filter(again).collect();
        if again.is_empty() {
            return difference;
        }
        self.sent.retain(|name, _| !again.contains(name));
        self.look.at(again);
        self.difference(kind, view, delta)
    }

    fn difference(&self, kind: Type, view: &View, delta: bool) -> Difference {
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
        self.has_now(&difference.changed);
        for name in &difference.removed {
            self.refusals.remove(name);
            if delta && self.names.contains(name) {
                self.sent.insert(Arc::clone(name), NOTHING);
            } else {
                self.sent.remove(name);
            }
        }
    }

    /// How many names are kept of it: asked for, sent, to be looked at.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize, usize) {
        let look = if let Look::At(names) = &self.look { names.len() } else { 0 };
        (self.names.len(), self.sent.len(), look)
    }

    /// What it was sent, by version.
    pub(super) fn has(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.sent.iter().filter(|(_, version)| **version != NOTHING).map(|(name, version)| (name, *version))
    }

    /// A version of all that the client has: the same resources, the same text.
    pub(super) fn version(&self) -> String {
        let sum = self
            .sent
            .iter()
            .fold(0u64, |sum, (name, version)| sum.wrapping_add(xxh64(name.as_bytes(), *version)));
        format!("{sum:016x}")
    }

    /// All that the client wants of the type, for a response in state of the world.
    pub(super) fn everything(&self, kind: Type, view: &View) -> Vec<Arc<Resource>> {
        let held = self.held.values().filter(|it| self.wants(&it.name)).cloned();
        let mut all: BTreeMap<&str, &Arc<Resource>> = BTreeMap::new();
        if self.wildcard {
            all.extend(view.all(kind).map(|it| (&*it.name, it)));
        }
        // Under the wildcard too: some are given by name alone.
        all.extend(self.names.iter().filter_map(|name| view.get(kind, name)).map(|it| (&*it.name, it)));
        all.into_values().cloned().chain(held).collect()
    }
}
