//! Scoped routes, and what comes on demand.

use super::{bad, indent, manager, with_hcm, with_route};
use crate::model::{Extract, Routes, ScopeRoutes, Scopes};

const KEY: &str = "scope_key_builder: {fragments: [{header_value_extractor: {name: X-Scope, element_separator: ';', element: {separator: '=', key: vip}}}]}";

fn scoped(key: &str, scopes: &str) -> String {
    with_hcm(&format!(
        "scoped_routes:\n  name: s\n{}  scoped_route_configurations_list:\n    scoped_route_configurations:\n{}",
        indent(key, 2),
        indent(scopes, 4)
    ))
}

const PLACE: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.scoped_routes";

/// The problems of the scoped routes, without what stands before them.
fn problems(key: &str, scopes: &str) -> Vec<String> {
    let cut = |problem: String| {
        let inside = problem.rsplit_once("scoped_routes.").map_or(&*problem, |(_, rest)| rest);
        inside.split_once(": ").map_or(inside, |(path, _)| path).to_owned()
    };
    bad(&scoped(key, scopes)).into_iter().map(cut).collect()
}

#[test]
fn scopes_have_a_key_and_a_table() {
    let scope =
        "- {name: a, key: {fragments: [{string_key: x}, {string_key: ''}]}, route_configuration: {name: r}}";
    let manager = manager(&scoped(KEY, scope));
    let Routes::Scoped(scoped) = &manager.routes else { panic!("{:?}", manager.routes) };
    assert_eq!(&*scoped.name, "s");
    let [extractor] = &scoped.key.0[..] else { panic!("{:?}", scoped.key) };
    assert_eq!(&*extractor.separator, ";");
    assert_eq!(extractor.extract, Extract::Element { separator: "=".into(), key: "vip".into() });
    let Scopes::Inline(scopes) = &scoped.scopes else { panic!("{:?}", scoped.scopes) };
    assert_eq!(scopes[0].key.iter().map(|part| &**part).collect::<Vec<_>>(), ["x", ""]);
    assert!(matches!(&scopes[0].routes, ScopeRoutes::Inline(table) if &*table.name == "r"));
}

#[test]
fn what_is_wrong_with_a_scope_is_named_by_its_path() {
    let list = "scoped_route_configurations_list.scoped_route_configurations[0]";
    let good = "- {name: a, key: {fragments: [{string_key: x}]}, route_configuration: {name: r}}";
    let by_name = "- {name: a, key: {fragments: [{string_key: x}]}, route_configuration_name: r}";
    assert_eq!(problems(KEY, by_name), [format!("{list}.route_configuration_name")]);
    let lost = "- {name: a, key: {fragments: [{string_key: x}]}, route_configuration: {name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: none}}]}]}}";
    let at = format!("{list}.route_configuration.virtual_hosts[0].routes[0].route.cluster");
    assert_eq!(problems(KEY, lost), [at]);
    let neither = "- {name: a, key: {fragments: [{string_key: x}]}}";
    assert_eq!(bad(&scoped(KEY, neither)).len(), 1);
    let extractor = "scope_key_builder.fragments[0].header_value_extractor";
    let index = "scope_key_builder: {fragments: [{header_value_extractor: {name: x, index: 1}}]}";
    assert_eq!(problems(index, good), [format!("{extractor}.index")]);
    let nothing = "scope_key_builder: {fragments: [{header_value_extractor: {name: x}}]}";
    assert_eq!(problems(nothing, good), [extractor]);
    assert!(bad(&scoped(KEY, by_name))[0].starts_with(PLACE));
}

#[test]
fn what_the_protocol_knows_in_delta_alone_needs_a_source_that_speaks_it() {
    let route = |api: &str| {
        let source = format!(
            "{{api_config_source: {{api_type: {api}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: c}}}}]}}}}"
        );
        let config = "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.PerRouteConfig";
        let route = format!(
            "match: {{prefix: /}}\nroute: {{cluster: c}}\ntyped_per_filter_config: {{od: {{'@type': {config}, odcds: {{source: {source}}}}}}}"
        );
        with_route(&route) + "node: {id: i, cluster: c}\n"
    };
    manager(&route("DELTA_GRPC"));
    let problems = bad(&route("GRPC"));
    assert!(problems[0].contains(".odcds.source: clusters on demand need"), "{problems:?}");
}
