//! Routes after their references were resolved and their parents found: what translation reads. HTTPRoute and GRPCRoute
//! become the same.

use std::sync::Arc;
use std::time::Duration;

use crate::model::Key;
use crate::world::Named;

/// An HTTPRoute or GRPCRoute at one of its parents.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// The object.
    pub key: Key,
    /// Seconds since 1970: the older one wins a tie.
    pub created: i64,
    /// The hosts that it serves at this parent (the intersection with the listener's): lower case, `*.` in front of
    /// suffixes. Empty: any host.
    pub hostnames: Vec<Arc<str>>,
    /// Its rules.
    pub rules: Vec<HttpRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpRule {
    /// Its place in the route.
    pub index: usize,
    /// Its name, when it has one.
    pub name: Option<Arc<str>>,
    /// Any of them must match; never empty (a rule without matches matches the prefix `/`).
    pub matches: Vec<HttpMatch>,
    /// In the order they were written.
    pub filters: Vec<Filter>,
    /// Where requests go. Empty with no redirect: 500, as the Gateway API says.
    pub backends: Vec<Backend>,
    /// The whole request.
    pub request_timeout: Option<Duration>,
    /// One attempt.
    pub backend_timeout: Option<Duration>,
}

/// One match: all of it must be true.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    /// The path.
    pub path: PathMatch,
    /// Header names are lower case; the first of equal names counts.
    pub headers: Vec<(Arc<str>, TextMatch)>,
    /// Query parameters.
    pub query: Vec<(Arc<str>, TextMatch)>,
    /// The method.
    pub method: Option<Arc<str>>,
    /// Only gRPC requests (GRPCRoute).
    pub grpc: bool,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// Whole elements from the front; no slash at the end, but for `/` itself.
    Prefix(Arc<str>),
    /// The whole path, by RE2's rules.
    Regex(Arc<str>),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// How a value is matched.
#[derive(Clone, Debug, PartialEq)]
pub enum TextMatch {
    /// The whole value.
    Exact(Arc<str>),
    /// The whole value, by RE2's rules.
    Regex(Arc<str>),
}

/// A filter of a rule or of a backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// On the way to the upstream.
    RequestHeaders(HeaderChange),
    /// On the way back.
    ResponseHeaders(HeaderChange),
    /// A copy to another service.
    Mirror {
        /// Where to.
        target: Target,
        /// How many of a million requests.
        per_million: u32,
    },
    /// An answer that sends the client elsewhere.
    Redirect {
        /// `http` or `https`.
        scheme: Option<Arc<str>>,
        /// Host without a port.
        hostname: Option<Arc<str>>,
        /// The new path.
        path: Option<PathChange>,
        /// The port that was given. Without one: the listener's, or the well-known one of the scheme.
        port: Option<u16>,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// Another host or path towards the upstream.
    Rewrite {
        /// The new host.
        hostname: Option<Arc<str>>,
        /// The new path.
        path: Option<PathChange>,
    },
    /// Cross-origin requests.
    Cors(Box<Cors>),
}

/// What is done with headers, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChange {
    /// Replaced, or added where there is none.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Added to what is there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Taken away.
    pub remove: Vec<Arc<str>>,
}

/// How a path is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The whole path; the query stays.
    Full(Arc<str>),
    /// What the prefix match matched.
    Prefix(Arc<str>),
}

/// Cross-origin requests, as the filter of the Gateway API says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Origins, with `*` as a wildcard.
    pub allow_origins: Vec<Arc<str>>,
    /// Whether credentials may be sent.
    pub allow_credentials: bool,
    /// Methods, or `*`.
    pub allow_methods: Vec<Arc<str>>,
    /// Headers, or `*`.
    pub allow_headers: Vec<Arc<str>>,
    /// Headers that the page may read.
    pub expose_headers: Vec<Arc<str>>,
    /// How long the answer may be kept.
    pub max_age: Option<Duration>,
}

/// One backend of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Where to.
    pub target: Target,
    /// Its share among the rule's backends.
    pub weight: u32,
    /// What is done for this backend alone.
    pub filters: Vec<Filter>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A port of a Service.
    Service {
        /// Which.
        service: Named,
        /// Which of its ports.
        port: u16,
    },
    /// A port of an ExternalService.
    External {
        /// Which.
        service: Named,
        /// Which of its ports.
        port: u16,
    },
    /// A reference that leads nowhere, or that nobody granted: its share of the requests gets 500.
    Invalid,
}

/// A TLSRoute or TCPRoute at one of its parents.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// The object.
    pub key: Key,
    /// Seconds since 1970.
    pub created: i64,
    /// Server names (TLSRoute); empty: any.
    pub hostnames: Vec<Arc<str>>,
    /// Where connections go, by weight. [`Target::Invalid`] shares are refused.
    pub backends: Vec<(Target, u32)>,
}
