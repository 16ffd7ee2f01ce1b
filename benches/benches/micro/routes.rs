//! Route match: what finding the last of many routes costs, by how they match; and the last of many domains.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, StatusCode};
use outrider_config::model::{
    DirectBody, DirectResponse, HeaderMutations, PathMatch, RequireTls, Route, RouteAction,
    RouteConfiguration, RouteMatch, VirtualHost,
};
use outrider_core::matcher::{HeaderCheck, HeaderMatcher, HeaderRef, StringMatcher, full_regex};
use outrider_core::stats::Registry;
use outrider_http::routing::{RequestView, RouteTable, TableHandle};
use outrider_upstream::ClusterManager;

use crate::headers::{head, request_headers};

fn route(path: PathMatch, headers: Vec<HeaderMatcher>) -> Arc<Route> {
    Arc::new(Route {
        name: None,
        matches: RouteMatch {
            path,
            case_sensitive: true,
            headers,
            query: Vec::new(),
            grpc: false,
            fraction: None,
            tls: None,
        },
        action: RouteAction::Direct(DirectResponse {
            status: StatusCode::OK,
            body: DirectBody::Inline(bytes::Bytes::new()),
        }),
        headers: HeaderMutations::default(),
        per_request_buffer_limit: None,
        stat_prefix: None,
        filters: Vec::new(),
        metadata: None,
    })
}

fn host(name: String, domain: String, routes: Vec<Arc<Route>>) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        name: name.into(),
        domains: vec![domain],
        routes,
        require_tls: RequireTls::None,
        headers: HeaderMutations::default(),
        request_attempt_count: false,
        attempt_count_in_response: false,
        is_timeout_retry_header: false,
        virtual_clusters: Vec::new(),
        filters: Vec::new(),
        metadata: None,
    })
}

fn table(virtual_hosts: Vec<Arc<VirtualHost>>) -> TableHandle {
    let config = RouteConfiguration {
        virtual_hosts,
        max_direct_response_body: 4_096,
        ..RouteConfiguration::default()
    };
    let registry = Registry::new();
    let clusters = ClusterManager::new(registry.clone());
    let table = RouteTable::build(&Arc::new(config), &clusters, &registry).expect("a route table");
    Rc::new(Arc::new(table))
}

/// A path that the last of `count` routes matches and no other.
fn path_of(index: usize) -> String {
    format!("/service-{index}/items")
}

/// The ways to match a path: a name, and the route with the number `index` that matches in this way.
type Way = (&'static str, fn(usize) -> Arc<Route>);

const WAYS: [Way; 4] = [
    ("prefix", |index| route(PathMatch::Prefix(format!("/service-{index}/").into()), Vec::new())),
    ("exact", |index| route(PathMatch::Exact(path_of(index).into()), Vec::new())),
    ("regex", |index| {
        let regex = full_regex(&format!("/service-{index}/[a-z]+")).expect("a regular expression");
        route(PathMatch::Regex(Box::new(regex)), Vec::new())
    }),
    // The same prefix for all; a header tells them apart, so that no index by path helps.
    ("header", |index| {
        let value = StringMatcher::exact(index.to_string());
        let header = HeaderMatcher {
            name: HeaderRef::parse("x-user-id").expect("a header's name"),
            check: HeaderCheck::Value(value),
            invert: false,
            treat_missing_as_empty: false,
        };
        route(PathMatch::Prefix("/".into()), vec![header])
    }),
];

fn find(headers: &HeaderMap, path: &str, table: &TableHandle) -> bool {
    let request = RequestView { head: head(headers, path), tls: None, random: 7 };
    RouteTable::route(black_box(table), black_box(&request)).is_some()
}

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let mut headers = request_headers();
    let mut group = criterion.benchmark_group("route_match");
    for (name, make) in WAYS {
        for count in [10, 1_000] {
            let routes = (0..count).map(make).collect();
            let table = table(vec![host("all".into(), "*".into(), routes)]);
            let last = count - 1;
            headers.insert("x-user-id", last.into());
            let path = path_of(last);
            assert!(find(&headers, &path, &table), "{name}: the last route matches");
            headers.insert("x-user-id", count.into());
            assert!(!find(&headers, &path_of(count), &table), "{name}: nothing else matches");
            headers.insert("x-user-id", last.into());
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| find(&headers, &path, &table));
            });
        }
    }
    let last = 9_999;
    let mut hosts: Vec<_> = (0..last)
        .map(|index| {
            let only = vec![route(PathMatch::Prefix("/".into()), Vec::new())];
            host(format!("host-{index}"), format!("service-{index}.example.com"), only)
        })
        .collect();
    let only = vec![route(PathMatch::Prefix("/".into()), Vec::new())];
    hosts.push(host("shop".into(), "shop.example.com".into(), only));
    let table = table(hosts);
    assert!(find(&headers, "/", &table), "the request's host is in the table");
    group.bench_function(BenchmarkId::new("domain", last + 1), |bencher| {
        bencher.iter(|| find(&headers, "/", &table));
    });
    group.finish();
}
