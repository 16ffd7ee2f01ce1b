//! What is known of each resource that came from elsewhere: for `/config_dump` and for those who ask what went wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use outrider_xds::Kind;

use super::generations::{Action, Generations};

/// The resources that came from elsewhere, by kind and name. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Records {
    by_name: Arc<Mutex<ByName>>,
    generations: Generations,
}

type ByName = BTreeMap<(Kind, Arc<str>), Record>;

/// One resource.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The version in force.
    pub active: Option<Version>,
    /// The version that waits for what it needs.
    pub warming: Option<Version>,
    /// The last version that was refused, if it came after those.
    pub error: Option<RefusedVersion>,
    /// Fields of the version that came last and was good that have no effect, with the reason.
    pub inert: Vec<(String, String)>,
}

/// A version of a resource.
#[derive(Debug, Clone)]
pub struct Version {
    /// As the control plane calls it.
    pub version: Arc<str>,
    /// The resource, encoded. Empty where it holds secrets.
    pub body: Bytes,
    /// When it came.
    pub at: SystemTime,
    /// The stream that it came by; `None` where it is not worth keeping after the process: it has a TTL, or is in a file
    /// anyway.
    pub origin: Option<Arc<str>>,
}

/// A resource in force, as it is kept on disk.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) kind: Kind,
    pub(crate) name: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) origin: Arc<str>,
    pub(crate) body: Bytes,
}

impl Version {
    /// Whether this is the same content. What is kept without its content is the same while its version is.
    fn is(&self, other: &Self) -> bool {
        self.body == other.body && (!self.body.is_empty() || self.version == other.version)
    }
}

/// A version that was refused.
#[derive(Debug, Clone)]
pub struct RefusedVersion {
    /// The version.
    pub version: Version,
    /// Why: what the control plane was told.
    pub details: String,
}

impl Records {
    /// No records. What is put in force, or taken away, is noted in `generations`.
    pub(crate) fn new(generations: Generations) -> Self {
        Self { by_name: Arc::default(), generations }
    }

    /// The numbered changes.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// A version came and waits.
    pub(crate) fn warming(&self, kind: Kind, name: &Arc<str>, mut version: Version) {
        let origin = self.generations.came(kind, name);
        version.origin = version.origin.and(origin);
        let mut records = self.lock();
        let record = records.entry((kind, name.clone())).or_default();
        (record.warming, record.error) = (Some(version), None);
    }

    /// Which fields of a version that is good have no effect.
    pub(crate) fn inert(&self, kind: Kind, name: &Arc<str>, fields: Vec<(String, String)>) {
        let mut records = self.lock();
        if !fields.is_empty() || records.contains_key(&(kind, name.clone())) {
            records.entry((kind, name.clone())).or_default().inert = fields;
        }
    }

    /// How many fields have no effect, over all resources.
    pub fn count_inert(&self) -> usize {
        self.lock().values().map(|record| record.inert.len()).sum()
    }

    /// What is known came again unchanged: a version of it that was refused is no longer what the control plane wants.
    pub(crate) fn repeated(&self, kind: Kind, name: &Arc<str>) {
        if let Some(record) = self.lock().get_mut(&(kind, name.clone())) {
            record.error = None;
        }
    }

    /// What waited is in force. It is a change unless it is what was in force before.
    pub(crate) fn promoted(&self, kind: Kind, name: &Arc<str>) {
        if let Some(record) = self.lock().get_mut(&(kind, name.clone()))
            && let Some(version) = record.warming.take()
        {
            match &record.active {
                None => self.generations.changed(kind, Action::Added, name, &version.version),
                Some(before) if before.is(&version) => self.generations.given_up(kind, name),
                Some(_) => self.generations.changed(kind, Action::Updated, name, &version.version),
            }
            record.active = Some(version);
        }
    }

    /// A version was refused; what was in force stays. Returns whether there is nothing in force.
    pub(crate) fn refused(&self, kind: Kind, name: &Arc<str>, version: Version, details: String) -> bool {
        let mut records = self.lock();
        let record = records.entry((kind, name.clone())).or_default();
        record.error = Some(RefusedVersion { version, details });
        record.active.is_none()
    }

    /// What was good by itself, and waited, cannot be put in force after all.
    pub(crate) fn failed(&self, kind: Kind, name: &Arc<str>, details: &str) {
        if let Some(record) = self.lock().get_mut(&(kind, name.clone()))
            && let Some(version) = record.warming.take()
        {
            self.generations.given_up(kind, name);
            record.error = Some(RefusedVersion { version, details: details.to_owned() });
        }
    }

    /// The resource is gone.
    pub(crate) fn removed(&self, kind: Kind, name: &Arc<str>) {
        let record = self.lock().remove(&(kind, name.clone()));
        match record.and_then(|record| record.active) {
            Some(active) => self.generations.changed(kind, Action::Removed, name, &active.version),
            None => self.generations.given_up(kind, name),
        }
    }

    /// What is in force and may be kept on disk: all but secrets.
    pub(crate) fn kept(&self) -> Vec<InForce> {
        let records = self.lock();
        let kept = records.iter().filter(|((kind, _), _)| *kind != Kind::Secret);
        let kept = kept.filter_map(|((kind, name), record)| {
            let active = record.active.as_ref()?;
            Some(InForce {
                kind: *kind,
                name: name.clone(),
                version: active.version.clone(),
                origin: active.origin.clone()?,
                body: active.body.clone(),
            })
        });
        kept.collect()
    }

    /// All of `kind`, by name.
    pub fn of(&self, kind: Kind) -> Vec<(Arc<str>, Record)> {
        let records = self.lock();
        let of_kind = records.iter().filter(|((of, _), _)| *of == kind);
        of_kind.map(|((_, name), record)| (name.clone(), record.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, ByName> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
