//! Changes of headers.

use std::sync::Arc;

use http::HeaderName;
use outrider_core::format::Format;

/// Changes to the headers of requests and responses.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutations {
    /// Added to requests.
    pub request_add: Vec<HeaderAdd>,
    /// Removed from requests.
    pub request_remove: Vec<HeaderName>,
    /// Added to responses.
    pub response_add: Vec<HeaderAdd>,
    /// Removed from responses.
    pub response_remove: Vec<HeaderName>,
}

/// A header that is added.
#[derive(Debug, Clone)]
pub struct HeaderAdd {
    /// Which; `:authority`-like names are kept apart.
    pub name: AddTarget,
    /// Its value.
    pub value: HeaderAddValue,
    /// What happens when it is there already.
    pub action: AppendAction,
    /// An empty value is added too.
    pub keep_empty: bool,
}

/// The header that is added: a real one, or a pseudo header that may be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddTarget {
    /// A real header.
    Name(HeaderName),
    /// `host` / `:authority`
    Authority,
    /// `:path`
    Path,
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
}

/// A value that is added.
#[derive(Debug, Clone)]
pub enum HeaderAddValue {
    /// The same for all.
    Literal(http::HeaderValue),
    /// Evaluated for each request.
    Format(Arc<Format>),
}

/// `HeaderValueOption.HeaderAppendAction`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    /// Appended.
    AppendIfExistsOrAdd,
    /// Only when absent.
    AddIfAbsent,
    /// Replaces.
    OverwriteIfExistsOrAdd,
    /// Replaces only what is there.
    OverwriteIfExists,
}
