//! The cookies of a request, and those that a response sets.

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use outrider_config::model::{LoginCookie, LoginCookies};
use outrider_core::oauth2::exchange::{Tokens, lifetime_of};
use outrider_core::oauth2::seal::Session;

use super::{Active, view};
use crate::filter::{RequestCx, places};

/// A request's cookies, the first of each name.
pub(super) struct Jar {
    cookies: Vec<(Vec<u8>, Vec<u8>)>,
    had_any: bool,
}

impl Jar {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut cookies: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (name, value) in places::cookies(headers) {
            if !cookies.iter().any(|(known, _)| known == name) {
                cookies.push((name.to_vec(), value.to_vec()));
            }
        }
        Self { had_any: !cookies.is_empty(), cookies }
    }

    /// The value of `name`; empty for none.
    pub(super) fn get(&self, name: &str) -> &[u8] {
        let found = self.cookies.iter().find(|(known, _)| *known == name.as_bytes());
        found.map_or(&[][..], |(_, value)| value.as_slice())
    }

    /// The cookie of the login `flow`, or the one that older versions of Envoy know; empty for none.
    pub(super) fn of_flow(&self, name: &str, flow: &str) -> &[u8] {
        match self.get(&format!("{name}.{flow}")) {
            [] => self.get(name),
            value => value,
        }
    }

    pub(super) fn set(&mut self, name: &str, value: &[u8]) {
        match self.cookies.iter_mut().find(|(known, _)| *known == name.as_bytes()) {
            Some((_, known)) => *known = value.to_vec(),
            None => self.cookies.push((name.as_bytes().to_vec(), value.to_vec())),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.cookies.iter().any(|(known, _)| *known == name.as_bytes())
    }

    /// The names of cookies of logins that are under way, with what they are.
    pub(super) fn of_logins<'a>(&'a self, cookies: &'a LoginCookies) -> Vec<(&'a str, &'a LoginCookie)> {
        let kind = |name: &str| {
            [&cookies.nonce, &cookies.verifier].into_iter().find(|cookie| {
                let rest = name.strip_prefix(&*cookie.name);
                rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with('.') && rest.len() > 1))
            })
        };
        let one = |(name, _): &'a (Vec<u8>, Vec<u8>)| {
            let name = std::str::from_utf8(name).ok()?;
            Some((name, kind(name)?))
        };
        self.cookies.iter().filter_map(one).collect()
    }

    /// Takes out what is of the filter alone: tokens for the upstream stay.
    pub(super) fn remove_login(&mut self, cookies: &LoginCookies) {
        let plain = [&cookies.hmac, &cookies.expires, &cookies.refresh];
        let of_flows = [&cookies.nonce, &cookies.verifier];
        self.cookies.retain(|(name, _)| {
            let is_of_flow = |cookie: &&LoginCookie| {
                let rest = name.strip_prefix(cookie.name.as_bytes());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
            };
            !plain.iter().any(|cookie| *name == cookie.name.as_bytes()) && !of_flows.iter().any(is_of_flow)
        });
    }

    /// Takes out all that a login or a session has.
    pub(super) fn remove_all(&mut self, cookies: &LoginCookies) {
        self.remove_login(cookies);
        self.remove_tokens(cookies);
    }

    /// Takes out the tokens that upstreams see.
    pub(super) fn remove_tokens(&mut self, cookies: &LoginCookies) {
        let tokens = [&cookies.access, &cookies.id];
        self.cookies.retain(|(name, _)| !tokens.iter().any(|cookie| *name == cookie.name.as_bytes()));
    }

    /// Writes them as the request's. Where all were taken out, an empty header stays, as in Envoy.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        if !self.had_any && self.cookies.is_empty() {
            return;
        }
        let each: Vec<Vec<u8>> = self
            .cookies
            .iter()
            .map(|(name, value)| [name.as_slice(), value.as_slice()].join(&b'='))
            .collect();
        headers.remove(COOKIE);
        if let Ok(mut value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(each.join(&b"; "[..]))) {
            value.set_sensitive(true);
            headers.insert(COOKIE, value);
        }
    }
}

/// The cookies of a session that was renewed.
#[derive(Debug)]
pub(crate) struct Renewed(pub(super) Vec<HeaderValue>);

/// A session, and its cookies.
pub(super) struct NewSession {
    /// The access token; empty when it is not kept, as the other.
    pub(super) access: String,
    pub(super) id: String,
    pub(super) cookies: Renewed,
}

impl Active {
    /// Puts decrypted tokens in place of encrypted ones. What cannot be decrypted stays: tokens may be plain, from before they were
    /// encrypted, and those of another secret are in no session.
    pub(super) fn open(&self, jar: &mut Jar) {
        if self.settings.plain_tokens {
            return;
        }
        let cookies = &self.settings.cookies;
        for cookie in [&cookies.access, &cookies.id, &cookies.refresh] {
            let sealed = jar.get(&cookie.name);
            if sealed.is_empty() {
                continue;
            }
            if let Ok(token) = self.seal.decrypt(sealed)
                && HeaderValue::from_bytes(&token).is_ok()
            {
                self.stats.oauth_legacy_cbc_decrypt().inc();
                jar.set(&cookie.name, &token);
            }
        }
    }

    /// Whether the cookies are a session that is not over.
    pub(super) fn is_session(&self, jar: &Jar, cx: &RequestCx<'_>) -> bool {
        let expires = jar.get(&self.settings.cookies.expires.name);
        let end = std::str::from_utf8(expires).ok().and_then(|end| end.trim().parse::<u64>().ok());
        let is_valid = self.is_signed(jar, cx) && end.is_some_and(|end| end > now());
        if is_valid {
            self.stats.oauth_success().inc();
        }
        is_valid
    }

    /// Whether the cookies are a session, be it over or not.
    pub(super) fn is_signed(&self, jar: &Jar, cx: &RequestCx<'_>) -> bool {
        let cookies = &self.settings.cookies;
        let session = Session {
            domain: self.domain(cx).as_bytes(),
            expires: jar.get(&cookies.expires.name),
            access: jar.get(&cookies.access.name),
            id: jar.get(&cookies.id.name),
            refresh: jar.get(&cookies.refresh.name),
        };
        self.seal.is_signed(&session, jar.get(&cookies.hmac.name))
    }

    fn domain<'a>(&'a self, cx: &'a RequestCx<'_>) -> &'a str {
        self.settings.cookies.domain.as_deref().unwrap_or_else(|| view(cx).authority)
    }

    /// The session of `tokens`. The `old` refresh token is kept where there is no new one.
    pub(super) fn session(&self, cx: &RequestCx<'_>, jar: &Jar, tokens: &Tokens, old: Vec<u8>) -> NewSession {
        let (settings, cookies) = (&*self.settings, &self.settings.cookies);
        let now = now();
        let kept = |no: bool, token: &str| if no { String::new() } else { token.to_owned() };
        let access = kept(cookies.no_access, &tokens.access);
        let id = kept(cookies.no_id, &tokens.id);
        let refresh = kept(cookies.no_refresh || !settings.use_refresh, &tokens.refresh).into_bytes();
        let refresh = if refresh.is_empty() { old } else { refresh };
        let lifetime = tokens.lifetime.as_secs();
        let id_lifetime =
            if settings.id_as_access { None } else { lifetime_of(&tokens.id, now) }.unwrap_or(lifetime);
        let refresh_lifetime = if settings.use_refresh {
            lifetime_of(&tokens.refresh, now).unwrap_or(settings.default_refresh_lifetime.as_secs())
        } else {
            lifetime
        };
        let expires = now.saturating_add(lifetime).to_string();
        let signature = self.seal.sign(&Session {
            domain: self.domain(cx).as_bytes(),
            expires: expires.as_bytes(),
            access: access.as_bytes(),
            id: id.as_bytes(),
            refresh: &refresh,
        });
        let mut set = Vec::new();
        set.extend(self.set_cookie(&cookies.hmac, "", signature.as_bytes(), lifetime));
        set.extend(self.set_cookie(&cookies.expires, "", expires.as_bytes(), lifetime));
        for (cookie, token, lifetime) in [
            (&cookies.access, access.as_bytes(), lifetime),
            (&cookies.id, id.as_bytes(), id_lifetime),
            (&cookies.refresh, refresh.as_slice(), refresh_lifetime),
        ] {
            if !token.is_empty() {
                set.extend(self.set_token(cookie, token, lifetime));
            } else if jar.has(&cookie.name) {
                set.extend(self.delete(&cookie.name, cookie, false));
            }
        }
        NewSession { access, id, cookies: Renewed(set) }
    }

    fn set_token(&self, cookie: &LoginCookie, token: &[u8], lifetime: u64) -> Option<HeaderValue> {
        if self.settings.plain_tokens {
            return self.set_cookie(cookie, "", token, lifetime);
        }
        self.set_cookie(cookie, "", self.seal.encrypt(token)?.as_bytes(), lifetime)
    }

    /// Sets a cookie; `flow` is what stands behind its name. `None` for bytes that no header can have.
    pub(super) fn set_cookie(
        &self,
        cookie: &LoginCookie,
        flow: &str,
        value: &[u8],
        lifetime: u64,
    ) -> Option<HeaderValue> {
        let LoginCookie { name, path, same_site, partitioned } = cookie;
        let dot = if flow.is_empty() { "" } else { "." };
        let partitioned = if *partitioned { ";Partitioned" } else { "" };
        let front = format!("{name}{dot}{flow}=");
        let domain = self.domain_attribute();
        let back = format!("{domain};path={path};Max-Age={lifetime};secure;HttpOnly{same_site}{partitioned}");
        let mut value = HeaderValue::from_bytes(&[front.as_bytes(), value, back.as_bytes()].concat()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Deletes a cookie. Names that begin with `__Secure-` or `__Host-` are only heard of where the cookie is secure.
    pub(super) fn delete(
        &self,
        name: &str,
        cookie: &LoginCookie,
        may_be_secure: bool,
    ) -> Option<HeaderValue> {
        let is_secure = may_be_secure && (name.starts_with("__Secure-") || name.starts_with("__Host-"));
        let (path, domain) = (&cookie.path, self.domain_attribute());
        let secure = if is_secure { "; Secure" } else { "" };
        let text =
            format!("{name}=deleted; path={path}; expires=Thu, 01 Jan 1970 00:00:00 GMT{domain}{secure}");
        HeaderValue::from_str(&text).ok()
    }

    /// Deletes the cookies of the login `flow`.
    pub(super) fn delete_login(&self, flow: &str) -> Vec<HeaderValue> {
        let mut deleted = Vec::new();
        for cookie in [&self.settings.cookies.nonce, &self.settings.cookies.verifier] {
            if !flow.is_empty() {
                deleted.extend(self.delete(&format!("{}.{flow}", cookie.name), cookie, true));
            }
            deleted.extend(self.delete(&cookie.name, cookie, true));
        }
        deleted
    }

    fn domain_attribute(&self) -> String {
        self.settings.cookies.domain.as_ref().map(|domain| format!(";domain={domain}")).unwrap_or_default()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
