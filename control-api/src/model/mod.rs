//! What a resource is: the kinds, their keys, objects, and how they are read from YAML or JSON.

mod kind;
pub mod own;
mod read;
pub mod validate;

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub use kind::{Body, Kind, Typed};
#[cfg(test)]
pub(crate) use read::unjudged;
pub use read::{ReadError, documents, read_json, read_value};
use serde_json::Value;

/// Our name as a controller: in GatewayClasses, and in statuses.
pub const CONTROLLER: &str = "outrider.dev/gateway-controller";

/// Names one object. Sorted by kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Empty for kinds without namespaces.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// The key of an object. `namespace` is ignored for kinds that have none.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.namespaced() { namespace } else { "" };
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One object: what it says, typed, and as it was written.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its key.
    pub key: Key,
    /// Its content.
    pub body: Body,
    /// The store's revision of its last change; 0 for what no store keeps.
    pub revision: u64,
    /// Where it was written, for messages: a file's path, or empty.
    pub source: Arc<str>,
}

impl Object {
    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        self.body.meta()
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.meta().labels.as_ref()?.get(name).map(String::as_str)
    }

    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.meta().annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// When it was made, in seconds since 1970; 0 when nobody said. The Gateway API prefers what is older.
    pub fn created(&self) -> i64 {
        self.meta().creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
    }

    /// As JSON, with `apiVersion` and `kind`.
    pub fn to_json(&self) -> Value {
        let mut value = self.body.to_json();
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".into(), self.key.kind.api_version().into());
            map.insert("kind".into(), self.key.kind.name().into());
        }
        value
    }
}

/// One thing wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written: a file's path, or empty.
    pub source: Arc<str>,
    /// Kind and name as far as they are known, as in `HTTPRoute shop/web`.
    pub object: String,
    /// The path of the field; empty when it is about the whole object.
    pub field: String,
    /// What is wrong with it and how to mend it.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.source.is_empty() {
            write!(f, "{}: ", self.source)?;
        }
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}
