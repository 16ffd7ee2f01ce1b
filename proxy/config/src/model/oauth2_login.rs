//! `envoy.filters.http.oauth2`: users who log in at an authorization server.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use outrider_core::format::Format;
use outrider_core::matcher::{HeaderMatcher, StringMatcher};
use outrider_core::oauth2::exchange::ClientAuth;

use super::{DataSource, DynamicSecret, JwksRetries, SecretRef};

/// `oauth2.v3.OAuth2Config`
#[derive(Debug, Clone)]
pub struct OAuth2Login {
    /// Where codes are exchanged for tokens.
    pub endpoint: TokenEndpoint,
    /// Where users log in; its query stays, as far as it is not set here.
    pub authorization: Uri,
    /// Where users log out.
    pub end_session: Option<Box<str>>,
    /// Where they are sent to from there.
    pub post_logout: PostLogout,
    /// The client's name.
    pub client_id: Box<str>,
    /// How the client shows who it is.
    pub auth: ClientAuth,
    /// The client's secret; `None` where it needs none.
    pub token_secret: Option<SecretRef<DataSource>>,
    /// What cookies are signed and encrypted with.
    pub hmac_secret: SecretRef<DataSource>,
    /// The cookies.
    pub cookies: LoginCookies,
    /// Where the authorization server sends users back to.
    pub redirect_uri: Arc<Format>,
    /// Scheme and host of what users asked for, if they are not the request's.
    pub original_uri: Option<Arc<Format>>,
    /// Hosts that users may be sent to; empty for all.
    pub domains: Box<[Box<str>]>,
    /// Paths that users come back to.
    pub redirect_path: StringMatcher,
    /// Paths that log out.
    pub signout_path: StringMatcher,
    /// The access token goes upstream in `authorization`.
    pub forward_bearer: bool,
    /// Takes the ID token upstream.
    pub forward_id: Option<HeaderName>,
    /// `authorization` of clients goes upstream.
    pub preserve_authorization: bool,
    /// Requests that need no login.
    pub pass_through: Box<[HeaderMatcher]>,
    /// Requests that go on without one, marked so.
    pub allow_failed: Box<[HeaderMatcher]>,
    /// Requests that are refused and not sent to log in.
    pub deny_redirect: Box<[HeaderMatcher]>,
    /// What tokens are to be good for, as it stands in a query.
    pub scope: Box<str>,
    /// `&resource=` for each, as they stand in a query.
    pub resources: Box<str>,
    /// Sessions are renewed with their refresh tokens.
    pub use_refresh: bool,
    /// How long access tokens are good where the server does not say it; zero: it must.
    pub default_lifetime: Duration,
    /// The same of refresh tokens that do not say it themselves.
    pub default_refresh_lifetime: Duration,
    /// ID tokens are kept as long as access tokens, whatever they say.
    pub id_as_access: bool,
    /// Tokens stand in their cookies as they are.
    pub plain_tokens: bool,
    /// What stands in front of the names of stats: empty, or with a dot at its end.
    pub stat_prefix: Box<str>,
}

/// Where codes are exchanged for tokens.
#[derive(Debug, Clone)]
pub struct TokenEndpoint {
    /// What is asked for.
    pub uri: Uri,
    /// The cluster that is asked.
    pub cluster: Arc<str>,
    /// How long an answer may take; `None` for as long as it likes.
    pub timeout: Option<Duration>,
    /// How it is asked again; `None`: it is not.
    pub retries: Option<JwksRetries>,
}

/// Where users are sent to from the endpoint at which they log out.
#[derive(Debug, Clone)]
pub enum PostLogout {
    /// To the root of the host that they asked.
    Origin,
    /// Nothing is said.
    Nowhere,
    /// Here.
    Uri(Arc<Format>),
}

/// The cookies of sessions.
#[derive(Debug, Clone)]
pub struct LoginCookies {
    /// Their domain; `None` for the request's host.
    pub domain: Option<Box<str>>,
    /// The access token.
    pub access: LoginCookie,
    /// The signature.
    pub hmac: LoginCookie,
    /// The end of the session.
    pub expires: LoginCookie,
    /// The ID token.
    pub id: LoginCookie,
    /// The refresh token.
    pub refresh: LoginCookie,
    /// The token against forged requests, while a login is under way.
    pub nonce: LoginCookie,
    /// How long it is kept.
    pub nonce_lifetime: Duration,
    /// The code's verifier, while a login is under way.
    pub verifier: LoginCookie,
    /// How long it is kept.
    pub verifier_lifetime: Duration,
    /// Access tokens are not kept.
    pub no_access: bool,
    /// ID tokens are not kept.
    pub no_id: bool,
    /// Refresh tokens are not kept.
    pub no_refresh: bool,
}

/// A cookie.
#[derive(Debug, Clone)]
pub struct LoginCookie {
    /// Its name.
    pub name: Box<str>,
    /// Its path.
    pub path: Box<str>,
    /// What stands behind `HttpOnly`: `;SameSite=..`, or nothing.
    pub same_site: &'static str,
    /// It is one of the site that embeds this one.
    pub partitioned: bool,
}

impl OAuth2Login {
    /// The secrets that come from elsewhere.
    pub fn dynamic_secrets(&self) -> impl Iterator<Item = &Arc<DynamicSecret>> {
        self.token_secret.iter().chain([&self.hmac_secret]).filter_map(SecretRef::dynamic)
    }
}
