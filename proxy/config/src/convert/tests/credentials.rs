//! Passwords and keys of an API.

use super::{bad, good, manager, with_hcm};
use crate::model::{BasicUsers, HttpFilterKind, KeySource};

const AT: &str =
    "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
const ROUTE: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].typed_per_filter_config[\"f\"]";
const USER: &str = "user1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=";

/// A manager with the filter `kind`, and what its route says of it.
fn yaml(kind: &str, settings: &str, route: &str) -> String {
    let of = |kind: &str, settings: &str| {
        format!("{{\"@type\": type.googleapis.com/envoy.extensions.filters.http.{kind}, {settings}}}")
    };
    let said = if route.is_empty() {
        String::new()
    } else {
        format!(", typed_per_filter_config: {{f: {}}}", of(&format!("{kind}PerRoute"), route))
    };
    let routes = format!(
        "route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: c}}{said}}}]}}]}}\n"
    );
    let filter = format!("          - {{name: f, typed_config: {}}}\n", of(kind, settings));
    with_hcm(&routes).replace("http_filters:\n", &format!("http_filters:\n{filter}"))
}

fn basic(settings: &str, route: &str) -> String {
    yaml("basic_auth.v3.BasicAuth", settings, route)
}

fn keys(settings: &str, route: &str) -> String {
    yaml("api_key_auth.v3.ApiKeyAuth", settings, route)
}

#[test]
fn users_are_read_here_or_named() {
    let manager = manager(&basic(
        &format!(
            "users: {{inline_string: \"{USER}\"}}, forward_username_header: X-User, allow_missing: true"
        ),
        "users: {inline_string: \"\"}",
    ));
    let HttpFilterKind::BasicAuth(filter) = &manager.filters[0].kind else { panic!("{:?}", manager.filters) };
    let BasicUsers::Here(users) = &filter.users else { panic!("{:?}", filter.users) };
    assert!(users.check(b"user1", b"test1").is_some());
    assert_eq!(filter.header, "authorization");
    assert_eq!(filter.forward_username.as_ref().map(http::HeaderName::as_str), Some("x-user"));
    assert!(filter.allow_missing && !filter.emit_metadata);
    assert!(!format!("{filter:?}").contains("tESs"), "{filter:?}");
    good(&basic("users: {filename: /no/such/file}", "users: {environment_variable: NONE}"));
}

#[test]
fn users_that_cannot_be_used_are_refused_by_their_line() {
    let of = |settings: &str| bad(&basic(settings, "")).join("\n");
    assert!(of("allow_missing: false").starts_with(&format!("{AT}.users: users are needed")));
    assert!(of("users: {inline_string: \"\"}").starts_with(&format!("{AT}.users: it is empty")));
    assert!(
        of("users: {inline_string: \"a:$apr1$secret\"}")
            .starts_with(&format!("{AT}.users: line 1: the hash of \"a\" is not supported"))
    );
    assert!(!of("users: {inline_string: \"a:$apr1$secret\"}").contains("secret"));
    assert_eq!(
        of(&format!("users: {{inline_string: \"{USER}\"}}, forward_username_header: a b")),
        format!("{AT}.forward_username_header: \"a b\" is not a header name")
    );
    let route = bad(&basic(&format!("users: {{inline_string: \"{USER}\"}}"), "users: {inline_string: x}"));
    assert!(route[0].starts_with(&format!("{ROUTE}.users: line 1: ")), "{route:?}");
}

#[test]
fn keys_have_their_places_in_order() {
    let (_, ledger) = good(&keys("key_sources: [{header: a, query: b}]", ""));
    assert!(ledger.inert.iter().any(|(path, _)| *path == format!("{AT}.key_sources[0].query")), "{ledger:?}");
    let manager = manager(&keys(
        "credentials: [{key: hush, client: c1}], key_sources: [{query: q}, {header: X-Key}, {cookie: c}]",
        "allowed_clients: [c1]",
    ));
    let HttpFilterKind::ApiKeyAuth(filter) = &manager.filters[0].kind else {
        panic!("{:?}", manager.filters)
    };
    let header = http::HeaderName::from_static("x-key");
    let wanted = [KeySource::Query("q".into()), KeySource::Header(header), KeySource::Cookie("c".into())];
    assert_eq!(*filter.sources, wanted);
    let all = filter.keys.as_ref().expect("keys");
    assert_eq!(all.client(b"hush").map(|client| &*client.name), Some("c1"));
    assert!(!format!("{filter:?}").contains("hush"));
}

#[test]
fn keys_that_cannot_be_used_are_refused_and_not_shown() {
    let of = |settings: &str| bad(&keys(settings, "")).join("\n");
    let twice = of("credentials: [{key: hush, client: a}, {key: hush, client: b}]");
    assert_eq!(twice, format!("{AT}.credentials[1].key: this key is there already"));
    assert_eq!(
        of("credentials: [{key: \"\", client: a}]"),
        format!("{AT}.credentials[0].key: a key is needed")
    );
    assert_eq!(of("credentials: [{key: a}]"), format!("{AT}.credentials[0].client: a name is needed"));
    assert_eq!(of("key_sources: [{}]"), format!("{AT}.key_sources[0]: give one of header, query and cookie"));
    assert!(
        of("key_sources: [{header: Host}]").starts_with(&format!("{AT}.key_sources[0].header: the host "))
    );
    let long = "a".repeat(1025);
    assert_eq!(
        of(&format!("key_sources: [{{query: {long}}}]")),
        format!("{AT}.key_sources[0].query: a name has 1024 bytes at most")
    );
    assert_eq!(
        of("forwarding: {header: a b}"),
        format!("{AT}.forwarding.header: \"a b\" is not a header name")
    );
    let route = bad(&keys("", "credentials: [{client: a}]"));
    assert_eq!(route, [format!("{ROUTE}.credentials[0].key: a key is needed")]);
}
