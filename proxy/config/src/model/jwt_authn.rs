//! JSON Web Tokens that requests must have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use outrider_core::jwt::{Audiences, Jwks};
use outrider_core::matcher::StringMatcher;

use super::{DataSource, RouteMatch};

/// `envoy.filters.http.jwt_authn`
#[derive(Debug, Clone)]
pub struct JwtAuthn {
    /// Who issues tokens, by name.
    pub providers: Box<[JwtProvider]>,
    /// What requests need; the first that matches counts.
    pub rules: Box<[JwtRule]>,
    /// What routes may ask for, by name.
    pub requirements: BTreeMap<Box<str>, JwtRequirement>,
    /// Preflights of CORS need nothing.
    pub bypass_cors_preflight: bool,
    /// Clients are not told what is wrong.
    pub strip_failure_response: bool,
    /// Goes in front of the filter's stats; empty for nothing.
    pub stat_prefix: Box<str>,
    /// Headers that only verified tokens may set: they are taken from every request.
    pub reserved: Box<[HeaderName]>,
}

/// `RequirementRule`
#[derive(Debug, Clone)]
pub struct JwtRule {
    /// Which requests it is for.
    pub matches: RouteMatch,
    /// What they need; `None` for nothing.
    pub requires: Option<JwtRequirement>,
}

/// `JwtRequirement`
#[derive(Debug, Clone)]
pub enum JwtRequirement {
    /// Nothing.
    Nothing,
    /// Tokens of one provider.
    Provider {
        /// Its place in [`JwtAuthn::providers`].
        provider: usize,
        /// In the place of the provider's own.
        audiences: Option<Audiences>,
    },
    /// One of these.
    Any {
        /// The requirements.
        of: Vec<Self>,
        /// When no token is there for any of them, that will do.
        allow_missing: bool,
        /// None of them needs to hold.
        allow_failed: bool,
    },
    /// All of these.
    All(Vec<Self>),
    /// Tokens of any provider are looked at.
    Whoever {
        /// Where they are.
        locations: Box<[JwtLocation]>,
        /// They may be wrong, too.
        allow_failed: bool,
    },
}

/// `JwtProvider`
#[derive(Debug, Clone)]
pub struct JwtProvider {
    /// Its name.
    pub name: Box<str>,
    /// `iss` must be this; empty for any.
    pub issuer: Box<str>,
    /// `aud` must have one of these.
    pub audiences: Audiences,
    /// `sub` must be one of these; `None` for any.
    pub subjects: Option<StringMatcher>,
    /// `exp` must be there, and nearer than this.
    pub lifetime: Option<JwtLifetime>,
    /// Its keys.
    pub keys: JwtKeys,
    /// Tokens are passed on.
    pub forward: bool,
    /// Where its tokens are, in the order in which they are looked for.
    pub locations: Box<[JwtLocation]>,
    /// Takes the payload upstream, base64url.
    pub payload_header: Option<HeaderName>,
    /// With padding.
    pub pad_payload: bool,
    /// The payload is dynamic metadata under this key.
    pub payload_in_metadata: Option<Arc<str>>,
    /// Claims whose words are a list in metadata.
    pub space_delimited: Box<[Box<str>]>,
    /// The header is dynamic metadata under this key.
    pub header_in_metadata: Option<Arc<str>>,
    /// What is wrong is dynamic metadata under this key.
    pub failed_status_in_metadata: Option<Arc<str>>,
    /// How far clocks may differ, in seconds.
    pub clock_skew: u64,
    /// Claims that go upstream as headers.
    pub claims: Box<[JwtClaimHeader]>,
    /// The request is routed anew when claims became headers or metadata.
    pub clear_route_cache: bool,
}

/// How long tokens may still be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtLifetime {
    /// As long as they like, but not for ever.
    Finite,
    /// Less than this.
    Below(Duration),
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum JwtKeys {
    /// They are here.
    Here(Arc<Jwks>),
    /// They are read when the filter is built.
    Source(DataSource),
    /// They are fetched.
    Remote(Arc<RemoteJwks>),
}

/// How keys are fetched again after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JwksRetries {
    /// How often.
    pub count: u32,
    /// The limit of the first random time in between; it doubles each time.
    pub base: Duration,
    /// The last limit. As long each try may take, too (Envoy: `convertCoreToRouteRetryPolicy`).
    pub most: Duration,
}

/// `RemoteJwks`
#[derive(Debug, Clone)]
pub struct RemoteJwks {
    /// What is asked for.
    pub uri: Uri,
    /// The cluster that is asked.
    pub cluster: Arc<str>,
    /// How long a fetch may take, with its retries.
    pub timeout: Duration,
    /// How long keys are good.
    pub cache: Duration,
    /// Keys are fetched before requests want them; after a fetch that failed, again after so long.
    pub background: Option<Duration>,
    /// How it is tried again; `None`: it is not.
    pub retries: Option<JwksRetries>,
}

/// Where a token may be.
#[derive(Debug, Clone)]
pub struct JwtLocation {
    /// The place.
    pub place: JwtPlace,
    /// Whose tokens may be there.
    pub issuers: JwtIssuers,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtPlace {
    /// A header.
    Header {
        /// Its name.
        name: HeaderName,
        /// What stands in front of the token.
        prefix: Box<str>,
    },
    /// A query parameter.
    Query(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// Issuers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtIssuers {
    /// Any.
    Any,
    /// These.
    These(Vec<Box<str>>),
}

/// `JwtClaimToHeader`
#[derive(Debug, Clone)]
pub struct JwtClaimHeader {
    /// The header.
    pub header: HeaderName,
    /// The claim, by the names that lead to it.
    pub claim: Box<[Box<str>]>,
}

impl JwtIssuers {
    /// Whether `issuer` is one of them.
    pub fn allow(&self, issuer: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(issuers) => issuers.iter().any(|known| **known == *issuer),
        }
    }
}
