//! Which route a request takes.

use crate::driver::{Case, Group, case, get, req};

/// A route that answers by its own name.
fn answers(name: &str, matches: &str) -> String {
    format!(
        "  - name: {name}\n    match: {{ {matches} }}\n    direct_response: {{ status: 200, body: {{ inline_string: \"{name}\" }} }}\n"
    )
}

fn table(rows: &[(&str, &str)]) -> String {
    let routes: String = rows.iter().map(|(name, matches)| answers(name, matches)).collect();
    format!("virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n{routes}")
}

/// Path matchers.
pub(crate) fn paths() -> Group {
    let routes = table(&[
        ("exact", "path: /exact"),
        ("exact-nocase", "path: /Mixed, case_sensitive: false"),
        ("prefix", "prefix: /prefix/"),
        ("prefix-nocase", "prefix: /PreNo, case_sensitive: false"),
        ("separated", "path_separated_prefix: /sep"),
        ("separated-nocase", "path_separated_prefix: /SepNo, case_sensitive: false"),
        ("regex", r#"safe_regex: { regex: "/re/[0-9]+" }"#),
        ("regex-old-form", r#"safe_regex: { google_re2: {}, regex: "/old/[a-z]{2,3}" }"#),
        ("first", "prefix: /order"),
        ("second", "path: /order/exact"),
        ("query-exact", r#"path: /q, query_parameters: [ { name: a, string_match: { exact: "1" } } ]"#),
        (
            "query-regex",
            r#"path: /q, query_parameters: [ { name: b, string_match: { safe_regex: { regex: "x+" } } } ]"#,
        ),
        ("query-present", "path: /q, query_parameters: [ { name: c, present_match: true } ]"),
        ("query-absent", "path: /q2, query_parameters: [ { name: c, present_match: false } ]"),
        (
            "query-two",
            r#"path: /q3, query_parameters: [ { name: a, string_match: { prefix: "1" } }, { name: b, string_match: { suffix: "z", ignore_case: true } } ]"#,
        ),
        ("never", "prefix: /rt, runtime_fraction: { default_value: { numerator: 0 } }"),
        (
            "always",
            "prefix: /rt, runtime_fraction: { default_value: { numerator: 1000000, denominator: MILLION } }",
        ),
        ("grpc", "prefix: /g, grpc: {}"),
        ("not-grpc", "prefix: /g"),
        ("template-free", "path: /with%20space"),
    ]);
    let path = |name: &str, path: &str| case(name, get(path));
    Group::new("paths").routes(&routes).cases([
        path("exact", "/exact"),
        path("exact with query", "/exact?x=1"),
        path("exact is not a prefix", "/exact/"),
        path("exact heeds case", "/Exact"),
        path("exact without case", "/mIXED"),
        path("prefix", "/prefix/a/b?c"),
        path("prefix needs its slash", "/prefix"),
        path("prefix without case", "/prenothing"),
        path("separated itself", "/sep"),
        path("separated below", "/sep/x"),
        path("separated with query", "/sep?x"),
        path("separated is no plain prefix", "/separate"),
        path("separated without case", "/sepno/x"),
        path("regex", "/re/42"),
        path("regex ignores the query", "/re/42?q=/"),
        path("regex is anchored", "/re/42x"),
        path("regex in the old form", "/old/abc"),
        path("first route wins", "/order/exact"),
        path("query exact", "/q?a=1"),
        path("query exact among others", "/q?z=0&a=1&y"),
        path("query first value counts", "/q?a=2&a=1"),
        path("query regex", "/q?b=xxx"),
        path("query regex is anchored", "/q?b=xxxy"),
        path("query present", "/q?c"),
        path("query present but empty", "/q?c="),
        path("query missing", "/q"),
        path("query encoded", "/q?%61=1"),
        path("query absent", "/q2?d=1"),
        path("query absent but there", "/q2?c=1"),
        path("query both", "/q3?b=aZ&a=12"),
        path("query one of two", "/q3?a=12"),
        path("runtime fraction", "/rt"),
        case("grpc", req("POST", "/g").h2().h("content-type", "application/grpc")),
        case("grpc with a suffix", req("POST", "/g").h2().h("content-type", "application/grpc+proto")),
        case("grpc lookalike", req("POST", "/g").h2().h("content-type", "application/grpcx")),
        path("percent stays", "/with%20space"),
        path("percent is not decoded", "/%65xact"),
        path("dots stay", "/prefix/../exact"),
        path("slashes stay", "//exact"),
        path("fragment", "/exact#frag"),
        case("no route over h2", get("/none").h2()),
        case("no route for HEAD", req("HEAD", "/none")),
    ])
}

/// Header matchers.
pub(crate) fn headers() -> Group {
    let header = |m: &str| format!("prefix: /, headers: [ {m} ]");
    let rows: Vec<(String, String)> = [
        ("exact", "{ name: x-exact, string_match: { exact: \"yes\" } }"),
        ("nocase", "{ name: x-nocase, string_match: { exact: \"YES\", ignore_case: true } }"),
        ("prefix", "{ name: x-prefix, string_match: { prefix: ab } }"),
        ("suffix", "{ name: x-suffix, string_match: { suffix: yz } }"),
        ("contains", "{ name: x-contains, string_match: { contains: mid } }"),
        ("regex", r#"{ name: x-regex, string_match: { safe_regex: { regex: "a+b" } } }"#),
        ("range", "{ name: x-range, range_match: { start: -5, end: 10 } }"),
        ("present", "{ name: x-present, present_match: true }"),
        ("not-exact", "{ name: x-not, string_match: { exact: \"no\" }, invert_match: true }, { name: x-on, present_match: true }"),
        ("absent", "{ name: x-absent, present_match: false }, { name: x-on2, present_match: true }"),
        ("missing-as-empty", "{ name: x-empty, string_match: { exact: \"no\" }, invert_match: true, treat_missing_header_as_empty: true }, { name: x-on3, present_match: true }"),
        ("method", r#"{ name: ":method", string_match: { exact: PUT } }"#),
        ("authority", r#"{ name: ":authority", string_match: { prefix: special } }"#),
        ("deprecated-exact", "{ name: x-old, exact_match: v }"),
        ("deprecated-prefix", "{ name: x-old, prefix_match: p }"),
        ("deprecated-regex", r#"{ name: x-old, safe_regex_match: { regex: "[0-9]+" } }"#),
        ("two", "{ name: x-a, string_match: { exact: \"1\" } }, { name: x-b, string_match: { exact: \"2\" } }"),
        ("path", r#"{ name: ":path", string_match: { contains: "?deep" } }"#),
        ("scheme", r#"{ name: ":scheme", string_match: { exact: https } }"#),
    ]
    .map(|(name, m)| (name.to_owned(), header(m)))
    .into();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let with = |name: &str, header: &str, value: &str| case(name, get("/").h(header, value));
    Group::new("headers").routes(&table(&rows)).cases([
        with("exact", "x-exact", "yes"),
        with("exact heeds case", "x-exact", "Yes"),
        with("names have no case", "X-Exact", "yes"),
        with("exact without case", "x-nocase", "yes"),
        with("prefix", "x-prefix", "abc"),
        with("suffix", "x-suffix", "xyz"),
        with("contains", "x-contains", "a mid b"),
        with("regex", "x-regex", "aab"),
        with("regex is anchored", "x-regex", "aabc"),
        with("range inside", "x-range", "-5"),
        with("range ends before", "x-range", "10"),
        with("range not a number", "x-range", "3x"),
        with("present", "x-present", ""),
        case("inverted and other", get("/").h("x-not", "maybe").h("x-on", "1")),
        case("inverted and equal", get("/").h("x-not", "no").h("x-on", "1")),
        case("inverted and missing", get("/").h("x-on", "1")),
        case("absent", get("/").h("x-on2", "1")),
        case("absent but there", get("/").h("x-on2", "1").h("x-absent", "1")),
        case("missing treated as empty", get("/").h("x-on3", "1")),
        case("values are joined", get("/").h("x-exact", "yes").h("x-exact", "no")),
        case("joined values match", get("/").h("x-prefix", "a").h("x-prefix", "b")),
        case("joined contains", get("/").h("x-contains", "a").h("x-contains", "mid")),
        case("method", req("PUT", "/").piece("x")),
        case("authority", get("/").host("special.host:80")),
        with("deprecated exact", "x-old", "v"),
        with("deprecated prefix", "x-old", "pq"),
        with("deprecated regex", "x-old", "123"),
        case("all of two", get("/").h("x-a", "1").h("x-b", "2")),
        case("one of two", get("/").h("x-a", "1")),
        case("path pseudo-header", get("/x?deep=1")),
        case("scheme pseudo-header", get("/").h("x-forwarded-proto", "https")),
    ])
}

/// Virtual hosts.
pub(crate) fn hosts() -> Group {
    let vhost = |name: &str, domains: &str| {
        format!("- name: {name}\n  domains: [{domains}]\n  routes:\n{}", answers(name, "prefix: /"))
    };
    let hosts = [
        vhost("exact", "\"a.test\""),
        vhost("suffix", "\"*.a.test\""),
        vhost("longer-suffix", "\"*.deep.a.test\""),
        vhost("dash-suffix", "\"*-x.test\""),
        vhost("prefix", "\"a.*\""),
        vhost("longer-prefix", "\"a.b.*\""),
        vhost("with-port", "\"port.test:8080\""),
        vhost("v6", "\"[::1]\", \"[::1]:80\""),
        vhost("upper", "\"UPPER.test\""),
    ]
    .concat();
    let routes = |extra: &str| format!("virtual_hosts:\n{hosts}{extra}");
    let ignoring = format!("ignore_port_in_host_matching: true\n{}", routes(""));
    let all = routes(&vhost("star", "\"*\""));
    let hcm = |r: &str| format!("route_config:\n{}", outrider_tests::bootstrap::indent(2, r));
    let strip = |option: &str| format!("{option}\n{}", hcm(&all));
    let host = |name: &str, host: &str| case(name, get("/").host(host));
    let to =
        |listener: &str, name: &str, host: &str| -> Case { case(name, get("/").host(host).to(listener)) };
    Group::new("hosts")
        .http("main", &hcm(&all))
        .http("nostar", &hcm(&routes("")))
        .http("ignoring", &hcm(&ignoring))
        .http("strip_any", &strip("strip_any_host_port: true"))
        .http("strip_dot", &strip("strip_trailing_host_dot: true"))
        .cases([
            host("exact", "a.test"),
            host("exact has no case", "A.Test"),
            host("domain with capitals", "upper.test"),
            host("exact before suffix", "a.test"),
            host("suffix", "x.a.test"),
            host("longest suffix", "x.deep.a.test"),
            host("suffix needs something", ".a.test"),
            host("dashed suffix", "foo-x.test"),
            host("suffix before prefix", "a.b-x.test"),
            host("prefix", "a.example"),
            host("longest prefix", "a.b.example"),
            host("port in the domain", "port.test:8080"),
            host("other port", "port.test:8081"),
            host("port in the host only", "a.test:80"),
            host("port and suffix", "x.a.test:80"),
            host("IPv6", "[::1]"),
            host("IPv6 with port", "[::1]:80"),
            host("star", "else"),
            host("trailing dot", "a.test."),
            to("nostar", "no virtual host", "else"),
            to("nostar", "found without star", "a.test"),
            to("ignoring", "port ignored", "a.test:1234"),
            to("ignoring", "port ignored, domain has one", "port.test:8080"),
            to("strip_any", "port stripped", "a.test:1234"),
            to("strip_dot", "dot stripped", "a.test."),
            to("strip_dot", "dot stripped before port", "a.test.:80"),
            case("over h2", get("/").host("x.a.test").h2()),
        ])
}
