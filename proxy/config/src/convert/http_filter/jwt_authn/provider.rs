//! Who issues tokens, and where they are.

use std::sync::Arc;

use http::HeaderName;
use http::header::AUTHORIZATION;
use outrider_core::jwt::{Audiences, Jwks};
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use crate::convert::cx::{Cx, inert};
use crate::convert::matcher;
use crate::convert::scalar::{data_source, duration, header_name};
use crate::model::{
    DataSourceKind, JwtClaimHeader, JwtIssuers, JwtKeys, JwtLifetime, JwtLocation, JwtPlace, JwtProvider,
};

/// How far clocks may differ by default, in seconds.
const CLOCK_SKEW: u64 = 60;

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
        Some(Kind::RemoteJwks(_)) => {
            cx.refuse(&path.field("remote_jwks"), "keys are not fetched yet; give them by local_jwks");
            None
        }
        None => {
            cx.error(path, "give one of remote_jwks and local_jwks");
            None
        }
    }
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
