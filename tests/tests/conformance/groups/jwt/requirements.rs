//! What requests need.

use outrider_tests::jwt::Keys;

use super::{TO_A, TYPE, manager, many, provider, routes};
use crate::driver::{Case, Group, get, req};

/// What requests need.
pub(crate) fn requirements() -> Group {
    let keys = Keys::new().expect("keys");
    let set = keys.set().expect("a set");
    let of = |issuer: &str, more: &str| {
        keys.token("ES256", &format!(r#"{{"iss":"{issuer}"{more}}}"#)).expect("a token")
    };
    let (a, b, c) = (of("a", ""), of("b", ""), of("c", ""));
    let providers = [
        provider("a", "a", &set, ", from_headers: [ { name: x-a } ]"),
        provider("b", "b", &set, ", from_headers: [ { name: x-b } ]"),
        provider("same", "b", &set, ", from_headers: [ { name: x-a } ]"),
    ];
    let list = |kind: &str, of: &str| format!("{kind}: {{ requirements: [ {of} ] }}");
    let named = "{ provider_name: a }, { provider_name: b }";
    let nested = format!("{{ {} }}, {{ provider_name: same }}", list("requires_all", named));
    let map = [
        ("any", list("requires_any", named)),
        ("both", list("requires_all", named)),
        ("missing", "allow_missing: {}".to_owned()),
        ("failed", "allow_missing_or_failed: {}".to_owned()),
        ("any-missing", list("requires_any", "{ provider_name: a }, { allow_missing: {} }")),
        ("any-failed", list("requires_any", "{ provider_name: a }, { allow_missing_or_failed: {} }")),
        ("only-missing", list("requires_any", "{ allow_missing: {} }, { allow_missing: {} }")),
        ("only-failed", list("requires_any", "{ allow_missing: {} }, { allow_missing_or_failed: {} }")),
        ("both-missing", list("requires_all", "{ provider_name: a }, { allow_missing: {} }")),
        ("nested", list("requires_any", &nested)),
        ("nothing", String::new()),
    ];
    let text: String = map.iter().map(|(name, text)| format!("  {name}: {{ {text} }}\n")).collect();
    let names: Vec<&str> = map.iter().map(|(name, _)| *name).chain(["unknown"]).collect();
    let filter = format!("providers:\n{}requirement_map:\n{text}", providers.concat());
    let mut sorted = names.clone();
    sorted.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let with = |path: &str, x_a: &str, x_b: &str| {
        let request = get(&format!("/{path}"));
        let request = if x_a.is_empty() { request } else { request.h("x-a", x_a) };
        if x_b.is_empty() { request } else { request.h("x-b", x_b) }
    };
    let expired = of("a", r#","exp":1000"#);
    let tries = |path: &str| {
        vec![
            with(path, "", ""),
            with(path, &a, ""),
            with(path, "", &b),
            with(path, &a, &b),
            with(path, "x", ""),
            with(path, "x", &b),
            with(path, &a, "x"),
            with(path, &c, ""),
            with(path, &b, ""),
            with(path, &expired, ""),
            with(path, &expired, &c),
        ]
    };
    let mut cases: Vec<Case> = names.iter().map(|name| many(name, "main", tries(name))).collect();
    let preflight =
        || req("OPTIONS", "/api").h("origin", "http://x").h("access-control-request-method", "GET");
    cases.push(many(
        "rules",
        "rules",
        vec![
            get("/health"),
            get("/api/x"),
            with("api/x", &a, ""),
            get("/API/x"),
            get("/exact"),
            get("/exact/x"),
            get("/exact?x=1"),
            get("/re/12"),
            get("/re/x"),
            get("/head"),
            get("/head").h("x-need", "1"),
            get("/query"),
            get("/query?need=1"),
            get("/part"),
            get("/part/x"),
            get("/party"),
            get("/named"),
            with("named", &a, ""),
            get("/other"),
        ],
    ));
    cases.push(many(
        "preflights",
        "rules",
        vec![preflight(), req("OPTIONS", "/api"), req("OPTIONS", "/api").h("origin", "http://x")],
    ));
    cases.push(many("disabled by route", "rules", vec![get("/api/off"), get("/api/wrong")]));
    cases.push(many(
        "without a word",
        "silent",
        vec![get("/x"), with("x", "x", ""), with("x", &a, ""), get("/wrong")],
    ));
    let requires = "requires: { provider_name: a }";
    let rules = [
        "{ match: { prefix: /health } }".to_owned(),
        format!("{{ match: {{ prefix: /api }}, {requires} }}"),
        format!("{{ match: {{ path: /exact }}, {requires} }}"),
        format!("{{ match: {{ safe_regex: {{ regex: \"/re/[0-9]+\" }} }}, {requires} }}"),
        format!(
            "{{ match: {{ prefix: /head, headers: [ {{ name: x-need, present_match: true }} ] }}, {requires} }}"
        ),
        format!(
            "{{ match: {{ prefix: /query, query_parameters: [ {{ name: need, present_match: true }} ] }}, {requires} }}"
        ),
        format!("{{ match: {{ path_separated_prefix: /part }}, {requires} }}"),
        "{ match: { prefix: /NAMED, case_sensitive: false }, requirement_name: mine }".to_owned(),
    ];
    let by_rules = format!(
        "providers:\n{}requirement_map: {{ mine: {{ provider_name: a }}, yours: {{ provider_name: a }} }}\nbypass_cors_preflight: true\nrules: [ {} ]\n",
        providers[0],
        rules.join(", ")
    );
    let off = format!(
        "- match: {{ prefix: /api/off }}\n  route: {{ cluster: a }}\n  typed_per_filter_config:\n    jwt: {{ \"@type\": {TYPE}.PerRouteConfig, disabled: true }}\n\
         - match: {{ prefix: /api/wrong }}\n  route: {{ cluster: a }}\n  typed_per_filter_config:\n    jwt: {{ \"@type\": {TYPE}.PerRouteConfig, requirement_name: wrong }}\n{TO_A}"
    );
    let silent = format!(
        "providers:\n{}strip_failure_response: true\nrules: [ {{ match: {{ prefix: / }}, {requires} }} ]\n",
        providers[0]
    );
    Group::new("jwt requirements")
        .upstreams(&["a"])
        .http("main", &manager("main", &filter, &routes(&sorted)))
        .http("rules", &manager("rules", &by_rules, &off))
        .http("silent", &manager("silent", &silent, &off.replace("/api/", "/")))
        .cases(cases)
}
