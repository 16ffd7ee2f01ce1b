//! `envoy.filters.http.basic_auth` and `envoy.filters.http.api_key_auth`

use std::collections::HashSet;
use std::sync::Arc;

use http::HeaderName;
use outrider_core::credentials::{ApiKeys, Users};

use super::DataSource;

/// `basic_auth.v3.BasicAuth`
#[derive(Debug)]
pub struct BasicAuth {
    /// Who is let through.
    pub users: BasicUsers,
    /// Where the credentials are. Default `authorization`.
    pub header: HeaderName,
    /// Takes the user's name upstream.
    pub forward_username: Option<HeaderName>,
    /// Requests without credentials of this scheme pass.
    pub allow_missing: bool,
    /// The user's name is noted in the dynamic metadata.
    pub emit_metadata: bool,
}

/// Users with the hashes of their passwords.
#[derive(Debug, Clone)]
pub enum BasicUsers {
    /// Inline.
    Here(Arc<Users>),
    /// In a file or in the environment: read when what holds them is built.
    Source(DataSource),
}

/// `api_key_auth.v3.ApiKeyAuth`, and what a route says in its place, field by field.
#[derive(Debug)]
pub struct ApiKeyAuth {
    /// The keys, and whose they are; `None` for none.
    pub keys: Option<ApiKeys>,
    /// Where a key may be, in the order in which it is looked for.
    pub sources: Box<[KeySource]>,
    /// What goes upstream.
    pub forwarding: Option<KeyForwarding>,
}

/// `api_key_auth.v3.ApiKeyAuthPerRoute`
#[derive(Debug)]
pub struct ApiKeyAuthRoute {
    /// What it says in place of the filter's own; what is missing in it is the filter's.
    pub settings: ApiKeyAuth,
    /// The clients that are let through; empty for all.
    pub allowed: HashSet<Box<str>>,
}

/// `KeySource`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A header, whose value may begin with `Bearer `.
    Header(HeaderName),
    /// A query parameter.
    Query(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// `Forwarding`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyForwarding {
    /// Takes the client's name upstream.
    pub header: Option<HeaderName>,
    /// The key does not go upstream.
    pub hide: bool,
}
