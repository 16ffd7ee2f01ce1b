//! HTTP filters: a connection manager's chain, and what routes say of its filters.
//!
//! A filter has a file here with one function for its own message and, where routes can change it, one for theirs;
//! [`kind`] and [`route_config`] know it by the type of its message, as Envoy does. What runs is in `outrider-http`.

mod api_key_auth;
mod basic_auth;
mod cors;
mod credential_injector;
mod ext_authz;
mod fault;
mod grpc_stats;
mod header_mutation;
mod health_check;
mod jwt_authn;
mod local_rate_limit;
mod oauth2;
mod on_demand;
mod rbac;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::route::v3::FilterConfig;
use outrider_proto::pb::envoy::extensions::filters::http as ext;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrider_proto::pb::google::protobuf::Any;

use super::cx::{Cx, inert, refuse};
use super::extension::{self, Found};
use super::router;
use super::scalar::{type_of, unpack};
use crate::model::{FilterName, FilterOverride, HttpFilter, HttpFilterKind, RouteFilterConfig, RouterFilter};

/// As many filters a chain may have: a request notes by one bit which of them work for it.
const MOST_FILTERS: usize = 64;

/// A connection manager's filters.
pub(crate) struct Chain {
    /// Those in front of the router.
    pub(crate) filters: Vec<HttpFilter>,
    /// The router.
    pub(crate) router: RouterFilter,
    /// The router's name.
    pub(crate) router_name: Arc<str>,
}

/// The chain at `path`; `None`, and an error, when it does not end in a router.
pub(crate) fn chain(cx: &Cx, path: &Path<'_>, messages: &[pb::HttpFilter]) -> Option<Chain> {
    let mut filters = Vec::new();
    let mut last = None;
    if messages.len() > MOST_FILTERS {
        cx.refuse(path, format!("{MOST_FILTERS} HTTP filters are supported at most"));
    }
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        match one(cx, &path, message, i + 1 == messages.len()) {
            Some(One::Filter(filter)) => filters.push(filter),
            Some(One::Router(router)) => last = Some((router, Arc::from(message.name.as_str()))),
            None => {}
        }
    }
    let Some((router, router_name)) = last else {
        cx.error(path, "the last HTTP filter must be envoy.filters.http.router");
        return None;
    };
    Some(Chain { filters, router, router_name })
}

enum One {
    Filter(HttpFilter),
    Router(RouterFilter),
}

fn one(cx: &Cx, path: &Path<'_>, message: &pb::HttpFilter, is_last: bool) -> Option<One> {
    use pb::http_filter::ConfigType;
    let pb::HttpFilter { name, is_optional, disabled, config_type } = message;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(message)) => {
            if is_last {
                cx.error(path, "the last filter is the router, which is not discovered");
            }
            inert!(cx, path, "what comes is judged when it comes"; is_optional);
            let at = path.field("config_discovery");
            let kind =
                HttpFilterKind::Discovered(extension::discovered(cx, &at, name, message, &TYPES, kind)?);
            return Some(One::Filter(HttpFilter { name: FilterName::new(name), disabled: *disabled, kind }));
        }
        None => {
            cx.error(path, format!("the filter {name:?} needs a typed_config with its @type"));
            return None;
        }
    };
    let at = path.field("typed_config");
    if outrider_proto::any::is::<ext::router::v3::Router>(any) {
        inert!(cx, path, "the router is always there"; is_optional);
        refuse!(cx, path, "without its router a connection manager serves nothing; remove it"; disabled);
        if !is_last {
            cx.error(path, format!("the router {name:?} must be the last HTTP filter"));
            return None;
        }
        return unpack(cx, &at, any).map(|message| One::Router(router::router(cx, &at, &message)));
    }
    match kind(cx, &at, any) {
        Found::Known(kind) => {
            inert!(cx, path, "the filter is supported"; is_optional);
            Some(One::Filter(HttpFilter { name: FilterName::new(name), disabled: *disabled, kind: kind? }))
        }
        Found::Unknown if *is_optional => {
            let why = format!(
                "the HTTP filter {} is not supported; it is optional, so it is left out",
                type_of(any)
            );
            cx.inert(&at, why);
            None
        }
        Found::Unknown => {
            let why =
                format!("the HTTP filter {} is not supported; remove the filter {name:?}", type_of(any));
            cx.refuse(&at, why);
            None
        }
    }
}

/// The types of filters that a control plane may send.
const TYPES: [&str; 14] = [
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.oauth2.v3.OAuth2",
    "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
];

/// The filter whose settings `any` carries.
pub(super) fn kind(cx: &Cx, path: &Path<'_>, any: &Any) -> Found<HttpFilterKind> {
    use outrider_proto::any::is;
    Found::Known(if is::<ext::api_key_auth::v3::ApiKeyAuth>(any) {
        unpack(cx, path, any)
            .and_then(|message| api_key_auth::filter(cx, path, &message))
            .map(|filter| HttpFilterKind::ApiKeyAuth(Arc::new(filter)))
    } else if is::<ext::basic_auth::v3::BasicAuth>(any) {
        unpack(cx, path, any)
            .and_then(|message| basic_auth::filter(cx, path, &message))
            .map(|filter| HttpFilterKind::BasicAuth(Arc::new(filter)))
    } else if is::<ext::cors::v3::Cors>(any) {
        unpack(cx, path, any).map(|ext::cors::v3::Cors {}| HttpFilterKind::Cors)
    } else if is::<ext::credential_injector::v3::CredentialInjector>(any) {
        unpack(cx, path, any)
            .and_then(|message| credential_injector::filter(cx, path, &message))
            .map(|filter| HttpFilterKind::CredentialInjector(Arc::new(filter)))
    } else if is::<ext::ext_authz::v3::ExtAuthz>(any) {
        unpack(cx, path, any)
            .and_then(|message| ext_authz::filter(cx, path, &message))
            .map(|filter| HttpFilterKind::ExtAuthz(Arc::new(filter)))
    } else if is::<ext::fault::v3::HttpFault>(any) {
        unpack(cx, path, any).map(|message| HttpFilterKind::Fault(Arc::new(fault::fault(cx, path, &message))))
    } else if is::<ext::grpc_stats::v3::FilterConfig>(any) {
        unpack(cx, path, any)
            .map(|message| HttpFilterKind::GrpcStats(Arc::new(grpc_stats::filter(cx, path, &message))))
    } else if is::<ext::header_mutation::v3::HeaderMutation>(any) {
        unpack(cx, path, any).map(|message| {
            HttpFilterKind::HeaderMutation(Arc::new(header_mutation::filter(cx, path, &message)))
        })
    } else if is::<ext::health_check::v3::HealthCheck>(any) {
        unpack(cx, path, any)
            .map(|message| HttpFilterKind::HealthCheck(Arc::new(health_check::filter(cx, path, &message))))
    } else if is::<ext::oauth2::v3::OAuth2>(any) {
        unpack(cx, path, any)
            .and_then(|message| oauth2::filter(cx, path, &message))
            .map(|login| HttpFilterKind::OAuth2(login.map(Arc::new)))
    } else if is::<ext::on_demand::v3::OnDemand>(any) {
        unpack(cx, path, any).map(|ext::on_demand::v3::OnDemand { odcds }| {
            HttpFilterKind::OnDemand(Arc::new(on_demand::settings(cx, path, odcds.as_ref())))
        })
    } else if is::<ext::jwt_authn::v3::JwtAuthentication>(any) {
        unpack(cx, path, any)
            .and_then(|message| jwt_authn::filter(cx, path, &message))
            .map(|filter| HttpFilterKind::JwtAuthn(Arc::new(filter)))
    } else if is::<ext::local_ratelimit::v3::LocalRateLimit>(any) {
        unpack(cx, path, any)
            .and_then(|message| local_rate_limit::filter(cx, path, &message, false))
            .map(|filter| HttpFilterKind::LocalRateLimit(Arc::new(filter)))
    } else if is::<ext::rbac::v3::Rbac>(any) {
        unpack(cx, path, any).map(|message| HttpFilterKind::Rbac(Arc::new(rbac::filter(cx, path, &message))))
    } else {
        return Found::Unknown;
    })
}

/// The settings for a route that `any` carries.
fn route_config(cx: &Cx, path: &Path<'_>, any: &Any) -> Found<RouteFilterConfig> {
    use outrider_proto::any::is;
    Found::Known(if is::<ext::api_key_auth::v3::ApiKeyAuthPerRoute>(any) {
        unpack(cx, path, any)
            .and_then(|message| api_key_auth::per_route(cx, path, &message))
            .map(|settings| RouteFilterConfig::ApiKeyAuth(Arc::new(settings)))
    } else if is::<ext::basic_auth::v3::BasicAuthPerRoute>(any) {
        unpack(cx, path, any)
            .and_then(|message| basic_auth::per_route(cx, path, &message))
            .map(RouteFilterConfig::BasicAuth)
    } else if is::<ext::cors::v3::CorsPolicy>(any) {
        unpack(cx, path, any)
            .map(|message| RouteFilterConfig::Cors(Arc::new(cors::policy(cx, path, &message))))
    } else if is::<ext::ext_authz::v3::ExtAuthzPerRoute>(any) {
        unpack(cx, path, any)
            .and_then(|message| ext_authz::per_route(cx, path, &message))
            .map(|route| RouteFilterConfig::ExtAuthz(Arc::new(route)))
    } else if is::<ext::fault::v3::HttpFault>(any) {
        unpack(cx, path, any)
            .map(|message| RouteFilterConfig::Fault(Arc::new(fault::fault(cx, path, &message))))
    } else if is::<ext::header_mutation::v3::HeaderMutationPerRoute>(any) {
        unpack(cx, path, any).map(|message| {
            RouteFilterConfig::HeaderMutation(Arc::new(header_mutation::per_route(cx, path, &message)))
        })
    } else if is::<ext::oauth2::v3::OAuth2PerRoute>(any) {
        unpack(cx, path, any)
            .and_then(|message| oauth2::per_route(cx, path, &message))
            .map(|login| RouteFilterConfig::OAuth2(Arc::new(login)))
    } else if is::<ext::on_demand::v3::PerRouteConfig>(any) {
        unpack(cx, path, any).map(|ext::on_demand::v3::PerRouteConfig { odcds }| {
            RouteFilterConfig::OnDemand(Arc::new(on_demand::settings(cx, path, odcds.as_ref())))
        })
    } else if is::<ext::jwt_authn::v3::PerRouteConfig>(any) {
        unpack(cx, path, any)
            .and_then(|message| jwt_authn::per_route(cx, path, &message))
            .map(RouteFilterConfig::JwtAuthn)
    } else if is::<ext::local_ratelimit::v3::LocalRateLimit>(any) {
        unpack(cx, path, any)
            .and_then(|message| local_rate_limit::filter(cx, path, &message, true))
            .map(|filter| RouteFilterConfig::LocalRateLimit(Arc::new(filter)))
    } else if is::<ext::rbac::v3::RbacPerRoute>(any) {
        unpack(cx, path, any).map(|message| RouteFilterConfig::Rbac(rbac::per_route(cx, path, &message)))
    } else {
        return Found::Unknown;
    })
}

/// What the message at `path` says of HTTP filters (`typed_per_filter_config`), by name.
pub(crate) fn overrides(cx: &Cx, path: &Path<'_>, configs: &HashMap<String, Any>) -> Vec<FilterOverride> {
    let names: BTreeSet<&String> = configs.keys().collect();
    let path = path.field("typed_per_filter_config");
    let one = |name: &String| override_of(cx, &path.key(name), name, configs.get(name)?);
    names.into_iter().filter_map(one).collect()
}

/// Envoy: `PerFilterConfigs`. A plain message turns its filter on and sets it; a `FilterConfig` can do each by itself.
fn override_of(cx: &Cx, path: &Path<'_>, name: &str, any: &Any) -> Option<FilterOverride> {
    let entry = |disabled, config| Some(FilterOverride { name: FilterName::new(name), disabled, config });
    if !outrider_proto::any::is::<FilterConfig>(any) {
        return entry(false, settings(cx, path, any, false)?);
    }
    let FilterConfig { config, is_optional, disabled } = unpack(cx, path, any)?;
    if disabled {
        if config.is_some() {
            cx.inert(&path.field("config"), "the filter is disabled here, so it has no settings");
        }
        return entry(true, None);
    }
    let Some(config) = config else {
        cx.error(
            &path.field("config"),
            format!("settings for the filter {name:?} are needed, or {{}} to turn it on"),
        );
        return None;
    };
    if config.type_url.is_empty() {
        return entry(false, None);
    }
    entry(false, settings(cx, &path.field("config"), &config, is_optional)?)
}

/// The settings that `any` carries; the inner `None` for those of a filter that may be missing.
#[expect(clippy::option_option, reason = "not usable, none, some")]
fn settings(cx: &Cx, path: &Path<'_>, any: &Any, is_optional: bool) -> Option<Option<RouteFilterConfig>> {
    match route_config(cx, path, any) {
        Found::Known(config) => config.map(Some),
        Found::Unknown if is_optional => {
            cx.inert(path, format!("no filter has the settings {}; they are optional", type_of(any)));
            Some(None)
        }
        Found::Unknown => {
            let why =
                format!("no supported HTTP filter has the route settings {}; remove the entry", type_of(any));
            cx.refuse(path, why);
            None
        }
    }
}
