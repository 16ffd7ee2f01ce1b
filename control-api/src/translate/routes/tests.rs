//! Whole rules, and the order of many.

use outrider_proto::pb::envoy::config::route::v3::{
    self as pb, route::Action, route_action::ClusterSpecifier,
};
use proptest::prelude::*;

use super::*;
use crate::attach::ir::{
    Backend, Filter, HeaderChange, HttpMatch, HttpRoute, HttpRule, PathMatch, TextMatch,
};
use crate::model::{Key, Kind};

const PLACE: Place = Place { port: 80, tls: false, sidecar: false };

fn service(name: &str) -> Target {
    Target::Service { service: ("shop".into(), name.into()), port: 80 }
}

fn backend(target: Target, weight: u32) -> Backend {
    Backend { target, weight, filters: Vec::new() }
}

fn rule(filters: Vec<Filter>, backends: Vec<Backend>) -> HttpRule {
    HttpRule { matches: vec![HttpMatch::default()], filters, backends, ..HttpRule::default() }
}

fn route(name: &str, created: i64, rules: Vec<HttpRule>) -> Arc<HttpRoute> {
    let rules = rules.into_iter().enumerate().map(|(index, rule)| HttpRule { index, ..rule }).collect();
    Arc::new(HttpRoute {
        key: Key::new(Kind::HttpRoute, "shop", name),
        created,
        hostnames: Vec::new(),
        rules,
    })
}

fn routes(rule: HttpRule) -> Vec<pb::Route> {
    http(&Context::default(), &[route("web", 0, vec![rule])], &PLACE)
}

fn action(route: &pb::Route) -> &pb::RouteAction {
    match route.action.as_ref().unwrap() {
        Action::Route(action) => action,
        other => panic!("{other:?}"),
    }
}

fn status(route: &pb::Route) -> Option<u32> {
    match route.action.as_ref().unwrap() {
        Action::DirectResponse(response) => Some(response.status),
        _ => None,
    }
}

#[test]
fn without_a_backend_the_answer_is_500() {
    for backends in [vec![], vec![backend(service("a"), 0)], vec![backend(Target::Invalid, 3)]] {
        let routes = routes(rule(vec![], backends));
        assert_eq!(routes.iter().map(status).collect::<Vec<_>>(), [Some(500)]);
    }
}

#[test]
fn calls_that_lead_nowhere_are_unavailable() {
    let grpc = HttpMatch { grpc: true, ..HttpMatch::default() };
    let rule =
        HttpRule { matches: vec![grpc], backends: vec![backend(Target::Invalid, 1)], ..HttpRule::default() };
    // What clients make of 503 is UNAVAILABLE; of 500 it is UNKNOWN.
    assert_eq!(routes(rule).iter().map(status).collect::<Vec<_>>(), [Some(503)]);
}

#[test]
fn what_leads_nowhere_gets_500_in_its_share_alone() {
    let backends = vec![backend(service("a"), 1), backend(Target::Invalid, 2), backend(service("b"), 1)];
    let routes = routes(rule(vec![], backends));
    let [error, rest] = routes.as_slice() else { panic!("{routes:?}") };
    assert_eq!(status(error), Some(500));
    let fraction = error.r#match.as_ref().unwrap().runtime_fraction.as_ref().unwrap();
    assert_eq!(fraction.default_value.as_ref().unwrap().numerator, 500_000);
    let Some(ClusterSpecifier::WeightedClusters(clusters)) = &action(rest).cluster_specifier else {
        panic!()
    };
    let weights: Vec<_> = clusters.clusters.iter().map(|it| it.weight.unwrap().value).collect();
    assert_eq!(weights, [1, 1]);
    assert!(rest.r#match.as_ref().unwrap().runtime_fraction.is_none());
}

#[test]
fn filters_of_a_backend_come_after_those_of_its_rule() {
    let set = |value: &str| {
        let set = vec![("x".into(), value.into())];
        Filter::RequestHeaders(HeaderChange { set, ..HeaderChange::default() })
    };
    let own = Backend { filters: vec![set("backend")], ..backend(service("a"), 1) };
    let values = |list: &[outrider_proto::pb::envoy::config::core::v3::HeaderValueOption]| -> Vec<String> {
        list.iter().map(|it| it.header.as_ref().unwrap().value.clone()).collect()
    };
    // Envoy has the cluster's changes before the route's.
    let two = routes(rule(vec![set("rule")], vec![own.clone(), backend(service("b"), 1)]));
    assert!(two[0].request_headers_to_add.is_empty());
    let Some(ClusterSpecifier::WeightedClusters(clusters)) = &action(&two[0]).cluster_specifier else {
        panic!()
    };
    let found: Vec<_> = clusters.clusters.iter().map(|it| values(&it.request_headers_to_add)).collect();
    assert_eq!(found, [["backend"], ["rule"]]);
    let one = routes(rule(vec![set("rule")], vec![own]));
    assert_eq!(values(&one[0].request_headers_to_add), ["backend"]);
}

#[test]
fn a_filter_that_cannot_be_done_is_not_skipped() {
    let bad =
        Filter::RequestHeaders(HeaderChange { remove: vec![":path".into()], ..HeaderChange::default() });
    let routes = routes(rule(vec![bad], vec![backend(service("a"), 1)]));
    assert_eq!(routes.iter().map(status).collect::<Vec<_>>(), [Some(500)]);

    let rewrite = Filter::Rewrite { hostname: None, path: Some(ir::PathChange::Full("/x".into())) };
    let one = Backend { filters: vec![rewrite], ..backend(service("a"), 1) };
    // Alone it is the rule's; among several its share is not sent on without it.
    let alone = self::routes(rule(vec![], vec![one.clone()]));
    assert!(action(&alone[0]).regex_rewrite.is_some());
    let two = self::routes(rule(vec![], vec![one, backend(service("b"), 1)]));
    assert_eq!(two.iter().map(status).collect::<Vec<_>>(), [Some(500), None]);
}

#[test]
fn a_match_that_nothing_fulfils_does_not_take_the_table_down() {
    let bad = HttpMatch { path: PathMatch::Prefix("/a?b".into()), ..HttpMatch::default() };
    let mut rule = rule(vec![], vec![backend(service("a"), 1)]);
    rule.matches.push(bad);
    assert_eq!(routes(rule).len(), 1);
}

#[test]
fn timeouts_of_rule_and_attempt() {
    use std::time::Duration;
    let with = |request: Option<u64>, attempt: Option<u64>| {
        let rule = HttpRule {
            request_timeout: request.map(Duration::from_secs),
            backend_timeout: attempt.map(Duration::from_secs),
            ..rule(vec![], vec![backend(service("a"), 1)])
        };
        let routes = routes(rule);
        let action = action(&routes[0]);
        let attempt = action.retry_policy.as_ref().and_then(|it| it.per_try_timeout);
        (action.timeout.unwrap().seconds, attempt.map(|it| it.seconds))
    };
    assert_eq!(with(None, None), (0, None));
    assert_eq!(with(Some(0), Some(0)), (0, None));
    assert_eq!(with(Some(10), None), (10, None));
    assert_eq!(with(Some(10), Some(3)), (10, Some(3)));
    assert_eq!(with(None, Some(3)), (0, Some(3)));
}

#[test]
fn what_routes_reach() {
    let mirror = |name| Filter::Mirror { target: service(name), per_million: 1 };
    let one = Backend { filters: vec![mirror("c")], ..backend(service("b"), 1) };
    let rule = rule(vec![mirror("a")], vec![one, backend(service("zero"), 0), backend(Target::Invalid, 1)]);
    let tcp = Arc::new(ir::TcpRoute {
        key: Key::new(Kind::TcpRoute, "shop", "t"),
        created: 0,
        hostnames: Vec::new(),
        backends: vec![(service("d"), 1), (service("zero"), 0)],
    });
    let found = targets(&[route("web", 0, vec![rule])], &[tcp]);
    assert_eq!(found, ["a", "b", "c", "d"].map(service).into());
}

/// A request, as the model has it.
#[derive(Debug)]
struct Request {
    path: String,
    method: &'static str,
    headers: Vec<&'static str>,
    query: Vec<&'static str>,
}

fn takes(it: &HttpMatch, request: &Request) -> bool {
    let path = match &it.path {
        PathMatch::Exact(text) => request.path == **text,
        PathMatch::Prefix(text) => {
            let elements = |text: &str| -> Vec<String> {
                text.split('/').filter(|it| !it.is_empty()).map(str::to_owned).collect()
            };
            elements(&request.path).starts_with(&elements(text))
        }
        PathMatch::Regex(text) => {
            regex::Regex::new(&format!("^(?:{text})$")).unwrap().is_match(&request.path)
        }
    };
    path && it.method.as_deref().is_none_or(|method| method == request.method)
        && it.headers.iter().all(|(name, _)| request.headers.contains(&&**name))
        && it.query.iter().all(|(name, _)| request.query.contains(&&**name))
}

/// One match of one rule of one route.
type Candidate<'c> = (&'c HttpRoute, &'c HttpRule, usize, &'c HttpMatch);

/// Whether the Gateway API prefers `a` to `b`, criterion by criterion as it words them.
fn preferred(a: &Candidate<'_>, b: &Candidate<'_>) -> bool {
    let class = |it: &HttpMatch| match &it.path {
        PathMatch::Exact(_) => 2,
        PathMatch::Regex(_) => 1,
        PathMatch::Prefix(_) => 0,
    };
    if class(a.3) != class(b.3) {
        return class(a.3) > class(b.3);
    }
    let characters = |it: &HttpMatch| match &it.path {
        PathMatch::Exact(text) | PathMatch::Regex(text) | PathMatch::Prefix(text) => text.len(),
    };
    if characters(a.3) != characters(b.3) {
        return characters(a.3) > characters(b.3);
    }
    if a.3.method.is_some() != b.3.method.is_some() {
        return a.3.method.is_some();
    }
    if a.3.headers.len() != b.3.headers.len() {
        return a.3.headers.len() > b.3.headers.len();
    }
    if a.3.query.len() != b.3.query.len() {
        return a.3.query.len() > b.3.query.len();
    }
    if a.0.created != b.0.created {
        return a.0.created < b.0.created;
    }
    let full = |it: &HttpRoute| format!("{}/{}", it.key.namespace, it.key.name);
    if full(a.0) != full(b.0) {
        return full(a.0) < full(b.0);
    }
    (a.1.index, a.2) < (b.1.index, b.2)
}

fn any_path() -> impl Strategy<Value = PathMatch> {
    let text = proptest::sample::select(vec!["/a", "/b", "/ab", "/a/b", "/a/a", "/a/b/a"]);
    prop_oneof![
        4 => text.clone().prop_map(|it| PathMatch::Prefix(it.into())),
        2 => Just(PathMatch::Prefix("/".into())),
        2 => text.prop_map(|it| PathMatch::Exact(it.into())),
        1 => proptest::sample::select(vec!["/a.*", "/[ab]", "/.*b", ".*"]).prop_map(|it| PathMatch::Regex(it.into())),
    ]
}

fn any_match() -> impl Strategy<Value = HttpMatch> {
    let pairs = |names: &'static [&'static str]| {
        proptest::sample::subsequence(names.to_vec(), 0..=names.len()).prop_map(|names| {
            names.into_iter().map(|name| (name.into(), TextMatch::Exact("1".into()))).collect::<Vec<_>>()
        })
    };
    let method = proptest::option::of(prop_oneof![Just("GET"), Just("PUT")]);
    (any_path(), method, pairs(&["x", "y"]), pairs(&["p", "q"])).prop_map(|(path, method, headers, query)| {
        HttpMatch { path, headers, query, method: method.map(Into::into), grpc: false }
    })
}

fn any_routes() -> impl Strategy<Value = Vec<Arc<HttpRoute>>> {
    let rule = proptest::collection::vec(any_match(), 1..3)
        .prop_map(|matches| HttpRule { matches, ..rule(vec![], vec![backend(service("a"), 1)]) });
    let content = (0_i64..2, proptest::collection::vec(rule, 1..4));
    proptest::collection::vec(content, 1..5).prop_map(|routes| {
        // Names that do not follow the order of the list.
        let named = ["m", "b", "z", "a", "k"].into_iter().zip(routes);
        named.map(|(name, (created, rules))| route(name, created, rules)).collect()
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let some =
        |names: &'static [&'static str]| proptest::sample::subsequence(names.to_vec(), 0..=names.len());
    let paths = ["/", "/a", "/b", "/ab", "/a/b", "/a/a", "/a/b/a", "/a/b/b", "/a/", "/abc", "/c"];
    let path = proptest::sample::select(paths.to_vec()).prop_map(str::to_owned);
    let method = prop_oneof![Just("GET"), Just("PUT"), Just("POST")];
    (path, method, some(&["x", "y"]), some(&["p", "q"])).prop_map(|(path, method, headers, query)| Request {
        path,
        method,
        headers,
        query,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// The first emitted route that takes a request is the one that the Gateway API prefers of all that take it.
    #[test]
    fn the_order_is_that_of_the_gateway_api(
        all in any_routes(),
        requests in proptest::collection::vec(any_request(), 20),
    ) {
        let emitted = http(&Context::default(), &all, &PLACE);
        let candidates: Vec<Candidate<'_>> = all
            .iter()
            .flat_map(|route| route.rules.iter().map(move |rule| (route, rule)))
            .flat_map(|(route, rule)| {
                rule.matches.iter().enumerate().map(move |(i, it)| (&**route, rule, i, it))
            })
            .collect();
        prop_assert_eq!(emitted.len(), candidates.len());
        let name = |it: &Candidate<'_>| format!("shop/{}/{}/{}", it.0.key.name, it.1.index, it.2);
        for request in requests {
            let fitting: Vec<_> = candidates.iter().filter(|it| takes(it.3, &request)).collect();
            let best = fitting
                .iter()
                .find(|a| fitting.iter().all(|b| name(a) == name(b) || preferred(a, b)))
                .copied();
            let first = emitted
                .iter()
                .filter_map(|route| candidates.iter().find(|it| name(it) == route.name))
                .find(|it| takes(it.3, &request));
            prop_assert_eq!(first.map(name), best.map(name), "{:?}", request);
        }
    }
}
