//! Where objects come from: tasks that tell the engine what there is and what changes.

mod backoff;
pub mod manifests;
mod problems;
pub mod stored;

pub use problems::Problems;

use crate::model::{Key, Object};

/// Who tells. Where two know the same object, manifests go before the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The store that the API writes to.
    Store,
    /// A folder of manifests.
    Manifests,
}

/// What a source tells.
#[derive(Debug)]
pub enum Input {
    /// All that there is: what was known from this origin and is not in it is gone.
    Reset {
        /// Whose.
        origin: Origin,
        /// The store's revision; 0 for manifests.
        revision: u64,
        /// All objects.
        objects: Vec<Object>,
    },
    /// What changed in one commit.
    Changes {
        /// Whose.
        origin: Origin,
        /// The store's revision after it.
        revision: u64,
        /// `None`: deleted.
        changes: Vec<(Key, Option<Object>)>,
    },
}

/// Where sources tell.
pub type Inputs = tokio::sync::mpsc::Sender<Input>;
