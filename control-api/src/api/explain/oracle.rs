//! What is said, compared with what the real Envoy does: the same table, whose routes answer with their own number.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::config::route::v3 as route;
use serde_json::json;

use super::*;
use crate::translate::Resource;
use crate::translate::testing::{Running, WEB, as_json, context, sidecar};
use crate::translate::translate;

/// Routes at the service web, with all that a match can have.
const ROUTES: &str = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: web, port: 80}]
  rules:
  - matches:
    - {path: {type: Exact, value: /a/b}}
    - {path: {type: RegularExpression, value: '/r[0-9]+(/x)?'}}
    - {path: {value: /a}, headers: [{name: x-user, value: jane}], queryParams: [{name: q, value: '1'}]}
    backendRefs: [{name: web, port: 80}]
  - matches:
    - {path: {value: /a}, method: POST}
    - {path: {value: /a/b}, headers: [{name: x-user, type: RegularExpression, value: 'j.*'}]}
    - {path: {value: /a}, queryParams: [{name: q, type: RegularExpression, value: '[0-9]*'}]}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.test, statusCode: 302,
      path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - matches: [{path: {value: /plain}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443}}]
";

/// A host that other services have too, in other forms.
const OTHERS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: other}
spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 8000, appProtocol: http}]}
";

/// The table as the proxy has it, and one whose routes say who they are.
fn tables(resources: &Resources) -> (route::RouteConfiguration, route::RouteConfiguration) {
    let table: route::RouteConfiguration = resource(resources, Type::Route, "http_proxy").unwrap();
    let mut telling = table.clone();
    for host in &mut telling.virtual_hosts {
        for (index, route) in host.routes.iter_mut().enumerate() {
            if matches!(route.action, Some(route::route::Action::Route(_))) {
                let body = core::data_source::Specifier::InlineString(format!("{}#{index}", host.name));
                let body = Some(core::DataSource { specifier: Some(body), ..Default::default() });
                let answer = route::DirectResponseAction { status: 200, body, ..Default::default() };
                route.action = Some(route::route::Action::DirectResponse(answer));
                route.request_headers_to_add.clear();
                route.typed_per_filter_config.clear();
            }
        }
    }
    (table, telling)
}

/// What Envoy answers: the number of the route, or the status and where it sends the client. The connection stays open: Envoy takes
/// a second to close one.
fn envoys(stream: &mut BufReader<TcpStream>, asked: &pb::ExplainRequest) -> String {
    let headers: String = asked.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (method, path, authority) = (&asked.method, &asked.path, &asked.authority);
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n{headers}Content-Length: 0\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let (mut status, mut location, mut length) = (String::new(), None, 0);
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "Envoy closed the connection");
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            rest[..3].clone_into(&mut status);
        }
        location = line.strip_prefix("location: ").map(str::to_owned).or(location);
        length = line.strip_prefix("content-length: ").map_or(length, |it| it.parse().unwrap());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    match (status.as_str(), location) {
        ("200", _) => String::from_utf8(body).unwrap(),
        (status, Some(location)) => format!("{status} to {location}"),
        (status, None) => status.to_owned(),
    }
}

/// The same of an explanation.
fn ours(answer: &pb::ExplainResponse) -> String {
    if !answer.verdict.starts_with("route to") && !answer.verdict.starts_with("503") {
        let end = if answer.verdict.contains(" to ") { answer.verdict.len() } else { 3 };
        return answer.verdict[..end].to_owned();
    }
    let host = answer.steps.iter().find(|it| it.stage == "virtual host").unwrap();
    let routes: Vec<_> = answer.steps.iter().filter(|it| it.stage == "route").collect();
    let taken = routes.iter().position(|it| it.taken).unwrap();
    format!("{}#{taken}", host.name)
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        of[usize::try_from(self.0 >> 33).unwrap() % of.len()]
    }
}

#[test]
fn what_is_said_is_what_envoy_does() {
    let context = context(&format!("{WEB}{OTHERS}{ROUTES}"));
    let proxy = Proxy { http_port: 0, ..sidecar() };
    let resources = translate(&context, &proxy);
    let (table, telling) = tables(&resources);
    assert!(table.virtual_hosts.iter().any(|host| host.routes.len() > 5), "the HTTPRoute is in the table");
    let mut shown = resources.clone();
    shown.add(Type::Route, Resource::canonical(Type::Route, "http_proxy", &telling));
    let Some(envoy) = Running::start(&json!({
        "listeners": as_json(&shown, Type::Listener, |name| name == "http_proxy"),
        "clusters": [],
    })) else {
        return;
    };
    let stream = TcpStream::connect(envoy.listener("http_proxy")).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut stream = BufReader::new(stream);
    let mut dice = Dice(4);
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..600 {
        let path = dice.pick(&[
            "/a/b",
            "/a/b/",
            "/a",
            "/ab",
            "/a/c",
            "/a/b/c",
            "/r12",
            "/r12/x",
            "/r",
            "/old",
            "/old/x",
            "/older",
            "/plain/y",
            "/",
            "/a/../old/z",
            "/a/./b",
            "/A/b",
        ]);
        let query = dice.pick(&["", "", "?q=1", "?q=x", "?q", "?p=2&q=1", "?q=2&q=1"]);
        let mut headers = HashMap::new();
        let user = dice.pick(&["", "", "jane", "john", "kim"]);
        if !user.is_empty() {
            headers.insert("x-user".to_owned(), user.to_owned());
        }
        let request = pb::ExplainRequest {
            proxy: "web-0.shop".to_owned(),
            method: dice.pick(&["GET", "GET", "POST"]).to_owned(),
            authority: dice
                .pick(&[
                    "web",
                    "web.shop",
                    "web.shop.svc.cluster.local",
                    "web:80",
                    "WEB.shop",
                    "web.other",
                    "web.other:8000",
                    "nowhere",
                    "web.shop:81",
                    "web.shop.svc:80",
                ])
                .to_owned(),
            path: format!("{path}{query}"),
            headers,
            ..Default::default()
        };
        let answer = explain(&context, &proxy, &resources, &Asked::read(&request).unwrap());
        let (said, done) = (ours(&answer), envoys(&mut stream, &request));
        assert_eq!(said, done, "{request:?}: {answer:#?}");
        kinds.insert(done);
    }
    // The dice showed all sides.
    assert!(kinds.len() > 12, "{kinds:#?}");
}
