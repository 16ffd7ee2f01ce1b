//! `envoy.filters.http.oauth2`: users log in at an authorization server, and come back with a session in cookies.
//!
//! A request is one of these: its cookies are a session ([`cookies`]), and it goes on; it asks to be logged out; it comes back from the
//! authorization server ([`callback`]), and its code is exchanged for tokens ([`tokens`]); its session can be renewed, which is the same
//! exchange; or it is sent to log in ([`replies`]). Without the secrets nothing goes on.
//!
//! Details in access logs are Envoy's, but they never hold what the token endpoint answered: that may be a token.

mod callback;
mod cookies;
mod replies;
mod tokens;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, StatusCode};
use outrider_config::model::{DataSource, DataSourceKind, OAuth2Login, RouteFilterConfig, SecretRef};
use outrider_core::LocalReply;
use outrider_core::matcher::{HeadView, HeaderMatcher};
use outrider_core::oauth2::exchange::Grant;
use outrider_core::oauth2::seal::Seal;
use outrider_core::stats::{Registry, Scope};
use outrider_upstream::ClusterSlot;

use self::cookies::Jar;
use super::named::Named;
use super::{FilterError, RequestCx, ResponseCx, State, Step, Verdict};
use crate::routing::direct;
use crate::secrets::SecretSlot;

pub(crate) use self::cookies::Renewed;

/// Tells upstreams that a request goes on without a login.
const STATUS: HeaderName = HeaderName::from_static("x-envoy-oauth-status");
/// Tells them why.
const REASON: HeaderName = HeaderName::from_static("x-envoy-oauth-failure-reason");
const FAILED: HeaderValue = HeaderValue::from_static("failed");

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.<stat_prefix of the filter>.`
    struct LoginStats {
        counters {
            oauth_allow_failed_passthrough, oauth_failure, oauth_legacy_cbc_decrypt, oauth_passthrough,
            oauth_refreshtoken_failure, oauth_refreshtoken_success, oauth_success, oauth_unauthorized_rq,
        }
        gauges { }
        histograms { }
    }
}

/// The filter.
#[derive(Debug)]
pub(crate) struct OAuth2 {
    own: Option<Own>,
    registry: Registry,
    /// Of routes, by `stat_prefix`, behind which nothing stands, as in Envoy.
    stats: Named<LoginStats>,
    /// The places of the clusters that are asked, by name: found once.
    slots: Named<OnceLock<Arc<ClusterSlot>>>,
}

/// The filter's own settings.
#[derive(Debug)]
struct Own {
    settings: Arc<OAuth2Login>,
    stats: Arc<LoginStats>,
    /// The client's secret, then the one of the cookies.
    secrets: Box<[Arc<SecretSlot>]>,
}

/// What a request is judged by.
struct Active {
    settings: Arc<OAuth2Login>,
    stats: Arc<LoginStats>,
    /// The client's secret; empty where it needs none.
    secret: Bytes,
    seal: Seal,
}

/// Reads what a route's secrets are, so that requests find them. Control thread.
///
/// # Errors
/// A file or variable cannot be read.
pub(super) fn read(settings: &OAuth2Login) -> Result<OAuth2Login, FilterError> {
    let here = |secret: &SecretRef<DataSource>| -> Result<SecretRef<DataSource>, FilterError> {
        let Some(source) = secret.here() else { return Ok(secret.clone()) };
        let bytes = direct::read(source)?;
        let kind = DataSourceKind::Inline(Arc::from(&bytes[..]));
        Ok(SecretRef::Static(DataSource { kind, field: source.field.clone() }))
    };
    let mut read = settings.clone();
    read.hmac_secret = here(&settings.hmac_secret)?;
    read.token_secret = settings.token_secret.as_ref().map(here).transpose()?;
    Ok(read)
}

impl OAuth2 {
    /// `scope` is the connection manager's. Control thread.
    ///
    /// # Errors
    /// The file or variable of a secret of the bootstrap cannot be read.
    pub(super) fn build(settings: Option<&Arc<OAuth2Login>>, scope: &Scope) -> Result<Self, FilterError> {
        let own = |settings: &Arc<OAuth2Login>| -> Result<Own, FilterError> {
            let secrets = settings.token_secret.iter().chain([&settings.hmac_secret]);
            let secrets = secrets.map(|secret| SecretSlot::new(secret, None)).collect::<Result<_, _>>()?;
            let stats = Arc::new(LoginStats::new(scope.child(&settings.stat_prefix)));
            Ok(Own { settings: settings.clone(), stats, secrets })
        };
        Ok(Self {
            own: settings.map(own).transpose()?,
            registry: scope.registry().clone(),
            stats: Named::default(),
            slots: Named::default(),
        })
    }

    /// The places of the secrets that it needs.
    pub(super) fn slots(&self) -> &[Arc<SecretSlot>] {
        self.own.as_ref().map_or(&[][..], |own| &*own.secrets)
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        // Nobody but the filter says this.
        cx.parts.headers.remove(STATUS);
        cx.parts.headers.remove(REASON);
        let route = match cx.settings() {
            Some(RouteFilterConfig::OAuth2(settings)) => Some(settings.clone()),
            _ => None,
        };
        let (settings, stats) = match (&route, &self.own) {
            (Some(settings), _) => {
                let prefix = &settings.stat_prefix;
                let make = || LoginStats::new(self.registry.scope(&**prefix));
                (settings, self.stats.any(prefix, make))
            }
            (None, Some(own)) => (&own.settings, own.stats.clone()),
            (None, None) => return Step::GO_ON,
        };
        if let Some(header) = settings.forward_id.as_ref().filter(|header| **header != AUTHORIZATION) {
            cx.parts.headers.remove(header);
        }
        if is_one_of(&settings.pass_through, &view(&cx)) {
            stats.oauth_passthrough().inc();
            return Step::GO_ON;
        }
        let secrets = match &route {
            Some(settings) => secrets_of(settings),
            None => self.own.as_ref().and_then(Own::secrets),
        };
        let Some((secret, hmac)) = secrets else {
            stats.oauth_failure().inc();
            let details = underscored("OAuth2 secrets are not ready");
            let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details);
            return Step::reply(reply.body("Service Unavailable"));
        };
        let active = Active { settings: settings.clone(), stats, secret, seal: Seal::new(&hmac) };
        self.judge(cx, active)
    }

    fn judge<'a>(&'a self, mut cx: RequestCx<'a>, active: Active) -> Step<'a> {
        let settings = active.settings.clone();
        let mut jar = Jar::read(&cx.parts.headers);
        active.open(&mut jar);
        if !settings.preserve_authorization {
            cx.parts.headers.remove(AUTHORIZATION);
        }
        let path = view(&cx).path.to_owned();
        if path.is_empty() {
            return Step::reply(LocalReply::new(StatusCode::BAD_REQUEST, "oauth_missing_path"));
        }
        let comes_back = settings.redirect_path.matches(bare(&path));
        if settings.signout_path.matches(bare(&path)) {
            return Step::Now(active.sign_out(&cx, &jar));
        }
        if active.is_session(&jar, &cx) {
            if comes_back {
                return Step::Now(active.race(&cx, &jar, &path));
            }
            let (access, id) = (&settings.cookies.access.name, &settings.cookies.id.name);
            active.forward(&mut cx, jar.get(access), jar.get(id));
            jar.remove_login(&settings.cookies);
            jar.write(&mut cx.parts.headers);
            return Step::GO_ON;
        }
        if comes_back {
            let returned = match active.returned(&cx, &jar, &path) {
                Ok(returned) => returned,
                Err(refusal) => return Step::Now(active.unauthorized(&refusal.details, &refusal.flow)),
            };
            return Step::wait(cx, move |cx| self.log_in(cx, active, jar, returned));
        }
        if settings.use_refresh && !jar.get(&settings.cookies.refresh.name).is_empty() {
            return Step::wait(cx, move |cx| self.renew(cx, active, jar));
        }
        Step::Now(active.turn_away(&mut cx, jar, &path))
    }

    /// Exchanges a code for tokens, and sends the user to where they wanted to go.
    async fn log_in(
        &self,
        cx: RequestCx<'_>,
        active: Active,
        jar: Jar,
        returned: callback::Returned,
    ) -> Verdict {
        let grant = Grant::Code {
            code: &returned.code,
            redirect_uri: &returned.redirect_uri,
            verifier: &returned.verifier,
        };
        match self.exchange(&cx, &active, &grant).await {
            // Whoever comes back gets nothing else, whatever `allow_failed_matcher` says.
            Err(failure) => active.unauthorized(&failure.reason(), &returned.flow),
            Ok(tokens) => {
                let renewed = active.session(&cx, &jar, &tokens, Vec::new());
                active.logged_in(&cx, renewed, &returned)
            }
        }
    }

    /// Exchanges a refresh token for tokens, with which the request goes on.
    async fn renew(&self, mut cx: RequestCx<'_>, active: Active, mut jar: Jar) -> Verdict {
        let (settings, stats) = (&*active.settings, &*active.stats);
        let names = &settings.cookies;
        let old = jar.get(&names.refresh.name).to_vec();
        let tokens = match self.exchange(&cx, &active, &Grant::Refresh(&old)).await {
            Ok(tokens) => tokens,
            Err(failure) if failure.is_refused() => {
                stats.oauth_refreshtoken_failure().inc();
                return active.not_renewed(&mut cx, jar);
            }
            Err(failure) => {
                let reason = failure.reason();
                if is_one_of(&settings.allow_failed, &view(&cx)) {
                    return active.go_on_without(&mut cx, jar, &reason);
                }
                return active.unauthorized(&reason, "");
            }
        };
        let session = active.session(&cx, &jar, &tokens, old);
        // A refresh token says nothing of the other tokens beside it: what was never signed does not go upstream.
        if !active.is_signed(&jar, &cx) {
            jar.remove_tokens(names);
        }
        if !session.access.is_empty() {
            jar.set(&names.access.name, session.access.as_bytes());
        }
        if !session.id.is_empty() {
            jar.set(&names.id.name, session.id.as_bytes());
        }
        active.forward(&mut cx, session.access.as_bytes(), session.id.as_bytes());
        jar.remove_login(names);
        jar.write(&mut cx.parts.headers);
        stats.oauth_refreshtoken_success().inc();
        stats.oauth_success().inc();
        cx.keep(State::OAuth2(Box::new(session.cookies)));
        Verdict::GoOn
    }
}

impl Own {
    /// The client's secret and the one of the cookies; `None` while one is missing.
    fn secrets(&self) -> Option<(Bytes, Bytes)> {
        match &*self.secrets {
            [hmac] => Some((Bytes::new(), hmac.text()?)),
            [client, hmac] => Some((client.text()?, hmac.text()?)),
            _ => None,
        }
    }
}

/// The same of a route's settings, which [`read`] looked at.
fn secrets_of(settings: &OAuth2Login) -> Option<(Bytes, Bytes)> {
    let text = |secret: &SecretRef<DataSource>| match &secret.here()?.kind {
        DataSourceKind::Inline(bytes) if !bytes.is_empty() => Some(Bytes::copy_from_slice(bytes)),
        _ => None,
    };
    let client = match &settings.token_secret {
        Some(secret) => text(secret)?,
        None => Bytes::new(),
    };
    Some((client, text(&settings.hmac_secret)?))
}

impl Active {
    /// Sends tokens upstream, as far as they go there.
    fn forward(&self, cx: &mut RequestCx<'_>, access: &[u8], id: &[u8]) {
        let headers = &mut cx.parts.headers;
        let mut put = |name: &HeaderName, token: &[u8]| {
            let prefix: &[u8] = if *name == AUTHORIZATION { b"Bearer " } else { b"" };
            if token.is_empty() {
                return;
            }
            if let Ok(mut value) = HeaderValue::from_bytes(&[prefix, token].concat()) {
                value.set_sensitive(true);
                headers.insert(name.clone(), value);
            }
        };
        if self.settings.forward_bearer {
            put(&AUTHORIZATION, access);
        }
        if let Some(name) = &self.settings.forward_id {
            put(name, id);
        }
    }

    /// What becomes of a request without a session.
    fn turn_away(&self, cx: &mut RequestCx<'_>, jar: Jar, path: &str) -> Verdict {
        if is_one_of(&self.settings.allow_failed, &view(cx)) {
            let why = "Unauthorized, and forwarding as unauthorized because OAuth failure is allowed";
            return self.go_on_without(cx, jar, &format!("{why}: {path}"));
        }
        if is_one_of(&self.settings.deny_redirect, &view(cx)) {
            let why = "Unauthorized, and redirecting to OAuth server is not allowed";
            return self.unauthorized(&format!("{why}: {path}"), "");
        }
        self.send_to_log_in(cx)
    }

    /// What becomes of one whose session could not be renewed.
    fn not_renewed(&self, cx: &mut RequestCx<'_>, jar: Jar) -> Verdict {
        const WHY: &str = "Failed to refresh the access token, and";
        if is_one_of(&self.settings.allow_failed, &view(cx)) {
            let why = format!("{WHY} forwarding as unauthorized because OAuth failure is allowed");
            return self.go_on_without(cx, jar, &why);
        }
        if is_one_of(&self.settings.deny_redirect, &view(cx)) {
            return self.unauthorized(&format!("{WHY} redirecting to OAuth server is not allowed"), "");
        }
        self.send_to_log_in(cx)
    }

    /// The request goes on as nobody's.
    fn go_on_without(&self, cx: &mut RequestCx<'_>, mut jar: Jar, reason: &str) -> Verdict {
        jar.remove_all(&self.settings.cookies);
        jar.write(&mut cx.parts.headers);
        cx.parts.headers.insert(STATUS, FAILED);
        if let Ok(reason) = HeaderValue::from_bytes(reason.as_bytes()) {
            cx.parts.headers.insert(REASON, reason);
        }
        self.stats.oauth_allow_failed_passthrough().inc();
        Verdict::GoOn
    }
}

/// Gives the cookies of a session that was renewed on the request's way in.
pub(super) fn response(cx: ResponseCx<'_>) {
    let Some(State::OAuth2(renewed)) = cx.take() else { return };
    for cookie in renewed.0 {
        cx.parts.headers.append(http::header::SET_COOKIE, cookie);
    }
}

fn view<'a>(cx: &'a RequestCx<'_>) -> HeadView<'a> {
    cx.stream.view(&cx.parts.method, &cx.parts.uri, &cx.parts.headers)
}

fn is_one_of(matchers: &[HeaderMatcher], head: &HeadView<'_>) -> bool {
    matchers.iter().any(|matcher| matcher.matches(head))
}

/// A path without its query and fragment.
fn bare(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// As Envoy writes details: one word. What could break a line of a log goes, too.
fn underscored(text: &str) -> String {
    let one = |c: char| if c.is_whitespace() || c.is_control() { '_' } else { c };
    text.chars().map(one).collect()
}
