//! The route tables of a gateway.

use outrider_proto::pb::envoy::config::route::v3 as pb;
use pb::route_match::PathSpecifier;

use super::hosts;
use crate::attach::Listener;
use crate::translate::Context;
use crate::translate::routes::{Place, http};
use crate::translate::wire::truth;

/// The table of a port without TLS: all listeners of the port are one server, and each host belongs to one of them.
pub(super) fn plain(context: &Context, port: u16, listeners: &[&Listener]) -> pb::RouteConfiguration {
    let place = Place { port, tls: false, sidecar: false };
    let hosts = hosts::owned(listeners).into_iter();
    let hosts =
        hosts.map(|(host, listener)| virtual_host(host.clone(), routes(context, listener, &host, &place)));
    table(&name(port, None), hosts.collect())
}

/// The table of one listener with TLS. Who came by its server name cannot reach the routes of another: a host that belongs to
/// one of the `others` of the port is answered with 421, so that the client makes a connection of its own for it
/// (<https://www.rfc-editor.org/rfc/rfc9110#section-15.5.20>); a host that belongs to none with 404.
pub(super) fn tls(
    context: &Context,
    port: u16,
    listener: &Listener,
    all: &[&Listener],
) -> pb::RouteConfiguration {
    let place = Place { port, tls: true, sidecar: false };
    let hosts = hosts::owned(all).into_iter().filter_map(|(host, owner)| {
        if owner.name == listener.name {
            let routes = routes(context, listener, &host, &place);
            return Some(virtual_host(host, routes));
        }
        (hosts::of(owner) == host).then(|| virtual_host(host, vec![misdirected()]))
    });
    table(&name(port, Some(listener)), hosts.collect())
}

/// The name of a table.
pub(super) fn name(port: u16, tls: Option<&Listener>) -> String {
    match tls {
        None => format!("http.{port}"),
        Some(listener) => format!("https.{port}.{}", listener.name),
    }
}

fn routes(context: &Context, listener: &Listener, host: &str, place: &Place) -> Vec<pb::Route> {
    hosts::groups(listener, host).iter().flat_map(|group| http(context, group, place)).collect()
}

fn misdirected() -> pb::Route {
    pb::Route {
        name: "misdirected".to_owned(),
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(pb::route::Action::DirectResponse(pb::DirectResponseAction {
            status: 421,
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn virtual_host(host: String, routes: Vec<pb::Route>) -> pb::VirtualHost {
    pb::VirtualHost {
        name: host.clone(),
        domains: vec![host],
        routes,
        include_request_attempt_count: true,
        ..Default::default()
    }
}

fn table(name: &str, virtual_hosts: Vec<pb::VirtualHost>) -> pb::RouteConfiguration {
    pb::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        validate_clusters: Some(truth(false)),
        // A Host's port is not the gateway's concern.
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}
