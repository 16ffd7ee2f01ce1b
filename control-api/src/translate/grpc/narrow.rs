//! What a gRPC client makes of routes and clusters: it refuses, or ignores, some of what proxies understand.
//!
//! <https://github.com/grpc/proposal/blob/master/A28-xds-traffic-splitting-and-routing.md> (matches),
//! <https://github.com/grpc/proposal/blob/master/A31-xds-timeout-support-and-config-selector.md> (timeouts),
//! <https://github.com/grpc/proposal/blob/master/A29-xds-tls-security.md> (TLS),
//! <https://github.com/grpc/proposal/blob/master/A82-xds-system-root-certs.md>.
//!
//! What it does not do at all, and what a route therefore lacks there: headers that are changed, mirrors, CORS.

use outrider_proto::any::unpack;
use outrider_proto::pb::envoy::config::cluster::v3::{Cluster, cluster::LbPolicy};
use outrider_proto::pb::envoy::config::core::v3::{data_source::Specifier, transport_socket::ConfigType};
use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrider_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use outrider_proto::pb::google::protobuf::Duration;
use pb::header_matcher::HeaderMatchSpecifier;
use pb::route_match::PathSpecifier;
use tls::common_tls_context::ValidationContextType;

use crate::translate::policy::backend_tls::SYSTEM_ROOTS;
use crate::translate::wire::{any, duration};

/// A route as a gRPC client understands it; `None` when no call of such a client could match it.
pub(super) fn route(mut route: pb::Route) -> Option<pb::Route> {
    // Filters that it does not know make it refuse the table.
    route.typed_per_filter_config.clear();
    let matches = route.r#match.as_mut()?;
    matches.path_specifier = Some(path(matches.path_specifier.take()?)?);
    if !matches.query_parameters.is_empty() {
        return None;
    }
    // All calls are POST; other pseudo headers it does not see.
    if matches.headers.iter().any(|it| it.name.starts_with(':') && !is_post(it)) {
        return None;
    }
    matches.headers.retain(|it| !it.name.starts_with(':'));
    matches.grpc = None;
    if let Some(pb::route::Action::Route(action)) = &mut route.action {
        // It would call another method than the route's author means.
        if action.regex_rewrite.is_some() || !action.prefix_rewrite.is_empty() {
            let error = pb::DirectResponseAction { status: 500, ..Default::default() };
            route.action = Some(pb::route::Action::DirectResponse(error));
            return Some(route);
        }
        forward(action);
    }
    Some(route)
}

fn forward(action: &mut pb::RouteAction) {
    // The one limit that it reads. It has none for one attempt, so that all of them together get as long as they may take.
    let std = |it: &Duration| {
        let (seconds, nanos) = (u64::try_from(it.seconds).ok()?, u32::try_from(it.nanos).ok()?);
        Some(std::time::Duration::new(seconds, nanos)).filter(|it| !it.is_zero())
    };
    let attempts = action.retry_policy.as_ref().and_then(|policy| {
        let further = policy.num_retries.map_or(1, |it| it.value);
        let attempts = if policy.retry_on.is_empty() { 1 } else { further.saturating_add(1) };
        std(policy.per_try_timeout.as_ref()?)?.checked_mul(attempts)
    });
    let whole = action.timeout.as_ref().and_then(std);
    if let Some(limit) = whole.into_iter().chain(attempts).min() {
        action.max_stream_duration = Some(pb::route_action::MaxStreamDuration {
            max_stream_duration: Some(duration(limit)),
            ..Default::default()
        });
    }
    action.retry_policy.take_if(|policy| policy.retry_on.is_empty());
}

/// Its paths are `/service/method`, always.
fn path(specifier: PathSpecifier) -> Option<PathSpecifier> {
    let PathSpecifier::PathSeparatedPrefix(prefix) = specifier else { return Some(specifier) };
    match prefix.trim_start_matches('/').split('/').count() {
        1 => Some(PathSpecifier::Prefix(format!("{prefix}/"))),
        2 => Some(PathSpecifier::Path(prefix)),
        _ => None,
    }
}

fn is_post(matcher: &pb::HeaderMatcher) -> bool {
    let Some(HeaderMatchSpecifier::StringMatch(text)) = &matcher.header_match_specifier else { return false };
    matcher.name == ":method" && text.match_pattern == Some(MatchPattern::Exact("POST".to_owned()))
}

/// A cluster as a gRPC client understands it.
pub(super) fn cluster(mut cluster: Cluster) -> Cluster {
    // It refuses policies that it does not have; this one all have.
    if !matches!(cluster.lb_policy(), LbPolicy::RoundRobin | LbPolicy::RingHash) {
        cluster.lb_policy = LbPolicy::RoundRobin as i32;
        cluster.lb_config = None;
    }
    if let Some(socket) = &mut cluster.transport_socket
        && let Some(ConfigType::TypedConfig(config)) = &mut socket.config_type
        && let Ok(mut context) = unpack::<tls::UpstreamTlsContext>(config)
    {
        if let Some(common) = &mut context.common_tls_context
            && let Some(ValidationContextType::ValidationContext(validation)) =
                &mut common.validation_context_type
        {
            verify(validation);
        }
        *config = any(&context);
    }
    cluster
}

/// The system's authorities by the field that it reads, and names in the list that it reads. Authorities of a policy's own it
/// takes from its bootstrap alone: it refuses the cluster, and does not connect.
fn verify(validation: &mut tls::CertificateValidationContext) {
    let system = Some(Specifier::Filename(SYSTEM_ROOTS.to_owned()));
    if validation.trusted_ca.as_ref().is_some_and(|it| it.specifier == system) {
        validation.trusted_ca = None;
        validation.system_root_certs = Some(Default::default());
    }
    let names = std::mem::take(&mut validation.match_typed_subject_alt_names);
    #[expect(deprecated, reason = "the list that gRPC reads")]
    validation.match_subject_alt_names.extend(names.into_iter().filter_map(|it| it.matcher));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> pb::RouteMatch {
        pb::RouteMatch {
            path_specifier: Some(PathSpecifier::PathSeparatedPrefix(text.to_owned())),
            ..Default::default()
        }
    }

    fn forwarding(matches: pb::RouteMatch, action: pb::RouteAction) -> pb::Route {
        pb::Route {
            r#match: Some(matches),
            action: Some(pb::route::Action::Route(action)),
            ..Default::default()
        }
    }

    fn narrowed(text: &str) -> Option<PathSpecifier> {
        route(forwarding(prefix(text), pb::RouteAction::default()))?.r#match?.path_specifier
    }

    #[test]
    fn prefixes_become_services_and_methods() {
        assert_eq!(narrowed("/shop.Cart"), Some(PathSpecifier::Prefix("/shop.Cart/".into())));
        assert_eq!(narrowed("/shop.Cart/Add"), Some(PathSpecifier::Path("/shop.Cart/Add".into())));
        assert_eq!(narrowed("/a/b/c"), None);
    }

    #[test]
    fn limits_are_where_it_reads_them() {
        let action = pb::RouteAction {
            timeout: Some(duration(std::time::Duration::from_secs(3))),
            retry_policy: Some(pb::RetryPolicy::default()),
            ..Default::default()
        };
        let route = route(forwarding(prefix("/a"), action)).unwrap();
        let Some(pb::route::Action::Route(action)) = route.action else { panic!() };
        assert_eq!(action.max_stream_duration.unwrap().max_stream_duration.unwrap().seconds, 3);
        assert_eq!(action.retry_policy, None);
    }

    #[test]
    fn the_limit_of_an_attempt_is_one_for_all_of_them() {
        let limit = |whole: u64, attempt: u64, retry_on: &str| {
            let seconds = |it: u64| duration(std::time::Duration::from_secs(it));
            let action = pb::RouteAction {
                timeout: Some(seconds(whole)),
                retry_policy: Some(pb::RetryPolicy {
                    retry_on: retry_on.to_owned(),
                    num_retries: Some(crate::translate::wire::uint(2)),
                    per_try_timeout: Some(seconds(attempt)),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let route = route(forwarding(prefix("/a"), action)).unwrap();
            let Some(pb::route::Action::Route(action)) = route.action else { panic!() };
            action.max_stream_duration.map(|it| it.max_stream_duration.unwrap().seconds)
        };
        assert_eq!(limit(0, 2, ""), Some(2));
        assert_eq!(limit(0, 2, "unavailable"), Some(6));
        assert_eq!(limit(3, 2, "unavailable"), Some(3));
        assert_eq!(limit(3, 0, "unavailable"), Some(3));
        assert_eq!(limit(0, 0, ""), None);
    }

    #[test]
    fn another_method_is_not_called() {
        let action = pb::RouteAction { prefix_rewrite: "/other".into(), ..Default::default() };
        let route = route(forwarding(prefix("/a"), action)).unwrap();
        assert!(matches!(route.action, Some(pb::route::Action::DirectResponse(_))));
    }
}
