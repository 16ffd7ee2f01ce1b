//! Expressions: in policies, match trees and access logs.

use outrider_core::rbac::Engine;

use super::{bad, good, manager, with_hcm};
use crate::model::{HttpFilterKind, LogFilter};

const ROUTES: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}\n";
const AT: &str =
    "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
/// `request.<name> == '/x'`, parsed.
const IS: &str = "{call_expr: {function: '_==_', args: [{select_expr: {operand: {ident_expr: {name: request}}, field: NAME}}, {const_expr: {string_value: /x}}]}}";

fn rbac(settings: &str) -> String {
    let filter = format!(
        "          - {{name: f, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, {settings}}}}}\n"
    );
    with_hcm(ROUTES).replace("http_filters:\n", &format!("http_filters:\n{filter}"))
}

fn policy(more: &str) -> String {
    rbac(&format!(
        "rules: {{policies: {{p: {{permissions: [{{any: true}}], principals: [{{any: true}}], {more}}}}}}}"
    ))
}

fn tree(input: &str, expression: &str) -> String {
    rbac(&format!(
        "matcher: {{matcher_list: {{matchers: [{{predicate: {{single_predicate: {{input: {{name: i, typed_config: {{\"@type\": type.googleapis.com/{input}}}}}, custom_match: {{name: m, typed_config: {{\"@type\": type.googleapis.com/xds.type.matcher.v3.CelMatcher, expr_match: {{{expression}}}}}}}}}}}, on_match: {{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: it}}}}}}}}]}}}}"
    ))
}

fn log(expression: &str) -> String {
    with_hcm(&format!(
        "{ROUTES}access_log: [{{name: l, filter: {{extension_filter: {{name: cel, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter, expression: \"{expression}\"}}}}}}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}}}]\n"
    ))
}

#[test]
fn a_parsed_condition_is_the_expression_that_it_was_parsed_from() {
    let manager = manager(&policy(&format!("condition: {}", IS.replace("NAME", "path"))));
    let HttpFilterKind::Rbac(rbac) = &manager.filters[0].kind else { panic!("{:?}", manager.filters) };
    let Some(Engine::Rules(rules)) = &rbac.enforced else { panic!("{rbac:?}") };
    let condition = rules.policies()[0].condition.as_ref().expect("a condition");
    assert_eq!(condition.to_string(), "request.path == \"/x\"");
    assert!(condition.reads().request);
}

#[test]
fn a_filter_of_access_logs_is_text() {
    let manager = manager(&log("response.code >= 400"));
    let Some(LogFilter::Expression(program)) = &manager.access_logs[0].filter else {
        panic!("{:?}", manager.access_logs)
    };
    assert_eq!(program.to_string(), "response.code >= 400");
}

#[test]
fn all_forms_of_a_matcher_are_taken() {
    const ALL: &str = "xds.type.matcher.v3.HttpAttributesCelMatchInput";
    let is = IS.replace("NAME", "path");
    for form in [
        format!("cel_expr_parsed: {{expr: {is}}}"),
        format!("cel_expr_checked: {{expr: {is}}}"),
        format!("parsed_expr: {{expr: {is}}}"),
        "cel_expr_string: 'true'".to_owned(),
    ] {
        good(&tree(ALL, &form));
    }
}

#[test]
fn what_cannot_be_asked_is_refused_by_its_path() {
    let at = format!("{AT}.rules.policies[\"p\"]");
    let single = format!("{AT}.matcher.matcher_list.matchers[0].predicate.single_predicate");
    let is = |name: &str| format!("condition: {}", IS.replace("NAME", name));
    const HEADER: &str = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: a";
    for (yaml, path, why) in [
        (policy(&is("nope")), format!("{at}.condition"), "no attribute \"nope\""),
        (policy(&is("path").replace("request", "reqest")), format!("{at}.condition"), "there are request"),
        (policy("condition: {comprehension_expr: {iter_var: x}}"), format!("{at}.condition"), "all, exists"),
        (policy("condition: {list_expr: {elements: [{}]}}"), format!("{at}.condition"), "empty"),
        (
            policy(&format!("checked_condition: {{expr: {}}}", IS.replace("NAME", "path"))),
            format!("{at}.checked_condition"),
            "write condition",
        ),
        (tree(HEADER, "cel_expr_string: 'true'"), single, "go together"),
        (
            log("foo == 1"),
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.access_log[0].filter.extension_filter.typed_config.expression".to_owned(),
            "\"foo\" is no attribute",
        ),
    ] {
        let problems = bad(&yaml);
        assert!(problems.iter().any(|text| text.starts_with(&path) && text.contains(why)), "{path}: {problems:?}");
    }
}
