//! HTTP filters: chains, and filters that come by themselves.

use super::{bad, good, manager, with_hcm};
use crate::model::{FaultStatus, HttpFilterKind};

const ROUTES: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}\n";
const AT: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters";

fn chain(filters: &str) -> String {
    let filters: String = filters.lines().map(|line| format!("          {line}\n")).collect();
    with_hcm(ROUTES).replace("http_filters:\n", &format!("http_filters:\n{filters}"))
}

fn one(what: &str) -> String {
    chain(&format!("- {{name: f, {what}}}\n"))
}

fn typed(kind: &str, settings: &str) -> String {
    format!(
        "typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.{kind}, {settings}}}"
    )
}

#[test]
fn a_chain_is_taken_in_its_order() {
    let filters = format!(
        "- {{name: a, disabled: true, {}}}\n- {{name: b, {}}}\n",
        typed("cors.v3.Cors", ""),
        typed("fault.v3.HTTPFault", "abort: {grpc_status: 7}")
    );
    let manager = manager(&chain(&filters));
    let [cors, fault] = &manager.filters[..] else { panic!("{:?}", manager.filters) };
    assert!(cors.disabled && matches!(cors.kind, HttpFilterKind::Cors) && &**cors.name.text() == "a");
    let HttpFilterKind::Fault(settings) = &fault.kind else { panic!("{fault:?}") };
    let abort = settings.abort.as_ref().expect("an abort");
    assert_eq!((abort.status, &*abort.body), (FaultStatus::Grpc(7), &b"fault filter abort"[..]));
}

#[test]
fn what_is_not_supported_is_refused_unless_it_is_optional() {
    let lua = typed("lua.v3.Lua", "");
    assert_eq!(
        bad(&one(&lua)),
        [format!(
            "{AT}[0].typed_config: the HTTP filter envoy.extensions.filters.http.lua.v3.Lua is not supported; remove the filter \"f\""
        )]
    );
    let (_, ledger) = good(&one(&format!("is_optional: true, {lua}")));
    assert!(ledger.inert.iter().any(|(path, _)| *path == format!("{AT}[0].typed_config")), "{ledger:?}");
}

#[test]
fn a_filter_that_comes_by_itself_says_its_types() {
    let source = "config_source: {path_config_source: {path: /x}}";
    let cors = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
    let of = |what: &str| one(&format!("config_discovery: {{{source}, {what}}}"));
    assert_eq!(
        bad(&of("type_urls: [type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua]"))[0],
        format!(
            "{AT}[0].config_discovery.type_urls[0]: a filter of type envoy.extensions.filters.http.lua.v3.Lua is not supported here"
        )
    );
    assert_eq!(
        bad(&of(&format!("type_urls: [{cors}], apply_default_config_without_warming: true")))[0],
        format!(
            "{AT}[0].config_discovery.default_config: it is needed with apply_default_config_without_warming"
        )
    );
    assert!(
        bad(&of(&format!(
            "type_urls: [{cors}], default_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}}"
        )))[0]
            .contains("is not one of type_urls")
    );
}
