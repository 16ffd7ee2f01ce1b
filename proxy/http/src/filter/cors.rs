//! `envoy.filters.http.cors`: answers preflights, and tells browsers which origins may read a response.

use std::convert::identity;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use outrider_config::model::{CorsPolicy, RouteFilterConfig};
use outrider_core::matcher::RuntimeFraction;
use outrider_core::rng;
use outrider_core::stats::Scope;

use super::{RequestCx, ResponseCx, State, Step};
use crate::body::ResponseBody;

const ORIGIN: HeaderName = http::header::ORIGIN;
const REQUEST_METHOD: HeaderName = http::header::ACCESS_CONTROL_REQUEST_METHOD;
const REQUEST_HEADERS: HeaderName = http::header::ACCESS_CONTROL_REQUEST_HEADERS;
const REQUEST_PRIVATE: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_ORIGIN: HeaderName = http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
const ALLOW_CREDENTIALS: HeaderName = http::header::ACCESS_CONTROL_ALLOW_CREDENTIALS;
const ALLOW_METHODS: HeaderName = http::header::ACCESS_CONTROL_ALLOW_METHODS;
const ALLOW_HEADERS: HeaderName = http::header::ACCESS_CONTROL_ALLOW_HEADERS;
const ALLOW_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const EXPOSE_HEADERS: HeaderName = http::header::ACCESS_CONTROL_EXPOSE_HEADERS;
const MAX_AGE: HeaderName = http::header::ACCESS_CONTROL_MAX_AGE;
const TRUE: HeaderValue = HeaderValue::from_static("true");

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.cors.`
    struct CorsStats {
        counters { origin_valid, origin_invalid }
        gauges { }
        histograms { }
    }
}

/// The filter.
#[derive(Debug)]
pub(crate) struct Cors {
    stats: CorsStats,
}

/// What the response to a request from an allowed origin gets.
#[derive(Debug)]
pub(crate) struct Latched {
    origin: HeaderValue,
    credentials: bool,
    expose: Option<HeaderValue>,
}

/// The policies of a request's levels.
#[derive(Clone, Copy)]
struct Policies<'a>(&'a [RouteFilterConfig]);

impl Cors {
    pub(super) fn new(scope: &Scope) -> Self {
        Self { stats: CorsStats::new(scope.child("cors.")) }
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        // Direct responses and redirects have no policy.
        if cx.route().and_then(|route| route.forward()).is_none() {
            return Step::GO_ON;
        }
        let origin = cx.parts.headers.get(ORIGIN).filter(|origin| !origin.is_empty()).cloned();
        let (method, asked) = (cx.parts.method.clone(), Asked::of(&cx.parts.headers));
        let policies = Policies(cx.levels());
        let Some((enabled, shadow)) = policies.works() else { return Step::GO_ON };
        let Some(origin) = origin.filter(|_| enabled || shadow) else { return Step::GO_ON };
        let allowed = policies.allows(&origin);
        if allowed {
            self.stats.origin_valid().inc();
        } else {
            self.stats.origin_invalid().inc();
        }
        if !enabled {
            return Step::GO_ON;
        }
        let preflight = method == Method::OPTIONS && asked.method.is_some();
        let answered = preflight
            && (allowed || !policies.first(|policy| policy.forward_not_matching_preflights).unwrap_or(true));
        let response = answered.then(|| policies.preflight(allowed.then(|| origin.clone()), asked));
        if allowed {
            let latched = Latched {
                origin,
                credentials: policies.credentials(),
                expose: policies.first(|policy| policy.expose_headers.clone()),
            };
            cx.keep(State::Cors(latched));
        }
        let Some(response) = response else { return Step::GO_ON };
        cx.stream.info.borrow_mut().details = "cors_response".into();
        Step::respond(response)
    }
}

/// What a preflight asks for.
struct Asked {
    method: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    private: bool,
}

impl Asked {
    fn of(headers: &HeaderMap) -> Self {
        let get = |name| headers.get(name).filter(|value| !value.is_empty()).cloned();
        Self {
            method: get(REQUEST_METHOD),
            headers: get(REQUEST_HEADERS),
            private: headers.get(REQUEST_PRIVATE).is_some_and(|value| value == "true"),
        }
    }
}

impl<'a> Policies<'a> {
    /// From the most specific on.
    fn iter(self) -> impl Iterator<Item = &'a CorsPolicy> {
        self.0.iter().rev().filter_map(|level| match level {
            RouteFilterConfig::Cors(policy) => Some(&**policy),
            _ => None,
        })
    }

    fn first<T>(self, pick: impl Fn(&'a CorsPolicy) -> Option<T>) -> Option<T> {
        self.iter().find_map(pick)
    }

    /// Whether the most specific policy works, and whether it counts; `None` when there is none.
    fn works(self) -> Option<(bool, bool)> {
        let policy = self.iter().next()?;
        let draw = |share: &RuntimeFraction| rng::with(|rng| share.draw(rng));
        Some((policy.enabled.as_ref().is_none_or(draw), policy.shadow.as_ref().is_some_and(draw)))
    }

    fn allows(self, origin: &HeaderValue) -> bool {
        let origins = self.iter().map(|policy| &policy.allow_origins).find(|origins| !origins.is_empty());
        let origin = String::from_utf8_lossy(origin.as_bytes());
        let takes = |allowed: &outrider_core::matcher::StringMatcher| {
            allowed.matches("*") || allowed.matches(&origin)
        };
        origins.is_some_and(|origins| origins.iter().any(takes))
    }

    fn credentials(self) -> bool {
        self.first(|policy| policy.allow_credentials).is_some_and(identity)
    }

    /// The answer to a preflight (Fetch: "CORS-preflight fetch").
    fn preflight(self, origin: Option<HeaderValue>, asked: Asked) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::Empty);
        let headers = response.headers_mut();
        if let Some(origin) = origin {
            headers.insert(ALLOW_ORIGIN, origin);
        }
        if self.credentials() {
            headers.insert(ALLOW_CREDENTIALS, TRUE);
        }
        let mut echo = |name: HeaderName, allowed: Option<HeaderValue>, asked: Option<HeaderValue>| {
            let Some(allowed) = allowed else { return };
            let value = if allowed == "*" { asked.unwrap_or(HeaderValue::from_static("")) } else { allowed };
            headers.insert(name, value);
        };
        echo(ALLOW_METHODS, self.first(|policy| policy.allow_methods.clone()), asked.method);
        echo(ALLOW_HEADERS, self.first(|policy| policy.allow_headers.clone()), asked.headers);
        if let Some(age) = self.first(|policy| policy.max_age.clone()) {
            headers.insert(MAX_AGE, age);
        }
        if asked.private && self.first(|policy| policy.allow_private_network).is_some_and(identity) {
            headers.insert(ALLOW_PRIVATE, TRUE);
        }
        response
    }
}

/// Marks the response to a request from an allowed origin.
pub(super) fn response(cx: ResponseCx<'_>) {
    let Some(State::Cors(Latched { origin, credentials, expose })) = cx.take() else { return };
    let headers = &mut cx.parts.headers;
    headers.insert(ALLOW_ORIGIN, origin);
    if credentials {
        headers.insert(ALLOW_CREDENTIALS, TRUE);
    }
    if let Some(expose) = expose {
        headers.insert(EXPOSE_HEADERS, expose);
    }
}
