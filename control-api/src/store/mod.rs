//! Where resources are kept: one trait, several homes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::model::Key;

pub mod etcd;
#[cfg(test)]
pub(crate) mod gated;
mod image;
pub mod kubernetes;
pub mod memory;
pub mod redb;

/// Where to keep what is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory: nothing survives a restart.
    Memory,
    /// In a directory of this machine (`--data-dir`), which is made when there is none.
    Dir(PathBuf),
    /// In etcd, which others may share.
    Etcd(etcd::Spec),
}

impl Place {
    /// Reads what `--store` says: `memory`, or `etcd://...` (see [`etcd::Spec::parse`]). Kubernetes is opened by itself
    /// ([`kubernetes`]), as more is to be said about it.
    ///
    /// # Errors
    /// What is wrong with it, without the password in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(Self::Memory),
            _ if text.starts_with("etcd:") => Ok(Self::Etcd(etcd::Spec::parse(text)?)),
            _ => Err("want etcd://HOST:PORT[,HOST:PORT...][/PREFIX], kubernetes, or memory".into()),
        }
    }
}

/// Opens a store.
///
/// # Errors
/// When the store cannot be opened; what is damaged stays as it is.
pub async fn open(place: &Place) -> Result<SharedStore, StoreError> {
    Ok(match place {
        Place::Memory => Arc::new(memory::Memory::default()),
        Place::Dir(dir) => Arc::new(redb::Redb::open(dir).await?),
        Place::Etcd(spec) => Arc::new(etcd::Etcd::new(spec.clone())?),
    })
}

/// A place that keeps objects as JSON, with one revision that grows with each commit.
///
/// Everything acknowledged is durable; a commit is seen whole or not at all; watchers see each commit once, in order.
#[tonic::async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// All objects, and the revision of which this is the picture.
    async fn list(&self) -> Result<Listing, StoreError>;

    /// One object.
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError>;

    /// Does all writes or none. Gives the revision that has them. Deleting what does not exist is done already: a commit
    /// with nothing left to do makes no revision.
    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError>;

    /// As [`Store::commit`], and gives the objects as they are kept now, where that is not what was written.
    async fn commit_each(&self, writes: Vec<Write>) -> Result<Committed, StoreError> {
        let revision = self.commit(writes).await?;
        Ok(Committed { revision, records: BTreeMap::new() })
    }

    /// Changes after `revision`. The first item may be [`StoreError::Compacted`]; any error ends the stream: list anew.
    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError>;

    /// What it is, for people: `redb in /var/lib/outrider`.
    fn describe(&self) -> String;
}

/// A shared store.
pub type SharedStore = Arc<dyn Store>;

/// All objects at one revision.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The store's revision.
    pub revision: u64,
    /// Sorted by key.
    pub records: Vec<Record>,
}

/// One object as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Key,
    /// The revision of its last change.
    pub revision: u64,
    /// JSON. `metadata.resourceVersion` is not in it: it is `revision`.
    pub json: Bytes,
}

/// What became of a commit.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The store's revision that has all of it.
    pub revision: u64,
    /// What was put, as the store keeps it, where it gives each object a revision of its own and fills in fields
    /// (Kubernetes). Of an object that is not in it: what was written is kept, at `revision`.
    pub records: BTreeMap<Key, Record>,
}

/// One write of a commit.
#[derive(Clone, Debug)]
pub struct Write {
    /// What to write.
    pub key: Key,
    /// What must be true for the commit to happen.
    pub expect: Expect,
    /// The new content; `None` deletes.
    pub json: Option<Bytes>,
}

/// What a write expects of the object before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// That there is none.
    Absent,
    /// That its last change was this revision.
    Revision(u64),
}

/// One change of one object. Changes of one commit have the same revision; otherwise revisions grow from change to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The store's revision after it: where to go on after it.
    pub revision: u64,
    /// What changed.
    pub key: Key,
    /// The object's own revision, as [`Record::revision`]: `revision`, but for Kubernetes. Nothing where it was deleted.
    pub version: u64,
    /// The new content; `None`: deleted.
    pub json: Option<Bytes>,
    /// More changes of the same commit follow.
    pub more: bool,
}

/// Why a store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// An expectation was not met: nothing was written.
    #[error("{key} was changed meanwhile: {found}")]
    Conflict {
        /// The first object that was not as expected.
        key: Box<Key>,
        /// What was found.
        found: String,
    },
    /// The changes after this revision are no longer known.
    #[error("changes after revision {revision} are no longer known; list anew (oldest known: {oldest})")]
    Compacted {
        /// The one asked for.
        revision: u64,
        /// The oldest that can be asked for.
        oldest: u64,
    },
    /// It cannot be reached, or did not answer in time. Writes may or may not have happened only when `unknown` is set.
    #[error("{reason}")]
    Unavailable {
        /// What happened.
        reason: String,
        /// The outcome of a write is not known.
        unknown: bool,
    },
    /// What is kept is damaged, or of a newer version. It is never overwritten.
    #[error("{place}: {reason}")]
    Corrupt {
        /// Which file or key.
        place: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The store itself judges objects and refused one: nothing was written. (Kubernetes: schema, admission, access.)
    #[error("{key}: refused by the store: {reason}")]
    Refused {
        /// The first object that was refused.
        key: Box<Key>,
        /// Why, in the store's words.
        reason: String,
    },
    /// A store without transactions (Kubernetes) stopped half-way: these writes happened, the others did not.
    #[error("written: {}; then {failed} failed: {reason}; nothing after it was written", names(written))]
    Partial {
        /// What was written, in order.
        written: Vec<Key>,
        /// The write that failed.
        failed: Box<Key>,
        /// Why.
        reason: String,
    },
    /// This store takes no such commit (too large, one object twice): nothing was written, and never would be.
    #[error("{0}")]
    Unfit(String),
    /// It keeps nothing that is written through it.
    #[error("{0}")]
    ReadOnly(String),
}

fn names(keys: &[Key]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
