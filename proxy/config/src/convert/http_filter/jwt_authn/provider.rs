//! Who issues tokens, and where they are.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, Uri};
use outrider_core::jwt::{Audiences, Jwks};
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use crate::convert::cx::{Cx, UNSUPPORTED, inert, refuse};
use crate::convert::matcher;
use crate::convert::scalar::{data_source, duration, header_name, u32_of};
use crate::model::{
    DataSourceKind, JwksRetries, JwtClaimHeader, JwtIssuers, JwtKeys, JwtLifetime, JwtLocation, JwtPlace,
    JwtProvider, RemoteJwks,
};

/// How far clocks may differ by default, in seconds.
const CLOCK_SKEW: u64 = 60;
/// How long fetched keys are good by default.
const CACHE: Duration = Duration::from_secs(600);
/// When keys are fetched again in the background after a failure, by default.
const REFETCH: Duration = Duration::from_secs(1);
/// The limit of the first random time between tries, by default.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The provider at `path`; `None`, and an error, when it is not usable.
pub(super) fn provider(
    cx: &Cx,
    path: &Path<'_>,
    name: &str,
    message: &pb::JwtProvider,
) -> Option<JwtProvider> {
    let pb::JwtProvider {
        issuer,
        audiences,
        subjects,
        require_expiration,
        max_lifetime,
        forward,
        from_headers,
        from_params,
        from_cookies,
        forward_payload_header,
        pad_forward_payload_header,
        payload_in_metadata,
        normalize_payload_in_metadata,
        header_in_metadata,
        failed_status_in_metadata,
        clock_skew_seconds,
        jwt_cache_config,
        claim_to_headers,
        clear_route_cache,
        jwks_source_specifier,
    } = message;
    inert!(cx, path, "each token is verified whenever it comes, so that keys that are gone hold no longer"; jwt_cache_config);
    let named = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    let subjects = match subjects {
        Some(message) => Some(matcher::string(cx, &path.field("subjects"), message)?),
        None => None,
    };
    let lifetime = match duration(cx, path, "max_lifetime", max_lifetime) {
        Some(limit) => Some(JwtLifetime::Below(limit)),
        None => require_expiration.then_some(JwtLifetime::Finite),
    };
    let payload_header = match forward_payload_header.as_str() {
        "" => None,
        text => Some(header_name(cx, &path.field("forward_payload_header"), text)?),
    };
    let space_delimited = normalize_payload_in_metadata.as_ref().map(|message| {
        let pb::jwt_provider::NormalizePayload { space_delimited_claims } = message;
        space_delimited_claims.iter().map(|claim| Box::from(claim.as_str())).collect()
    });
    let places = places(cx, path, from_headers, from_params, from_cookies)?;
    let issuers =
        if issuer.is_empty() { JwtIssuers::Any } else { JwtIssuers::These(vec![issuer.as_str().into()]) };
    let locations = places.into_iter().map(|place| JwtLocation { place, issuers: issuers.clone() });
    Some(JwtProvider {
        name: name.into(),
        issuer: issuer.as_str().into(),
        audiences: Audiences::new(audiences.iter().map(String::as_str)),
        subjects,
        lifetime,
        keys: keys(cx, path, jwks_source_specifier.as_ref())?,
        forward: *forward,
        locations: in_order(locations.collect()),
        payload_header,
        pad_payload: *pad_forward_payload_header,
        payload_in_metadata: named(payload_in_metadata),
        space_delimited: space_delimited.unwrap_or_default(),
        header_in_metadata: named(header_in_metadata),
        failed_status_in_metadata: named(failed_status_in_metadata),
        clock_skew: if *clock_skew_seconds == 0 { CLOCK_SKEW } else { u64::from(*clock_skew_seconds) },
        claims: claims(cx, &path.field("claim_to_headers"), claim_to_headers)?,
        clear_route_cache: *clear_route_cache,
    })
}

fn keys(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::jwt_provider::JwksSourceSpecifier>,
) -> Option<JwtKeys> {
    use pb::jwt_provider::JwksSourceSpecifier as Kind;
    match message {
        Some(Kind::LocalJwks(message)) => {
            let at = path.field("local_jwks");
            let source = data_source(cx, &at, message)?;
            let DataSourceKind::Inline(bytes) = &source.kind else { return Some(JwtKeys::Source(source)) };
            match Jwks::parse(bytes) {
                Err(error) => {
                    cx.error(&at, error.to_string());
                    None
                }
                Ok(keys) => {
                    if keys.left_out() > 0 {
                        cx.inert(&at, format!("{} of the keys cannot be used", keys.left_out()));
                    }
                    Some(JwtKeys::Here(Arc::new(keys)))
                }
            }
        }
        Some(Kind::RemoteJwks(message)) => {
            remote(cx, &path.field("remote_jwks"), message).map(|remote| JwtKeys::Remote(Arc::new(remote)))
        }
        None => {
            cx.error(path, "give one of remote_jwks and local_jwks");
            None
        }
    }
}

fn remote(cx: &Cx, path: &Path<'_>, message: &pb::RemoteJwks) -> Option<RemoteJwks> {
    use core_pb::http_uri::HttpUpstreamType;
    let pb::RemoteJwks { http_uri, cache_duration, async_fetch, retry_policy } = message;
    let at = path.field("http_uri");
    let Some(core_pb::HttpUri { uri, timeout, http_upstream_type }) = http_uri else {
        cx.error(&at, "an address is needed");
        return None;
    };
    let parsed = uri.parse::<Uri>().ok().filter(|uri| uri.authority().is_some());
    if parsed.is_none() {
        cx.error(&at.field("uri"), format!("{uri:?} is no URI with a host, as https://example.com/keys"));
    }
    let cluster = match http_upstream_type {
        Some(HttpUpstreamType::Cluster(name)) if !name.is_empty() => Some(Arc::from(name.as_str())),
        _ => {
            cx.error(&at.field("cluster"), "the name of a cluster is needed");
            None
        }
    };
    let limit = duration(cx, &at, "timeout", timeout);
    if limit.is_none() {
        cx.error(&at.field("timeout"), "a time is needed");
    }
    let background = async_fetch.as_ref().map(|message| {
        let pb::JwksAsyncFetch { fast_listener, failed_refetch_duration } = message;
        let at = path.field("async_fetch");
        inert!(cx, at, "no listener waits for keys: requests that need them wait until they are there"; fast_listener);
        duration(cx, &at, "failed_refetch_duration", failed_refetch_duration).unwrap_or(REFETCH)
    });
    let retries = retry_policy.as_ref().map(|message| retries(cx, &path.field("retry_policy"), message));
    let cache = duration(cx, path, "cache_duration", cache_duration).unwrap_or(CACHE);
    // Envoy counts whole seconds.
    let cache = Duration::from_secs(cache.as_secs());
    Some(RemoteJwks { uri: parsed?, cluster: cluster?, timeout: limit?, cache, background, retries })
}

fn retries(cx: &Cx, path: &Path<'_>, message: &core_pb::RetryPolicy) -> JwksRetries {
    let core_pb::RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = message;
    inert!(cx, path, "keys are fetched again after 5xx, and when there is no answer, as in Envoy"; retry_on);
    refuse!(cx, path, UNSUPPORTED; retry_priority, retry_host_predicate, host_selection_retry_max_attempts);
    let at = path.field("retry_back_off");
    let (base, most) = match retry_back_off {
        Some(core_pb::BackoffStrategy { base_interval, max_interval }) => {
            let base = duration(cx, &at, "base_interval", base_interval).unwrap_or(BACK_OFF);
            let most = duration(cx, &at, "max_interval", max_interval).unwrap_or(base.saturating_mul(10));
            (base, most)
        }
        None => (BACK_OFF, BACK_OFF * 10),
    };
    if most < base {
        cx.error(&at.field("max_interval"), "it must not be less than base_interval");
    }
    JwksRetries { count: u32_of(num_retries).unwrap_or(1), base, most }
}

fn places(
    cx: &Cx,
    path: &Path<'_>,
    headers: &[pb::JwtHeader],
    params: &[String],
    cookies: &[String],
) -> Option<Vec<JwtPlace>> {
    let at = path.field("from_headers");
    let header = |(i, message): (usize, &pb::JwtHeader)| {
        let pb::JwtHeader { name, value_prefix } = message;
        let name = header_name(cx, &at.index(i).field("name"), name)?;
        Some(JwtPlace::Header { name, prefix: value_prefix.as_str().into() })
    };
    let found: Vec<Option<JwtPlace>> = headers.iter().enumerate().map(header).collect();
    let mut found: Vec<JwtPlace> = found.into_iter().collect::<Option<_>>()?;
    found.extend(params.iter().map(|name| JwtPlace::Query(name.as_str().into())));
    found.extend(cookies.iter().map(|name| JwtPlace::Cookie(name.as_str().into())));
    if found.is_empty() {
        found.push(JwtPlace::Header { name: AUTHORIZATION, prefix: "Bearer ".into() });
        found.push(JwtPlace::Query("access_token".into()));
    }
    Some(found)
}

/// Envoy looks at headers, then at query parameters, then at cookies, each in the order of their names.
fn in_order(mut locations: Vec<JwtLocation>) -> Box<[JwtLocation]> {
    let key = |location: &JwtLocation| match &location.place {
        JwtPlace::Header { name, prefix } => (0, format!("{name}{prefix}")),
        JwtPlace::Query(name) => (1, name.to_string()),
        JwtPlace::Cookie(name) => (2, name.to_string()),
    };
    locations.sort_by_key(key);
    let mut merged: Vec<JwtLocation> = Vec::with_capacity(locations.len());
    for location in locations {
        match merged.last_mut().filter(|last| key(last) == key(&location)) {
            Some(last) => last.issuers = together(&last.issuers, &location.issuers),
            None => merged.push(location),
        }
    }
    merged.into()
}

fn together(one: &JwtIssuers, other: &JwtIssuers) -> JwtIssuers {
    match (one, other) {
        (JwtIssuers::These(one), JwtIssuers::These(other)) => {
            JwtIssuers::These(one.iter().chain(other).cloned().collect())
        }
        _ => JwtIssuers::Any,
    }
}

/// Where tokens of all providers are.
pub(super) fn union(providers: &[JwtProvider]) -> Box<[JwtLocation]> {
    in_order(providers.iter().flat_map(|provider| provider.locations.iter().cloned()).collect())
}

fn claims(cx: &Cx, path: &Path<'_>, messages: &[pb::JwtClaimToHeader]) -> Option<Box<[JwtClaimHeader]>> {
    let one = |(i, message): (usize, &pb::JwtClaimToHeader)| {
        let path = path.index(i);
        let pb::JwtClaimToHeader { header_name: name, claim_name, claim_path } = message;
        let header: HeaderName = header_name(cx, &path.field("header_name"), name)?;
        let claim: Box<[Box<str>]> = match (claim_name.is_empty(), claim_path.is_empty()) {
            (false, true) => claim_name.split('.').map(Box::from).collect(),
            (true, false) => claim_path
                .iter()
                .map(|pb::jwt_claim_to_header::PathSegment { key }| Box::from(key.as_str()))
                .collect(),
            _ => {
                cx.error(&path, "give exactly one of claim_name and claim_path");
                return None;
            }
        };
        Some(JwtClaimHeader { header, claim })
    };
    let all: Vec<Option<JwtClaimHeader>> = messages.iter().enumerate().map(one).collect();
    all.into_iter().collect()
}
