//! Passwords and keys of an API.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use outrider_tests::bootstrap::{access_log, indent};

use crate::driver::{Case, Group, Req, case, case::Act, get};

const BASIC: &str = "type.googleapis.com/envoy.extensions.filters.http.basic_auth.v3.BasicAuth";
const KEYS: &str = "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth";
/// test1
const USER1: &str = "user1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=";
/// test2
const USER2: &str = "user2:{SHA}EJ9LPFDXsN9ynSmbxvjp75Bmlx8=";
const TO_A: &str = "- match: { prefix: / }\n  route: { cluster: a }\n";

/// A connection manager with the filter `auth`; how a request ended is in its log.
fn manager(name: &str, kind: &str, settings: &str, routes: &str) -> String {
    let log = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% user=%DYNAMIC_METADATA(auth:username)%";
    format!(
        "stat_prefix: {name}\nhttp_filters:\n- name: auth\n  typed_config: {{ \"@type\": {kind}, {settings} }}\n\
         - name: router\n  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n{}\
         route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
        access_log(log),
        indent(4, routes)
    )
}

fn route(path: &str, kind: &str, settings: &str) -> String {
    format!(
        "- match: {{ prefix: /{path} }}\n  route: {{ cluster: a }}\n  typed_per_filter_config:\n    auth: {{ \"@type\": {kind}PerRoute, {settings} }}\n"
    )
}

fn one(name: &str, listener: &str, stats: &str, request: Req) -> Case {
    many(name, listener, stats, vec![request])
}

fn many(name: &str, listener: &str, stats: &str, requests: Vec<Req>) -> Case {
    let count = requests.len();
    let requests: Vec<Req> = requests.into_iter().map(|request| request.to(listener)).collect();
    let stats = format!("http.{listener}.{stats}.*");
    case(name, Act::from(requests)).stats(&[&stats]).logs(count)
}

/// `envoy.filters.http.basic_auth`
pub(crate) fn basic() -> Group {
    let users = |lines: &[&str]| format!("users: {{ inline_string: \"{}\" }}", lines.join("\\n"));
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let with = |path: &str, value: &str| get(path).h("authorization", value);
    let main = format!(
        "{}, forward_username_header: x-user, emit_dynamic_metadata: true",
        users(&["# two of them", "", USER1, USER2])
    );
    let routes = [
        route("two", BASIC, &users(&[USER2])),
        route("none", BASIC, "users: { inline_string: \"\" }"),
        "- match: { prefix: /direct }\n  direct_response: { status: 204 }\n".to_owned(),
        "- match: { prefix: /off }\n  route: { cluster: a }\n  typed_per_filter_config:\n    auth: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }\n".to_owned(),
        TO_A.to_owned(),
    ];
    let main_case = |name: &str, request: Req| one(name, "main", "basic_auth", request);
    let maybe = |name: &str, request: Req| one(name, "maybe", "basic_auth", request);
    let other = |name: &str, request: Req| one(name, "other", "basic_auth", request);
    Group::new("basic auth")
        .upstreams(&["a"])
        .http("main", &manager("main", BASIC, &main, &routes.concat()))
        .http(
            "maybe",
            &manager(
                "maybe",
                BASIC,
                &format!("{}, allow_missing: true, emit_dynamic_metadata: true", users(&[USER1])),
                TO_A,
            ),
        )
        .http(
            "other",
            &manager("other", BASIC, &format!("{}, authentication_header: X-Auth", users(&[USER1])), TO_A),
        )
        .cases([
            main_case("a password", with("/x", &basic("user1:test1")).h("x-user", "evil")),
            main_case("another user", with("/x", &basic("user2:test2"))),
            main_case("another's password", with("/x", &basic("user1:test2"))),
            main_case("no such user", with("/x", &basic("user3:test1"))),
            main_case("a user in capitals", with("/x", &basic("User1:test1"))),
            main_case("an empty password", with("/x", &basic("user1:"))),
            main_case("an empty user", with("/x", &basic(":test1"))),
            main_case("a password with a colon", with("/x", &basic("user1:test1:"))),
            main_case("nothing", get("/x?y=1")),
            main_case("a long path", get(&format!("/{}", "p".repeat(300)))),
            main_case("another scheme", with("/x", "Bearer abc")),
            main_case("a scheme in small letters", with("/x", "basic dXNlcjE6dGVzdDE=")),
            main_case("a scheme alone", with("/x", "Basic")),
            main_case("two spaces", with("/x", "Basic  dXNlcjE6dGVzdDE=")),
            main_case("no padding", with("/x", "Basic dXNlcjE6dGVzdDE")),
            main_case("too much padding", with("/x", "Basic dXNlcjE6dGVzdDE==")),
            main_case("three times padding", with("/x", "Basic dXNlcjE6dGVzdDE===")),
            main_case("stray bits", with("/x", "Basic dXNlcjE6dGVzdDF")),
            main_case("no base64", with("/x", "Basic %%%%")),
            main_case("padding alone", with("/x", "Basic ==")),
            main_case("no colon", with("/x", &basic("user1"))),
            main_case("two headers", with("/x", &basic("user1:test1")).h("authorization", "Basic x")),
            main_case("a direct response", get("/direct")),
            main_case("turned off", get("/off")),
            main_case("the route's user", with("/two", &basic("user2:test2"))),
            main_case("the filter's user at the route", with("/two", &basic("user1:test1"))),
            main_case("a route without users", with("/none", &basic("user1:test1"))),
            main_case("h2", with("/x", &basic("user1:nope")).h2()),
            main_case("grpc", Req::grpc("/x/y", &["hi"])),
            maybe("may be missing", get("/x")),
            maybe("may be of another scheme", with("/x", "Bearer abc")),
            maybe("may not be wrong", with("/x", &basic("user1:nope"))),
            maybe("may not be broken", with("/x", "Basic !")),
            maybe("is noted", with("/x", &basic("user1:test1"))),
            other("another header", get("/x").h("x-auth", &basic("user1:test1"))),
            other("the usual header", with("/x", &basic("user1:test1"))),
            other(
                "the first of two",
                get("/x").h("x-auth", &basic("user1:test1")).h("x-auth", &basic("user1:nope")),
            ),
        ])
}

/// `envoy.filters.http.api_key_auth`
pub(crate) fn keys() -> Group {
    let everywhere = "key_sources: [ { header: authorization }, { query: k }, { cookie: kc } ]";
    let two = "credentials: [ { key: k1, client: c1 }, { key: \"k 2\", client: c2 } ]";
    let main = format!("{two}, {everywhere}, forwarding: {{ header: X-Client, hide_credentials: true }}");
    let routes = [
        route("c1", KEYS, "allowed_clients: [ c1 ]"),
        route("own", KEYS, "credentials: [ { key: k3, client: c3 } ]"),
        route("x", KEYS, "key_sources: [ { header: x-key } ]"),
        route("seen", KEYS, "forwarding: { header: x-other }"),
        route("quiet", KEYS, "forwarding: {}"),
        "- match: { prefix: /off }\n  route: { cluster: a }\n  typed_per_filter_config:\n    auth: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }\n".to_owned(),
        TO_A.to_owned(),
    ];
    let main_case = |name: &str, request: Req| one(name, "main", "api_key_auth", request);
    let key = |path: &str, value: &str| get(path).h("authorization", value);
    Group::new("api keys")
        .upstreams(&["a"])
        .http("main", &manager("main", KEYS, &main, &routes.concat()))
        .http("plain", &manager("plain", KEYS, &format!("{two}, {everywhere}"), TO_A))
        .http("nowhere", &manager("nowhere", KEYS, two, TO_A))
        .http(
            "nobody",
            &manager(
                "nobody",
                KEYS,
                everywhere,
                &[route("own", KEYS, "credentials: [ { key: k3, client: c3 } ]"), TO_A.to_owned()].concat(),
            ),
        )
        .cases([
            main_case("a header", key("/p", "k1").h("x-client", "evil")),
            main_case("a bearer", key("/p", "Bearer k1")),
            main_case("a bearer with two spaces", key("/p", "Bearer  k1")),
            main_case("a bearer in small letters", key("/p", "bearer k1")),
            main_case("an unknown key", key("/p", "zz")),
            main_case("part of a key", key("/p", "k")),
            main_case("two headers", key("/p", "k1").h("authorization", "k1")),
            main_case("nothing", get("/p")),
            main_case("a query", get("/p?k=k1")),
            main_case("a query with others", get("/p?z=1&k=k1&b=2&k=x")),
            main_case("a coded query", get("/p?%6b=k%202")),
            main_case("a plus is no space", get("/p?k=k+2")),
            main_case("an empty parameter", get("/p?k=")),
            main_case("an empty parameter, then a cookie", get("/p?k=").h("cookie", "kc=k1")),
            main_case("a cookie", get("/p").h("cookie", "a=1; kc=k1; b=\"2\";c")),
            main_case("a quoted cookie", get("/p").h("cookie", "kc=\"k1\"")),
            main_case("cookies without the key", key("/p", "k1").h("cookie", "a=1;b=\"2\";c")),
            main_case("a wrong header before a query", key("/p?k=k1", "zz")),
            main_case("a query without the key", key("/p?z=1&y", "k1")),
            main_case("an allowed client", key("/c1", "k1")),
            main_case("a client that is not allowed", key("/c1", "k 2")),
            main_case("an unknown client", key("/c1", "zz")),
            main_case("the route's key", key("/own", "k3")),
            main_case("the filter's key at the route", key("/own", "k1")),
            main_case("the route's place", get("/x").h("x-key", "k1")),
            main_case("the filter's place at the route", key("/x", "k1")),
            main_case("the route's header", key("/seen", "k1")),
            main_case("nothing forwarded", key("/quiet", "k1")),
            main_case("turned off", get("/off")),
            main_case("h2", key("/p", "zz").h2()),
            main_case("grpc", Req::grpc("/p/y", &["hi"])),
            many("not hidden", "plain", "api_key_auth", vec![key("/p", "k1"), get("/p?k=k1&y")]),
            one("no places", "nowhere", "api_key_auth", key("/p", "k1")),
            one("no keys", "nobody", "api_key_auth", get("/p")),
            one("the route's keys alone", "nobody", "api_key_auth", key("/own", "k3")),
        ])
}
