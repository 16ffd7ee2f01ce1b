//! `envoy.filters.http.jwt_authn`

mod provider;
mod requirement;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::route::v3::RouteMatch;
use outrider_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use self::requirement::Requirements;
use crate::convert::cx::{Cx, refuse};
use crate::convert::route::route_match;
use crate::model::{JwtAuthn, JwtProvider, JwtRule};

/// The filter at `path`; `None`, and an error, when it is not usable.
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::JwtAuthentication) -> Option<JwtAuthn> {
    let pb::JwtAuthentication {
        providers,
        rules,
        filter_state_rules,
        bypass_cors_preflight,
        requirement_map,
        strip_failure_response,
        stat_prefix,
    } = message;
    refuse!(cx, path, "no supported filter keeps a text that could choose a requirement; use rules"; filter_state_rules);
    let mut names: Vec<&String> = providers.keys().collect();
    names.sort();
    let at = path.field("providers");
    let one = |name: &&String| provider::provider(cx, &at.key(name), name, providers.get(*name)?);
    let providers: Vec<Option<JwtProvider>> = names.iter().map(one).collect();
    let providers: Box<[JwtProvider]> = providers.into_iter().collect::<Option<_>>()?;
    let known = Requirements { cx, providers: &providers, map: requirement_map };

    let at = path.field("requirement_map");
    let mut names: Vec<&String> = requirement_map.keys().collect();
    names.sort();
    let one = |name: &String| {
        Some((Box::from(name.as_str()), known.requirement(&at.key(name), requirement_map.get(name)?, 0)?))
    };
    let requirements: Vec<_> = names.into_iter().map(one).collect();
    let at = path.field("rules");
    let rules: Vec<_> =
        rules.iter().enumerate().map(|(i, message)| rule(&known, &at.index(i), message)).collect();
    let requirements = requirements.into_iter().collect::<Option<_>>()?;
    let rules = rules.into_iter().collect::<Option<_>>()?;
    let reserved = providers
        .iter()
        .flat_map(|provider| {
            provider.payload_header.iter().chain(provider.claims.iter().map(|claim| &claim.header))
        })
        .cloned()
        .collect();
    Some(JwtAuthn {
        providers,
        rules,
        requirements,
        bypass_cors_preflight: *bypass_cors_preflight,
        strip_failure_response: *strip_failure_response,
        stat_prefix: stat_prefix.as_str().into(),
        reserved,
    })
}

fn rule(known: &Requirements<'_>, path: &Path<'_>, message: &pb::RequirementRule) -> Option<JwtRule> {
    use pb::requirement_rule::RequirementType;
    let pb::RequirementRule { r#match: wanted, requirement_type } = message;
    let cx = known.cx;
    let at = path.field("match");
    let matches = match wanted {
        Some(message) => {
            // `route_match` decides about the rest.
            let RouteMatch { runtime_fraction, grpc, tls_context, .. } = message;
            refuse!(cx, at, "Envoy does not look at it in rules; remove it"; runtime_fraction, grpc, tls_context);
            route_match(cx, &at, message)
        }
        None => {
            cx.error(&at, "a match is needed");
            None
        }
    };
    let requires = match requirement_type {
        None => Some(None),
        Some(RequirementType::Requires(message)) => {
            known.requirement(&path.field("requires"), message, 0).map(Some)
        }
        Some(RequirementType::RequirementName(name)) => {
            known.named(&path.field("requirement_name"), name).map(Some)
        }
    };
    Some(JwtRule { matches: matches?, requires: requires? })
}

/// What a route says: the name of a requirement, or `None` for nothing that requests need.
#[expect(clippy::option_option, reason = "not usable, nothing, a requirement")]
pub(super) fn per_route(cx: &Cx, path: &Path<'_>, message: &pb::PerRouteConfig) -> Option<Option<Box<str>>> {
    use pb::per_route_config::RequirementSpecifier;
    let pb::PerRouteConfig { requirement_specifier } = message;
    match requirement_specifier {
        Some(RequirementSpecifier::Disabled(true)) => Some(None),
        Some(RequirementSpecifier::Disabled(false)) => {
            cx.error(&path.field("disabled"), "it can only be true");
            None
        }
        Some(RequirementSpecifier::RequirementName(name)) if !name.is_empty() => {
            Some(Some(name.as_str().into()))
        }
        Some(RequirementSpecifier::RequirementName(_)) => {
            cx.error(&path.field("requirement_name"), "a name is needed");
            None
        }
        None => {
            cx.error(path, "give one of disabled and requirement_name");
            None
        }
    }
}
