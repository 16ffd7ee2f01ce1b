//! `core.v3.Metadata`: what operators write beside endpoints, routes and clusters, for matchers and logs to read.

use std::collections::BTreeMap;
use std::sync::Arc;

/// `Metadata.filter_metadata`: structures by namespace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    /// The structures.
    pub namespaces: BTreeMap<Arc<str>, BTreeMap<Arc<str>, MetadataValue>>,
}

impl Metadata {
    /// The value at `path` within `namespace`; the whole namespace is no value.
    pub fn get(&self, namespace: &str, path: &[&str]) -> Option<&MetadataValue> {
        let (first, rest) = path.split_first()?;
        let value = self.namespaces.get(namespace)?.get(*first)?;
        rest.iter().try_fold(value, |value, key| match value {
            MetadataValue::Map(map) => map.get(*key),
            _ => None,
        })
    }

    /// Whether `namespace` has every value that `wanted` has, each the same (Envoy:
    /// `Config::Metadata::metadataLabelMatch` with lists compared whole). Nothing wanted matches everything.
    pub fn has(&self, namespace: &str, wanted: &BTreeMap<Arc<str>, MetadataValue>) -> bool {
        if wanted.is_empty() {
            return true;
        }
        let Some(there) = self.namespaces.get(namespace) else { return false };
        wanted.iter().all(|(key, value)| there.get(key) == Some(value))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }
}

/// `google.protobuf.Value`
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// `null`
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Text.
    Text(Arc<str>),
    /// A list.
    List(Vec<MetadataValue>),
    /// A structure.
    Map(BTreeMap<Arc<str>, MetadataValue>),
}
