//! Local rate limits. Buckets fill so slowly that no run sees it.

use outrider_tests::bootstrap::indent;

use crate::driver::{Group, Req, case, case::Act, get};

const LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const ALWAYS: &str = "filter_enabled: { default_value: { numerator: 100 } }, filter_enforced: { default_value: { numerator: 100 } }";

fn bucket(tokens: u32) -> String {
    format!("token_bucket: {{ max_tokens: {tokens}, tokens_per_fill: 1, fill_interval: 10000s }}")
}

fn route(name: &str, settings: &str) -> String {
    format!(
        "- match: {{ prefix: /{name} }}\n  route: {{ cluster: a }}\n  typed_per_filter_config:\n    limit: {{ \"@type\": {LIMIT}, stat_prefix: \"{name}\", {settings} }}\n"
    )
}

/// `envoy.filters.http.local_ratelimit`
pub(crate) fn local() -> Group {
    let header = |name: &str, key: &str, more: &str| {
        format!(
            "{{ actions: [ {{ request_headers: {{ header_name: {name}, descriptor_key: {key}{more} }} }} ] }}"
        )
    };
    let descriptor = |entries: &[(&str, &str)], tokens: u32| {
        let entries: Vec<String> =
            entries.iter().map(|(key, value)| format!("{{ key: {key}, value: {value:?} }}")).collect();
        format!("{{ entries: [ {} ], {} }}", entries.join(", "), bucket(tokens))
    };
    let described = |rate_limits: &str, descriptors: &[String], more: &str| {
        format!(
            "{}, {ALWAYS}, rate_limits: [ {rate_limits} ], descriptors: [ {} ]{more}",
            bucket(4),
            descriptors.join(", ")
        )
    };
    let user = || [descriptor(&[("user", "a")], 1)];
    let shared = ", always_consume_default_token_bucket: false";
    let routes = [
        route("two", &format!("{}, {ALWAYS}", bucket(2))),
        route("off", &bucket(1)),
        route("never", &format!("{}, filter_enabled: {{ default_value: {{ numerator: 0 }} }}", bucket(1))),
        route(
            "shadow",
            &format!(
                "{}, filter_enabled: {{ default_value: {{ numerator: 100 }} }}, request_headers_to_add_when_not_enforced: [ {{ header: {{ key: x-limited, value: \"%REQ(:path)%\" }} }} ]",
                bucket(1)
            ),
        ),
        route(
            "told",
            &format!(
                "{}, {ALWAYS}, status: {{ code: 503 }}, response_headers_to_add: [ {{ header: {{ key: x-limited, value: \"yes\" }} }}, {{ header: {{ key: x-path, value: \"%REQ(:path)%\" }} }} ]",
                bucket(1)
            ),
        ),
        route("low", &format!("{}, {ALWAYS}, status: {{ code: 200 }}", bucket(1))),
        route("counts", &format!("{}, {ALWAYS}, enable_x_ratelimit_headers: DRAFT_VERSION_03", bucket(2))),
        route(
            "thirds",
            &format!(
                "token_bucket: {{ max_tokens: 1, tokens_per_fill: 3, fill_interval: 20000s }}, {ALWAYS}, enable_x_ratelimit_headers: DRAFT_VERSION_03"
            ),
        ),
        route("later", &format!("{}, {ALWAYS}, enable_retry_after_header: true", bucket(1))),
        route(
            "later-thirds",
            &format!(
                "token_bucket: {{ max_tokens: 1, tokens_per_fill: 3, fill_interval: 20000s }}, {ALWAYS}, enable_retry_after_header: true"
            ),
        ),
        route(
            "later-503",
            &format!("{}, {ALWAYS}, enable_retry_after_header: true, status: {{ code: 503 }}", bucket(1)),
        ),
        route("exhausted", &format!("{}, {ALWAYS}, rate_limited_as_resource_exhausted: true", bucket(1))),
        route("available", &format!("{}, {ALWAYS}", bucket(1))),
        route("user", &described(&header("x-user", "user", ""), &user(), "")),
        route("apart", &described(&header("x-user", "user", ""), &user(), shared)),
        route("open", &described(&header("x-user", "user", ""), &[descriptor(&[("user", "")], 1)], shared)),
        route(
            "both",
            &described(
                &format!("{}, {}", header("x-user", "user", ""), header("x-b", "b", "")),
                &[descriptor(&[("user", "a")], 3), descriptor(&[("b", "b")], 1)],
                shared,
            ),
        ),
        route(
            "pair",
            &described(
                "{ actions: [ { request_headers: { header_name: x-user, descriptor_key: user } }, { generic_key: { descriptor_value: v } }, { request_headers: { header_name: x-b, descriptor_key: b, skip_if_absent: true } } ] }",
                &[
                    descriptor(&[("user", "a"), ("generic_key", "v")], 1),
                    descriptor(&[("user", "a"), ("generic_key", "v"), ("b", "")], 2),
                ],
                shared,
            ),
        ),
        route(
            "kinds",
            &described(
                "{ actions: [ { remote_address: {} }, { source_cluster: {} }, { destination_cluster: {} }, { header_value_match: { descriptor_value: m, headers: [ { name: x-user, present_match: true } ] } }, { query_parameters: { query_parameter_name: q, descriptor_key: q } } ] }",
                &[descriptor(
                    &[
                        ("remote_address", "127.0.0.1"),
                        ("source_cluster", "test-cluster"),
                        ("destination_cluster", "a"),
                        ("header_match", "m"),
                        ("q", "1"),
                    ],
                    1,
                )],
                shared,
            ),
        ),
        "- match: { prefix: / }\n  route: { cluster: a }\n".to_owned(),
    ];
    let manager = |name: &str, own: &str, routes: &str| {
        format!(
            "stat_prefix: {name}\nhttp_filters:\n- name: limit\n  typed_config: {{ \"@type\": {LIMIT}, stat_prefix: own, {own} }}\n- name: router\n  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\nroute_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
            indent(4, routes)
        )
    };
    let times = |path: &str, count: usize| -> Vec<Req> { (0..count).map(|_| get(path)).collect() };
    let users = |path: &str, names: &[&str]| -> Vec<Req> {
        let one = |name: &&str| if name.is_empty() { get(path) } else { get(path).h("x-user", name) };
        names.iter().map(one).collect()
    };
    let one = |name: &str, act: Vec<Req>| {
        let stats = format!("{name}.http_local_rate_limit.*");
        case(name, Act::from(act)).stats(&[&stats])
    };
    Group::new("local rate limit")
        .upstreams(&["a"])
        .http("main", &manager("main", "", &routes.concat()))
        .http(
            "own",
            &manager(
                "own",
                &format!("{}, {ALWAYS}", bucket(2)),
                "- match: { prefix: / }\n  route: { cluster: a }\n",
            ),
        )
        .cases([
            one("two", times("/two", 4)),
            one("off", times("/off", 3)),
            one("never", times("/never", 3)),
            one("shadow", times("/shadow", 3)),
            one("told", times("/told", 2)),
            one("low", times("/low", 2)),
            // How many seconds are left depends on how long a run takes.
            one("counts", times("/counts", 3)).ignore("x-ratelimit-reset"),
            one("thirds", times("/thirds", 2)).ignore("x-ratelimit-reset"),
            one("later", times("/later", 2)).ignore("retry-after"),
            one("later-thirds", times("/later-thirds", 2)).ignore("retry-after"),
            one("later-503", times("/later-503", 2)).ignore("retry-after"),
            one("exhausted", (0..2).map(|_| Req::grpc("/exhausted/x", &["hi"])).collect()),
            one("available", (0..2).map(|_| Req::grpc("/available/x", &["hi"])).collect()),
            one("user", users("/user", &["a", "a", "b", "", "b"])),
            one("apart", users("/apart", &["a", "a", "b", "b", "b", "b", "b", "a"])),
            one("open", users("/open", &["a", "a", "b", "b", "c", "", "a"])),
            one(
                "both",
                vec![
                    get("/both").h("x-user", "a").h("x-b", "b"),
                    get("/both").h("x-user", "a").h("x-b", "b"),
                    get("/both").h("x-user", "a"),
                    get("/both").h("x-user", "a"),
                    get("/both").h("x-user", "a"),
                ],
            ),
            one(
                "pair",
                vec![
                    get("/pair").h("x-user", "a"),
                    get("/pair").h("x-user", "a"),
                    get("/pair").h("x-user", "a").h("x-b", "1"),
                    get("/pair").h("x-user", "a").h("x-b", "1"),
                    get("/pair").h("x-user", "a").h("x-b", "1"),
                    get("/pair").h("x-user", "a").h("x-b", "2"),
                ],
            ),
            one(
                "kinds",
                vec![
                    get("/kinds?q=1").h("x-user", "a"),
                    get("/kinds?q=1").h("x-user", "a"),
                    get("/kinds?q=2").h("x-user", "a"),
                    get("/kinds?q=1"),
                ],
            ),
            one("no limit of its own", times("/none", 3)),
            case("the filter's own", Act::from((0..3).map(|_| get("/x").to("own")).collect::<Vec<_>>()))
                .stats(&["own.http_local_rate_limit.*"]),
        ])
}
