//! The table as a whole, and the index against the naive scan.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outrider_config::model::{
    self, DirectBody, DirectResponse, HeaderMutations, PathMatch, RequireTls, Route, RouteAction, RouteMatch,
    VirtualHost,
};
use outrider_core::matcher::{
    HeadView, HeaderCheck, HeaderMatcher, HeaderRef, QueryMatcher, RuntimeFraction, StringMatcher, full_regex,
};
use outrider_core::stats::Registry;
use outrider_upstream::ClusterManager;
use proptest::prelude::*;

use super::index::PathIndex;
use super::*;

fn rules(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        case_sensitive: true,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
        fraction: None,
        tls: None,
    }
}

fn prefix(text: &str) -> RouteMatch {
    rules(PathMatch::Prefix(text.into()))
}

/// A route that answers with its own number as status, 200 and up.
fn route(number: u16, matches: RouteMatch) -> Arc<Route> {
    Arc::new(Route {
        name: None,
        matches,
        action: RouteAction::Direct(DirectResponse {
            status: StatusCode::from_u16(200 + number).expect("status"),
            body: DirectBody::Inline(bytes::Bytes::new()),
        }),
        headers: HeaderMutations::default(),
        per_request_buffer_limit: None,
        stat_prefix: None,
        filters: Vec::new(),
        metadata: None,
    })
}

fn table_of(matches: Vec<RouteMatch>, require_tls: RequireTls) -> TableHandle {
    let routes = (0..).zip(matches).map(|(number, matches)| route(number, matches)).collect();
    let host = VirtualHost {
        name: "v".into(),
        domains: vec!["*".into()],
        routes,
        require_tls,
        headers: HeaderMutations::default(),
        request_attempt_count: false,
        attempt_count_in_response: false,
        is_timeout_retry_header: false,
        virtual_clusters: Vec::new(),
        filters: Vec::new(),
        metadata: None,
    };
    let config = model::RouteConfiguration {
        virtual_hosts: vec![Arc::new(host)],
        max_direct_response_body: 4096,
        ..model::RouteConfiguration::default()
    };
    let registry = Registry::new();
    let clusters = ClusterManager::new(registry.clone());
    let table = RouteTable::build(&Arc::new(config), &clusters, &registry).expect("table");
    std::rc::Rc::new(Arc::new(table))
}

struct Request {
    headers: HeaderMap,
    method: &'static str,
    path: &'static str,
    random: u64,
}

impl Request {
    fn get(path: &'static str) -> Self {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("x-forwarded-proto"),
            HeaderValue::from_static("http"),
        )]);
        Self { headers, method: "GET", path, random: 0 }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    fn view(&self) -> RequestView<'_> {
        let head = HeadView {
            method: self.method,
            authority: "a.com",
            path: self.path,
            scheme: "http",
            ..HeadView::of(&self.headers)
        };
        RequestView { head, tls: None, random: self.random }
    }

    /// The number of the route taken.
    fn taken(&self, table: &TableHandle) -> Option<u16> {
        let selected = RouteTable::route(table, &self.view())?;
        selected.reply(&self.view()).map(|reply| reply.status.as_u16() - 200)
    }
}

fn table(matches: Vec<RouteMatch>) -> TableHandle {
    table_of(matches, RequireTls::None)
}

#[test]
fn paths_match_as_their_kind_says() {
    let folded = |path| RouteMatch { case_sensitive: false, ..rules(path) };
    let table = table(vec![
        rules(PathMatch::Exact("/exact".into())),
        rules(PathMatch::SeparatedPrefix("/api/dev".into())),
        rules(PathMatch::Regex(Box::new(full_regex("/r/[0-9]+").expect("regex")))),
        folded(PathMatch::Prefix("/Folded".into())),
        folded(PathMatch::Exact("/WHOLE".into())),
        prefix("/exactly"),
        rules(PathMatch::Connect),
        prefix("/p"),
    ]);
    for (path, want) in [
        ("/exact?q=1", Some(0)),
        ("/exactl", None),
        ("/exactly/x", Some(5)),
        ("/api/dev", Some(1)),
        ("/api/dev/v1", Some(1)),
        ("/api/dev?x", Some(1)),
        ("/api/developer", None),
        ("/r/12?x=y", Some(2)),
        ("/r/12/3", None),
        ("/fOLDED/x", Some(3)),
        ("/whole", Some(4)),
        ("/whole/", None),
        ("/p", Some(7)),
        ("/", None),
    ] {
        assert_eq!(Request::get(path).taken(&table), want, "{path}");
    }
    let connect = Request { method: "CONNECT", ..Request::get("") };
    assert_eq!(connect.taken(&table), Some(6));
    assert_eq!(Request::get("").taken(&table), None);
}

#[test]
fn all_conditions_of_a_route_must_hold() {
    let header = |name: &'static str, check| HeaderMatcher {
        name: HeaderRef::parse(name).expect("name"),
        check,
        invert: false,
        treat_missing_as_empty: false,
    };
    let exact = |text: &str| HeaderCheck::Value(StringMatcher::exact(text));
    let table = table(vec![
        RouteMatch { grpc: true, ..prefix("/") },
        RouteMatch {
            headers: vec![header("x-a", exact("1")), header(":method", exact("GET"))],
            ..prefix("/")
        },
        RouteMatch {
            query: vec![QueryMatcher {
                name: "q".into(),
                value: Some(StringMatcher::exact("1")),
                absent: false,
            }],
            ..prefix("/")
        },
        RouteMatch {
            fraction: Some(RuntimeFraction { numerator: 30, denominator: 100, runtime_key: None }),
            ..prefix("/")
        },
        prefix("/"),
    ]);
    let get = |path| Request { random: 30, ..Request::get(path) };
    assert_eq!(get("/").header("content-type", "application/grpc").taken(&table), Some(0));
    assert_eq!(get("/").header("content-type", "application/grpc+proto").taken(&table), Some(0));
    assert_eq!(get("/").header("content-type", "application/grpc-web").taken(&table), Some(4));
    assert_eq!(get("/").header("x-a", "1").taken(&table), Some(1));
    assert_eq!(get("/").header("x-a", "2").taken(&table), Some(4));
    assert_eq!(get("/x?q=1#f").taken(&table), Some(2));
    assert_eq!(get("/x?q=2").taken(&table), Some(4));
    assert_eq!(Request { random: 129, ..Request::get("/") }.taken(&table), Some(3));
}

#[test]
fn a_virtual_host_can_require_tls() {
    let require = |kind| table_of(vec![prefix("/")], kind);
    let location = |table: &TableHandle, request: &Request| {
        let selected = RouteTable::route(table, &request.view()).expect("selected");
        let reply = selected.reply(&request.view()).expect("reply");
        let headers = reply.headers.unwrap_or_default();
        (
            reply.status.as_u16(),
            headers.get("location").map(|value| value.to_str().expect("ascii").to_owned()),
        )
    };
    let moved = (301, Some("https://a.com/x?q".to_owned()));
    let (all, external) = (require(RequireTls::All), require(RequireTls::External));
    assert_eq!(location(&all, &Request::get("/x?q")), moved);
    assert_eq!(location(&all, &Request::get("/x?q").header("x-forwarded-proto", "https")), (200, None));
    assert_eq!(location(&external, &Request::get("/x?q")), moved);
    assert_eq!(location(&external, &Request::get("/x?q").header("x-envoy-internal", "true")), (200, None));
}

#[test]
fn a_direct_body_over_the_limit_is_refused() {
    let mut big = (*route(0, prefix("/"))).clone();
    big.action = RouteAction::Direct(DirectResponse {
        status: StatusCode::OK,
        body: DirectBody::Inline(vec![0; 4097].into()),
    });
    let host = VirtualHost {
        name: "v".into(),
        domains: vec!["*".into()],
        routes: vec![Arc::new(big)],
        require_tls: RequireTls::None,
        headers: HeaderMutations::default(),
        request_attempt_count: false,
        attempt_count_in_response: false,
        is_timeout_retry_header: false,
        virtual_clusters: Vec::new(),
        filters: Vec::new(),
        metadata: None,
    };
    let config = model::RouteConfiguration {
        name: "table".into(),
        virtual_hosts: vec![Arc::new(host)],
        max_direct_response_body: 4096,
        ..model::RouteConfiguration::default()
    };
    let registry = Registry::new();
    let clusters = ClusterManager::new(registry.clone());
    let error = RouteTable::build(&Arc::new(config), &clusters, &registry).expect_err("too large");
    assert!(error.to_string().contains("4097 bytes"), "{error}");
}

/// Paths over a small alphabet, so that prefixes of one another are frequent.
fn arb_path() -> impl Strategy<Value = String> {
    "/[ab/]{0,6}"
}

fn arb_rules() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        arb_path().prop_map(|path| PathMatch::Prefix(path.into())),
        arb_path().prop_map(|path| PathMatch::Exact(path.into())),
        arb_path().prop_map(|path| PathMatch::SeparatedPrefix(path.into())),
        Just(PathMatch::Regex(Box::new(full_regex("/a.*").expect("regex")))),
        Just(PathMatch::Prefix("".into())),
    ];
    let header = prop_oneof![3 => Just(None), 1 => Just(Some("x-none"))];
    (path, prop::bool::weighted(0.8), header).prop_map(|(path, case_sensitive, header)| RouteMatch {
        case_sensitive,
        headers: Vec::from_iter(header.map(|name| HeaderMatcher {
            name: HeaderRef::parse(name).expect("name"),
            check: HeaderCheck::Present(true),
            invert: false,
            treat_missing_as_empty: false,
        })),
        ..rules(path)
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_the_scan_finds(
        all in prop::collection::vec(arb_rules(), 0..40),
        path in arb_path(),
    ) {
        let routes: Vec<_> = all.into_iter().map(|matches| route(0, matches)).collect();
        let headers = HeaderMap::new();
        let head = HeadView { method: "GET", path: &path, ..HeadView::of(&headers) };
        let request = RequestView { head, tls: None, random: 0 };
        let takes = |number: u32| matcher::matches(&routes[number as usize].matches, &request, &path);
        let scan = (0..routes.len() as u32).find(|number| takes(*number));
        prop_assert_eq!(PathIndex::build(&routes).first(&path, takes), scan);
    }
}
