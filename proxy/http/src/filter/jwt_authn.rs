//! `envoy.filters.http.jwt_authn`: requests must carry JSON Web Tokens.

mod extract;
mod verify;

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use outrider_config::model::{JwtAuthn as Settings, JwtKeys, JwtRequirement, RouteFilterConfig};
use outrider_core::jwt::{Jwks, JwtError};
use outrider_core::stats::{Counter, Scope, StatSlot};
use outrider_core::{LocalReply, metadata};

use self::verify::{Check, Found, Now, Stop, Tried};
use super::uri::Uri;
use super::{FilterError, RequestCx, Step, Verdict};
use crate::jwks::{JwksHandle, JwksSource};
use crate::routing::RequestView;
use crate::routing::direct;
use crate::routing::matcher::matches;
use crate::stream::Stream;

/// The namespace of what the filter says of a request.
static NAMESPACE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("envoy.filters.http.jwt_authn"));

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.<stat_prefix of the filter>jwt_authn.`
    struct JwtStats {
        counters { allowed, cors_preflight_bypassed, denied, jwt_cache_miss }
        gauges { }
        histograms { }
    }
}

/// The filter.
#[derive(Debug)]
pub(crate) struct JwtAuthn {
    settings: Arc<Settings>,
    /// Each provider's, in the order of the settings.
    keys: Box<[Keys]>,
    stats: JwtStats,
    reasons: Reasons,
}

/// The keys of a provider.
#[derive(Debug)]
enum Keys {
    Here(Arc<Jwks>),
    Remote(JwksHandle),
}

impl Keys {
    /// Whether there are none at `now`.
    fn lack(&self, now: Instant) -> bool {
        match self {
            Self::Here(_) => false,
            Self::Remote(handle) => !handle.source().is_here(now),
        }
    }
}

/// How many requests were refused for which reason.
#[derive(Debug)]
struct Reasons {
    scope: Scope,
    slots: [StatSlot; JwtError::ALL.len()],
}

impl Reasons {
    fn count(&self, error: JwtError) {
        // Reasons of one name are one stat.
        let place = JwtError::ALL.iter().position(|known| known.name() == error.name());
        if let Some(slot) = place.and_then(|place| self.slots.get(place)) {
            Counter::new(&self.scope, slot, error.name()).inc();
        }
    }
}

impl JwtAuthn {
    /// `scope` is the connection manager's. Control thread.
    ///
    /// # Errors
    /// A file with keys cannot be read, or has none.
    pub(super) fn build(settings: Arc<Settings>, scope: &Scope) -> Result<Self, FilterError> {
        let prefix = &settings.stat_prefix;
        let scope = scope.child(&format!("{prefix}jwt_authn."));
        let read = |keys: &JwtKeys| match keys {
            JwtKeys::Here(keys) => Ok(Keys::Here(keys.clone())),
            JwtKeys::Source(source) => match Jwks::parse(&direct::read(source)?) {
                Ok(keys) => Ok(Keys::Here(Arc::new(keys))),
                Err(error) => Err(FilterError::Keys { field: source.field.to_string(), error }),
            },
            JwtKeys::Remote(config) => Ok(Keys::Remote(JwksHandle::new(config.clone(), scope.clone()))),
        };
        let keys = settings.providers.iter().map(|provider| read(&provider.keys));
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            reasons: Reasons {
                scope: scope.child("outrider.denied."),
                slots: std::array::from_fn(|_| StatSlot::new()),
            },
            stats: JwtStats::new(scope),
            settings,
        })
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        let settings = &*self.settings;
        if settings.bypass_cors_preflight && is_preflight(cx.parts) {
            self.take_reserved(cx.parts);
            self.stats.cors_preflight_bypassed().inc();
            self.stats.allowed().inc();
            return Step::GO_ON;
        }
        let requirement = match cx.settings() {
            Some(RouteFilterConfig::JwtAuthn(None)) => None,
            Some(RouteFilterConfig::JwtAuthn(Some(name))) => match settings.requirements.get(name) {
                Some(requirement) => Some(requirement),
                None => return Step::reply(self.no_such_requirement(&name.clone())),
            },
            _ => self.by_rules(cx.stream, cx.parts),
        };
        self.take_reserved(cx.parts);
        let Some(requirement) = requirement else {
            self.stats.allowed().inc();
            return Step::GO_ON;
        };
        // Tokens are taken out of it; who is refused is told what was asked for.
        let asked = cx.parts.uri.clone();
        let now = Now::read();
        let lacking = self.keys.iter().any(|keys| keys.lack(now.monotonic));
        let before = lacking.then(|| (cx.parts.headers.clone(), asked.clone()));
        let (verdict, found) = self.check(&mut cx, requirement, now, &Tried::default());
        let verdict = match (verdict, before) {
            (Ok(()), _) => Ok(()),
            (Err(Stop::Refused(error)), _) => Err(error),
            (Err(Stop::Lacking(_)), None) => Err(JwtError::Fetch),
            (Err(Stop::Lacking(place)), Some(before)) => {
                return Step::wait(cx, move |cx| self.wait(cx, requirement, before, place));
            }
        };
        Step::Now(self.end(&mut cx, verdict, found, &asked))
    }

    fn check(
        &self,
        cx: &mut RequestCx<'_>,
        requirement: &JwtRequirement,
        now: Now,
        tried: &Tried,
    ) -> (Result<(), Stop>, Found) {
        let mut check = Check::new(&self.settings, &self.keys, cx.parts, now, tried, metadata::is_read());
        let verdict = check.require(requirement);
        (verdict, check.found)
    }

    /// Waits for the keys of the provider at `place`, then looks at the request again, as it was `before`.
    async fn wait(
        &self,
        mut cx: RequestCx<'_>,
        requirement: &JwtRequirement,
        before: (HeaderMap, http::Uri),
        mut place: usize,
    ) -> Verdict {
        let mut tried = Tried::default();
        loop {
            let fetched = match self.keys.get(place) {
                Some(Keys::Remote(handle)) => handle.source().wait().await,
                Some(Keys::Here(_)) | None => false,
            };
            if fetched { &mut tried.fetched } else { &mut tried.failed }.push(place);
            (cx.parts.headers, cx.parts.uri) = before.clone();
            let (verdict, found) = self.check(&mut cx, requirement, Now::read(), &tried);
            let verdict = match verdict {
                Ok(()) => Ok(()),
                Err(Stop::Refused(error)) => Err(error),
                Err(Stop::Lacking(another)) => {
                    place = another;
                    continue;
                }
            };
            return self.end(&mut cx, verdict, found, &before.1);
        }
    }

    fn end(
        &self,
        cx: &mut RequestCx<'_>,
        verdict: Result<(), JwtError>,
        found: Found,
        asked: &http::Uri,
    ) -> Verdict {
        self.stats.jwt_cache_miss().add(found.looked_up);
        if !found.notes.is_empty() {
            let mut info = cx.stream.info.borrow_mut();
            for (key, value) in found.notes {
                info.set_metadata(&NAMESPACE, &key, value);
            }
        }
        if found.clear_route {
            cx.clear_route();
        }
        match verdict {
            Ok(()) => {
                self.stats.allowed().inc();
                Verdict::GoOn
            }
            Err(error) => Verdict::Reply(self.refusal(error, &Uri::of(cx.stream, cx.parts, asked))),
        }
    }

    /// Where its keys come from.
    pub(super) fn sources(&self) -> impl Iterator<Item = &JwksSource> {
        self.keys.iter().filter_map(|keys| match keys {
            Keys::Remote(handle) => Some(handle.source()),
            Keys::Here(_) => None,
        })
    }

    fn by_rules(&self, stream: &Stream, parts: &Parts) -> Option<&JwtRequirement> {
        let head = stream.view(&parts.method, &parts.uri, &parts.headers);
        let view = RequestView { head, tls: None, random: 0 };
        let path = view.bare_path();
        let rule = self.settings.rules.iter().find(|rule| matches(&rule.matches, &view, path))?;
        rule.requires.as_ref()
    }

    /// What only verified tokens may say.
    fn take_reserved(&self, parts: &mut Parts) {
        for name in &self.settings.reserved {
            parts.headers.remove(name);
        }
    }

    fn no_such_requirement(&self, name: &str) -> LocalReply {
        self.stats.denied().inc();
        let names: Vec<&str> = self.settings.requirements.keys().map(|name| &**name).collect();
        let error = format!("Wrong requirement_name: {name}. It should be one of [{}]", names.join(","));
        let reply = LocalReply::new(StatusCode::FORBIDDEN, details(&error));
        if self.settings.strip_failure_response {
            return reply;
        }
        reply.body(Bytes::from(format!("Failed JWT authentication: {error}")))
    }

    fn refusal(&self, error: JwtError, uri: &Uri) -> LocalReply {
        self.stats.denied().inc();
        self.reasons.count(error);
        let status = match error {
            JwtError::AudienceNotAllowed => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        let text = error.to_string();
        let reply = LocalReply::new(status, details(&text));
        if self.settings.strip_failure_response {
            return reply;
        }
        let more = if error == JwtError::Missing { "" } else { ", error=\"invalid_token\"" };
        let challenge = format!("Bearer realm=\"{}\"{more}", uri.0);
        let reply = reply.body(Bytes::from(text));
        match HeaderValue::from_maybe_shared(Bytes::from(challenge)) {
            Ok(challenge) => reply.header(WWW_AUTHENTICATE, challenge),
            Err(_) => reply,
        }
    }
}

fn details(error: &str) -> String {
    let error: String = error.chars().map(|c| if c.is_ascii_whitespace() { '_' } else { c }).collect();
    format!("jwt_authn_access_denied{{{error}}}")
}

/// Whether a browser asks what it may do: it says nothing of who asks.
fn is_preflight(parts: &Parts) -> bool {
    let has = |name: HeaderName| parts.headers.get(name).is_some_and(|value| !value.is_empty());
    parts.method == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
}
