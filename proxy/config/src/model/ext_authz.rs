//! Asking a service whether a request may pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrider_core::matcher::{RuntimeFraction, StringMatcher};
use outrider_core::metadata_matcher::MetadataMatcher;
use regex::Regex;

use super::{GrpcService, HeaderAdd, JwksRetries, RuntimeFlag};

/// `envoy.filters.http.ext_authz`
#[derive(Debug, Clone)]
pub struct ExtAuthz {
    /// Who is asked.
    pub service: AuthzService,
    /// Without an answer requests pass.
    pub failure_mode_allow: bool,
    /// Requests that pass so carry `x-envoy-auth-failure-mode-allowed: true`.
    pub failure_mode_header: bool,
    /// Requests' bodies are sent with the question; `None`: they are not.
    pub body: Option<AuthzBody>,
    /// The request is routed anew when the answer changed it.
    pub clear_route_cache: bool,
    /// The client's answer when there is none of the service's. Default 403.
    pub status_on_error: StatusCode,
    /// Answers with changes that are not right are refused as a whole.
    pub validate_mutations: bool,
    /// Dynamic metadata of these namespaces is sent with the question.
    pub metadata_namespaces: Box<[Arc<str>]>,
    /// The route's metadata of these namespaces is sent with the question.
    pub route_metadata_namespaces: Box<[Arc<str>]>,
    /// For which share of requests the filter works; `None` for all.
    pub enabled: Option<RuntimeFraction>,
    /// Only requests with this metadata; `None` for all.
    pub enabled_metadata: Option<MetadataMatcher>,
    /// Requests that the filter does not work for are refused.
    pub deny_at_disable: Option<RuntimeFlag>,
    /// The client's certificate is sent with the question.
    pub include_peer_certificate: bool,
    /// The server name is sent with the question.
    pub include_tls_session: bool,
    /// Stands in the middle of the filter's stats; empty for nothing.
    pub stat_prefix: Box<str>,
    /// Headers that are sent with the question; `None` for all.
    pub allowed_headers: Option<Box<[StringMatcher]>>,
    /// Headers that are not, whatever the other list says.
    pub disallowed_headers: Box<[StringMatcher]>,
    /// A refusal counts as a response of the route's cluster.
    pub charge_cluster: bool,
    /// Headers are sent as they are: bytes, and each line by itself.
    pub raw_headers: bool,
    /// Which of the request's headers an answer may change; `None` for all.
    pub mutation_rules: Option<HeaderRules>,
    /// Metadata of the answer becomes the request's.
    pub ingest_metadata: bool,
    /// The most bytes of a refusal's body that the client gets; `None` for all.
    pub max_denied_body: Option<usize>,
    /// Nothing is refused; what would have been is noted.
    pub shadow: bool,
}

/// `CheckSettings` and `disabled` of a route.
#[derive(Debug, Clone, Default)]
pub struct AuthzRoute {
    /// Nobody is asked.
    pub disabled: bool,
    /// `context_extensions`: of several levels, all; of one name, the most specific's.
    pub extensions: BTreeMap<Box<str>, Box<str>>,
    /// Bodies are not sent with the question.
    pub without_body: bool,
    /// How bodies are sent, in the place of the filter's own.
    pub body: Option<AuthzBody>,
    /// Who is asked, in the place of the filter's own.
    pub service: Option<AuthzService>,
}

/// `BufferSettings`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthzBody {
    /// The most bytes.
    pub most: usize,
    /// Of a longer body the begin is sent; otherwise the client gets a 413.
    pub partial: bool,
    /// It is sent as bytes, not as text.
    pub as_bytes: bool,
}

/// Who is asked.
#[derive(Debug, Clone)]
pub enum AuthzService {
    /// `envoy.service.auth.v3.Authorization/Check`
    Grpc(Box<AuthzGrpc>),
    /// A request much like the client's.
    Http(Box<AuthzHttp>),
}

/// A service that speaks gRPC; its target is a cluster.
#[derive(Debug, Clone)]
pub struct AuthzGrpc {
    /// The cluster.
    pub cluster: Arc<str>,
    /// `:authority`
    pub authority: Arc<str>,
    /// Longest answer, bytes; `None` for no limit of its own.
    pub longest: Option<u32>,
    /// How long a call may take; `None` for as long as it likes. Default 200 ms.
    pub timeout: Option<Duration>,
    /// Its initial metadata.
    pub service: GrpcService,
}

/// `HttpService`
#[derive(Debug, Clone)]
pub struct AuthzHttp {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The host, where the client's is not sent.
    pub authority: Arc<str>,
    /// How long a request may take; `None` for as long as it likes. Default 200 ms.
    pub timeout: Option<Duration>,
    /// What is asked for.
    pub path: AuthzPath,
    /// How it is asked again, as keys are fetched again; `None`: it is not.
    pub retries: Option<JwksRetries>,
    /// Set on the request.
    pub add: Box<[HeaderAdd]>,
    /// Headers of an answer that allows that are set on the request.
    pub upstream: Box<[StringMatcher]>,
    /// Those that are appended.
    pub upstream_append: Box<[StringMatcher]>,
    /// Headers of a refusal that the client gets; empty for all but the host.
    pub client: Box<[StringMatcher]>,
    /// Headers of an answer that allows that the client gets.
    pub client_on_success: Box<[StringMatcher]>,
    /// Headers that become dynamic metadata.
    pub metadata: Box<[StringMatcher]>,
}

/// What an [`AuthzHttp`] is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthzPath {
    /// This, and the client's path behind it.
    Prefix(Box<str>),
    /// This, whatever the client asks for.
    Fixed(Box<str>),
}

/// `HeaderMutationRules`
#[derive(Debug, Clone)]
pub struct HeaderRules {
    /// `host`, `:authority`, `:scheme` and `:method` may be changed.
    pub allow_routing: bool,
    /// So may `x-envoy-`.
    pub allow_envoy: bool,
    /// So may not what begins with a colon.
    pub disallow_system: bool,
    /// So may nothing.
    pub disallow_all: bool,
    /// These names may, in spite of all of that.
    pub allow: Option<Regex>,
    /// These may not, in spite of everything.
    pub disallow: Option<Regex>,
    /// An answer with such a change is refused; otherwise the change is left out.
    pub is_error: bool,
}

/// How a header is changed, as [`HeaderRules`] tell changes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderOperation {
    /// It is set or added.
    Set,
    /// Its value gets longer.
    Append,
    /// It is removed.
    Remove,
}

impl HeaderRules {
    /// Whether the header `name`, in lower case, may be changed so (Envoy: `MutationRules::Checker`).
    pub fn allow(&self, operation: HeaderOperation, name: &str) -> bool {
        let system = name.starts_with(':');
        let never = match operation {
            HeaderOperation::Set => name.is_empty(),
            HeaderOperation::Append => name.is_empty() || system,
            HeaderOperation::Remove => name.is_empty() || system || name == "host",
        };
        if never || self.disallow.as_ref().is_some_and(|names| names.is_match(name)) {
            return false;
        }
        if self.allow.as_ref().is_some_and(|names| names.is_match(name)) {
            return true;
        }
        let routing = matches!(name, "host" | ":authority" | ":scheme" | ":method");
        !(self.disallow_all
            || self.disallow_system && system
            || !self.allow_routing && routing
            || !self.allow_envoy && name.starts_with("x-envoy"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_tell_which_headers_may_be_changed() {
        let none = HeaderRules {
            allow_routing: false,
            allow_envoy: false,
            disallow_system: false,
            disallow_all: false,
            allow: None,
            disallow: None,
            is_error: false,
        };
        let all = HeaderRules { allow_routing: true, allow_envoy: true, ..none.clone() };
        let but = HeaderRules {
            disallow_all: true,
            allow: Some(Regex::new("^(?:x-a.*|x-envoy-ok)$").unwrap()),
            disallow: Some(Regex::new("^(?:x-ab)$").unwrap()),
            ..none.clone()
        };
        let system = HeaderRules { disallow_system: true, ..all.clone() };
        use HeaderOperation::{Append, Remove, Set};
        for (rules, operation, name, want) in [
            (&none, Set, "x", true),
            (&none, Set, "", false),
            (&none, Set, ":path", true),
            (&none, Set, "host", false),
            (&none, Set, ":method", false),
            (&none, Set, "x-envoy-a", false),
            (&none, Append, ":path", false),
            (&none, Remove, ":path", false),
            (&all, Set, "host", true),
            (&all, Remove, "host", false),
            (&all, Set, "x-envoy-a", true),
            (&but, Set, "x", false),
            (&but, Set, "x-a", true),
            (&but, Set, "x-ab", false),
            (&but, Set, "x-envoy-ok", true),
            (&system, Set, ":path", false),
            (&system, Set, "host", true),
        ] {
            assert_eq!(rules.allow(operation, name), want, "{operation:?} {name} {rules:?}");
        }
    }
}
