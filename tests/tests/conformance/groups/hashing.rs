//! Ring hash and maglev: which host a request's hash leads to.

use std::fmt::Write as _;

use crate::driver::{Case, Group, case, get, request::Req, talk};

/// A cluster over four upstreams whose keys do not depend on their ports. Weights are those of `a`, `b`, ..
fn cluster(weights: [u32; 4], unhealthy: &str, more: &str) -> String {
    let mut body = "connect_timeout: 2s\ntype: STATIC\nload_assignment:\n  cluster_name: x\n  endpoints:\n  - lb_endpoints:\n".to_owned();
    for (name, weight) in ["a", "b", "c", "d"].iter().zip(weights) {
        let health = if unhealthy.contains(name) { "UNHEALTHY" } else { "HEALTHY" };
        let _ = writeln!(
            body,
            "    - {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @{{{name}}} }} }}, hostname: host-{name} }}, load_balancing_weight: {weight}, health_status: {health}, metadata: {{ filter_metadata: {{ envoy.lb: {{ hash_key: \"key-{name}\" }} }} }} }}"
        );
    }
    format!("{body}{more}\n")
}

fn typed(kind: &str, name: &str, config: &str) -> String {
    format!(
        "load_balancing_policy:\n  policies:\n  - typed_extension_config:\n      name: p\n      typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.{kind}.v3.{name}, {config} }}\n"
    )
}

const EQUAL: [u32; 4] = [1, 1, 1, 1];

fn clusters() -> Vec<(&'static str, String)> {
    vec![
        ("ring", cluster(EQUAL, "", "lb_policy: RING_HASH")),
        (
            "small",
            cluster(
                EQUAL,
                "",
                "lb_policy: RING_HASH\nring_hash_lb_config: { minimum_ring_size: 3, maximum_ring_size: 6 }",
            ),
        ),
        ("weighted", cluster([1, 2, 5, 7], "", "lb_policy: RING_HASH")),
        (
            "murmur",
            cluster(
                EQUAL,
                "",
                "lb_policy: RING_HASH\nring_hash_lb_config: { hash_function: MURMUR_HASH_2, minimum_ring_size: 64 }",
            ),
        ),
        ("maglev", cluster(EQUAL, "", "lb_policy: MAGLEV")),
        ("tiny", cluster([3, 1, 2, 1], "", "lb_policy: MAGLEV\nmaglev_lb_config: { table_size: 11 }")),
        ("typedring", cluster([2, 1, 1, 3], "", &typed("ring_hash", "RingHash", "minimum_ring_size: 100"))),
        ("typedmaglev", cluster([2, 1, 1, 3], "", &typed("maglev", "Maglev", "table_size: 101"))),
        (
            "own",
            cluster(
                EQUAL,
                "",
                &typed(
                    "ring_hash",
                    "RingHash",
                    "consistent_hashing_lb_config: { hash_policy: [ { header: { header_name: x-own } } ] }",
                ),
            ),
        ),
        ("sick", cluster(EQUAL, "b", "lb_policy: RING_HASH")),
        ("panic", cluster(EQUAL, "bcd", "lb_policy: MAGLEV")),
        (
            "none",
            cluster(
                EQUAL,
                "abcd",
                "lb_policy: RING_HASH\ncommon_lb_config: { healthy_panic_threshold: { value: 0 } }",
            ),
        ),
    ]
}

const POLICIES: [(&str, &str); 9] = [
    ("header", "{ header: { header_name: x-key } }"),
    ("path", "{ header: { header_name: \":path\" } }"),
    (
        "rewritten",
        "{ header: { header_name: x-key, regex_rewrite: { pattern: { regex: \"-.*\" }, substitution: \"\" } } }",
    ),
    ("cookie", "{ cookie: { name: sid } }"),
    ("source", "{ connection_properties: { source_ip: true } }"),
    ("query", "{ query_parameter: { name: q } }"),
    ("two", "{ header: { header_name: x-key } }, { query_parameter: { name: q } }"),
    ("terminal", "{ header: { header_name: x-key }, terminal: true }, { query_parameter: { name: q } }"),
    ("twice", "{ header: { header_name: x-key } }, { header: { header_name: x-key } }"),
];

fn keys(name: &str, path: &str, n: usize) -> Case {
    case(name, (0..n).map(|i| get(path).h("x-key", &format!("user-{i}"))).collect::<Vec<_>>())
}

fn each(name: &str, requests: impl IntoIterator<Item = Req>) -> Case {
    case(name, requests.into_iter().collect::<Vec<_>>())
}

/// Every case compares the host that each request reaches.
pub(crate) fn hashing() -> Group {
    let mut routes = "virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n".to_owned();
    for (name, _) in clusters() {
        let _ = writeln!(
            routes,
            "  - {{ match: {{ prefix: /{name}/ }}, route: {{ cluster: {name}, hash_policy: [ {{ header: {{ header_name: x-key }} }} ] }} }}"
        );
    }
    for (name, policies) in POLICIES {
        let _ = writeln!(
            routes,
            "  - {{ match: {{ prefix: /by/{name} }}, route: {{ cluster: ring, prefix_rewrite: /elsewhere, hash_policy: [ {policies} ] }} }}"
        );
    }
    let _ = writeln!(
        routes,
        "  - {{ match: {{ prefix: /made }}, route: {{ cluster: ring, hash_policy: [ {{ cookie: {{ name: sid, ttl: 60s, path: /p, attributes: [ {{ name: SameSite, value: Lax }}, {{ name: Secure }} ] }} }} ] }} }}"
    );
    let with = |path: &str, values: &[&str], name: &str| {
        values.iter().map(|value| get(path).h(name, value)).collect::<Vec<_>>()
    };
    let mut group = Group::new("hashing")
        .upstreams(&["a", "b", "c", "d"])
        .with(|mut b| {
            for (name, body) in clusters() {
                b = b.cluster(name, &body);
            }
            b.tcp("tcp", "cluster: ring\nhash_policy: [ { source_ip: {} } ]")
        })
        .routes(&routes);
    // What the policy hashes by itself has a case of its own.
    for (name, _) in clusters().into_iter().filter(|(name, _)| *name != "own") {
        let gauges = match name {
            "none" => vec![],
            _ => vec![format!("cluster.{name}.lb_healthy_panic")],
        };
        let mut case = keys(name, &format!("/{name}/"), 16);
        case.stats.extend(gauges);
        group.cases.push(case);
    }
    group.cases([
        each(
            "two values of a header",
            [
                get("/by/header").h("x-key", "one").h("x-key", "two"),
                get("/by/header").h("x-key", "two").h("x-key", "one"),
                get("/by/header").h("x-key", "three").h("x-key", "four"),
            ],
        ),
        each("an empty header", [get("/by/header").h("x-key", "")]),
        each("by path", ["/1", "/2", "/3?x", "/4"].map(|rest| get(&format!("/by/path{rest}")))),
        each("by a rewritten header", with("/by/rewritten", &["a-1", "a-2", "b-1", "c", "d-", "e"], "x-key")),
        each(
            "by cookie",
            with(
                "/by/cookie",
                &["sid=1", "sid=2", "x=1; sid=3", "sid=\"1\"", "sid=4;sid=5", "y; sid=6"],
                "cookie",
            ),
        ),
        each("by source", [get("/by/source"), get("/by/source")]),
        each(
            "by query",
            ["?q=1", "?q=2", "?a=b&q=3&q=4", "?q", "?q=%31"].map(|rest| get(&format!("/by/query{rest}"))),
        ),
        each(
            "two policies",
            [("a", "?q=1"), ("a", "?q=2"), ("b", "?q=1"), ("b", "")]
                .map(|(key, rest)| get(&format!("/by/two{rest}")).h("x-key", key)),
        ),
        each(
            "a terminal one",
            [("a", "?q=1"), ("a", "?q=2"), ("b", "?q=1")]
                .map(|(key, rest)| get(&format!("/by/terminal{rest}")).h("x-key", key)),
        ),
        each("a terminal one that is not there", [get("/by/terminal?q=1"), get("/by/terminal?q=2")]),
        keys("the same twice", "/by/twice", 6),
        each("the policy's own", with("/own/", &["1", "2", "3", "4", "5", "6"], "x-own")),
        each("a cookie that is there makes no other", with("/made", &["sid=abc", "sid=def"], "cookie")),
        each("nothing to hash", [get("/by/header"), get("/by/cookie")]).blur().ignore("body length"),
        case("TCP by source", talk("tcp").send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").responses(1))
            .ignore("date")
            .logs(1),
    ])
}
