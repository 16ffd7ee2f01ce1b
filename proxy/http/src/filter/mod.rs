//! HTTP filters: what stands between the connection manager and the router.
//!
//! A chain is built once from a connection manager's configuration, on the control thread, and workers share it
//! ([`Chain`]). A request notes which of its filters work for it, and what they keep ([`Run`]). Where the chain is the
//! router alone, a request pays one look at a flag.
//!
//! A request's head passes the filters in the chain's order once it has a first route; a response's head, the proxy's
//! own replies among them, passes all of them in the opposite order. Bodies and trailers pass those filters alone that
//! put themselves around them. Envoy: "HTTP filters", "Route based filter chain".
//!
//! # How to add a filter
//!
//! 1. Its settings: a type in `outrider_config::model::http_filter`, a variant of `HttpFilterKind`, and one of
//!    `RouteFilterConfig` where routes can change it. All that can be compiled is compiled there (matchers, formats).
//! 2. Its conversion: a file in `outrider_config::convert::http_filter`, and a line in `kind` and in `route_config` of its
//!    `mod.rs`. Every field of the message is honoured, refused by its path or inert with a reason.
//! 3. What it does: a file here with a struct that all workers share (its settings and stats; atomics, no locks), a
//!    variant of [`Filter`], and a line in those functions of `impl Filter` that it has something to do in:
//!    - `request` gets a [`RequestCx`]: the head (to be changed in place), the body, the route and what it says of this
//!      filter ([`RequestCx::settings`] is what the most specific level says, [`RequestCx::levels`] what each says).
//!      After a change that another route may match, [`RequestCx::clear_route`]. It returns [`Step::GO_ON`], or a
//!      reply of the proxy ([`Step::reply`]), or a whole response ([`Step::respond`]). What takes time is a future
//!      ([`Step::wait`]), which gets the context: the box for it is the only one, and only then. Dropping the
//!      future (the client left, a timeout) must undo what it did.
//!    - `response` gets a [`ResponseCx`] with the response's head.
//!    - To see or change a body or trailers: [`RequestCx::wrap_body`], [`ResponseCx::wrap_body`], [`Mapped`].
//!    - What it keeps for a request, from one function to the next or until the stream ends (a permit, say), is a
//!      variant of [`State`]: `keep` and `take`.
//!    - Where it lets requests through by policies that an update may tighten: `Chain::build` is to know it as such, and
//!      `review` asks it again about requests that run.
//!    - For access logs: `stream.info` (flags, details, `dynamic` metadata, `filter_state`). Metadata that each request would
//!      get is noted only where `outrider_core::metadata::is_read`; what reads it says `note_reader` when it is converted.
//! 4. Its conformance cases beside the real Envoy: a group in `tests/tests/conformance/groups`.

mod ahead;
mod api_key_auth;
mod basic_auth;
mod body;
mod chain;
mod context;
mod cors;
mod credential_injector;
mod ext_authz;
mod fault;
mod grpc_stats;
mod header_mutation;
mod health_check;
mod jwt_authn;
mod local_rate_limit;
mod named;
mod oauth2;
mod on_demand;
mod places;
mod rbac;
mod review;
mod uri;

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_config::model::{BasicUsers, HttpFilter, HttpFilterKind, RouteFilterConfig};
use outrider_core::credentials::HtpasswdError;
use outrider_core::jwt::JwtError;
use outrider_core::stats::Scope;
use outrider_core::{LocalReply, ResponseFlags};

use crate::fetch::Fetcher;
use crate::routing::DirectBodyError;
use crate::secrets::SecretSlot;

pub(crate) use body::Mapped;
pub(crate) use chain::{Chain, PinnedChain, Run, request, response};
pub(crate) use context::{RequestCx, ResponseCx, Step, Verdict};
pub(crate) use review::{REFUSED, Review};

/// A filter cannot be built from its settings.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A file that it needs cannot be read.
    #[error(transparent)]
    Source(#[from] DirectBodyError),
    /// There are no keys in it.
    #[error("{field}: {error}")]
    Keys {
        /// The field's path.
        field: String,
        /// Why.
        error: JwtError,
    },
    /// There are no users in it.
    #[error("{field}: {error}")]
    Users {
        /// The field's path.
        field: String,
        /// Why.
        error: HtpasswdError,
    },
}

/// What a route says of a filter, with what it names read. Control thread.
///
/// # Errors
/// It cannot be read.
pub(crate) fn route_settings(config: &RouteFilterConfig) -> Result<RouteFilterConfig, FilterError> {
    Ok(match config {
        RouteFilterConfig::BasicAuth(users) => {
            RouteFilterConfig::BasicAuth(BasicUsers::Here(basic_auth::read(users, true)?))
        }
        RouteFilterConfig::OAuth2(login) => RouteFilterConfig::OAuth2(Arc::new(oauth2::read(login)?)),
        config => config.clone(),
    })
}

/// A filter, with its settings and what it counts.
#[derive(Debug)]
pub(crate) enum Filter {
    ApiKeyAuth(api_key_auth::ApiKeyAuth),
    BasicAuth(basic_auth::BasicAuth),
    Cors(cors::Cors),
    CredentialInjector(credential_injector::CredentialInjector),
    ExtAuthz(Box<ext_authz::ExtAuthz>),
    Fault(fault::Fault),
    GrpcStats(grpc_stats::GrpcStats),
    HeaderMutation(header_mutation::HeaderMutation),
    HealthCheck(health_check::HealthCheck),
    OAuth2(Box<oauth2::OAuth2>),
    OnDemand(on_demand::OnDemand),
    Rbac(rbac::Rbac),
    JwtAuthn(Box<jwt_authn::JwtAuthn>),
    LocalRateLimit(local_rate_limit::LocalRateLimit),
    /// Its settings did not come.
    Missing,
}

/// What a filter keeps for a request.
#[derive(Debug)]
pub(crate) enum State {
    Cors(cors::Latched),
    ExtAuthz(Box<[ext_authz::Change]>),
    Fault(Box<fault::Faulted>),
    GrpcStats(Rc<grpc_stats::Call>),
    HealthCheck,
    LocalRateLimit(outrider_core::rate_limit::Found),
    OAuth2(Box<oauth2::Renewed>),
}

impl Filter {
    /// The filter for `config`. `scope` is the connection manager's (`http.<stat_prefix>.`).
    ///
    /// # Errors
    /// A file that it needs cannot be read.
    fn build(config: &HttpFilter, scope: &Scope) -> Result<Self, FilterError> {
        Ok(match &config.kind {
            HttpFilterKind::ApiKeyAuth(config) => {
                Self::ApiKeyAuth(api_key_auth::ApiKeyAuth::new(config.clone(), scope))
            }
            HttpFilterKind::BasicAuth(config) => {
                Self::BasicAuth(basic_auth::BasicAuth::build(config.clone(), scope)?)
            }
            HttpFilterKind::Cors => Self::Cors(cors::Cors::new(scope)),
            HttpFilterKind::CredentialInjector(config) => {
                Self::CredentialInjector(credential_injector::CredentialInjector::build(config, scope)?)
            }
            HttpFilterKind::ExtAuthz(settings) => Self::ExtAuthz(Box::new(ext_authz::ExtAuthz::new(
                config.name.text(),
                settings.clone(),
                scope,
            ))),
            HttpFilterKind::Fault(fault) => {
                Self::Fault(fault::Fault::new(config.name.text(), fault.clone(), scope))
            }
            HttpFilterKind::GrpcStats(config) => Self::GrpcStats(grpc_stats::GrpcStats::new(config.clone())),
            HttpFilterKind::HealthCheck(config) => {
                Self::HealthCheck(health_check::HealthCheck::new(config.clone()))
            }
            HttpFilterKind::HeaderMutation(config) => {
                Self::HeaderMutation(header_mutation::HeaderMutation::new(config.clone()))
            }
            HttpFilterKind::OAuth2(config) => {
                Self::OAuth2(Box::new(oauth2::OAuth2::build(config.as_ref(), scope)?))
            }
            HttpFilterKind::OnDemand(config) => Self::OnDemand(on_demand::OnDemand::new(config.clone())),
            HttpFilterKind::JwtAuthn(config) => {
                Self::JwtAuthn(Box::new(jwt_authn::JwtAuthn::build(config.clone(), scope)?))
            }
            HttpFilterKind::LocalRateLimit(config) => {
                Self::LocalRateLimit(local_rate_limit::LocalRateLimit::new(config.clone(), scope))
            }
            HttpFilterKind::Rbac(config) => Self::Rbac(rbac::Rbac::new(config.clone(), scope)),
            HttpFilterKind::Discovered(_) | HttpFilterKind::Missing => Self::Missing,
        })
    }

    /// What is fetched for it.
    fn fetchers(&self) -> Vec<Fetcher> {
        match self {
            Self::CredentialInjector(filter) => {
                filter.token().cloned().map(Fetcher::Token).into_iter().collect()
            }
            Self::JwtAuthn(filter) => filter.sources().cloned().map(Fetcher::Keys).collect(),
            _ => Vec::new(),
        }
    }

    /// The places of the secrets that it needs.
    fn secret_slots(&self) -> &[Arc<SecretSlot>] {
        match self {
            Self::CredentialInjector(filter) => std::slice::from_ref(filter.slot()),
            Self::OAuth2(filter) => filter.slots(),
            _ => &[],
        }
    }

    /// A request's head comes by.
    fn request<'a>(&'a self, cx: RequestCx<'a>) -> Step<'a> {
        match self {
            Self::ApiKeyAuth(filter) => filter.request(cx),
            Self::BasicAuth(filter) => filter.request(cx),
            Self::Cors(filter) => filter.request(cx),
            Self::CredentialInjector(filter) => filter.request(cx),
            Self::ExtAuthz(filter) => filter.request(cx),
            Self::Fault(filter) => filter.request(cx),
            Self::GrpcStats(filter) => filter.request(cx),
            Self::HeaderMutation(filter) => filter.request(cx),
            Self::HealthCheck(filter) => filter.request(cx),
            Self::OAuth2(filter) => filter.request(cx),
            Self::OnDemand(filter) => filter.request(cx),
            Self::Rbac(filter) => filter.request(cx),
            Self::JwtAuthn(filter) => filter.request(cx),
            Self::LocalRateLimit(filter) => filter.request(cx),
            Self::Missing => Step::reply(
                LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "")
                    .flags(ResponseFlags::NO_FILTER_CONFIG_FOUND),
            ),
        }
    }

    /// A response's head comes by.
    fn response(&self, cx: ResponseCx<'_>) {
        match self {
            Self::Cors(_) => cors::response(cx),
            Self::ExtAuthz(_) => ext_authz::response(cx),
            Self::Fault(_) => fault::response(cx),
            Self::GrpcStats(_) => grpc_stats::response(cx),
            Self::HeaderMutation(filter) => filter.response(cx),
            Self::HealthCheck(filter) => filter.response(cx),
            Self::LocalRateLimit(_) => local_rate_limit::response(cx),
            Self::OAuth2(_) => oauth2::response(cx),
            Self::ApiKeyAuth(_)
            | Self::BasicAuth(_)
            | Self::CredentialInjector(_)
            | Self::JwtAuthn(_)
            | Self::OnDemand(_)
            | Self::Rbac(_)
            | Self::Missing => {}
        }
    }
}
