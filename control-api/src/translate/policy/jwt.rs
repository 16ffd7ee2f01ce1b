//! Tokens (JWT) in an `AuthorizationPolicy`: a filter verifies them, and RBAC, which comes after it, looks at what they say.
//!
//! A request without a token passes the filter, one with a token that is not good does not. Who must have one is for the rules to say: of a
//! token that was not verified they see nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::config::rbac::v3 as rbac;
use outrider_proto::pb::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use outrider_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrider_proto::pb::envoy::r#type::matcher::v3::{
    MetadataMatcher, StringMatcher, ValueMatcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    value_matcher::MatchPattern,
};
use outrider_proto::pb::google::protobuf::Empty;

use crate::attach::ir::Target;
use crate::model::Key;
use crate::model::own::{AuthorizationPolicy, ExternalService, JwksFrom, JwksKind, JwtIssuer};
use crate::translate::names;
use crate::translate::port::ports;
use crate::translate::wire::{any_sorted, duration};
use crate::world::{Named, World};

/// The name of the filter, under which it leaves what tokens say.
const FILTER: &str = "envoy.filters.http.jwt_authn";
/// Where in it.
const PAYLOAD: &str = "payload";
/// How long fetched keys are good.
const CACHED: Duration = Duration::from_secs(300);
/// How long a fetch may take.
const FETCH: Duration = Duration::from_secs(5);

/// A policy with its key.
type Policy<'c> = (&'c Key, &'c AuthorizationPolicy);

/// The filter that verifies the tokens of all issuers of these policies; `None` when there is none whose keys can be had.
pub(super) fn filter(world: &World, policies: &[Policy<'_>]) -> Option<hcm::HttpFilter> {
    use pb::jwt_requirement::RequiresType;
    let mut providers = HashMap::new();
    for (key, policy) in policies {
        for (index, issuer) in policy.spec.jwt.iter().enumerate() {
            if let Some(provider) = provider(world, &key.namespace, issuer) {
                providers
                    .insert(format!("ns[{}]-policy[{}]-jwt[{index}]", key.namespace, key.name), provider);
            }
        }
    }
    if providers.is_empty() {
        return None;
    }
    let names: BTreeSet<String> = providers.keys().cloned().collect();
    let one = |it| pb::JwtRequirement { requires_type: Some(it) };
    let each = names.into_iter().map(RequiresType::ProviderName);
    let any = each.chain([RequiresType::AllowMissing(Empty::default())]).map(one).collect();
    let rule = pb::RequirementRule {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        requirement_type: Some(pb::requirement_rule::RequirementType::Requires(one(
            RequiresType::RequiresAny(pb::JwtRequirementOrList { requirements: any }),
        ))),
    };
    let config = pb::JwtAuthentication {
        providers,
        rules: vec![rule],
        // What a browser asks beforehand has no token.
        bypass_cors_preflight: true,
        ..Default::default()
    };
    Some(hcm::HttpFilter {
        name: FILTER.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any_sorted(&config))),
        ..Default::default()
    })
}

fn provider(world: &World, namespace: &Arc<str>, it: &JwtIssuer) -> Option<pb::JwtProvider> {
    use pb::jwt_provider::JwksSourceSpecifier::{LocalJwks, RemoteJwks};
    let keys = match (&it.jwks, &it.jwks_from) {
        (Some(text), _) => LocalJwks(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(text.clone())),
            ..Default::default()
        }),
        (None, Some(from)) => {
            let (cluster, origin) = found(world, namespace, from).ok()?;
            RemoteJwks(pb::RemoteJwks {
                http_uri: Some(core::HttpUri {
                    uri: format!("{origin}{}", from.path),
                    timeout: Some(duration(FETCH)),
                    http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster)),
                }),
                cache_duration: Some(duration(CACHED)),
                // The listener does not wait for them: who comes earlier waits.
                async_fetch: Some(pb::JwksAsyncFetch { fast_listener: true, ..Default::default() }),
                ..Default::default()
            })
        }
        (None, None) => return None,
    };
    Some(pb::JwtProvider {
        issuer: it.issuer.clone(),
        audiences: it.audiences.clone(),
        forward: true,
        from_headers: vec![pb::JwtHeader {
            name: "Authorization".to_owned(),
            value_prefix: "Bearer ".to_owned(),
        }],
        payload_in_metadata: PAYLOAD.to_owned(),
        jwks_source_specifier: Some(keys),
        ..Default::default()
    })
}

/// The cluster behind which keys are, and what their address begins with.
fn found(world: &World, namespace: &Arc<str>, from: &JwksFrom) -> Result<(String, String), String> {
    let named: Named = (Arc::clone(namespace), from.name.as_str().into());
    let (kind, port) = (from.kind, from.port);
    match kind {
        JwksKind::Service => {
            let service = world.get::<Service>(&named.0, &named.1);
            let known = service.is_some_and(|it| ports(&it).iter().any(|it| it.number == port));
            let origin = format!("http://{}:{port}", names::host(&named));
            known
                .then(|| (names::outbound(&named, port), origin))
                .ok_or_else(|| format!("there is no port {port} of Service {}/{}", named.0, named.1))
        }
        JwksKind::ExternalService => {
            let service = world.get::<ExternalService>(&named.0, &named.1);
            let spec = service.map(|it| &it.body().spec);
            let fits = spec.and_then(|spec| {
                let port = spec.ports.iter().find(|it| it.number == port && it.protocol.is_http())?;
                let host = spec.hosts.iter().find(|host| !host.starts_with("*."))?;
                let number = port.target_port.unwrap_or(port.number);
                Some(
                    match (
                        spec.tls.is_some() || port.protocol == crate::model::own::ExternalProtocol::HTTPS,
                        number,
                    ) {
                        (true, 443) => format!("https://{host}"),
                        (true, number) => format!("https://{host}:{number}"),
                        (false, number) => format!("http://{host}:{number}"),
                    },
                )
            });
            fits.map(|origin| (names::external(&named, port), origin)).ok_or_else(|| {
                format!(
                    "there is no port {port} of ExternalService {}/{} that speaks HTTP, with a host that is no wildcard",
                    named.0, named.1
                )
            })
        }
    }
}

/// What policies of a namespace fetch keys from.
pub(super) fn targets(policies: &[Policy<'_>]) -> BTreeSet<Target> {
    let each = |(key, policy): &Policy<'_>| -> Vec<Target> {
        let from = policy.spec.jwt.iter().filter_map(|it| it.jwks_from.as_ref());
        from.map(|from| {
            let (service, port) = ((Arc::clone(&key.namespace), from.name.as_str().into()), from.port);
            match from.kind {
                JwksKind::Service => Target::Service { service, port },
                JwksKind::ExternalService => Target::External { service, port },
            }
        })
        .collect()
    };
    policies.iter().flat_map(each).collect()
}

/// The issuers of a policy whose keys cannot be had: none of their tokens is believed.
pub(super) fn problems(world: &World, namespace: &Arc<str>, policy: &AuthorizationPolicy) -> Vec<String> {
    let missing = |(index, it): (usize, &JwtIssuer)| {
        let reason = found(world, namespace, it.jwks_from.as_ref()?).err()?;
        Some(format!("spec.jwt[{index}].jwksFrom: {reason}; no token of {} is believed", it.issuer))
    };
    policy.spec.jwt.iter().enumerate().filter_map(missing).collect()
}

/// What a verified token says: a claim that is a text. `None`: any.
pub(super) fn claim(name: &str, wanted: Option<StringMatcher>) -> rbac::principal::Identifier {
    let segment = |key: &str| PathSegment { segment: Some(Segment::Key(key.to_owned())) };
    let pattern = wanted.map_or(MatchPattern::PresentMatch(true), MatchPattern::StringMatch);
    rbac::principal::Identifier::SourcedMetadata(rbac::SourcedMetadata {
        metadata_matcher: Some(MetadataMatcher {
            filter: FILTER.to_owned(),
            path: vec![segment(PAYLOAD), segment(name)],
            value: Some(ValueMatcher { match_pattern: Some(pattern) }),
            ..Default::default()
        }),
        ..Default::default()
    })
}
