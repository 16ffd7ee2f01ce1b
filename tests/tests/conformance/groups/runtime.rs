//! The runtime: what its layers say, and what of traffic follows it.

use outrider_tests::reply::Reply;

use crate::driver::{Case, Group, case, case::Act, get};

fn modify(name: &str, target: &'static str) -> Case {
    case(name, Act::Admin("POST", target, &[]))
}

fn page(name: &str, target: &'static str, keep: &'static [&'static str]) -> Case {
    case(name, Act::Admin("GET", target, keep))
}

const LAYERS: &str = r#"
layered_runtime:
  layers:
  - name: base
    static_layer:
      in: { full: 100, none: 0, over: 250, share: { numerator: 1000000, denominator: MILLION }, off: { numerator: 0 }, text: "100", odd: 100.5, flag: true }
      weights: { b: 0, a: 7 }
      log: { at: 200 }
      number: 100000000
      words: "some words"
      empty: ""
  - name: upper
    static_layer: { in.full: 100, number: 3 }
  - name: admin
    admin_layer: {}
"#;

const ROUTES: &str = r#"
virtual_hosts:
- name: all
  domains: ["*"]
  routes:
  - { match: { prefix: /full, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: in.full } }, direct_response: { status: 201 } }
  - { match: { prefix: /none, runtime_fraction: { default_value: { numerator: 100 }, runtime_key: in.none } }, direct_response: { status: 201 } }
  - { match: { prefix: /over, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: in.over } }, direct_response: { status: 201 } }
  - { match: { prefix: /share, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: in.share } }, direct_response: { status: 201 } }
  - { match: { prefix: /off, runtime_fraction: { default_value: { numerator: 100 }, runtime_key: in.off } }, direct_response: { status: 201 } }
  - { match: { prefix: /text, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: in.text } }, direct_response: { status: 201 } }
  - { match: { prefix: /odd, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: in.odd } }, direct_response: { status: 201 } }
  - { match: { prefix: /flag, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: in.flag } }, direct_response: { status: 201 } }
  - { match: { prefix: /absent, runtime_fraction: { default_value: { numerator: 100 }, runtime_key: in.absent } }, direct_response: { status: 201 } }
  - { match: { prefix: /weighted }, route: { weighted_clusters: { runtime_key_prefix: weights, clusters: [ { name: a, weight: 0 }, { name: b, weight: 100 } ] } } }
  - { match: { prefix: /mirror }, route: { cluster: a, request_mirror_policies: [ { cluster: b, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: in.mirror } } ] } }
  - { match: { prefix: /a }, route: { cluster: a } }
  - { match: { prefix: / }, direct_response: { status: 404 } }
"#;

/// Layers, and what an operator changes while it runs.
pub(crate) fn runtime() -> Group {
    let path = |path: &'static str| case(path, get(path));
    Group::new("runtime")
        .with(|b| b.top(LAYERS))
        .upstreams(&["a", "b"])
        .routes(ROUTES)
        .cases([
            page("layers", "/runtime", &["layers", "words", "flag", "empty", "in.odd"]),
            page("each layer's word", "/runtime", &["entries.number", "in.full"]),
            page("stats", "/stats?filter=^runtime.(num_|admin)", &[]),
            path("/full"),
            path("/none"),
            path("/over"),
            path("/share"),
            path("/off"),
            path("/text"),
            path("/odd"),
            path("/flag"),
            path("/absent"),
            path("/weighted"),
            path("/mirror"),
            path("/full#fragment").ignore("log "),
        ])
        .cases([
            modify("modify", "/runtime_modify?in.full=0&in.none=100&in.absent=%7Bnumerator:%200%7D&weights.a=0&weights.b=1&in.mirror=100"),
            case("full is none now", get("/full")),
            case("none is full now", get("/none")),
            case("absent is there now", get("/absent")),
            case("weights have changed", get("/weighted")),
            case("the mirror is on", get("/mirror")).by_name(),
            page("layers with the admin's", "/runtime", &["in.full", "in.absent"]),
            page("stats after it", "/stats?filter=^runtime.(num_|admin)", &[]),
            modify("text is a value", "/runtime_modify?in.odd=some%20text"),
            case("text is no share", get("/odd")),
            modify("take back", "/runtime_modify?in.full=&in.absent=&weights.a=&weights.b=&in.mirror="),
            case("full again", get("/full")),
            case("absent again", get("/absent")),
            case("weights as they were", get("/weighted")),
            modify("nothing", "/runtime_modify"),
            page("it changes things", "/runtime_modify?x=1", &[]),
            modify("no requests", "/runtime_modify?circuit_breakers.a.default.max_requests=0.5"),
            case("a circuit breaker follows", get("/a")).stats(&["cluster.a.upstream_rq_pending_overflow"]),
            page("clusters show the limit", "/clusters?x", &["a::default_priority::max_requests"]),
            modify("requests again", "/runtime_modify?circuit_breakers.a.default.max_requests="),
            case("and lets through again", get("/a")),
            modify("maintenance", "/runtime_modify?upstream.maintenance_mode.a=100"),
            case("in maintenance", get("/a")).stats(&["cluster.a.upstream_rq_maintenance_mode", "cluster.a.upstream_rq_503"]),
            modify("no maintenance", "/runtime_modify?upstream.maintenance_mode.a=0"),
            case("out of maintenance", get("/a")),
            modify("fragments pass", "/runtime_modify?envoy.reloadable_features.http_reject_path_with_fragment=false"),
            case("a fragment is cut off", get("/a#fragment")),
            modify("fragments pass by a number", "/runtime_modify?envoy.reloadable_features.http_reject_path_with_fragment=0"),
            case("a fragment is cut off again", get("/a#fragment")),
            modify("fragments do not", "/runtime_modify?envoy.reloadable_features.http_reject_path_with_fragment="),
            case("a fragment is refused", get("/a#fragment")).ignore("log "),
        ])
}

/// Without layers there is none to change; with one, access logs follow keys.
pub(crate) fn runtime_default() -> Group {
    Group::new("runtime-default").upstreams(&["a", "b"]).routes(ROUTES).cases([
        page("layers", "/runtime", &["layers"]),
        modify("no admin layer", "/runtime_modify?a=1"),
        case("a key that nobody sets", get("/absent")),
    ])
}

/// Paths are normalized for the share of connection managers that the runtime names when they are built.
pub(crate) fn runtime_normalize() -> Group {
    normalize("runtime-normalize", "100.5")
}

/// Whether paths are normalized is asked for as a share: no truth value, no fraction.
pub(crate) fn runtime_normalize_not() -> Group {
    normalize("runtime-normalize-not", "true")
}

fn normalize(name: &'static str, value: &str) -> Group {
    let layer = format!(
        "layered_runtime: {{ layers: [ {{ name: base, static_layer: {{ http_connection_manager.normalize_path: {value} }} }} ] }}"
    );
    Group::new(name)
        .with(move |b| b.top(&layer))
        .upstreams(&["a", "b"])
        .routes(ROUTES)
        .cases([case("dots", get("/x/../a")), case("none", get("/a"))])
}

/// What access logs make of keys.
pub(crate) fn runtime_logs() -> Group {
    let address = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%";
    let log = format!(
        "access_log:\n- name: f\n  filter: {{ status_code_filter: {{ comparison: {{ op: GE, value: {{ default_value: 500, runtime_key: log.at }} }} }} }}\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: @{{dir}}/access.log\n    log_format: {{ text_format_source: {{ inline_string: \"{address} status %RESPONSE_CODE%\\n\" }} }}\n- name: g\n  filter: {{ runtime_filter: {{ runtime_key: log.share, percent_sampled: {{ numerator: 0 }} }} }}\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: @{{dir}}/access.log\n    log_format: {{ text_format_source: {{ inline_string: \"{address} share %RESPONSE_CODE%\\n\" }} }}\n"
    );
    let routes = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, route: { cluster: a } } ] } ] }\n";
    Group::new("runtime-logs")
        .with(|b| b.top("layered_runtime: { layers: [ { name: admin, admin_layer: {} } ] }"))
        .upstreams(&["a"])
        .http("main", &format!("{routes}{log}"))
        .cases([
            case("below the default", get("/x")).reply(Reply::status(404)).logs(0),
            case("above the default", get("/x")).reply(Reply::status(503)).logs(1),
            modify("lower", "/runtime_modify?log.at=404"),
            case("now it is above", get("/x")).reply(Reply::status(404)).logs(1),
            modify("back", "/runtime_modify?log.at=&log.share=100"),
            case("a share of all", get("/x")).reply(Reply::status(404)).logs(1),
            modify("none again", "/runtime_modify?log.share="),
            case("below again", get("/x")).reply(Reply::status(404)).logs(0),
        ])
}
