//! Role-based access control.

use outrider_core::rbac::{Action, Engine};

use super::{bad, good, manager, with_hcm};
use crate::model::{HttpFilterKind, Rbac};

const ROUTES: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}\n";
const AT: &str =
    "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";

fn filter(settings: &str) -> String {
    let filter = format!(
        "          - {{name: f, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, {settings}}}}}\n"
    );
    with_hcm(ROUTES).replace("http_filters:\n", &format!("http_filters:\n{filter}"))
}

fn rbac(settings: &str) -> std::sync::Arc<Rbac> {
    let manager = manager(&filter(settings));
    let HttpFilterKind::Rbac(rbac) = &manager.filters[0].kind else { panic!("{:?}", manager.filters) };
    rbac.clone()
}

fn policy(permission: &str, principal: &str) -> String {
    format!("rules: {{policies: {{p: {{permissions: [{permission}], principals: [{principal}]}}}}}}")
}

const ANY: &str = "{any: true}";

#[test]
fn policies_are_looked_at_in_the_order_of_their_names() {
    let one = format!("{{permissions: [{ANY}], principals: [{ANY}]}}");
    let rbac = rbac(&format!("rules: {{action: DENY, policies: {{b: {one}, B: {one}, a: {one}}}}}"));
    let Some(Engine::Rules(rules)) = &rbac.enforced else { panic!("{rbac:?}") };
    assert_eq!(rules.action(), Action::Deny);
    let names: Vec<&str> = rules.policies().iter().map(|policy| &*policy.name).collect();
    assert_eq!(names, ["B", "a", "b"]);
    assert!(rbac.shadow.is_none());
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_path() {
    let at = format!("{AT}.rules.policies[\"p\"]");
    for (settings, path, why) in [
        (policy("{uri_template: {name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: /a}}}", ANY), format!("{at}.permissions[0].uri_template"), "URI templates"),
        (policy("{destination_port_range: {start: 5, end: 5}}", ANY), format!("{at}.permissions[0].destination_port_range"), "no port is in 5 to 5"),
        (policy("{destination_port_range: {start: 5, end: 70000}}", ANY), format!("{at}.permissions[0].destination_port_range.end"), "70000"),
        (policy("{destination_ip: {address_prefix: nowhere}}", ANY), format!("{at}.permissions[0].destination_ip.address_prefix"), "not an IP address"),
        (policy("{url_path: {path: {safe_regex: {regex: \"(\"}}}}", ANY), format!("{at}.permissions[0].url_path.path.safe_regex.regex"), "not a regular expression"),
        (policy(ANY, "{custom: {name: c, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config}}}"), format!("{at}.principals[0].custom.typed_config"), "give one of"),
        ("matcher: {matcher_tree: {input: {name: i, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput}}, exact_match_map: {map: {a: {matcher: {}}}}}}".to_owned(), format!("{AT}.matcher.matcher_tree.input.typed_config"), "not supported here"),
    ] {
        let problems = bad(&filter(&settings));
        assert!(problems.iter().any(|text| text.starts_with(&path) && text.contains(why)), "{path}: {problems:?}");
    }
}

#[test]
fn a_tree_comes_before_rules() {
    let (_, ledger) = good(&filter(&format!("matcher: {{}}, {}", policy(ANY, ANY))));
    assert!(ledger.inert.iter().any(|(path, _)| *path == format!("{AT}.rules")), "{ledger:?}");
}

#[test]
fn a_connection_has_no_headers_and_needs_a_filter_behind() {
    let gate = format!(
        "      - {{name: gate, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: s, {}}}}}\n",
        policy("{header: {name: a, present_match: true}}", ANY)
    );
    let yaml = with_hcm(ROUTES).replace("    - filters:\n", &format!("    - filters:\n{gate}"));
    let at = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.rules.policies[\"p\"].permissions[0].header";
    let problems = bad(&yaml);
    assert!(problems.iter().any(|text| text.starts_with(at) && text.contains("no headers")), "{problems:?}");
}
