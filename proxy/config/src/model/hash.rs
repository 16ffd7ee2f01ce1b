//! What requests are hashed by.

use outrider_core::matcher::HeaderRef;

use super::RegexRewrite;

/// `RouteAction.HashPolicy`: one of the things that a request's hash comes from.
#[derive(Debug, Clone)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Where it, or one before it, gave a hash, those behind it are not looked at.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Debug, Clone)]
pub enum HashSource {
    /// The values of a header.
    Header {
        /// Its name.
        name: HeaderRef,
        /// What the values are rewritten by first.
        rewrite: Option<RegexRewrite>,
    },
    /// A cookie's value.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// What stands behind the value in the `Set-Cookie` of a client that has none; `None` sets none.
        attributes: Option<Box<str>>,
    },
    /// The client's IP address.
    SourceIp,
    /// The value of a query parameter.
    Query(Box<str>),
}

/// How hosts are put onto a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingHashFunction {
    /// xxHash64.
    XxHash,
    /// MurmurHash2, as GNU's `std::hash<string>` has it.
    Murmur2,
}
