//! Conversions of whole bootstraps, written as users write them.

mod balancing;
mod cel;
mod clusters;
mod credential_injector;
mod credentials;
mod dynamic;
mod ext_authz;
mod filters;
mod first;
mod identity;
mod jwt;
mod listeners;
mod login;
mod mesh;
mod mutations;
mod rbac;
mod resources;
mod rest;
mod routes;
mod scopes;
mod tls;

use outrider_proto::load::{self, ParseOptions};
use outrider_proto::pb::envoy::config::bootstrap::v3::Bootstrap as Message;
use outrider_proto::{Descriptors, Problem};

use super::{Ledger, Options, bootstrap};
use crate::model::{Bootstrap, HttpConnectionManager, NetworkFilter, Route, RouteConfiguration, Routes};

/// The message that `yaml` says.
pub(super) fn message(yaml: &str) -> Message {
    let descs = Descriptors::load();
    let options = ParseOptions::default();
    let loaded = load::parse(&descs, yaml, "test.yaml", "envoy.config.bootstrap.v3.Bootstrap", options);
    loaded.expect("the test's YAML is right").typed().expect("it is a bootstrap")
}

pub(super) fn convert(yaml: &str) -> (Result<Bootstrap, Vec<Problem>>, Ledger) {
    bootstrap(&message(yaml), &Options::default())
}

/// The model; panics with the problems when there are any.
pub(super) fn good(yaml: &str) -> (Bootstrap, Ledger) {
    let (result, ledger) = convert(yaml);
    (result.unwrap_or_else(|problems| panic!("{problems:#?}")), ledger)
}

/// The problems as users read them, in order.
pub(super) fn bad(yaml: &str) -> Vec<String> {
    match convert(yaml).0 {
        Ok(_) => panic!("nothing was wrong"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// `text` with each line moved `by` spaces to the right.
pub(super) fn indent(text: &str, by: usize) -> String {
    text.trim_matches('\n').lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// A bootstrap with one listener, whose connection manager has `more` fields, and one cluster `c`.
pub(super) fn with_hcm(more: &str) -> String {
    let more = indent(more, 10);
    format!(
        r#"
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 10000}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
{more}
  clusters:
  - name: c
    load_assignment:
      cluster_name: c
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}}}}}]}}]
"#
    )
}

/// A bootstrap whose one route is `route`.
pub(super) fn with_route(route: &str) -> String {
    let route = indent(route, 4);
    with_hcm(&format!(
        "route_config:\n  virtual_hosts:\n  - name: v\n    domains: ['*']\n    routes:\n    -\n{}",
        indent(&route, 2)
    ))
}

/// The route of [`with_route`].
pub(super) fn route(yaml: &str) -> Route {
    let manager = manager(&with_route(yaml));
    table(&manager).virtual_hosts[0].routes[0].as_ref().clone()
}

/// The routes that a connection manager holds itself.
pub(super) fn table(manager: &HttpConnectionManager) -> &RouteConfiguration {
    match &manager.routes {
        Routes::Inline(routes) => routes,
        Routes::Rds { .. } | Routes::Scoped(_) => panic!("they come from elsewhere"),
    }
}

/// The first connection manager.
pub(super) fn manager(yaml: &str) -> HttpConnectionManager {
    let (model, _) = good(yaml);
    match &model.listeners[0].filter_chains[0].filter {
        NetworkFilter::Http(manager) => manager.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}
