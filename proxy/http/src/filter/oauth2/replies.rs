//! What users get who are not let through: the way to the authorization server, back from it, out, or a refusal.

use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderValue, Response, StatusCode};
use outrider_config::model::PostLogout;
use outrider_core::LocalReply;
use outrider_core::format::Format;
use outrider_core::oauth2::exchange::encode_query;
use outrider_core::oauth2::seal;
use outrider_core::oauth2::state::State;

use super::callback::Returned;
use super::cookies::{Jar, NewSession};
use super::{Active, underscored, view};
use crate::body::ResponseBody;
use crate::filter::header_mutation::Query;
use crate::filter::{RequestCx, Verdict};
use crate::router::RequestContext;
use crate::routing::ContextSource as _;

/// The longest details that are noted, in bytes.
const LONGEST: usize = 2048;

impl Active {
    /// A refusal, which deletes the cookies of the login `flow`, if it is of one.
    pub(super) fn unauthorized(&self, details: &str, flow: &str) -> Verdict {
        self.stats.oauth_failure().inc();
        let end = (0..=details.len().min(LONGEST)).rev().find(|end| details.is_char_boundary(*end));
        let details = underscored(details.get(..end.unwrap_or(0)).unwrap_or_default());
        let mut reply = LocalReply::new(StatusCode::UNAUTHORIZED, details).body("OAuth flow failed.");
        if !flow.is_empty() {
            for cookie in self.delete_login(flow) {
                reply = reply.header(SET_COOKIE, cookie);
            }
        }
        Verdict::Reply(reply)
    }

    /// Sends a user to the authorization server.
    pub(super) fn send_to_log_in(&self, cx: &RequestCx<'_>) -> Verdict {
        let settings = &self.settings;
        let head = view(cx);
        let base = match &settings.original_uri {
            Some(format) => String::from_utf8_lossy(&self.text(cx, format)).into_owned(),
            None => {
                let scheme = if head.scheme.eq_ignore_ascii_case("http") { "http" } else { "https" };
                format!("{scheme}://{}", head.authority)
            }
        };
        if !self.may_send_to(&base) {
            let why = "authority or original_request_uri failed domain allow-list validation";
            return self.unauthorized(&format!("{why}: {base}"), "");
        }
        let redirect_uri = self.text(cx, &settings.redirect_uri);
        let shown = String::from_utf8_lossy(&redirect_uri);
        if !self.may_send_to(&shown) {
            let why = "redirect_uri failed domain allow-list validation";
            return self.unauthorized(&format!("{why}: {shown}"), "");
        }
        let url = format!("{base}{}", head.path);
        match self.departure(url, &redirect_uri) {
            Some((location, cookies)) => {
                let verdict = self.redirect(cx, &location, cookies, "oauth.missing_credentials");
                if matches!(verdict, Verdict::Respond(_)) {
                    self.stats.oauth_unauthorized_rq().inc();
                }
                verdict
            }
            None => self.unauthorized("no randomness for a login", ""),
        }
    }

    /// Where the authorization server is, with all that it is told, and the cookies by which who comes back is known.
    fn departure(&self, url: String, redirect_uri: &[u8]) -> Option<(String, Vec<HeaderValue>)> {
        let (settings, cookies) = (&self.settings, &self.settings.cookies);
        let (flow, verifier) = (seal::nonce()?, seal::verifier()?);
        let csrf = self.seal.csrf(&flow);
        let sealed = self.seal.encrypt(verifier.as_bytes())?;
        let mut set = Vec::new();
        for (cookie, value, lifetime) in [
            (&cookies.nonce, csrf.as_bytes(), cookies.nonce_lifetime.as_secs()),
            (&cookies.verifier, sealed.as_bytes(), cookies.verifier_lifetime.as_secs()),
        ] {
            // The second is for versions of Envoy that do not know the first.
            for flow in [&*flow, ""] {
                set.push(self.set_cookie(cookie, flow, value, lifetime)?);
            }
        }
        let path = settings.authorization.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut query = Query::parse(path);
        query.overwrite("client_id", &settings.client_id);
        query.overwrite("response_type", "code");
        query.overwrite("scope", &settings.scope);
        query.overwrite("state", &State { url, csrf, flow }.encode());
        query.overwrite("redirect_uri", &encode_query(redirect_uri));
        query.overwrite("code_challenge", &seal::challenge(&verifier));
        query.overwrite("code_challenge_method", "S256");
        let scheme = settings.authorization.scheme_str().unwrap_or("https");
        let authority = settings.authorization.authority().map_or("", http::uri::Authority::as_str);
        let location = format!("{scheme}://{authority}{}{}", query.path(path), settings.resources);
        Some((location, set))
    }

    /// Takes a session away.
    pub(super) fn sign_out(&self, cx: &RequestCx<'_>, jar: &Jar) -> Verdict {
        let (settings, names) = (&self.settings, &self.settings.cookies);
        let mut cookies = Vec::new();
        for cookie in [&names.hmac, &names.access, &names.id, &names.refresh, &names.expires] {
            cookies.extend(self.delete(&cookie.name, cookie, true));
        }
        for (name, cookie) in jar.of_logins(names) {
            cookies.extend(self.delete(name, cookie, true));
        }
        let head = view(cx);
        let origin = format!("{}://{}/", head.scheme, head.authority);
        let Some(end_session) = &settings.end_session else {
            return self.redirect(cx, &origin, cookies, "oauth.sign_out");
        };
        let id = String::from_utf8_lossy(jar.get(&names.id.name));
        let location = format!("{end_session}?id_token_hint={id}&client_id={}", settings.client_id);
        let back = match &settings.post_logout {
            PostLogout::Origin => Some(origin.into_bytes()),
            PostLogout::Uri(format) => Some(self.text(cx, format)),
            PostLogout::Nowhere => None,
        };
        let back = back.map(|back| format!("&post_logout_redirect_uri={}", encode_query(&back)));
        let location = format!("{location}{}", back.unwrap_or_default());
        self.redirect(cx, &location, cookies, "oauth.sign_out")
    }

    /// Somebody comes back who has a session by now: they go where they wanted to.
    pub(super) fn race(&self, cx: &RequestCx<'_>, jar: &Jar, path: &str) -> Verdict {
        match self.returned_again(jar, path) {
            Ok((url, flow)) => self.redirect(cx, &url, self.delete_login(&flow), "oauth.race_redirect"),
            Err(refusal) => self.unauthorized(&refusal.details, &refusal.flow),
        }
    }

    /// Somebody came back and has a session now: they go where they wanted to.
    pub(super) fn logged_in(&self, cx: &RequestCx<'_>, session: NewSession, returned: &Returned) -> Verdict {
        let mut cookies = session.cookies.0;
        cookies.extend(self.delete_login(&returned.flow));
        let verdict = self.redirect(cx, &returned.url, cookies, "oauth.logged_in");
        if matches!(verdict, Verdict::Respond(_)) {
            self.stats.oauth_success().inc();
        }
        verdict
    }

    fn redirect(
        &self,
        cx: &RequestCx<'_>,
        location: &str,
        cookies: Vec<HeaderValue>,
        details: &'static str,
    ) -> Verdict {
        let Ok(location) = HeaderValue::from_bytes(location.as_bytes()) else {
            return self.unauthorized("a location cannot be a header", "");
        };
        let mut response = Response::new(ResponseBody::Empty);
        *response.status_mut() = StatusCode::FOUND;
        for cookie in cookies {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        response.headers_mut().insert(LOCATION, location);
        cx.stream.info.borrow_mut().details = details.into();
        Verdict::Respond(Box::new(response))
    }

    /// A format's text for the request.
    pub(super) fn text(&self, cx: &RequestCx<'_>, format: &Format) -> Vec<u8> {
        let mut text = Vec::new();
        let context = RequestContext { stream: cx.stream, method: &cx.parts.method, uri: &cx.parts.uri };
        context.with(&cx.parts.headers, &mut |cx| format.write(cx, false, &mut text));
        text
    }
}
