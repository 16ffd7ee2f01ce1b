//! What becomes of a request that matched.

use std::collections::HashMap;
use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use pb::route_action::{ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy};

use super::headers::{Headers, Untouchable};
use super::matches::header;
use super::path::{NewPath, new_path, whole};
use super::redirect::redirect;
use super::weights::{fit, per_million};
use super::{Place, cluster_of, cors};
use crate::attach::ir::{
    Backend, Cors, Filter, HeaderChange, HttpMatch, HttpRule, PathChange, Target, TextMatch,
};
use crate::translate::wire::{any, duration, uint};
use crate::translate::{Context, external, policy};

/// The routes of one match: `base` has its name, match and metadata.
pub(super) fn routes(
    context: &Context,
    rule: &HttpRule,
    matched: &HttpMatch,
    base: &pb::Route,
    place: &Place,
) -> Vec<pb::Route> {
    let (rejected, live) = shares(rule);
    // What stands at the only backend stands at the rule: routes can do more than weighted clusters.
    let own = match live.as_slice() {
        [(only, _)] => only.filters.as_slice(),
        _ => &[],
    };
    let error = || error(base, matched);
    // A filter that cannot be done must not be skipped.
    let cluster = |target: &Target| place.cluster(context, target);
    let Ok(filters) = Filters::of(&cluster, rule.filters.iter().chain(own)) else { return vec![error()] };
    if let Some(filter) = filters.redirect {
        return redirects(&filters, filter, matched, base, place);
    }
    let whole = rejected + live.iter().map(|(_, weight)| weight).sum::<u64>();
    let share = per_million(rejected, whole);
    if live.is_empty() {
        return vec![error()];
    }
    let Some(action) = forward(&cluster, rule, &filters, matched, &live, share) else {
        return vec![error()];
    };
    let mut route = filters.on(base);
    route.action = Some(pb::route::Action::Route(action));
    if by_backend(&live) {
        route.request_headers_to_add.clear();
        route.request_headers_to_remove.clear();
        route.response_headers_to_add.clear();
        route.response_headers_to_remove.clear();
    }
    policies(context, rule, &live, &mut route);
    // Exactly the share of what leads nowhere gets 500. A weighted cluster without endpoints would answer 503, and one that is
    // not there makes gRPC clients wait for it; a fraction before the others is understood by all.
    let mut out: Vec<_> = (share > 0).then(|| fraction_of(error(), share)).into_iter().collect();
    out.push(route);
    out
}

/// The weight of what leads nowhere, and the backends that get requests.
fn shares(rule: &HttpRule) -> (u64, Vec<(&Backend, u64)>) {
    let (mut rejected, mut live) = (0, Vec::new());
    let several = rule.backends.iter().filter(|it| it.weight > 0 && it.target != Target::Invalid).count() > 1;
    for backend in rule.backends.iter().filter(|it| it.weight > 0) {
        let weight = u64::from(backend.weight);
        let filters = || Filters::of(&cluster_of, &backend.filters);
        let fits = !several || filters().is_ok_and(|it| it.fit_a_weighted_cluster());
        if backend.target == Target::Invalid || !fits {
            rejected += weight;
        } else {
            live.push((backend, weight));
        }
    }
    (rejected, live)
}

/// 500, as the Gateway API says for what leads nowhere; for gRPC `UNAVAILABLE`, which is what clients make of 503.
fn error(base: &pb::Route, matched: &HttpMatch) -> pb::Route {
    pb::Route {
        name: format!("{}/error", base.name),
        action: Some(pb::route::Action::DirectResponse(pb::DirectResponseAction {
            status: if matched.grpc { 503 } else { 500 },
            ..Default::default()
        })),
        ..base.clone()
    }
}

fn fraction_of(mut route: pb::Route, per_million: u32) -> pb::Route {
    if let Some(matches) = &mut route.r#match {
        matches.runtime_fraction = Some(fraction(per_million));
    }
    route
}

fn fraction(per_million: u32) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: per_million,
            denominator: DenominatorType::Million as i32,
        }),
        ..Default::default()
    }
}

fn redirects(
    filters: &Filters<'_>,
    filter: &Filter,
    matched: &HttpMatch,
    base: &pb::Route,
    place: &Place,
) -> Vec<pb::Route> {
    let Some(it) = redirect(filter, place, &matched.path) else { return vec![error(base, matched)] };
    let mut out = Vec::new();
    if let Some(action) = it.with_port {
        let mut route = filters.on(base);
        route.name += "/port";
        let authority = header(":authority", &TextMatch::Regex(".*:[0-9]+".into()));
        if let Some(matches) = &mut route.r#match {
            matches.headers.extend(authority);
        }
        route.action = Some(pb::route::Action::Redirect(action));
        out.push(route);
    }
    let mut route = filters.on(base);
    route.action = Some(pb::route::Action::Redirect(it.action));
    out.push(route);
    out
}

fn forward(
    cluster: &dyn Fn(&Target) -> Option<String>,
    rule: &HttpRule,
    filters: &Filters<'_>,
    matched: &HttpMatch,
    live: &[(&Backend, u64)],
    rejected: u32,
) -> Option<pb::RouteAction> {
    let mut action = pb::RouteAction {
        cluster_specifier: Some(clusters(cluster, rule, live, rejected)?),
        request_mirror_policies: filters.mirrors.clone(),
        host_rewrite_specifier: filters
            .host
            .as_deref()
            .map(|host| HostRewriteSpecifier::HostRewriteLiteral(host.to_owned())),
        timeout: timeout(rule).map(duration),
        ..Default::default()
    };
    if let Some(change) = filters.path {
        match new_path(&matched.path, change)? {
            NewPath::Same => {}
            NewPath::Prefix(prefix) => action.prefix_rewrite = prefix,
            NewPath::Full(path) => action.regex_rewrite = Some(whole(&path)),
            NewPath::Regex(rewrite) => action.regex_rewrite = Some(rewrite),
        }
    }
    Some(action)
}

/// How long a request may take in all, when the rule says it: Envoy's zero is the Gateway API's, no limit.
fn timeout(rule: &HttpRule) -> Option<Duration> {
    rule.request_timeout
}

/// Whether headers are changed for each backend by itself. Envoy changes those of a weighted cluster first and those of the route
/// then, whatever a table says of their order, while filters of a backend come after those of its rule: in this case
/// the clusters have both, in one. So it is with credentials for what is outside, which nothing may undo.
fn by_backend(live: &[(&Backend, u64)]) -> bool {
    let own = |it: &Backend| !it.filters.is_empty() || matches!(it.target, Target::External { .. });
    live.len() > 1 && live.iter().any(|(backend, _)| own(backend))
}

fn clusters(
    cluster: &dyn Fn(&Target) -> Option<String>,
    rule: &HttpRule,
    live: &[(&Backend, u64)],
    rejected: u32,
) -> Option<ClusterSpecifier> {
    if let [(only, _)] = live {
        return Some(ClusterSpecifier::Cluster(cluster(&only.target)?));
    }
    let weights: Vec<u64> = live.iter().map(|(_, weight)| *weight).collect();
    let clusters = live.iter().zip(fit(&weights, rejected)).map(|((backend, _), weight)| {
        use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral;
        let shared = if by_backend(live) { rule.filters.as_slice() } else { &[] };
        let headers = Filters::of(cluster, shared.iter().chain(&backend.filters)).ok()?;
        let host = Filters::of(cluster, &backend.filters).ok()?.host;
        Some(pb::weighted_cluster::ClusterWeight {
            name: cluster(&backend.target)?,
            weight: Some(uint(weight)),
            request_headers_to_add: headers.request.add(),
            request_headers_to_remove: headers.request.remove(),
            response_headers_to_add: headers.response.add(),
            response_headers_to_remove: headers.response.remove(),
            host_rewrite_specifier: host.map(HostRewriteLiteral),
            ..Default::default()
        })
    });
    let clusters = clusters.collect::<Option<Vec<_>>>()?;
    Some(ClusterSpecifier::WeightedClusters(pb::WeightedCluster { clusters, ..Default::default() }))
}

/// What the first backend's policy says of retries and timeouts, and then what the rule says, which comes before it. Among
/// several backends only one policy can count, since a request is retried before or after its cluster is drawn, never both.
fn policies(context: &Context, rule: &HttpRule, live: &[(&Backend, u64)], route: &mut pb::Route) {
    let services = live.iter().filter_map(|(backend, _)| match &backend.target {
        Target::Service { service, port } => Some((service, *port)),
        _ => None,
    });
    if let Some((service, port)) = services.into_iter().next() {
        policy::traffic::apply_to_route(context, service, port, route);
    }
    outside(context, live, route);
    let Some(pb::route::Action::Route(action)) = &mut route.action else { return };
    // Nobody said: as the Gateway API has it, that is for us to choose. Long calls and streams must not end by surprise.
    action.timeout.get_or_insert_with(|| duration(Duration::ZERO));
    // One attempt. Without retries there is one only, and its limit is the request's as well.
    if let Some(limit) = rule.backend_timeout.filter(|limit| !limit.is_zero()) {
        action.retry_policy.get_or_insert_default().per_try_timeout = Some(duration(limit));
    } else if rule.backend_timeout.is_some()
        && let Some(retries) = &mut action.retry_policy
    {
        retries.per_try_timeout = None;
    }
}

/// What backends outside need: credentials, and the host that they know themselves by.
fn outside(context: &Context, live: &[(&Backend, u64)], route: &mut pb::Route) {
    if let [(Backend { target: Target::External { service, port }, .. }, _)] = live {
        external::apply_to_route(context, service, *port, route);
        return;
    }
    let Some(pb::route::Action::Route(action)) = &mut route.action else { return };
    // A copy would come without the credentials that the service needs.
    action.request_mirror_policies.retain(|it| !external::needs_credentials(context, &it.cluster));
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier else { return };
    let mut credentials = false;
    for ((backend, _), share) in live.iter().zip(&mut weighted.clusters) {
        if let Target::External { service, port } = &backend.target {
            external::apply_to_share(context, service, *port, share);
            credentials |= external::has_credentials(context, service, *port);
        }
    }
    // A proxy copies a request after its filters had it, and credentials are for one alone.
    if credentials && !action.request_mirror_policies.is_empty() {
        route.action = Some(external::not_mirrored());
    }
}

/// Filters, gathered.
#[derive(Debug, Default)]
struct Filters<'f> {
    request: Headers,
    response: Headers,
    host: Option<String>,
    path: Option<&'f PathChange>,
    mirrors: Vec<RequestMirrorPolicy>,
    redirect: Option<&'f Filter>,
    cors: Option<&'f Cors>,
}

impl<'f> Filters<'f> {
    /// `cluster`: which one requests for a target go to.
    fn of(
        cluster: &dyn Fn(&Target) -> Option<String>,
        filters: impl IntoIterator<Item = &'f Filter>,
    ) -> Result<Self, Untouchable> {
        let mut out = Self::default();
        for filter in filters {
            match filter {
                Filter::RequestHeaders(change) => out.request_headers(change)?,
                Filter::ResponseHeaders(change) => out.response.then(change)?,
                Filter::Mirror { target, per_million } => {
                    out.mirrors.extend(mirror(cluster(target), *per_million))
                }
                Filter::Redirect { .. } => out.redirect = Some(filter),
                Filter::Rewrite { hostname, path } => {
                    out.host = hostname.as_deref().map(str::to_owned).or(out.host);
                    out.path = path.as_ref().or(out.path);
                }
                Filter::Cors(cors) => out.cors = Some(cors),
            }
        }
        Ok(out)
    }

    /// A host that is set is a rewritten host: Envoy has it in another field.
    fn request_headers(&mut self, change: &HeaderChange) -> Result<(), Untouchable> {
        let mut change = change.clone();
        change.set.retain(|(name, value)| {
            let host = name.eq_ignore_ascii_case("host");
            if host {
                self.host = Some(value.to_string());
            }
            !host
        });
        self.request.then(&change)
    }

    /// Whether nothing is asked for that only a route can do.
    fn fit_a_weighted_cluster(&self) -> bool {
        self.path.is_none() && self.mirrors.is_empty() && self.redirect.is_none() && self.cors.is_none()
    }

    /// A route with the headers and per-filter configuration of these.
    fn on(&self, base: &pb::Route) -> pb::Route {
        let cors = self.cors.map(|cors| (cors::FILTER.to_owned(), any(&cors::policy(cors))));
        pb::Route {
            request_headers_to_add: self.request.add(),
            request_headers_to_remove: self.request.remove(),
            response_headers_to_add: self.response.add(),
            response_headers_to_remove: self.response.remove(),
            typed_per_filter_config: cors.into_iter().collect::<HashMap<_, _>>(),
            ..base.clone()
        }
    }
}

/// A copy to a cluster; none to what leads nowhere, which the route's status says.
fn mirror(cluster: Option<String>, per_million: u32) -> Option<RequestMirrorPolicy> {
    let cluster = cluster.filter(|_| per_million > 0)?;
    Some(RequestMirrorPolicy {
        cluster,
        runtime_fraction: (per_million < 1_000_000).then(|| fraction(per_million)),
        // The copy is the same request: with another host a backend that routes by it would not know it.
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}
