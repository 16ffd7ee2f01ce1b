//! HTTP filters: those of a connection manager, and what routes say of them.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use outrider_core::format::Format;
use outrider_core::matcher::{RuntimeFraction, StringMatcher};

use super::{
    ApiKeyAuth, ApiKeyAuthRoute, AppendAction, AuthzRoute, BasicAuth, BasicUsers, ConfigSource,
    CredentialInjector, Discovered, ExtAuthz, Fault, GrpcStats, HeaderAdd, HealthCheckFilter, JwtAuthn,
    LocalRateLimit, OAuth2Login, Rbac,
};

/// A filter's name. Every name is kept once as long as anybody has it, so that two are compared by their address.
#[derive(Debug, Clone)]
pub struct FilterName(Arc<str>);

static NAMES: Mutex<Vec<Weak<str>>> = Mutex::new(Vec::new());

impl FilterName {
    /// The name `text`. Takes a lock: for the control thread.
    pub fn new(text: &str) -> Self {
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|name| name.strong_count() > 0);
        if let Some(known) = names.iter().filter_map(Weak::upgrade).find(|name| **name == *text) {
            return Self(known);
        }
        let name: Arc<str> = Arc::from(text);
        names.push(Arc::downgrade(&name));
        Self(name)
    }

    /// Its text.
    pub const fn text(&self) -> &Arc<str> {
        &self.0
    }
}

impl PartialEq for FilterName {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for FilterName {}

/// A filter in front of the router.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// Its name: routes speak of it by this.
    pub name: FilterName,
    /// It works only where a route says so.
    pub disabled: bool,
    /// What it is.
    pub kind: HttpFilterKind,
}

/// What a filter is, with its settings.
#[derive(Debug, Clone)]
pub enum HttpFilterKind {
    /// `envoy.filters.http.api_key_auth`
    ApiKeyAuth(Arc<ApiKeyAuth>),
    /// `envoy.filters.http.basic_auth`
    BasicAuth(Arc<BasicAuth>),
    /// `envoy.filters.http.cors`; all its settings are those of routes.
    Cors,
    /// `envoy.filters.http.credential_injector`
    CredentialInjector(Arc<CredentialInjector>),
    /// `envoy.filters.http.ext_authz`
    ExtAuthz(Arc<ExtAuthz>),
    /// `envoy.filters.http.fault`
    Fault(Arc<Fault>),
    /// `envoy.filters.http.grpc_stats`
    GrpcStats(Arc<GrpcStats>),
    /// `envoy.filters.http.header_mutation`
    HeaderMutation(Arc<HeaderMutationFilter>),
    /// `envoy.filters.http.oauth2`; `None`: routes alone say what it does.
    OAuth2(Option<Arc<OAuth2Login>>),
    /// `envoy.filters.http.on_demand`
    OnDemand(Arc<OnDemand>),
    /// `envoy.filters.http.health_check`
    HealthCheck(Arc<HealthCheckFilter>),
    /// `envoy.filters.http.rbac`
    Rbac(Arc<Rbac>),
    /// `envoy.filters.http.jwt_authn`
    JwtAuthn(Arc<JwtAuthn>),
    /// `envoy.filters.http.local_ratelimit`
    LocalRateLimit(Arc<LocalRateLimit>),
    /// A control plane sends it; its place is taken by what came before anything is built.
    Discovered(Arc<Discovered<HttpFilterKind>>),
    /// Nothing came for it: requests are answered 500.
    Missing,
}

/// What a route, a virtual host, a table or a weighted cluster says of the filter of a name
/// (`typed_per_filter_config`).
#[derive(Debug, Clone)]
pub struct FilterOverride {
    /// The filter's name.
    pub name: FilterName,
    /// The filter does not work here; otherwise it does, even one that is disabled in the chain.
    pub disabled: bool,
    /// Settings for here; `None` for none.
    pub config: Option<RouteFilterConfig>,
}

/// A filter's settings for a route.
#[derive(Debug, Clone)]
pub enum RouteFilterConfig {
    /// For [`HttpFilterKind::ApiKeyAuth`].
    ApiKeyAuth(Arc<ApiKeyAuthRoute>),
    /// For [`HttpFilterKind::BasicAuth`]: users in place of the filter's own.
    BasicAuth(BasicUsers),
    /// For [`HttpFilterKind::Cors`].
    Cors(Arc<CorsPolicy>),
    /// For [`HttpFilterKind::ExtAuthz`].
    ExtAuthz(Arc<AuthzRoute>),
    /// For [`HttpFilterKind::Fault`], in place of the filter's own.
    Fault(Arc<Fault>),
    /// For [`HttpFilterKind::HeaderMutation`].
    HeaderMutation(Arc<FilterMutations>),
    /// For [`HttpFilterKind::OAuth2`], in place of the filter's own.
    OAuth2(Arc<OAuth2Login>),
    /// For [`HttpFilterKind::OnDemand`].
    OnDemand(Arc<OnDemand>),
    /// For [`HttpFilterKind::Rbac`], in place of the filter's own; `None` turns it off.
    Rbac(Option<Arc<Rbac>>),
    /// For [`HttpFilterKind::JwtAuthn`]: what requests need, by its name in the filter's settings; `None` for nothing.
    JwtAuthn(Option<Box<str>>),
    /// For [`HttpFilterKind::LocalRateLimit`], in place of the filter's own.
    LocalRateLimit(Arc<LocalRateLimit>),
}

/// `OnDemand`, and `PerRouteConfig` of the same filter.
#[derive(Debug, Clone)]
pub struct OnDemand {
    /// Clusters that are not there are asked for; `None`: they are not.
    pub clusters: Option<OnDemandClusters>,
}

/// `OnDemandCds`
#[derive(Debug, Clone)]
pub struct OnDemandClusters {
    /// Where they come from: a stream that speaks delta.
    pub source: ConfigSource,
    /// How long a request waits. Default 5 s.
    pub timeout: Duration,
}

/// `CorsPolicy`. Of several levels each field is taken from the most specific one that has it.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    /// Origins that are allowed; empty for those of the next level.
    pub allow_origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`; `*` echoes what is asked for.
    pub allow_methods: Option<HeaderValue>,
    /// `access-control-allow-headers`; `*` echoes what is asked for.
    pub allow_headers: Option<HeaderValue>,
    /// `access-control-expose-headers`
    pub expose_headers: Option<HeaderValue>,
    /// `access-control-max-age`
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials`
    pub allow_credentials: Option<bool>,
    /// For which share of requests the filter works; `None` for all.
    pub enabled: Option<RuntimeFraction>,
    /// For which share origins are only counted.
    pub shadow: Option<RuntimeFraction>,
    /// `access-control-allow-private-network`
    pub allow_private_network: Option<bool>,
    /// Preflights from other origins go upstream. Default true.
    pub forward_not_matching_preflights: Option<bool>,
}

/// `HeaderMutation` of the filter of this name.
#[derive(Debug, Clone)]
pub struct HeaderMutationFilter {
    /// The filter's own changes; they come first.
    pub mutations: FilterMutations,
    /// Of the routes' levels the most specific comes last.
    pub most_specific_wins: bool,
}

/// Changes of both directions.
#[derive(Debug, Clone, Default)]
pub struct FilterMutations {
    /// Of request headers.
    pub request: Vec<HeaderMutation>,
    /// Of query parameters, behind those.
    pub query: Vec<QueryMutation>,
    /// Of request trailers.
    pub request_trailers: Vec<HeaderMutation>,
    /// Of response headers.
    pub response: Vec<HeaderMutation>,
    /// Of response trailers.
    pub response_trailers: Vec<HeaderMutation>,
}

/// One change of headers; they are made one after the other.
#[derive(Debug, Clone)]
pub enum HeaderMutation {
    /// Removes a header.
    Remove(HeaderName),
    /// Removes the headers whose names match.
    RemoveMatching(StringMatcher),
    /// Sets or appends a header.
    Set(HeaderAdd),
}

/// One change of a query.
#[derive(Debug, Clone)]
pub enum QueryMutation {
    /// Removes a parameter.
    Remove(Box<str>),
    /// Sets or appends a parameter.
    Set {
        /// Its name.
        name: Box<str>,
        /// Its value.
        value: Arc<Format>,
        /// What happens when it is there already.
        action: AppendAction,
    },
}
