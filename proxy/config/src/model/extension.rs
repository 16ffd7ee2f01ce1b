//! Filters whose settings a control plane sends by themselves (ECDS).

use std::sync::Arc;

use super::{ConfigSource, HttpFilterKind, ListenerFilterKind, NetworkFilter};

/// `ExtensionConfigSource`: a filter of kind `T` that comes from elsewhere.
#[derive(Debug, Clone)]
pub struct Discovered<T> {
    /// Where it comes from.
    pub source: ConfigSource,
    /// The resource's name: the filter's.
    pub name: Arc<str>,
    /// What it is when nothing comes.
    pub default: Option<T>,
    /// It is that until something comes; otherwise its listener waits.
    pub without_warming: bool,
    /// The types that its settings may have, without the part up to the slash.
    pub types: Vec<Arc<str>>,
}

/// What a control plane sent for a filter.
#[derive(Debug, Clone)]
pub struct Extension {
    /// The filter.
    pub filter: ExtensionFilter,
    /// The type of its settings, without the part up to the slash.
    pub type_name: Arc<str>,
}

/// A filter of any kind.
#[derive(Debug, Clone)]
pub enum ExtensionFilter {
    /// Of a connection manager.
    Http(HttpFilterKind),
    /// Of a filter chain.
    Network(NetworkFilter),
    /// Of a listener.
    Listener(ListenerFilterKind),
}
