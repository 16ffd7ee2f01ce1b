//! Users who come back from the authorization server.

use http::Uri;
use outrider_core::oauth2::seal;
use outrider_core::oauth2::state::State;

use super::cookies::Jar;
use super::{Active, bare};
use crate::filter::RequestCx;
use crate::filter::header_mutation::Query;

/// What somebody who comes back has with them.
pub(super) struct Returned {
    /// The code, as it stands in the query.
    pub(super) code: String,
    /// Where they wanted to go.
    pub(super) url: String,
    /// Which login it is; empty when it does not say.
    pub(super) flow: String,
    /// Where the authorization server was told to send them.
    pub(super) redirect_uri: Vec<u8>,
    /// The verifier of the code.
    pub(super) verifier: Vec<u8>,
}

/// Somebody who comes back is turned away.
pub(super) struct Refusal {
    /// Why.
    pub(super) details: String,
    /// The login whose cookies are deleted; empty for none.
    pub(super) flow: String,
}

/// A query whose state is our own.
struct Checked {
    code: String,
    url: String,
    flow: String,
}

impl Active {
    /// Looks at the query of somebody who comes back at `path`, and at the cookies that they were given when they left.
    pub(super) fn returned(&self, cx: &RequestCx<'_>, jar: &Jar, path: &str) -> Result<Returned, Refusal> {
        let Checked { code, url, flow } = self.checked(jar, path)?;
        let sealed = jar.of_flow(&self.settings.cookies.verifier.name, &flow);
        if sealed.is_empty() {
            let details = "Code verifier cookie is missing in the request".to_owned();
            return Err(Refusal { details, flow });
        }
        match self.seal.decrypt(sealed) {
            Ok(verifier) => {
                self.stats.oauth_legacy_cbc_decrypt().inc();
                let redirect_uri = self.text(cx, &self.settings.redirect_uri);
                Ok(Returned { code, url, flow, redirect_uri, verifier })
            }
            Err(error) => {
                let sealed = String::from_utf8_lossy(sealed);
                let details = format!("Failed to decrypt code verifier: {sealed}, error: {error}");
                Err(Refusal { details, flow })
            }
        }
    }

    /// Where somebody wanted to go who comes back and has a session already.
    pub(super) fn returned_again(&self, jar: &Jar, path: &str) -> Result<(String, String), Refusal> {
        let Checked { url, flow, .. } = self.checked(jar, path)?;
        // Otherwise they would come back for ever.
        let target = path_of(&url);
        if self.settings.redirect_path.matches(bare(&target)) {
            let details = format!("State url query params matches the redirect path matcher: {target}");
            return Err(Refusal { details, flow });
        }
        Ok((url, flow))
    }

    fn checked(&self, jar: &Jar, path: &str) -> Result<Checked, Refusal> {
        let query = Query::parse(path);
        let refused = |details: String| Refusal { details, flow: String::new() };
        let state = query.first("state");
        if query.first("error").is_some() {
            // Whose cookies go: a state that is not our own names none.
            let flow = state.map(|state| match self.state(jar, state) {
                Ok(state) => state.flow,
                Err(refusal) => refusal.flow,
            });
            let details = format!("OAuth server returned an error: {}", query.path(""));
            return Err(Refusal { details, flow: flow.unwrap_or_default() });
        }
        let (Some(code), Some(state)) = (query.first("code"), state) else {
            return Err(refused(format!("Code or state query param does not exist: {}", query.path(""))));
        };
        let State { url, flow, .. } = self.state(jar, state)?;
        Ok(Checked { code: code.to_owned(), url, flow })
    }

    /// A state that was made here for who brings it: its token is signed, and it is the one in the cookie. Its URL is one that users
    /// may be sent to.
    fn state(&self, jar: &Jar, text: &str) -> Result<State, Refusal> {
        let refused = |details: String, flow: &str| Refusal { details, flow: flow.to_owned() };
        let state = State::parse(text.as_bytes()).map_err(|error| refused(error.to_string(), ""))?;
        let cookie = jar.of_flow(&self.settings.cookies.nonce.name, &state.flow);
        let csrf = state.csrf.as_bytes();
        if cookie.is_empty() || !seal::is_same(cookie, csrf) || !self.seal.is_csrf(csrf) {
            return Err(refused("CSRF token validation failed".to_owned(), ""));
        }
        if host_of(&state.url).is_none() {
            return Err(refused(format!("State url can not be initialized: {}", state.url), &state.flow));
        }
        if !self.may_send_to(&state.url) {
            let why = "State url host is not in the allowed redirect domains";
            return Err(refused(format!("{why}: {}", state.url), &state.flow));
        }
        Ok(state)
    }

    /// Whether users may be sent to the host of `url` (`allowed_redirect_domains`).
    pub(super) fn may_send_to(&self, url: &str) -> bool {
        let domains = &self.settings.domains;
        domains.is_empty() || host_of(url).is_some_and(|host| is_allowed(domains, &host))
    }
}

/// As Envoy has it, `*.` stands for names below, whose letters are those of the entry; other entries are names whatever their case.
fn is_allowed(domains: &[Box<str>], host: &str) -> bool {
    domains.iter().any(|domain| match domain.strip_prefix('*') {
        Some(end) if end.starts_with('.') => host.len() > end.len() && host.ends_with(end),
        _ => host.eq_ignore_ascii_case(domain),
    })
}

/// The host of an address of the web, without its port and without brackets; `None` when it is no such address, or when a user's
/// name could be taken for its host.
fn host_of(url: &str) -> Option<String> {
    let uri = url.parse::<Uri>().ok()?;
    let scheme = uri.scheme_str()?;
    let authority = uri.authority()?;
    let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if !is_web || authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!bare.is_empty()).then(|| bare.to_owned())
}

/// The path of an address, with its query.
fn path_of(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    let path = uri.as_ref().and_then(Uri::path_and_query).map(http::uri::PathAndQuery::as_str);
    path.unwrap_or("/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_web_have_a_host() {
        assert_eq!(host_of("https://app.test:8443/x?y").as_deref(), Some("app.test"));
        assert_eq!(host_of("http://[::1]:80/").as_deref(), Some("::1"));
        for url in
            ["", "/x", "app.test", "javascript:alert(1)", "ftp://h/", "http://a@b/", "http:///x", "//h/x"]
        {
            assert_eq!(host_of(url), None, "{url}");
        }
    }

    #[test]
    fn domains_are_names_or_all_below_one() {
        let domains: [Box<str>; 2] = ["App.test".into(), "*.b.test".into()];
        for host in ["app.test", "APP.TEST", "x.b.test", "x.y.b.test"] {
            assert!(is_allowed(&domains, host), "{host}");
        }
        for host in ["evil.test", "b.test", "xb.test", ".b.test", "app.test.evil", "x.B.test"] {
            assert!(!is_allowed(&domains, host), "{host}");
        }
    }

    #[test]
    fn a_path_keeps_its_query() {
        assert_eq!(path_of("http://h/callback?z=1"), "/callback?z=1");
        assert_eq!(path_of("http://h"), "/");
    }
}
