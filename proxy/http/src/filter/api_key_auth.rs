//! `envoy.filters.http.api_key_auth`: requests must carry a key that is known.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use outrider_config::model::{ApiKeyAuth as Settings, ApiKeyAuthRoute, KeySource, RouteFilterConfig};
use outrider_core::LocalReply;
use outrider_core::credentials::Client;
use outrider_core::stats::Scope;

use super::header_mutation::Query;
use super::{RequestCx, Step, places};
use crate::router::set_path;

const UNAUTHORIZED: Bytes = Bytes::from_static(b"Client authentication failed.");
const FORBIDDEN: Bytes = Bytes::from_static(b"Client is forbidden.");

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.api_key_auth.`
    struct ApiKeyAuthStats {
        counters { allowed, unauthorized, forbidden }
        gauges { }
        histograms { }
    }
}

/// The filter.
#[derive(Debug)]
pub(crate) struct ApiKeyAuth {
    settings: Arc<Settings>,
    stats: ApiKeyAuthStats,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denial {
    NoSources,
    NoCredentials,
    NoKey,
    UnknownKey,
    NotAllowed,
}

impl Denial {
    const fn details(self) -> &'static str {
        match self {
            Self::NoSources => "missing_key_sources",
            Self::NoCredentials => "missing_credentials",
            Self::NoKey => "missing_api_key",
            Self::UnknownKey => "unknown_api_key",
            Self::NotAllowed => "client_not_allowed",
        }
    }
}

impl ApiKeyAuth {
    /// `scope` is the connection manager's.
    pub(super) fn new(settings: Arc<Settings>, scope: &Scope) -> Self {
        Self { settings, stats: ApiKeyAuthStats::new(scope.child("api_key_auth.")) }
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        let (parts, levels) = cx.split();
        let route = match levels.last() {
            Some(RouteFilterConfig::ApiKeyAuth(route)) => Some(&**route),
            _ => None,
        };
        match judge(&self.settings, route, parts) {
            Ok(()) => {
                self.stats.allowed().inc();
                Step::GO_ON
            }
            Err(Denial::NotAllowed) => {
                self.stats.forbidden().inc();
                let reply = LocalReply::new(StatusCode::FORBIDDEN, Denial::NotAllowed.details());
                Step::reply(reply.body(FORBIDDEN))
            }
            Err(denial) => {
                self.stats.unauthorized().inc();
                let reply = LocalReply::new(StatusCode::UNAUTHORIZED, denial.details());
                Step::reply(reply.body(UNAUTHORIZED))
            }
        }
    }
}

/// Decides about a request, and changes it as its client's are changed. What a route does not say, `own` says, but for what is forwarded.
fn judge(own: &Settings, route: Option<&ApiKeyAuthRoute>, parts: &mut Parts) -> Result<(), Denial> {
    let said = route.map(|route| &route.settings);
    let sources = said.map(|said| &said.sources).filter(|sources| !sources.is_empty());
    let sources = sources.unwrap_or(&own.sources);
    let keys = said.and_then(|said| said.keys.as_ref()).or(own.keys.as_ref());
    // As Envoy has it: a route that says anything says this as well.
    let forwarding = said.map_or(own.forwarding.as_ref(), |said| said.forwarding.as_ref());
    if sources.is_empty() {
        return Err(Denial::NoSources);
    }
    let keys = keys.ok_or(Denial::NoCredentials)?;
    let head = &*parts;
    let key = sources.iter().find_map(|source| key(source, head)).ok_or(Denial::NoKey)?;
    let client: &Client = keys.client(&key).ok_or(Denial::UnknownKey)?;
    drop(key);
    if route.is_some_and(|route| !route.allowed.is_empty() && !route.allowed.contains(&*client.name)) {
        return Err(Denial::NotAllowed);
    }
    if let Some(forwarding) = forwarding {
        if let Some(header) = &forwarding.header {
            parts.headers.insert(header.clone(), client.header.clone());
        }
        if forwarding.hide {
            sources.iter().for_each(|source| remove(source, parts));
        }
    }
    Ok(())
}

/// The key at `source`; an empty one is none.
fn key<'a>(source: &KeySource, parts: &'a Parts) -> Option<Cow<'a, [u8]>> {
    let key = match source {
        KeySource::Header(name) => match places::header(&parts.headers, name)? {
            Cow::Borrowed(value) => Cow::Borrowed(value.strip_prefix(b"Bearer ").unwrap_or(value)),
            Cow::Owned(value) => Cow::Owned(value.strip_prefix(b"Bearer ").unwrap_or(&value).to_vec()),
        },
        KeySource::Query(name) => places::parameter(places::path(parts), name)?,
        KeySource::Cookie(name) => Cow::Borrowed(places::cookie(&parts.headers, name)?),
    };
    (!key.is_empty()).then_some(key)
}

/// Takes whatever is at `source` out. Other parameters of a query stay as the client wrote them; Envoy writes them decoded,
/// by which a client could bring in parameters, or a second request line.
fn remove(source: &KeySource, parts: &mut Parts) {
    match source {
        KeySource::Header(name) => drop(parts.headers.remove(name)),
        KeySource::Query(name) => {
            let path = places::path(parts);
            let mut query = Query::parse(path);
            query.remove_decoded(name);
            let path = query.path(path);
            set_path(parts, path);
        }
        KeySource::Cookie(name) => places::remove_cookie(&mut parts.headers, name),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Request};
    use outrider_config::model::KeyForwarding;
    use outrider_core::credentials::ApiKeys;

    use super::*;

    fn settings(keys: &[(&str, &'static str)], sources: &[KeySource]) -> Settings {
        let mut all = ApiKeys::default();
        for &(key, name) in keys {
            assert!(
                all.add(key.as_bytes(), Client { name: name.into(), header: HeaderValue::from_static(name) })
            );
        }
        let forwarding =
            Some(KeyForwarding { header: Some(HeaderName::from_static("x-client")), hide: true });
        Settings { keys: (!keys.is_empty()).then_some(all), sources: sources.into(), forwarding }
    }

    fn request(path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn everywhere() -> [KeySource; 3] {
        [
            KeySource::Header(http::header::AUTHORIZATION),
            KeySource::Query("k".into()),
            KeySource::Cookie("kc".into()),
        ]
    }

    #[test]
    fn a_key_is_taken_from_the_first_place_that_has_one_and_hidden_in_all() {
        let own = settings(&[("k1", "c1"), ("a b", "c2")], &everywhere());
        let mut parts = request("/p?z=a%26b&%6b=a%20b", &[("x-client", "evil"), ("cookie", "kc=k1; a=1")]);
        assert_eq!(judge(&own, None, &mut parts), Ok(()));
        assert_eq!(parts.headers["x-client"], "c2");
        assert_eq!(places::path(&parts), "/p?z=a%26b", "what else there is stays as it was written");
        assert_eq!(parts.headers["cookie"], "a=1");
        let mut parts = request("/p?k=k1", &[("authorization", "Bearer k2")]);
        assert_eq!(judge(&own, None, &mut parts), Err(Denial::UnknownKey));
        let mut parts = request("/p?k=", &[]);
        assert_eq!(judge(&own, None, &mut parts), Err(Denial::NoKey));
    }

    #[test]
    fn routes_say_their_own_and_the_filter_the_rest() {
        let own = settings(&[("k1", "c1"), ("k2", "c2")], &everywhere());
        let route = |keys: &[(&str, &'static str)], allowed: &[&str]| ApiKeyAuthRoute {
            settings: Settings { keys: settings(keys, &[]).keys, sources: Box::default(), forwarding: None },
            allowed: allowed.iter().map(|name| Box::from(*name)).collect(),
        };
        let of = |route: &ApiKeyAuthRoute, key: &str| {
            judge(&own, Some(route), &mut request(&format!("/?k={key}"), &[]))
        };
        assert_eq!(of(&route(&[], &["c2"]), "k2"), Ok(()));
        assert_eq!(of(&route(&[], &["c2"]), "k1"), Err(Denial::NotAllowed));
        assert_eq!(of(&route(&[("k3", "c3")], &[]), "k3"), Ok(()));
        assert_eq!(of(&route(&[("k3", "c3")], &[]), "k1"), Err(Denial::UnknownKey));
        let none = settings(&[], &[]);
        assert_eq!(judge(&none, None, &mut request("/", &[])), Err(Denial::NoSources));
        let none = settings(&[], &everywhere());
        assert_eq!(judge(&none, None, &mut request("/", &[])), Err(Denial::NoCredentials));
    }
}
