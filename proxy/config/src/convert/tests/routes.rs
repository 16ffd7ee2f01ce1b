use std::time::Duration;

use outrider_core::matcher::{HeaderCheck, HeaderRef};

use super::{bad, good, manager, route, table, with_hcm, with_route};
use crate::model::{
    AddTarget, AppendAction, ClusterSpecifier, Forward, HeaderAddValue, HostRewrite, MirrorCluster,
    PathMatch, PathRewrite, RedirectPath, RetryOn, RouteAction,
};

const ROUTE: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]";

fn forward(yaml: &str) -> Forward {
    match route(yaml).action {
        RouteAction::Forward(forward) => *forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn paths_of_every_kind() {
    let path = |text: &str| route(&format!("match: {{{text}}}\nroute: {{cluster: c}}")).matches.path;
    assert!(matches!(path("path: /a"), PathMatch::Exact(text) if &*text == "/a"));
    assert!(matches!(path("path_separated_prefix: /a"), PathMatch::SeparatedPrefix(text) if &*text == "/a"));
    assert!(matches!(path("connect_matcher: {}"), PathMatch::Connect));
    let PathMatch::Regex(regex) = path("safe_regex: {regex: '/a|/b'}") else { panic!() };
    assert!(regex.is_match("/b") && !regex.is_match("/bc") && !regex.is_match("x/a"));
}

#[test]
fn older_spellings_of_header_matchers() {
    let yaml = r#"
match:
  prefix: /
  headers:
  - {name: a, exact_match: x}
  - {name: b, prefix_match: x}
  - {name: c, safe_regex_match: {regex: "x+"}}
  - {name: ":authority", string_match: {suffix: .Example, ignore_case: true}}
  - {name: d, range_match: {start: 1, end: 5}, invert_match: true}
  - {name: e}
  query_parameters: [{name: q, present_match: false}]
  grpc: {}
route: {cluster: c}
"#;
    let matches = route(yaml).matches;
    let values = |i: usize, text: &str| match &matches.headers[i].check {
        HeaderCheck::Value(matcher) => matcher.matches(text),
        other => panic!("{other:?}"),
    };
    assert!(values(0, "x") && !values(0, "xx"));
    assert!(values(1, "xx") && !values(1, "yx"));
    assert!(values(2, "xxx") && !values(2, "xxy"));
    assert_eq!(matches.headers[3].name, HeaderRef::Authority);
    assert!(values(3, "www.EXAMPLE"));
    assert!(
        matches!(matches.headers[4].check, HeaderCheck::Range { start: 1, end: 5 })
            && matches.headers[4].invert
    );
    assert!(matches!(matches.headers[5].check, HeaderCheck::Present(true)));
    assert!(matches.query[0].matches("a=1") && !matches.query[0].matches("q=1"));
    assert!(matches.grpc);
}

#[test]
fn rewrites() {
    let yaml = r#"
match: {prefix: /a}
route:
  cluster: c
  regex_rewrite: {pattern: {regex: "^/a/(.*)$"}, substitution: '/b/\1'}
  host_rewrite_path_regex: {pattern: {regex: "^/a/([^/]*).*$"}, substitution: '\1.example'}
"#;
    let forward = forward(yaml);
    let Some(PathRewrite::Regex(rewrite)) = &forward.path_rewrite else { panic!() };
    assert_eq!(rewrite.pattern.replace_all("/a/x", &*rewrite.substitution), "/b/x");
    let Some(HostRewrite::PathRegex(rewrite)) = &forward.host_rewrite else { panic!() };
    assert_eq!(rewrite.pattern.replace_all("/a/x/y", &*rewrite.substitution), "x.example");

    let yaml = "match: {prefix: /}\nroute: {cluster: c, prefix_rewrite: /x, regex_rewrite: {pattern: {regex: a}, substitution: b}}";
    assert_eq!(
        bad(&with_route(yaml)),
        [format!("{ROUTE}.route.prefix_rewrite: prefix_rewrite and regex_rewrite exclude one another")]
    );
}

#[test]
fn retries() {
    let yaml = r#"
match: {prefix: /}
route:
  cluster: c
  retry_policy:
    retry_on: 5xx,connect-failure,cancelled
    num_retries: 3
    per_try_timeout: 0.25s
    retry_back_off: {base_interval: 0.010s}
    retry_host_predicate:
    - name: previous
      typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}
    host_selection_retry_max_attempts: 5
"#;
    let retry = forward(yaml).retry.expect("a retry policy");
    assert!(
        retry.on.has(RetryOn::FIVE_XX)
            && retry.on.has(RetryOn::GRPC_CANCELLED)
            && !retry.on.has(RetryOn::RESET)
    );
    assert_eq!((retry.num_retries, retry.host_selection_attempts, retry.previous_hosts), (3, 5, true));
    assert_eq!(retry.per_try_timeout, Some(Duration::from_millis(250)));
    assert_eq!(
        (retry.back_off.base, retry.back_off.max),
        (Duration::from_millis(10), Duration::from_millis(100))
    );

    let yaml = "match: {prefix: /}\nroute: {cluster: c, retry_policy: {retry_back_off: {base_interval: 1s, max_interval: 0.5s}}}";
    assert_eq!(
        bad(&with_route(yaml)),
        [format!(
            "{ROUTE}.route.retry_policy.retry_back_off.max_interval: it must not be less than base_interval"
        )]
    );
}

#[test]
fn a_route_takes_over_what_its_virtual_host_says() {
    let yaml = with_hcm(
        r#"
route_config:
  request_mirror_policies: [{cluster: c, disable_shadow_host_suffix_append: true}]
  virtual_hosts:
  - name: v
    domains: ["*.Example"]
    retry_policy: {retry_on: reset}
    request_body_buffer_limit: 10
    routes:
    - {match: {prefix: /}, route: {cluster: c}}
    - {match: {prefix: /}, per_request_buffer_limit_bytes: 5, route: {cluster: c, retry_policy: {retry_on: 5xx}, request_mirror_policies: [{cluster_header: x-to}]}}
"#,
    );
    let manager = manager(&yaml);
    let host = &table(&manager).virtual_hosts[0];
    assert_eq!(host.domains, ["*.example"]);
    let forward = |i: usize| match &host.routes[i].action {
        RouteAction::Forward(forward) => forward.clone(),
        other => panic!("{other:?}"),
    };
    assert!(forward(0).retry.expect("the host's").on.has(RetryOn::RESET));
    assert!(forward(0).mirrors[0].disable_host_suffix);
    assert_eq!(host.routes[0].per_request_buffer_limit, Some(10));
    assert!(!forward(1).retry.expect("its own").on.has(RetryOn::RESET));
    assert!(matches!(&forward(1).mirrors[0].cluster, MirrorCluster::Header(name) if name == "x-to"));
    assert_eq!(host.routes[1].per_request_buffer_limit, Some(5));
}

#[test]
fn header_changes() {
    let yaml = r#"
match: {prefix: /}
route: {cluster: c}
request_headers_to_add:
- {header: {key: X-A, value: literal}, append: false}
- {header: {key: x-b, value: "%PROTOCOL%"}}
- {header: {key: x-c, value: ""}, append_action: ADD_IF_ABSENT, keep_empty_value: true}
response_headers_to_remove: [Server]
"#;
    let headers = route(yaml).headers;
    let add = &headers.request_add;
    assert!(matches!(&add[0].name, AddTarget::Name(name) if name == "x-a"));
    assert!(matches!(&add[0].value, HeaderAddValue::Literal(value) if value == "literal"));
    assert_eq!(add[0].action, AppendAction::OverwriteIfExistsOrAdd);
    assert!(matches!(&add[1].value, HeaderAddValue::Format(_)));
    assert_eq!(add[1].action, AppendAction::AppendIfExistsOrAdd);
    assert_eq!((add[2].action, add[2].keep_empty), (AppendAction::AddIfAbsent, true));
    assert_eq!(headers.response_remove, ["server"]);

    let yaml = r#"
match: {prefix: /}
route: {cluster: c}
request_headers_to_add: [{header: {key: Host, value: x}}, {header: {key: a, value: x}, append: true, append_action: ADD_IF_ABSENT}]
request_headers_to_remove: [":path"]
"#;
    assert_eq!(
        bad(&with_route(yaml)),
        [
            format!(
                "{ROUTE}.request_headers_to_add[0].header.key: \"Host\" may not be modified; rewrite the host or the path in the route instead"
            ),
            format!(
                "{ROUTE}.request_headers_to_add[1].append: append and append_action exclude one another; keep append_action"
            ),
            format!(
                "{ROUTE}.request_headers_to_remove[0]: \":path\" may not be removed; it is part of every request"
            ),
        ]
    );
}

#[test]
fn weighted_clusters_and_their_runtime() {
    let yaml = "match: {prefix: /}\nroute: {weighted_clusters: {runtime_key_prefix: w, clusters: [{name: c, weight: 1}, {name: c, weight: 0}]}}";
    let ClusterSpecifier::Weighted(weighted) = forward(yaml).cluster else { panic!() };
    let weights: Vec<u64> = weighted.clusters.iter().map(|cluster| cluster.weight.get()).collect();
    assert_eq!((weighted.total, weights), (None, vec![1, 0]));
    let yaml = with_route(yaml) + "layered_runtime: {layers: [{name: s, static_layer: {w: {c: 4}}}]}\n";
    let (model, _) = good(&yaml);
    assert!(model.runtime.is_followed("w.c"));
    let RouteAction::Forward(forward) = &table(&manager(&yaml)).virtual_hosts[0].routes[0].action.clone()
    else {
        panic!()
    };
    let ClusterSpecifier::Weighted(weighted) = &forward.cluster else { panic!() };
    assert!(weighted.clusters.iter().all(|cluster| cluster.weight.get() == 4));

    let zero = "match: {prefix: /}\nroute: {weighted_clusters: {clusters: [{name: c, weight: 0}]}}";
    assert_eq!(
        bad(&with_route(zero)),
        [format!("{ROUTE}.route.weighted_clusters.clusters: all weights are 0; at least one must be more")]
    );
}

#[test]
fn redirects() {
    let action = route("match: {prefix: /}\nredirect: {https_redirect: true, port_redirect: 8443, prefix_rewrite: /b, response_code: PERMANENT_REDIRECT, strip_query: true}").action;
    let RouteAction::Redirect(redirect) = action else { panic!() };
    assert_eq!(
        (redirect.status.as_u16(), redirect.https, redirect.port, redirect.strip_query),
        (308, true, Some(8443), true)
    );
    assert!(matches!(redirect.path, Some(RedirectPath::Prefix(prefix)) if &*prefix == "/b"));
}

#[test]
fn timeouts_that_are_zero_are_off() {
    let forward = forward(
        "match: {prefix: /}\nroute: {cluster: c, idle_timeout: 0s, max_stream_duration: {grpc_timeout_header_max: 0s}}",
    );
    assert_eq!(forward.idle_timeout, Some(None));
    let limit = forward.max_stream_duration.expect("a limit");
    assert_eq!((limit.max_stream_duration, limit.grpc_timeout_header_max), (None, Some(None)));
}

#[test]
fn a_domain_stands_in_one_place() {
    let yaml = with_hcm(
        r#"
route_config:
  virtual_hosts:
  - {name: a, domains: ["*", x]}
  - {name: b, domains: [X, "*"]}
"#,
    );
    let hosts =
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts";
    assert_eq!(
        bad(&yaml),
        [
            format!(
                "{hosts}[1].domains[0]: this domain is taken by {hosts}[0].domains[1] already; a domain may stand in one place alone"
            ),
            format!(
                "{hosts}[1].domains[1]: the catch-all domain * is taken by {hosts}[0].domains[0] already; a domain may stand in one place alone"
            ),
        ]
    );
}

#[test]
fn what_a_route_says_of_filters_is_taken_or_refused_by_its_key() {
    let entry = |what: &str| {
        bad(&with_route(&format!(
            "match: {{prefix: /}}\nroute: {{cluster: c}}\ntyped_per_filter_config:\n  f: {{\"@type\": type.googleapis.com/{what}}}\n"
        )))
    };
    let at = format!("{ROUTE}.typed_per_filter_config[\"f\"]");
    let wrapped = |what: &str| entry(&format!("envoy.config.route.v3.FilterConfig, {what}"));
    let unknown = "config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}";
    assert_eq!(
        entry("envoy.extensions.filters.http.cors.v3.Cors"),
        [format!(
            "{at}: no supported HTTP filter has the route settings envoy.extensions.filters.http.cors.v3.Cors; remove the entry"
        )]
    );
    assert_eq!(
        wrapped("is_optional: true"),
        [format!("{at}.config: settings for the filter \"f\" are needed, or {{}} to turn it on")]
    );
    assert!(wrapped(unknown)[0].starts_with(&format!("{at}.config: no supported HTTP filter")));
    for fine in ["disabled: true", "config: {}", &format!("is_optional: true, {unknown}")] {
        let text = format!(
            "match: {{prefix: /}}\nroute: {{cluster: c}}\ntyped_per_filter_config:\n  f: {{\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, {fine}}}\n"
        );
        good(&with_route(&text));
    }
}
