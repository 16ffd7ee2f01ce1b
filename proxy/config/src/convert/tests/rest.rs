//! Access logs, runtime, stats, and the bootstrap's own fields.

use super::{bad, good, manager, with_hcm};
use crate::model::{
    ComparisonOp, JsonNode, LogFilter, LogFormat, LogSink, RuntimeValue, StatsMatcher, StatsTagValue,
};

const ROUTES: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}\n";

fn logs(text: &str) -> String {
    with_hcm(&format!("{ROUTES}access_log:\n{text}"))
}

#[test]
fn access_logs_of_every_kind() {
    let manager = manager(&logs(
        r#"
- name: file
  filter: {and_filter: {filters: [{status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: k}}}}, {response_flag_filter: {flags: [UH, NR]}}]}}
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: /dev/null
    log_format: {omit_empty_values: true, json_format: {b: "%PROTOCOL%", a: {y: 1, x: [true, null]}}}
- name: out
  typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}
- name: old
  typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /x, format: "%PROTOCOL%\n"}
"#,
    ));
    let [file, out, old] = manager.access_logs.as_slice() else { panic!() };
    assert_eq!(file.sink, LogSink::File("/dev/null".into()));
    let Some(LogFilter::And(filters)) = &file.filter else { panic!() };
    let LogFilter::Status(status) = &filters[0] else { panic!() };
    assert_eq!((status.op, status.value.get()), (ComparisonOp::Ge, 500));
    let LogFormat::Json { fields, omit_empty: true } = &file.format else { panic!() };
    let JsonNode::Object(fields) = &**fields else { panic!() };
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(out.sink, LogSink::Stdout);
    assert!(matches!(&out.format, LogFormat::Text { omit_empty: false, .. }));
    assert!(matches!(&old.format, LogFormat::Text { .. }));
}

#[test]
fn an_unknown_operator_is_an_error_with_its_path() {
    let problems = bad(&logs(
        r#"
- name: out
  typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: {json_format: {a: {b: "%NONSENSE%"}}}}
"#,
    ));
    let path = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.access_log[0].typed_config.log_format.json_format.a.b: ";
    assert!(problems[0].starts_with(path), "{problems:?}");
}

#[test]
fn layers_of_the_runtime() {
    let (model, ledger) = good(
        r#"
layered_runtime:
  layers:
  - {name: a, static_layer: {x: {y: 1, z: true}, share: {numerator: 5, denominator: TEN_THOUSAND}, envoy.reloadable_features.foo: false}}
  - {name: b, static_layer: {x.y: 2, overload: {global_downstream_max_connections: 9}}}
  - {name: c, admin_layer: {}}
"#,
    );
    assert_eq!(model.runtime.get("x.y"), Some(RuntimeValue::Number(2.0)));
    assert_eq!(model.runtime.get("x.z"), Some(RuntimeValue::Bool(true)));
    let share = RuntimeValue::Fraction { numerator: 5, denominator: 10_000 };
    assert_eq!(model.runtime.get("share"), Some(share));
    assert_eq!(model.max_downstream_connections.get(), 9);
    let inert: Vec<&str> = ledger.inert.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        inert,
        [
            "layered_runtime.layers[0].static_layer.envoy.reloadable_features.foo",
            "layered_runtime.layers[0].static_layer.share",
            "layered_runtime.layers[1].static_layer.x.y",
            "layered_runtime.layers[0].static_layer.x.z",
        ]
    );
    model.runtime.publish(Default::default());
    assert_eq!(model.max_downstream_connections.get(), u64::MAX, "the runtime may take its word back");
    let route = "match: {safe_regex: {regex: \"/[a-z]{40}\"}}\ndirect_response: {status: 200}";
    let level = |level: u32| {
        let layer = format!("re2.max_program_size.error_level: {level}");
        super::with_route(route)
            + &format!("layered_runtime: {{layers: [{{name: s, static_layer: {{{layer}}}}}]}}\n")
    };
    assert_eq!(good(&level(200)).1.inert, []);
    let problems = bad(&level(20));
    assert!(problems[0].contains("re2.max_program_size.error_level allows 20"), "{problems:?}");
    let problems = bad("layered_runtime: {layers: [{name: a, static_layer: {upstream.use_retry: 0}}]}");
    assert_eq!(
        problems,
        [
            "layered_runtime.layers[0].static_layer.upstream.use_retry: the runtime key upstream.use_retry is not supported; set the field that it overrides"
        ]
    );
}

#[test]
fn stats_configuration() {
    let (model, _) = good(
        r#"
stats_config:
  use_all_default_tags: false
  stats_tags: [{tag_name: t, regex: "^x\\.((.+?)\\.)"}, {tag_name: f, fixed_value: v}]
  stats_matcher: {inclusion_list: {patterns: [{prefix: cluster.}]}}
  histogram_bucket_settings: [{match: {prefix: a}, buckets: [1, 5.5]}]
stats_flush_interval: 2s
"#,
    );
    assert!(!model.stats.use_default_tags);
    assert!(matches!(&model.stats.tags[1].value, StatsTagValue::Fixed(value) if value == "v"));
    let StatsMatcher::Include(patterns) = &model.stats.matcher else { panic!() };
    assert!(patterns[0].matches("cluster.x"));
    assert_eq!(model.stats.buckets[0].bounds, [1.0, 5.5]);
    assert_eq!(model.stats.flush_interval.as_secs(), 2);
}

#[test]
fn the_node_and_the_admin_interface() {
    let (model, ledger) = good(
        r#"
node: {id: i, cluster: k, locality: {zone: z}, metadata: {b: "q\"", a: [1, null]}, user_agent_name: envoy}
admin: {access_log_path: /a.log, profile_path: /p, address: {pipe: {path: "@admin"}}}
watchdog: {}
overload_manager: {resource_monitors: [{name: m, typed_config: {"@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 100}}]}
bootstrap_extensions: [{name: i, typed_config: {"@type": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener}}]
"#,
    );
    assert_eq!((model.node.id.as_str(), model.node.zone.as_str()), ("i", "z"));
    assert_eq!(model.node.metadata_json, r#"{"a":[1,null],"b":"q\""}"#);
    assert_eq!(model.admin.expect("an admin interface").access_logs[0].sink, LogSink::File("/a.log".into()));
    assert_eq!(model.max_downstream_connections.get(), 100);
    let inert: Vec<&str> = ledger.inert.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(inert, ["watchdog", "bootstrap_extensions[0]", "admin.profile_path"]);
}

#[test]
fn which_addresses_are_internal() {
    let ranges = |text: &str| manager(&with_hcm(&format!("{ROUTES}{text}"))).internal_addresses.ranges;
    assert_eq!(ranges(""), None);
    assert_eq!(ranges("internal_address_config: {}").map(|ranges| ranges.len()), Some(6));
    let own = ranges("internal_address_config: {cidr_ranges: [{address_prefix: 8.9.0.0, prefix_len: 8}]}");
    let own = own.expect("its own");
    assert_eq!((own[0].address.to_string().as_str(), own[0].len, own.len()), ("8.0.0.0", 8, 1));
}
