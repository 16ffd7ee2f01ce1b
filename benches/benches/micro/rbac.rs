//! Role-based access control: what a decision costs by the number of policies and by what they ask for.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion};
use http::HeaderValue;
use outrider_core::matcher::{
    HeadView, HeaderCheck, HeaderMatcher, HeaderRef, StringMatch, StringMatcher, full_regex,
};
use outrider_core::rbac::{Action, Condition, Facts, Policy, Rules};
use outrider_core::stream::{Address, CertInfo, ConnInfo, Origin, StreamInfo, TlsInfo};

use crate::headers::request_headers;

fn connection() -> Rc<ConnInfo> {
    let ip = |text: &str| Address::Ip(text.parse().expect("an address"));
    let peer = CertInfo {
        subject: "O=mesh".into(),
        uri_sans: vec!["spiffe://cluster.local/ns/shop/sa/client-500".into()],
        ..CertInfo::default()
    };
    let tls = TlsInfo { peer: Some(Arc::new(peer)), peer_verified: true, ..TlsInfo::default() };
    Rc::new(ConnInfo {
        id: 1,
        remote: ip("10.0.0.1:1000"),
        direct_remote: ip("10.0.0.1:1000"),
        local: ip("10.0.0.2:8080"),
        direct_local: ip("10.0.0.2:8080"),
        local_restored: false,
        source: None,
        sni: None,
        tls: Some(Rc::new(tls)),
        filter_chain: "".into(),
        origin: Arc::new(Origin::default()),
        handshake: None,
        accepted: Instant::now(),
        termination_details: std::cell::OnceCell::default(),
        reset: std::cell::Cell::default(),
        transport_failure: std::cell::OnceCell::default(),
    })
}

fn text(matcher: StringMatch) -> StringMatcher {
    StringMatcher { matcher, ignore_case: false }
}

fn method(name: &str) -> Condition {
    Condition::Header(Box::new(HeaderMatcher {
        name: HeaderRef::Method,
        check: HeaderCheck::Value(StringMatcher::exact(name)),
        invert: false,
        treat_missing_as_empty: false,
    }))
}

fn tenant(i: usize) -> String {
    format!("tenant-{i}")
}

/// Policy number `i`, by what it asks for.
fn policy(kind: &str, i: usize) -> Policy {
    let regex = |text: String| StringMatch::Regex(Box::new(full_regex(&text).expect("an expression")));
    let (permission, principal) = match kind {
        "name" => {
            let name = format!("spiffe://cluster.local/ns/shop/sa/client-{i}");
            (method("GET"), Condition::Authenticated(Some(text(StringMatch::Exact(name.into())))))
        }
        // As the control plane writes names.
        "name by expression" => {
            let name = regex(format!("spiffe://cluster\\.local/ns/shop/sa/client-{i}"));
            (method("GET"), Condition::Authenticated(Some(text(name))))
        }
        "path" => {
            let path = StringMatch::Prefix(format!("/service-{i}/").into());
            (Condition::all(vec![method("GET"), Condition::Path(text(path))]), Condition::Any)
        }
        "header" => {
            let tenant = HeaderMatcher {
                name: HeaderRef::parse("x-tenant").expect("a header's name"),
                check: HeaderCheck::Value(StringMatcher::exact(tenant(i))),
                invert: false,
                treat_missing_as_empty: false,
            };
            (Condition::Any, Condition::Header(Box::new(tenant)))
        }
        // Nothing that an index could be made of.
        _ => {
            let path = StringMatch::Suffix(format!("/service-{i}").into());
            (Condition::all(vec![Condition::Path(text(path)), method("GET")]), Condition::Any)
        }
    };
    Policy { name: format!("policy-{i:04}").into(), permission, principal, condition: None }
}

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rbac");
    let stream = StreamInfo::new(connection(), None);
    let mut headers = request_headers();
    for kind in ["name", "name by expression", "path", "header", "always"] {
        for count in [10, 1000] {
            let value = HeaderValue::from_str(&tenant(count - 1)).expect("a header's value");
            headers.insert("x-tenant", value);
            let rules = Rules::new(Action::Allow, (0..count).map(|i| policy(kind, i)).collect());
            let last = count - 1;
            let path =
                if kind == "always" { format!("/x/service-{last}") } else { format!("/service-{last}/x") };
            let head = HeadView { path: &path, method: "GET", ..HeadView::of(&headers) };
            let facts = Facts { conn: &stream.conn, stream: &stream, head, route: None };
            group.bench_function(BenchmarkId::new(kind, count), |bencher| {
                bencher.iter(|| black_box(rules.decide(black_box(&facts))).allowed);
            });
        }
    }
    group.finish();
}
