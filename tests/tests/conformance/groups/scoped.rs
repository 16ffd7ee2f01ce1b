//! Scoped routes: which route table a request's own key chooses.

use outrider_tests::bootstrap::indent;

use crate::driver::{Case, Group, case, case::Act, get};

/// A scope whose table answers everything by the scope's name.
fn scope(name: &str, key: &[&str]) -> String {
    let fragments: Vec<String> = key.iter().map(|part| format!("{{ string_key: {part:?} }}")).collect();
    format!(
        "- name: {name}\n  key: {{ fragments: [ {} ] }}\n  route_configuration:\n    name: routes-{name}\n    \
         internal_only_headers: [ x-inside ]\n    virtual_hosts:\n    - name: {name}\n      domains: [ \"{name}.test\", \"main\", \"s\" ]\n      \
         routes:\n      - match: {{ prefix: /up }}\n        route: {{ cluster: a }}\n      \
         - match: {{ prefix: / }}\n        direct_response: {{ status: 200, body: {{ inline_string: \"{name}\" }} }}\n",
        fragments.join(", ")
    )
}

fn scoped(fragments: &str, scopes: &[String]) -> String {
    format!(
        "scoped_routes:\n  name: scopes\n  scope_key_builder:\n    fragments:\n{}  scoped_route_configurations_list:\n    \
         scoped_route_configurations:\n{}",
        indent(4, fragments),
        indent(4, &scopes.concat())
    )
}

fn of(listener: &'static str, name: &str, value: &str) -> Case {
    case(name, get("/").host("s").h("x-scope", value).to(listener))
}

/// Scopes that are in the bootstrap.
pub(crate) fn scopes() -> Group {
    let by_index = "- header_value_extractor: { name: X-Scope, element_separator: \",\", index: 1 }\n";
    let by_key = "- header_value_extractor: { name: x-scope, element_separator: \";\", element: { separator: \"=\", key: vip } }\n";
    let whole = "- header_value_extractor: { name: x-scope, element: { separator: \"=\", key: vip } }\n";
    let by_host = "- header_value_extractor: { name: \":authority\", index: 0 }\n";
    let two = "- header_value_extractor: { name: x-scope, index: 0 }\n- header_value_extractor: { name: x-other, index: 0 }\n";
    let (one, other, empty) = (scope("one", &["1"]), scope("other", &["2"]), scope("empty", &[""]));
    let all = [one.clone(), other.clone(), empty];
    Group::new("scoped")
        .upstreams(&["a"])
        .http("main", &scoped(by_index, &all))
        .http("key", &scoped(by_key, &all))
        .http("whole", &scoped(whole, &all))
        .http("host", &scoped(by_host, &[scope("one", &["one.test"]), scope("other", &["other.test"])]))
        .http(
            "two",
            &scoped(two, &[scope("one", &["1", "a"]), scope("other", &["1a", ""]), scope("short", &["1"])]),
        )
        .http(
            "double",
            &scoped(by_index, &[one.clone(), scope("again", &["1"]), other, scope("other", &["3"])]),
        )
        .cases([
            of("main", "by place", "x,1"),
            of("main", "by place, the other", "x,2,y"),
            of("main", "by place, not there", "1"),
            of("main", "by place, empty", "x,"),
            of("main", "by place, of no scope", "x,9"),
            of("main", "by place, with a space", "x, 1"),
            case("no header", get("/").host("s")).stats(&["http.main.no_route"]),
            case("two headers", get("/").host("s").h("x-scope", "x,1").h("x-scope", "y,2")),
            case("two headers that make a list", get("/").host("s").h("x-scope", "x").h("x-scope", "1")),
            case("no scope over h2", get("/").host("s").h2()),
            case("no virtual host in the scope", get("/").host("none.test").h("x-scope", "x,1")),
            case("to an upstream", get("/up").host("s").h("x-scope", "x,1").h("x-inside", "1")),
            of("key", "by key", "vip=1"),
            of("key", "by key, among others", "a=2;vip=1;vip=2"),
            of("key", "by key, without a value", "a=2;vip"),
            of("key", "by key, behind empty elements", ";;vip=2"),
            of("key", "by key, not there", "a=1"),
            of("key", "by key, of another case", "VIP=1"),
            of("key", "by key, a value with the separator", "vip=1=2"),
            of("whole", "by key, the whole value", "vip=1"),
            of("whole", "by key, the whole value with more", "vip=1;a=2"),
            case("by host", get("/").host("one.test").to("host")),
            case("by host, the other", get("/").host("other.test").to("host")),
            case("by host, of no scope", get("/").host("s").to("host")),
            case("two fragments", get("/").host("s").h("x-scope", "1").h("x-other", "a").to("two")),
            case(
                "two fragments, split elsewhere",
                get("/").host("s").h("x-scope", "1a").h("x-other", "").to("two"),
            ),
            case("two fragments, one missing", get("/").host("s").h("x-scope", "1").to("two")),
            of("double", "a key twice", "x,1"),
            of("double", "a name twice, its first key", "x,2"),
            of("double", "a name twice, its second key", "x,3"),
            case(
                "dump",
                Act::Admin(
                    "GET",
                    "/config_dump?resource=inline_scoped_route_configs",
                    &["scoped", "name", "key"],
                ),
            ),
        ])
}
