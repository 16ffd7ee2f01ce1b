//! The virtual hosts of ExternalServices, and what routes to them need.

use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::config::route::v3 as pb;

use super::{captured, cluster, cluster_name, credentials, default_port, material, named, settings};
use crate::model::own::{ExternalPort, ExternalService, ExternalServiceSpec};
use crate::model::{Key, Kind};
use crate::translate::Context;
use crate::translate::wire::{duration, origin};
use crate::world::Of;

/// The virtual hosts of one service at a port; `None`: at the explicit listener.
pub(super) fn virtual_hosts(
    context: &Context,
    it: &Of<'_, ExternalService>,
    at: Option<u16>,
) -> Vec<pb::VirtualHost> {
    let spec = &it.body().spec;
    let mut out = Vec::new();
    for port in spec.ports.iter().filter(|port| port.protocol.is_http()) {
        if at.is_some() && captured(spec, port) != at {
            continue;
        }
        for host in &spec.hosts {
            let mut domains = Vec::new();
            // The table of a captured port does not look at ports in hosts.
            if at.is_some() || default_port(spec) == Some(port.number) {
                domains.push(host.clone());
            }
            if at.is_none() {
                domains.push(format!("{host}:{}", port.number));
            }
            out.push(pb::VirtualHost {
                name: format!("{}|{host}", cluster_name(&named(it), port)),
                domains,
                routes: vec![route(context, it, port, host)],
                include_request_attempt_count: true,
                ..Default::default()
            });
        }
    }
    out
}

fn route(context: &Context, it: &Of<'_, ExternalService>, port: &ExternalPort, host: &str) -> pb::Route {
    let cluster = cluster_name(&named(it), port);
    let mut route = pb::Route {
        name: "default".to_owned(),
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(pb::route::Action::Route(pb::RouteAction {
            cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(cluster)),
            ..Default::default()
        })),
        metadata: Some(origin(&Key::new(Kind::ExternalService, it.namespace(), it.name()), "")),
        ..Default::default()
    };
    complete(context, it, port, Some(host), &mut route);
    if let Some(pb::route::Action::Route(action)) = &mut route.action {
        action.timeout.get_or_insert_with(|| duration(Duration::ZERO));
    }
    route
}

/// Puts into a route what the service needs. `host`: the one that was called, where that is known.
pub(super) fn complete(
    context: &Context,
    it: &Of<'_, ExternalService>,
    port: &ExternalPort,
    host: Option<&str>,
    route: &mut pb::Route,
) {
    use pb::route_action::HostRewriteSpecifier::HostRewriteLiteral;
    let (service, spec) = (named(it), &it.body().spec);
    let material = material(context, it);
    if let Some(reason) = material.missing(port) {
        let key = &it.object.key;
        route.action = Some(unavailable(&format!("{key}: {reason}")));
        route.typed_per_filter_config.clear();
        return;
    }
    settings(context, &service, spec, port).to_route(route);
    let injected = material.credentials(port);
    if let Some(pb::route::Action::Route(action)) = &mut route.action {
        // A proxy copies a request after its filters had it.
        if !injected.is_empty() && !action.request_mirror_policies.is_empty() {
            route.action = Some(super::not_mirrored());
            return;
        }
        if action.host_rewrite_specifier.is_none() {
            action.host_rewrite_specifier = own_host(spec, port, host).map(HostRewriteLiteral);
        }
    }
    credentials::turn_on(
        injected,
        &mut route.typed_per_filter_config,
        &mut route.request_headers_to_add,
        &mut route.request_headers_to_remove,
    );
}

/// The host that the service knows itself by. `called`: the one that was called, where that is known. A host under a wildcard is the client's
/// to name.
pub(super) fn own_host(
    spec: &ExternalServiceSpec,
    port: &ExternalPort,
    called: Option<&str>,
) -> Option<String> {
    let exact = |host: &&str| !host.starts_with("*.");
    let known = match called {
        Some(host) => Some(host).filter(exact),
        None => spec.hosts.iter().map(String::as_str).find(exact),
    };
    known.map(|host| authority(spec, port, host))
}

/// The host as a client would send it that called the service itself.
fn authority(spec: &ExternalServiceSpec, port: &ExternalPort, host: &str) -> String {
    let usual = if cluster::secured(spec, port) { 443 } else { 80 };
    match port.target_port.unwrap_or(port.number) {
        number if number == usual => host.to_owned(),
        number => format!("{host}:{number}"),
    }
}

/// A direct response that says what is missing.
pub(super) fn unavailable(reason: &str) -> pb::route::Action {
    pb::route::Action::DirectResponse(pb::DirectResponseAction {
        status: 503,
        body: Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(format!("{reason}\n"))),
            ..Default::default()
        }),
        ..Default::default()
    })
}
