//! The runtime's layers.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use outrider_core::runtime::{
    Runtime, RuntimeDouble, RuntimeFlag, RuntimeInteger, RuntimeKey, RuntimeValue, RuntimeValues,
};

use super::ConfigSource;

/// A limit that is none.
pub const NO_LIMIT: RuntimeInteger = RuntimeInteger::fixed(u64::MAX);

/// `RuntimeLayer`
#[derive(Debug, Clone)]
pub struct RuntimeLayer {
    /// Its name, unlike all others'.
    pub name: Arc<str>,
    /// Where its values come from.
    pub kind: RuntimeLayerKind,
}

/// Where a layer's values come from.
#[derive(Debug, Clone)]
pub enum RuntimeLayerKind {
    /// The bootstrap.
    Static(RuntimeEntries),
    /// Files.
    Disk(DiskLayer),
    /// `/runtime_modify`. At most one.
    Admin,
    /// A control plane (RTDS).
    Rtds {
        /// The resource's name.
        resource: Arc<str>,
        /// Where it comes from.
        source: ConfigSource,
    },
}

/// The keys of a layer.
pub type RuntimeEntries = BTreeMap<String, RuntimeEntry>;

/// A value and how it was written, as `/runtime` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeEntry {
    /// The value.
    pub value: RuntimeValue,
    /// The text.
    pub text: String,
}

/// `DiskLayer`: a directory whose files are keys, their paths joined by dots.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DiskLayer {
    /// A symbolic link (or directory); it is read anew when something is moved over it.
    pub symlink_root: Arc<str>,
    /// The directory below, with that of the service cluster where that is asked for; may be empty.
    pub subdirectory: Arc<str>,
}

impl DiskLayer {
    /// The directory that holds the keys.
    pub fn directory(&self) -> String {
        if self.subdirectory.is_empty() {
            self.symlink_root.to_string()
        } else {
            format!("{}/{}", self.symlink_root, self.subdirectory)
        }
    }
}
