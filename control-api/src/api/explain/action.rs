//! What a route does with a request, and whether somebody is there to answer it.

use outrider_proto::pb::envoy::config::cluster::v3::{Cluster, cluster};
use outrider_proto::pb::envoy::config::core::v3::HealthStatus;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::pb::envoy::config::route::v3::{
    RedirectAction, Route, RouteAction, redirect_action, route, route_action,
};

use super::matching::regex_takes;
use super::{Asked, Story, resource};
use crate::translate::wire::origin_of;
use crate::translate::{Resources, Type};

/// The verdict about a route that was taken.
pub(super) fn of(route: &Route, resources: &Resources, asked: &Asked, story: &mut Story) -> String {
    match route.action.as_ref() {
        Some(route::Action::Redirect(redirect)) => redirected(route, redirect, asked),
        Some(route::Action::DirectResponse(direct)) => {
            format!("{} answered by the proxy itself", direct.status)
        }
        Some(route::Action::Route(action)) => forwarded(route, action, resources, asked, story),
        _ => "the route does something that is not known here".to_owned(),
    }
}

fn forwarded(
    route: &Route,
    action: &RouteAction,
    resources: &Resources,
    asked: &Asked,
    story: &mut Story,
) -> String {
    let wanted = match action.cluster_specifier.as_ref() {
        Some(route_action::ClusterSpecifier::Cluster(name)) => vec![(name.clone(), 1)],
        Some(route_action::ClusterSpecifier::WeightedClusters(many)) => {
            let weight =
                |it: &outrider_proto::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight| {
                    it.weight.as_ref().map_or(0, |weight| weight.value)
                };
            many.clusters.iter().map(|it| (it.name.clone(), weight(it))).collect()
        }
        Some(route_action::ClusterSpecifier::ClusterHeader(name)) => {
            match asked.headers.get(&name.to_lowercase()) {
                Some(cluster) => vec![(cluster.clone(), 1)],
                None => return format!("404 the header {name}, which names the cluster, is missing"),
            }
        }
        _ => return "503 the route names no cluster".to_owned(),
    };
    rewritten(route, action, asked, story);
    for mirror in &action.request_mirror_policies {
        story.step("mirror", &mirror.cluster, None, true, "a copy is sent there, and its answer dropped");
    }
    let healthy = clusters(resources, &wanted, story);
    match (wanted.as_slice(), healthy.as_slice()) {
        ([(name, _)], [Ok(_)]) => format!("route to {name}"),
        ([(name, _)], [Err(reason)]) => format!("503 {reason} ({name})"),
        (many, _) if many.iter().all(|(_, weight)| *weight == 0) => "503 all weights are 0".to_owned(),
        (many, healthy) => {
            let bad: Vec<_> = many
                .iter()
                .zip(healthy)
                .filter(|((_, weight), _)| *weight > 0)
                .filter_map(|((name, _), it)| Some(format!("503 from {name}: {}", it.as_ref().err()?)))
                .collect();
            let live = many.iter().filter(|(_, weight)| *weight > 0).count();
            let tail = if bad.is_empty() { String::new() } else { format!("; {}", bad.join("; ")) };
            format!("route to {live} clusters by weight{tail}")
        }
    }
}

/// Tells of each cluster who is there; gives how many, or why nobody.
pub(super) fn clusters(
    resources: &Resources,
    wanted: &[(String, u32)],
    story: &mut Story,
) -> Vec<Result<usize, String>> {
    let total: f64 = wanted.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let mut out = Vec::new();
    for (name, weight) in wanted {
        let share = if total > 0.0 { f64::from(*weight) * 100.0 / total } else { 0.0 };
        *story.clusters.entry(name.clone()).or_default() += share;
        let cluster: Option<Cluster> = resource(resources, Type::Cluster, name);
        let judged = match &cluster {
            None => Err("the proxy does not know the cluster".to_owned()),
            Some(cluster) => endpoints(cluster, resources),
        };
        let who = match &judged {
            Ok((healthy, text)) => {
                out.push(Ok(*healthy));
                text.clone()
            }
            Err(reason) => {
                out.push(Err(reason.clone()));
                reason.clone()
            }
        };
        let reason = if wanted.len() > 1 { format!("{share:.1} % of requests; {who}") } else { who };
        let origin = cluster.as_ref().and_then(|it| origin_of(it.metadata.as_ref()));
        story.step("cluster", name, origin, *weight > 0, reason);
    }
    out
}

/// How many endpoints are there to be asked, in words too.
fn endpoints(cluster: &Cluster, resources: &Resources) -> Result<(usize, String), String> {
    let kind = match cluster.cluster_discovery_type.as_ref() {
        Some(cluster::ClusterDiscoveryType::Type(kind)) => {
            cluster::DiscoveryType::try_from(*kind).unwrap_or_default()
        }
        Some(cluster::ClusterDiscoveryType::ClusterType(kind)) => {
            return Ok((1, format!("its endpoints are found by {}", kind.name)));
        }
        None => cluster::DiscoveryType::Static,
    };
    let listed = match kind {
        cluster::DiscoveryType::OriginalDst => {
            return Ok((1, "it goes to where the connection was going".to_owned()));
        }
        cluster::DiscoveryType::StrictDns | cluster::DiscoveryType::LogicalDns => {
            return Ok((1, "its endpoints are looked up in DNS".to_owned()));
        }
        cluster::DiscoveryType::Eds => {
            let name = cluster.eds_cluster_config.as_ref().map(|it| it.service_name.as_str());
            let name = name.filter(|name| !name.is_empty()).unwrap_or(&cluster.name);
            resource::<ClusterLoadAssignment>(resources, Type::Endpoints, name)
        }
        cluster::DiscoveryType::Static => cluster.load_assignment.clone(),
    };
    let listed = listed.unwrap_or_default();
    let (mut healthy, mut all) = (0, 0);
    for endpoint in listed.endpoints.iter().flat_map(|it| &it.lb_endpoints) {
        all += 1;
        let health = HealthStatus::try_from(endpoint.health_status).unwrap_or_default();
        healthy += usize::from(matches!(
            health,
            HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded
        ));
    }
    match (healthy, all) {
        (0, 0) => Err("no healthy endpoint: there is none at all".to_owned()),
        (0, all) => Err(format!("no healthy endpoint: none of {all}")),
        (healthy, all) => Ok((healthy, format!("{healthy} of {all} endpoints are healthy"))),
    }
}

/// Tells what the upstream gets to see instead of what was sent.
fn rewritten(route: &Route, action: &RouteAction, asked: &Asked, story: &mut Story) {
    let mut told = Vec::new();
    let path = new_path(route, asked, &action.prefix_rewrite, action.regex_rewrite.as_ref());
    if let Some(path) = path {
        told.push(format!("path {path:?}"));
    }
    match action.host_rewrite_specifier.as_ref() {
        Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            told.push(format!("host {host:?}"));
        }
        Some(route_action::HostRewriteSpecifier::AutoHostRewrite(it)) if it.value => {
            told.push("the endpoint's name as host".to_owned());
        }
        _ => {}
    }
    if let Some(timeout) = action.timeout.as_ref().filter(|it| it.seconds > 0 || it.nanos > 0) {
        let seconds = f64::from(timeout.nanos)
            .mul_add(1e-9, i32::try_from(timeout.seconds).map_or(f64::MAX, f64::from));
        told.push(format!("{seconds} s to answer"));
    }
    if let Some(retry) = &action.retry_policy {
        let times = retry.num_retries.as_ref().map_or(1, |it| it.value);
        told.push(format!("{times} retries on {}", retry.retry_on));
    }
    if !told.is_empty() {
        story.step("upstream", &route.name, None, true, told.join(", "));
    }
}

/// The path after a rewrite of the prefix or by an expression; `None`: it stays.
fn new_path(
    route: &Route,
    asked: &Asked,
    prefix: &str,
    regex: Option<&outrider_proto::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute>,
) -> Option<String> {
    use outrider_proto::pb::envoy::config::route::v3::route_match::PathSpecifier;
    let query = asked.query.as_ref().map_or_else(String::new, |query| format!("?{query}"));
    if let Some(regex) = regex {
        let pattern = &regex.pattern.as_ref()?.regex;
        // RE2 writes groups as \1.
        let substitution = regex::Regex::new(r"\\(\d)").ok()?;
        let replacement = substitution.replace_all(&regex.substitution, "$${$1}").into_owned();
        let path = regex::Regex::new(pattern).ok()?.replace_all(&asked.path, replacement).into_owned();
        return Some(format!("{path}{query}"));
    }
    if prefix.is_empty() {
        return None;
    }
    let matched = match route.r#match.as_ref()?.path_specifier.as_ref()? {
        PathSpecifier::Prefix(it) | PathSpecifier::PathSeparatedPrefix(it) => it.clone(),
        PathSpecifier::Path(it) => it.clone(),
        PathSpecifier::SafeRegex(it) if regex_takes(&it.regex, &asked.path) => asked.path.clone(),
        _ => return None,
    };
    let rest = asked.path.get(matched.len()..)?;
    Some(format!("{prefix}{rest}{query}"))
}

fn redirected(route: &Route, redirect: &RedirectAction, asked: &Asked) -> String {
    use redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let old = if asked.tls { "https" } else { "http" };
    let scheme = match redirect.scheme_rewrite_specifier.as_ref() {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => "https",
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => scheme.as_str(),
        _ => old,
    };
    let bare = asked.host();
    let own_port = asked.authority.get(bare.len()..).unwrap_or_default();
    let host = if redirect.host_redirect.is_empty() { bare } else { redirect.host_redirect.as_str() };
    let port = if redirect.port_redirect > 0 {
        format!(":{}", redirect.port_redirect)
    } else if !redirect.host_redirect.is_empty()
        || (scheme != old && (own_port == ":80" || own_port == ":443"))
    {
        String::new()
    } else {
        own_port.to_owned()
    };
    let query = match (&asked.query, redirect.strip_query) {
        (Some(query), false) => format!("?{query}"),
        _ => String::new(),
    };
    let path = match redirect.path_rewrite_specifier.as_ref() {
        Some(PathRewriteSpecifier::PathRedirect(path)) if path.contains('?') => path.clone(),
        Some(PathRewriteSpecifier::PathRedirect(path)) => format!("{path}{query}"),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            let whole = new_path(route, asked, prefix, None).unwrap_or_else(|| asked.whole_path());
            if redirect.strip_query { whole.split('?').next().unwrap_or_default().to_owned() } else { whole }
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            new_path(route, asked, "", Some(regex)).unwrap_or_else(|| asked.whole_path())
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) | None => format!("{}{query}", asked.path),
    };
    let code = match RedirectResponseCode::try_from(redirect.response_code).unwrap_or_default() {
        RedirectResponseCode::MovedPermanently => 301,
        RedirectResponseCode::Found => 302,
        RedirectResponseCode::SeeOther => 303,
        RedirectResponseCode::TemporaryRedirect => 307,
        RedirectResponseCode::PermanentRedirect => 308,
    };
    format!("{code} to {scheme}://{host}{port}{path}")
}
