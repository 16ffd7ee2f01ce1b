//! HTTP filters: their chain, and each of them.

use outrider_tests::{bootstrap::indent, reply::Reply};

use crate::driver::{Group, Req, case, get, post, raw, req};

/// Filters as items of `http_filters`: name, type behind `envoy.extensions.filters.http.`, further fields of the
/// filter, and its settings; the router comes last.
fn chain(filters: &[(&str, &str, &str, &str)]) -> String {
    let mut text = String::from("http_filters:\n");
    for (name, kind, more, settings) in filters {
        text.push_str(&format!("- name: {name}\n"));
        text.push_str(&indent(2, more));
        text.push_str(&format!(
            "  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.{kind}\n{}",
            indent(4, settings)
        ));
    }
    text.push_str(
        "- name: envoy.filters.http.router\n  typed_config: \
         { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n",
    );
    text
}

fn manager(filters: &[(&str, &str, &str, &str)], routes: &str) -> String {
    format!("{}route_config:\n{}", chain(filters), indent(2, routes))
}

const MUTATION: &str = "header_mutation.v3.HeaderMutation";
const FORMS: &str = r#"
mutations:
  request_mutations:
  - append: { header: { key: x-by, value: "filter %REQ(x-in)%" } }
  - append: { header: { key: x-over, value: new }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  - append: { header: { key: x-only, value: new }, append_action: OVERWRITE_IF_EXISTS }
  - append: { header: { key: x-absent, value: new }, append_action: ADD_IF_ABSENT }
  - append: { header: { key: x-empty, value: "" } }
  - append: { header: { key: x-kept, value: "" }, keep_empty_value: true }
  - append: { header: { key: x-saw, value: "%REQ(x-over)%" } }
  - remove: x-rm
  - remove_on_match: { key_matcher: { prefix: x-many- } }
  response_mutations:
  - append: { header: { key: x-resp, value: "%RESPONSE_CODE% %REQ(x-in)% %RESP(x-up)% %RESPONSE_CODE_DETAILS%" } }
  - remove: x-rm
  - remove_on_match: { key_matcher: { suffix: -gone } }
  request_trailers_mutations:
  - append: { header: { key: x-trailer, value: "%REQ(x-in)% added" } }
  - remove: x-rm-trailer
  response_trailers_mutations:
  - append: { header: { key: x-trailer, value: "%RESPONSE_CODE% added" } }
  - remove: x-rm-trailer
"#;

/// `envoy.filters.http.header_mutation`
pub(crate) fn header_mutation() -> Group {
    let per_route = |value: &str| {
        format!(
            "typed_per_filter_config: {{ m: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute, mutations: {{ \
             request_mutations: [ {{ append: {{ header: {{ key: x-level, value: {value} }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }} }}, {{ append: {{ header: {{ key: x-order, value: {value} }} }} }} ], \
             response_mutations: [ {{ append: {{ header: {{ key: x-level, value: {value} }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }} }}, {{ append: {{ header: {{ key: x-order, value: {value} }} }} }} ], \
             response_trailers_mutations: [ {{ append: {{ header: {{ key: x-trailer-level, value: {value} }} }} }} ] }} }} }}"
        )
    };
    let levels = format!(
        r#"
{}
virtual_hosts:
- name: all
  domains: ["*"]
  {}
  routes:
  - match: {{ prefix: /route }}
    route: {{ cluster: a }}
    {}
  - match: {{ prefix: /weighted }}
    route:
      weighted_clusters:
        clusters:
        - name: a
          weight: 1
          {}
    {}
  - {{ match: {{ prefix: /direct }}, direct_response: {{ status: 403, body: {{ inline_string: "no" }} }} }}
  - {{ match: {{ prefix: /redirect }}, redirect: {{ path_redirect: /x }} }}
  - {{ match: {{ prefix: /rewritten }}, route: {{ cluster: a }} }}
  - {{ match: {{ prefix: /gone }}, route: {{ cluster: gone }} }}
  - {{ match: {{ prefix: /h2 }}, route: {{ cluster: h2 }} }}
  - {{ match: {{ prefix: / }}, route: {{ cluster: a }} }}
"#,
        per_route("table"),
        per_route("host"),
        per_route("route"),
        per_route("cluster"),
        per_route("route"),
    );
    let own = "mutations: { request_mutations: [ { append: { header: { key: x-order, value: own } } } ] }";
    let wins = format!("{own}\nmost_specific_header_mutations_wins: true");
    let query = r#"
mutations:
  query_parameter_mutations:
  - append: { record: { key: added, value: "%REQ(x-in)%" } }
  - append: { record: { key: twice, value: two } }
  - append: { record: { key: absent, value: new }, action: ADD_IF_ABSENT }
  - append: { record: { key: over, value: "a b&c" }, action: OVERWRITE_IF_EXISTS_OR_ADD }
  - append: { record: { key: only, value: new }, action: OVERWRITE_IF_EXISTS }
  - remove: rm
"#;
    let plain = "virtual_hosts:\n- name: all\n  domains: [ \"some.host\", \"test.host\", \"other.host\" ]\n  routes:\n  \
                 - { match: { prefix: /direct }, direct_response: { status: 403, body: { inline_string: \"no\" } } }\n  \
                 - { match: { prefix: /gone }, route: { cluster: gone } }\n  \
                 - { match: { prefix: /h2 }, route: { cluster: h2 } }\n  \
                 - { match: { prefix: /a }, route: { cluster: a } }\n";
    let get = |path: &str| get(path).h("x-in", "in");
    let full = || {
        get("/a")
            .h("x-over", "old")
            .h("x-only", "old")
            .h("x-absent", "old")
            .h("x-rm", "1")
            .h("x-many-a", "1")
            .h("x-many-b", "2")
    };
    let up = || Reply::text("ok").header("x-up", "up").header("x-rm", "1").header("x-gone", "1");
    let trailers = || Reply::text("ok").trailer("x-up", "1").trailer("x-rm-trailer", "1");
    Group::new("header_mutation")
        .upstreams(&["a"])
        .with(|b| b.hosts("gone", &[], "").hosts("h2", &["a"], crate::driver::case::H2_CLUSTER))
        .http("main", &manager(&[("m", MUTATION, "", FORMS)], plain))
        .http("levels", &manager(&[("m", MUTATION, "", own)], &levels))
        .http("wins", &manager(&[("m", MUTATION, "", &wins)], &levels))
        .http("query", &manager(&[("m", MUTATION, "", query)], plain))
        .cases([
            case("all forms", full()).reply(up()),
            case("absent headers", get("/a")).reply(up()),
            case("a reply of the proxy", get("/direct")),
            case("no route", get("/none")),
            case("no healthy upstream", get("/gone")),
            case("a bad request", raw("GET /a HTTP/1.1\r\n\r\n")),
            case("over h2", full().h2()).reply(up()),
            case(
                "trailers",
                post("/h2", "x").h2().h("x-in", "in").trailer("x-rm-trailer", "1").trailer("x-t", "1"),
            )
            .reply(trailers()),
            case("trailers only", Req::grpc("/h2", &["x"])).reply(
                Reply::status(200)
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "7")
                    .head_only(),
            ),
            case("no trailers", get("/h2").h2()).reply(up()),
            case("route level", get("/route").to("levels")),
            case("weighted level", get("/weighted").to("levels")),
            case("host level", get("/other").to("levels")),
            case("direct response", get("/direct").to("levels")),
            case("redirect", get("/redirect").to("levels")),
            case("trailers at levels", get("/h2").h2().to("levels")).reply(trailers()),
            case("most specific wins", get("/route").to("wins")),
            case("most specific wins, weighted", get("/weighted").to("wins")),
            case("query without parameters", get("/a").to("query")),
            case("query with all", get("/a?z=1&twice=one&absent=old&over=old&only=old&rm=1&b").to("query")),
            case("query encoded", get("/a?sp=a%20b&pl=a+b&am=%26&e=").to("query")),
        ])
}

const CORS: &str = "cors.v3.Cors";

/// `envoy.filters.http.cors`
pub(crate) fn cors() -> Group {
    let policy = |more: &str| {
        format!(
            "typed_per_filter_config: {{ cors: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy, {more} }} }}"
        )
    };
    let host = policy(
        "allow_origin_string_match: [ { exact: https://good.example } ], allow_methods: \"GET, POST\", max_age: \"600\", allow_credentials: true, expose_headers: x-host",
    );
    let rows = [
        ("/host", String::new()),
        (
            "/route",
            policy(
                "allow_origin_string_match: [ { suffix: .example, ignore_case: true } ], allow_headers: \"*\", allow_methods: \"*\", expose_headers: \"x-a,x-b\", allow_credentials: false",
            ),
        ),
        (
            "/star",
            policy("allow_origin_string_match: [ { exact: \"*\" } ], allow_private_network_access: true"),
        ),
        ("/strict", policy("allow_headers: x-one, forward_not_matching_preflights: false")),
        ("/off", policy("filter_enabled: { default_value: { numerator: 0 } }")),
        (
            "/shadow",
            policy(
                "filter_enabled: { default_value: { numerator: 0 } }, shadow_enabled: { default_value: { numerator: 100 } }",
            ),
        ),
        (
            "/both",
            policy(
                "filter_enabled: { default_value: { numerator: 100 } }, shadow_enabled: { default_value: { numerator: 100 } }",
            ),
        ),
        (
            "/regex",
            policy(
                "allow_origin_string_match: [ { safe_regex: { regex: \"https://[a-z]+\\\\.example\" } } ]",
            ),
        ),
    ];
    let mut routes = format!("virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  {host}\n  routes:\n");
    for (path, policy) in rows {
        routes.push_str(&format!("  - match: {{ prefix: {path} }}\n    route: {{ cluster: a }}\n    response_headers_to_add: [ {{ header: {{ key: x-route, value: r }} }} ]\n    {policy}\n"));
    }
    routes.push_str(
        "  - { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: x } } }\n",
    );
    let none = "virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n  - { match: { prefix: / }, route: { cluster: a } }\n";
    let simple = |path: &str, origin: &str| get(path).h("origin", origin);
    let preflight = |path: &str, origin: &str| {
        req("OPTIONS", path)
            .h("origin", origin)
            .h("access-control-request-method", "PUT")
            .h("access-control-request-headers", "x-q, x-p")
    };
    let good = "https://good.example";
    let bad = "https://bad.test";
    let stats = &["http.main.cors.*", "http.main.downstream_rq_2xx", "cluster.a.upstream_rq_total"];
    let mut cases = Vec::new();
    for path in ["/host", "/route", "/star", "/strict", "/off", "/shadow", "/both", "/regex", "/direct"] {
        for origin in [good, bad] {
            cases.push(case(&format!("simple {path} {origin}"), simple(path, origin)).stats(stats));
            cases.push(case(&format!("preflight {path} {origin}"), preflight(path, origin)).stats(stats));
        }
    }
    cases.extend([
        case("no origin", get("/host")).stats(stats),
        case("empty origin", simple("/host", "")).stats(stats),
        case("null origin", simple("/star", "null")).stats(stats),
        case("the upstream's headers are replaced", simple("/host", good)).reply(
            Reply::text("x")
                .header("access-control-allow-origin", "*")
                .header("access-control-allow-credentials", "false")
                .header("access-control-expose-headers", "up"),
        ),
        case("OPTIONS without a method", req("OPTIONS", "/host").h("origin", good)).stats(stats),
        case("private network", preflight("/star", good).h("access-control-request-private-network", "true")),
        case(
            "private network not asked",
            preflight("/star", good).h("access-control-request-private-network", "1"),
        ),
        case(
            "nothing asked for headers",
            req("OPTIONS", "/route").h("origin", good).h("access-control-request-method", "PUT"),
        ),
        case("preflight over h2", preflight("/host", good).h2()),
        case("no policy", preflight("/x", good).to("none")),
        case("preflight with a body", preflight("/host", good).piece("body")),
        case("no route", simple("/nowhere", good)),
    ]);
    Group::new("cors")
        .upstreams(&["a"])
        .http("main", &manager(&[("cors", CORS, "", "")], &routes))
        .http("none", &manager(&[("cors", CORS, "", "")], none))
        .cases(cases)
}

/// The chain: which filters work where, in which order, and on which messages.
pub(crate) fn chains() -> Group {
    let mark = |value: &str| {
        format!(
            "mutations: {{ request_mutations: [ {{ append: {{ header: {{ key: x-mark, value: {value} }} }} }} ], response_mutations: [ {{ append: {{ header: {{ key: x-mark, value: {value} }} }} }} ] }}"
        )
    };
    let (one, two, off) = (mark("one"), mark("two"), mark("idle"));
    let filters = [
        ("one", MUTATION, "", one.as_str()),
        ("idle", MUTATION, "disabled: true", off.as_str()),
        ("cors", CORS, "", ""),
        ("two", MUTATION, "", two.as_str()),
        ("two", MUTATION, "is_optional: true", two.as_str()),
    ];
    let config = |what: &str| {
        format!("{{ \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, {what} }}")
    };
    let policy = "{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy, allow_origin_string_match: [ { exact: \"*\" } ] }";
    let own = format!(
        "{{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute, {} }}",
        mark("route")
    );
    let rows = [
        ("/plain", String::new()),
        ("/disabled", format!("one: {}", config("disabled: true"))),
        ("/enabled", format!("idle: {}", config("config: {}"))),
        ("/set", format!("idle: {own}")),
        ("/wrapped", format!("idle: {}", config(&format!("config: {own}")))),
        ("/twice", format!("two: {own}")),
        ("/both", format!("two: {}", config("disabled: true"))),
        ("/other", format!("unheard: {own}, one: {policy}")),
        (
            "/optional",
            format!(
                "one: {}",
                config(
                    "is_optional: true, config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }"
                )
            ),
        ),
        ("/again", format!("one: {}", config("config: {}"))),
    ];
    let mut routes = String::from("virtual_hosts:\n");
    for (name, host) in [("plain", String::new()), ("no-one", format!("one: {}", config("disabled: true")))] {
        routes.push_str(&format!(
            "- name: {name}\n  domains: [\"{name}.host\"]\n  typed_per_filter_config: {{ cors: {policy}{}{host} }}\n  routes:\n",
            if host.is_empty() { "" } else { ", " }
        ));
        for (path, what) in &rows {
            let what = if what.is_empty() {
                String::new()
            } else {
                format!("typed_per_filter_config: {{ {what} }}")
            };
            routes.push_str(&format!(
                "  - match: {{ prefix: {path} }}\n    route: {{ cluster: a }}\n    {what}\n"
            ));
        }
    }
    let mut cases = Vec::new();
    for host in ["plain.host", "no-one.host"] {
        for (path, _) in &rows {
            cases.push(case(&format!("{host} {path}"), get(path).host(host)));
        }
    }
    cases.extend([
        case("no route passes all", get("/nowhere").host("plain.host")),
        case("no host passes all", get("/plain").host("nobody.host")),
        case("a bad request passes all", raw("GET /plain HTTP/1.1\r\n\r\n")),
        case(
            "an answer passes those behind it",
            req("OPTIONS", "/plain")
                .host("plain.host")
                .h("origin", "x")
                .h("access-control-request-method", "GET"),
        ),
        case("nonsense passes all", raw("NONSENSE\r\n\r\n")),
    ]);
    Group::new("chains").upstreams(&["a"]).http("main", &manager(&filters, &routes)).cases(cases)
}

const FAULT: &str = "fault.v3.HTTPFault";

/// `envoy.filters.http.fault`
pub(crate) fn fault() -> Group {
    let per_route = |what: &str| {
        format!(
            "typed_per_filter_config: {{ envoy.filters.http.fault: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, {what} }} }}"
        )
    };
    let all = "percentage: { numerator: 100 }";
    let never = "percentage: { numerator: 0 }";
    let rows = [
        ("/abort", format!("abort: {{ http_status: 418, {all} }}")),
        ("/never", format!("abort: {{ http_status: 418, {never} }}, delay: {{ fixed_delay: 9s, {never} }}")),
        ("/body", format!("abort: {{ http_status: 503, response_body: \"own words\", {all} }}")),
        (
            "/million",
            "abort: { http_status: 500, percentage: { numerator: 1000000, denominator: MILLION } }".into(),
        ),
        ("/grpc", format!("abort: {{ grpc_status: 8, {all} }}")),
        (
            "/header",
            format!("abort: {{ header_abort: {{}}, {all} }}, delay: {{ header_delay: {{}}, {all} }}"),
        ),
        ("/half", "abort: { header_abort: {}, percentage: { numerator: 0 } }".into()),
        ("/delay", format!("delay: {{ fixed_delay: 0.05s, {all} }}")),
        ("/both", format!("delay: {{ fixed_delay: 0.05s, {all} }}, abort: {{ http_status: 429, {all} }}")),
        ("/cluster", format!("abort: {{ http_status: 418, {all} }}, upstream_cluster: b")),
        (
            "/headers",
            format!(
                "abort: {{ http_status: 418, {all} }}, headers: [ {{ name: x-fault, string_match: {{ exact: \"yes\" }} }}, {{ name: x-other, present_match: true }} ]"
            ),
        ),
        ("/nodes", format!("abort: {{ http_status: 418, {all} }}, downstream_nodes: [ one, two ]")),
        ("/full", format!("abort: {{ http_status: 418, {all} }}, max_active_faults: 0")),
        ("/room", format!("abort: {{ http_status: 418, {all} }}, max_active_faults: 1")),
        ("/quiet", format!("abort: {{ http_status: 418, {all} }}, disable_downstream_cluster_stats: true")),
        ("/meta", format!("abort: {{ http_status: 418, {all} }}, filter_metadata: {{ hello: world, n: 1 }}")),
        ("/limit", format!("response_rate_limit: {{ fixed_limit: {{ limit_kbps: 1 }}, {all} }}")),
        ("/slow", format!("response_rate_limit: {{ header_limit: {{}}, {all} }}")),
        ("/h2", format!("response_rate_limit: {{ fixed_limit: {{ limit_kbps: 1 }}, {all} }}")),
        ("/none", "max_active_faults: 5".into()),
    ];
    let mut routes = String::from("virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n");
    for (path, what) in rows {
        let cluster = if path == "/h2" { "h2" } else { "a" };
        routes.push_str(&format!(
            "  - match: {{ prefix: {path} }}\n    route: {{ cluster: {cluster} }}\n    response_headers_to_add: [ {{ header: {{ key: x-route, value: r }} }} ]\n    {}\n",
            per_route(&what)
        ));
    }
    routes.push_str(
        "  - { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: ok } } }\n",
    );
    routes.push_str("  - { match: { prefix: / }, route: { cluster: a } }\n");
    let own =
        format!("abort: {{ http_status: 500, {all} }}\nheaders: [ {{ name: x-own, present_match: true }} ]");
    let log = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% [%DYNAMIC_METADATA(envoy.filters.http.fault)%] [%DYNAMIC_METADATA(envoy.filters.http.fault:hello)%] %METADATA(DYNAMIC:envoy.filters.http.fault:n)%";
    let noted = format!(
        "{}{}",
        manager(&[("envoy.filters.http.fault", FAULT, "", &own)], &routes),
        outrider_tests::bootstrap::access_log(log)
    );
    let stats = &["http.main.fault.*", "cluster.a.upstream_rq_total", "http.main.downstream_rq_4xx"];
    let one = |name: &str, path: &str| case(name, get(path)).stats(stats);
    let with = |name: &str, path: &str, headers: &[(&str, &str)]| {
        let request = headers.iter().fold(get(path), |request, (name, value)| request.h(name, value));
        case(name, request).stats(stats)
    };
    let abort = "x-envoy-fault-abort-request";
    let grpc = "x-envoy-fault-abort-grpc-request";
    let delay = "x-envoy-fault-delay-request";
    Group::new("fault")
        .upstreams(&["a"])
        .with(|b| b.hosts("h2", &["a"], crate::driver::case::H2_CLUSTER))
        .http("main", &manager(&[("envoy.filters.http.fault", FAULT, "", &own)], &routes))
        .http("noted", &noted)
        .cases([
            one("abort", "/abort"),
            case("abort over h2", get("/abort").h2()),
            case("abort of a call", Req::grpc("/abort", &["x"])),
            case("abort of HEAD", req("HEAD", "/abort")),
            case("abort with a body", post("/abort", "body")),
            one("never", "/never"),
            one("body", "/body"),
            one("of a million", "/million"),
            one("grpc status of a plain request", "/grpc"),
            case("grpc status of a call", Req::grpc("/grpc", &["x"])),
            one("header absent", "/header"),
            with("header", "/header", &[(abort, "451")]),
            with("header out of range", "/header", &[(abort, "600")]),
            with("header not a number", "/header", &[(abort, "abc")]),
            with(
                "header with a share",
                "/header",
                &[(abort, "451"), ("x-envoy-fault-abort-request-percentage", "0")],
            ),
            with(
                "header with a share above",
                "/half",
                &[(abort, "451"), ("x-envoy-fault-abort-request-percentage", "100")],
            ),
            with("header for grpc", "/header", &[(grpc, "5")]),
            case("header for grpc of a call", Req::grpc("/header", &["x"]).h(grpc, "5")),
            case("both headers of a call", Req::grpc("/header", &["x"]).h(grpc, "5").h(abort, "403")),
            with("header delays", "/header", &[(delay, "30")]),
            with(
                "header delays not",
                "/header",
                &[(delay, "30"), ("x-envoy-fault-delay-request-percentage", "0")],
            ),
            with("header delays by nothing", "/header", &[(delay, "0")]),
            one("delay", "/delay"),
            case("delay with a body", post("/delay", "body")),
            one("delay and abort", "/both"),
            one("another cluster", "/cluster"),
            one("headers absent", "/headers"),
            with("headers", "/headers", &[("x-fault", "yes"), ("x-other", "")]),
            with("one header of two", "/headers", &[("x-fault", "yes")]),
            one("node absent", "/nodes"),
            with("node", "/nodes", &[("x-envoy-downstream-service-node", "two")]),
            with("another node", "/nodes", &[("x-envoy-downstream-service-node", "three")]),
            one("no room", "/full"),
            one("room for one", "/room"),
            with("by the caller's cluster", "/both", &[("x-envoy-downstream-service-cluster", "caller")]),
            with(
                "not by the caller's cluster",
                "/quiet",
                &[("x-envoy-downstream-service-cluster", "caller")],
            ),
            case("limited", get("/limit")).reply(Reply::text(&"x".repeat(120))).stats(stats),
            case("limited with trailers", get("/h2").h2())
                .reply(Reply::text(&"x".repeat(120)).trailer("x-t", "1")),
            case("limited by a header", get("/slow").h("x-envoy-fault-throughput-response", "1"))
                .reply(Reply::text(&"x".repeat(120)))
                .stats(stats),
            case("limited by no header", get("/slow")).reply(Reply::text(&"x".repeat(120))).stats(stats),
            one("nothing", "/none"),
            with("the filter's own", "/", &[("x-own", "1")]),
            with("the filter's own on a direct response", "/direct", &[("x-own", "1")]),
            with("a route's in place of the filter's own", "/none", &[("x-own", "1")]),
            with("no route", "/nowhere", &[]),
            case("metadata", get("/meta").to("noted")),
            case("no metadata", get("/abort").to("noted")),
        ])
}

const GRPC_STATS: &str = "grpc_stats.v3.FilterConfig";

/// `envoy.filters.http.grpc_stats`
pub(crate) fn grpc_stats() -> Group {
    let routes = "virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n  \
                  - { match: { prefix: /direct }, direct_response: { status: 403 } }\n  \
                  - { match: { prefix: /gone/ }, route: { cluster: gone } }\n  \
                  - { match: { prefix: / }, route: { cluster: h2 } }\n";
    let stats = "grpc_stats";
    let log = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %FILTER_STATE(envoy.filters.http.grpc_stats)% %FILTER_STATE(envoy.filters.http.grpc_stats:TYPED)% \
               %FILTER_STATE(envoy.filters.http.grpc_stats:PLAIN)% %FILTER_STATE(envoy.filters.http.grpc_stats:FIELD:request_message_count)% %FILTER_STATE(nothing)%";
    let with = |settings: &str| {
        let manager = manager(&[(stats, GRPC_STATS, "", settings)], routes);
        format!("{manager}{}", outrider_tests::bootstrap::access_log(log))
    };
    let listed =
        "individual_method_stats_allowlist: { services: [ { name: s.v1.Three, method_names: [ a, b ] } ] }";
    let counted = &["cluster.h2.grpc.*", "cluster.gone.grpc.*"];
    let one = |name: &str, to: &str, path: &str, messages: &[&str]| {
        case(name, Req::grpc(path, messages).to(to)).stats(counted)
    };
    let mut cases = Vec::new();
    cases.push(one("listed", "listed", "/s.v1.Three/a", &["x"]).reply(Reply::grpc(&["1"], "0")));
    for to in ["main", "all", "dots", "listed"] {
        for path in ["/s.v1.One/a", "/s.v1.One/z", "/s.v1.Two/a?x=1", "/s", "/s/m/x"] {
            cases.push(
                one(&format!("{to} {path}"), to, path, &["one", "two"])
                    .reply(Reply::grpc(&["1", "2", "3"], "0")),
            );
        }
    }
    cases.extend([
        one("a status", "main", "/s/m", &["x"]).reply(Reply::grpc(&[], "7")),
        one("an unknown status", "main", "/s/m", &["x"]).reply(Reply::grpc(&["x"], "42")),
        one("trailers only", "main", "/s/m", &["x"]).reply(
            Reply::status(200)
                .header("content-type", "application/grpc")
                .header("grpc-status", "5")
                .head_only(),
        ),
        one("no status", "main", "/s/m", &["x"])
            .reply(Reply::status(200).header("content-type", "application/grpc").body("x")),
        one("not gRPC answers", "main", "/s/m", &["x"]).reply(Reply::status(503).body("down")),
        one("a reply of the proxy", "main", "/direct/x", &["x"]),
        one("no healthy upstream", "main", "/gone/x", &["x"]),
        one("no messages", "main", "/s/m", &[]).reply(Reply::grpc(&[], "0")),
        case("not a call", get("/s/m").h2()).stats(counted),
    ]);
    Group::new("grpc_stats")
        .upstreams(&["a"])
        .with(|b| {
            b.hosts("h2", &["a"], crate::driver::case::H2_CLUSTER).hosts(
                "gone",
                &[],
                crate::driver::case::H2_CLUSTER,
            )
        })
        .http("main", &with("emit_filter_state: true"))
        .http("all", &with("stats_for_all_methods: true\nenable_upstream_stats: true"))
        .http("dots", &with("stats_for_all_methods: true\nreplace_dots_in_grpc_service_name: true"))
        .http("listed", &with(listed))
        .cases(cases)
}

/// The runtime keys of fault injection.
pub(crate) fn fault_runtime() -> Group {
    let layer = "layered_runtime: { layers: [ { name: one, static_layer: { \
                 fault.http.abort.abort_percent: 100.5, fault.http.abort.http_status: 451.5, \
                 fault.http.delay.fixed_delay_percent: 100, fault.http.delay.fixed_duration_ms: 20, \
                 fault.http.max_active_faults: 3, own.abort: 0, own.status: 444, \
                 fault.http.caller.abort.http_status: 402, fault.http.caller.delay.fixed_duration_ms: 5, \
                 fault.http.caller.abort.abort_percent: 100, fault.http.caller.delay.fixed_delay_percent: 100, \
                 fault.http.other.abort.abort_percent: 100, fault.http.other.delay.fixed_delay_percent: 100, \
                 fault.http.rate_limit.response_percent: 0, own.full: 0 } } ] }";
    let per_route = |path: &str, what: &str| {
        format!(
            "  - match: {{ prefix: {path} }}\n    route: {{ cluster: a }}\n    typed_per_filter_config: {{ fault: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, {what} }} }}\n"
        )
    };
    let never = "percentage: { numerator: 0 }";
    let all = "percentage: { numerator: 100 }";
    let routes = [
        "virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n".to_owned(),
        per_route("/abort", &format!("abort: {{ http_status: 418, {never} }}")),
        per_route("/delay", &format!("delay: {{ fixed_delay: 60s, {never} }}")),
        per_route("/own", &format!("abort: {{ http_status: 418, {all} }}, abort_percent_runtime: own.abort")),
        per_route(
            "/status",
            &format!("abort: {{ http_status: 418, {all} }}, abort_http_status_runtime: own.status"),
        ),
        per_route(
            "/full",
            &format!("abort: {{ http_status: 418, {all} }}, max_active_faults_runtime: own.full"),
        ),
        per_route("/limit", &format!("response_rate_limit: {{ fixed_limit: {{ limit_kbps: 1 }}, {all} }}")),
    ]
    .concat();
    let stats = &["http.main.fault.*"];
    let caller = "x-envoy-downstream-service-cluster";
    Group::new("fault_runtime")
        .upstreams(&["a"])
        .with(|b| b.top(layer))
        .http("main", &manager(&[("fault", FAULT, "", "")], &routes))
        .cases([
            case("abort", get("/abort")).stats(stats),
            case("delay", get("/delay")).stats(stats),
            case("a key of one's own", get("/own")).stats(stats),
            case("a status of one's own", get("/status")).stats(stats),
            case("no room", get("/full")).stats(stats),
            case("not limited", get("/limit")).reply(Reply::text(&"x".repeat(200))).stats(stats),
            case("by the caller's cluster", get("/abort").h(caller, "caller")).stats(stats),
            case("delay by the caller's cluster", get("/delay").h(caller, "caller")).stats(stats),
            case("by another cluster", get("/abort").h(caller, "other")).stats(stats),
            case("delay by another cluster", get("/delay").h(caller, "other")).stats(stats),
            case("by an unknown cluster", get("/abort").h(caller, "unknown")).stats(stats),
            case("status by an unknown cluster", get("/status").h(caller, "unknown")).stats(stats),
        ])
}

/// `envoy.filters.http.health_check`
pub(crate) fn health_check() -> Group {
    let routes = "virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n  - { match: { prefix: / }, route: { cluster: a } }\n";
    let path = "headers: [ { name: \":path\", string_match: { exact: /healthz } } ]";
    let with = |what: &str| {
        manager(&[("hc", "health_check.v3.HealthCheck", "", &format!("{what}\n{path}"))], routes)
    };
    let of = |shares: &str| {
        with(&format!("pass_through_mode: false\ncluster_min_healthy_percentages: {{ {shares} }}"))
    };
    let skipped = with("pass_through_mode: false").replace(
        "route_config:",
        "access_log:\n- name: f\n  filter: { not_health_check_filter: {} }\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: @{dir}/access.log\n    log_format: { text_format_source: { inline_string: \"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %REQ(:PATH)%\\n\" } }\nroute_config:",
    );
    let stats = &["http.main.downstream_rq_*", "cluster.a.upstream_rq_total", "http.main.rq_total"];
    let check = |name: &str, to: &str| case(name, get("/healthz").to(to)).stats(stats);
    Group::new("health_check")
        .upstreams(&["a", "b"])
        .with(|b| {
            b.hosts("empty", &[], "").cluster(
                "half",
                "connect_timeout: 1s\ntype: STATIC\nload_assignment: { cluster_name: half, endpoints: [ { lb_endpoints: [ { health_status: UNHEALTHY, endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @{a} } } } }, { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @{b} } } } } ] } ] }\n",
            )
        })
        .http("main", &with("pass_through_mode: false"))
        .http("through", &with("pass_through_mode: true"))
        .http("cached", &with("pass_through_mode: true\ncache_time: 3600s"))
        .http("one", &of("a: { value: 100 }"))
        .http("half", &of("half: { value: 50 }"))
        .http("more", &of("half: { value: 51.5 }"))
        .http("empty", &of("empty: { value: 1 }"))
        .http("zero", &of("empty: { value: 0 }"))
        .http("absent", &of("nobody: { value: 1 }"))
        .http("skipped", &skipped)
        .cases([
            check("answered", "main"),
            case("answered with a body", post("/healthz", "x")).stats(stats),
            case("something else", get("/other")).stats(stats),
            check("passed through", "through"),
            case("passed through to a bad one", get("/healthz").to("through")).reply(Reply::status(503)).stats(stats),
            case("remembered", vec![get("/healthz").to("cached"), get("/healthz").to("cached")])
                .reply(Reply::status(404).header("x-envoy-degraded", "1"))
                .stats(stats),
            check("healthy", "one"),
            check("half", "half"),
            check("less than half", "more"),
            check("empty", "empty"),
            check("empty will do", "zero"),
            check("absent", "absent"),
            case("not logged", vec![get("/healthz").to("skipped"), get("/other").to("skipped")]).logs(1),
        ])
}
