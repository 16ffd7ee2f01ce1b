//! Asking a service whether a request may pass.

use std::time::Duration;

use http::StatusCode;

use super::{bad, good, manager, with_hcm};
use crate::model::{AuthzBody, AuthzPath, AuthzService, ExtAuthz, HttpFilterKind};

const ROUTES: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}\n";
const AT: &str =
    "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
const GRPC: &str = "grpc_service: {envoy_grpc: {cluster_name: c}}, transport_api_version: V3";
const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3";

fn filter(settings: &str) -> String {
    let filter =
        format!("          - {{name: f, typed_config: {{\"@type\": {TYPE}.ExtAuthz, {settings}}}}}\n");
    with_hcm(ROUTES).replace("http_filters:\n", &format!("http_filters:\n{filter}"))
}

fn http(more: &str) -> String {
    format!("http_service: {{server_uri: {{uri: \"http://authz.test/x\", cluster: c, timeout: 1s}}, {more}}}")
}

fn authz(settings: &str) -> std::sync::Arc<ExtAuthz> {
    let manager = manager(&filter(settings));
    let HttpFilterKind::ExtAuthz(authz) = &manager.filters[0].kind else { panic!("{:?}", manager.filters) };
    authz.clone()
}

#[test]
fn by_default_it_is_closed_and_fast() {
    let authz = authz(GRPC);
    assert!(!authz.failure_mode_allow && authz.deny_at_disable.is_none() && !authz.shadow);
    assert_eq!(authz.status_on_error, StatusCode::FORBIDDEN);
    assert!(authz.charge_cluster && authz.ingest_metadata && authz.body.is_none());
    assert!(authz.allowed_headers.is_none(), "all");
    let AuthzService::Grpc(service) = &authz.service else { panic!("{authz:?}") };
    assert_eq!((&*service.cluster, &*service.authority), ("c", "c"));
    assert_eq!(service.timeout, Some(Duration::from_millis(200)));
}

#[test]
fn no_timeout_is_none_at_all() {
    let authz =
        authz("grpc_service: {envoy_grpc: {cluster_name: c}, timeout: 0s}, transport_api_version: V3");
    let AuthzService::Grpc(service) = &authz.service else { panic!("{authz:?}") };
    assert_eq!(service.timeout, None);
}

#[test]
fn a_service_that_speaks_http_gets_few_headers() {
    let authz = authz(&http(
        "path_prefix: /check, authorization_request: {allowed_headers: {patterns: [{prefix: x-}]}}",
    ));
    let allowed = authz.allowed_headers.as_ref().expect("a list");
    let passes = |name: &str| allowed.iter().any(|matcher| matcher.matches(name));
    assert!([":method", ":path", ":authority", "authorization", "x-a"].into_iter().all(passes));
    assert!(!passes("cookie") && !passes(":scheme"));
    let AuthzService::Http(service) = &authz.service else { panic!("{authz:?}") };
    assert_eq!(service.path, AuthzPath::Prefix("/check".into()));
    assert_eq!((service.timeout, &*service.authority), (Some(Duration::from_secs(1)), "authz.test"));
}

#[test]
fn bodies_are_buffered_as_it_is_said() {
    let authz =
        authz(&format!("{GRPC}, with_request_body: {{max_request_bytes: 5, allow_partial_message: true}}"));
    assert_eq!(authz.body, Some(AuthzBody { most: 5, partial: true, as_bytes: false }));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_path() {
    let grpc = |more: &str| format!("{GRPC}, {more}");
    for (settings, path, why) in [
        ("failure_mode_allow: false".to_owned(), String::new(), "give one of grpc_service and http_service"),
        ("grpc_service: {envoy_grpc: {cluster_name: c}}".to_owned(), ".transport_api_version".to_owned(), "write V3"),
        ("grpc_service: {google_grpc: {target_uri: \"a:1\", stat_prefix: s}}, transport_api_version: V3".to_owned(), ".grpc_service.google_grpc".to_owned(), "use envoy_grpc"),
        ("grpc_service: {envoy_grpc: {cluster_name: c, retry_policy: {num_retries: 1}}}, transport_api_version: V3".to_owned(), ".grpc_service.envoy_grpc.retry_policy".to_owned(), "asked once"),
        (grpc("bootstrap_metadata_labels_key: k"), ".bootstrap_metadata_labels_key".to_owned(), "context_extensions"),
        (grpc("emit_filter_state_stats: true"), ".emit_filter_state_stats".to_owned(), "not supported"),
        (grpc("route_typed_metadata_context_namespaces: [a]"), ".route_typed_metadata_context_namespaces".to_owned(), "route_metadata_context_namespaces"),
        (grpc("decoder_header_mutation_rules: {allow_expression: {regex: \"(\"}}"), ".decoder_header_mutation_rules.allow_expression.regex".to_owned(), "not a regular expression"),
        (http("path_prefix: check"), ".http_service.path_prefix".to_owned(), "slash"),
        (http("path_prefix: /a, path_override: /b"), ".http_service.path_override".to_owned(), "exclude one another"),
        (http("retry_policy: {retry_on: retriable-4xx}"), ".http_service.retry_policy.retry_on".to_owned(), "write 5xx"),
        (http("authorization_request: {headers_to_add: [{key: \":path\", value: x}]}"), ".http_service.authorization_request.headers_to_add[0].key".to_owned(), "may not be set"),
        (format!("{}, allowed_headers: {{patterns: [{{exact: a}}]}}", http("authorization_request: {allowed_headers: {patterns: [{exact: b}]}}")), ".allowed_headers".to_owned(), "keep one of them"),
    ] {
        let problems = bad(&filter(&settings));
        let path = format!("{AT}{path}");
        assert!(problems.iter().any(|text| text.starts_with(&path) && text.contains(why)), "{path}: {problems:?}");
    }
}

#[test]
fn what_changes_nothing_is_told() {
    let (_, ledger) =
        good(&filter(&format!("{GRPC}, typed_metadata_context_namespaces: [a], emit_client_span: false")));
    for field in ["typed_metadata_context_namespaces", "emit_client_span"] {
        let path = format!("{AT}.{field}");
        assert!(ledger.inert.iter().any(|(known, _)| *known == path), "{path}: {ledger:?}");
    }
}

#[test]
fn a_route_says_one_thing_about_bodies() {
    let route = format!(
        "typed_per_filter_config: {{f: {{\"@type\": {TYPE}.ExtAuthzPerRoute, check_settings: {{disable_request_body_buffering: true, with_request_body: {{max_request_bytes: 1}}}}}}}}"
    );
    let yaml = filter(GRPC).replace("route: {cluster: c}}", &format!("route: {{cluster: c}}, {route}}}"));
    let problems = bad(&yaml);
    assert!(problems.iter().any(|text| text.contains("exclude one another")), "{problems:?}");
}
