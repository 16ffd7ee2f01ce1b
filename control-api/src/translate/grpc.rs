//! What a gRPC client gets that speaks xDS itself (`xds:///web.shop.svc.cluster.local:50051`): an API listener for each port that it
//! could name, its table, its clusters.

use outrider_proto::pb::envoy::config::listener::v3::{ApiListener, Listener};
use outrider_proto::pb::envoy::config::route::v3 as route;

use super::hcm::{Hcm, Routes};
use super::wire::any;
use super::{Context, Resource, Resources, Scope, Type, cluster, names, sidecar};

/// Listeners, tables and clusters of all ports that a scope sees, under each name that a client may use.
pub fn shared(context: &Context, scope: &Scope) -> Resources {
    let mut out = Resources::default();
    for it in sidecar::visible(context, scope) {
        out.add(Type::Cluster, cluster::of_port(context, &it.service, &it.port));
        let table = sidecar::routes::table_of(&it);
        let hosts = names::domains(&it.service, &scope.namespace);
        for host in &hosts {
            let name = format!("{host}:{}", it.port.number);
            out.add(Type::Listener, Resource::new(&name, &listener(&name, &table)));
        }
        let config = route::RouteConfiguration {
            name: table.clone(),
            virtual_hosts: vec![route::VirtualHost {
                name: table.clone(),
                domains: vec!["*".to_owned()],
                routes: sidecar::routes::of_service(context, scope, &it),
                ..Default::default()
            }],
            ..Default::default()
        };
        out.add(Type::Route, Resource::canonical(Type::Route, &table, &config));
    }
    out
}

fn listener(name: &str, table: &str) -> Listener {
    let manager = Hcm {
        stat_prefix: name.to_owned(),
        routes: Routes::Named(table.to_owned()),
        filters: Vec::new(),
        access_log: Vec::new(),
        edge: false,
        grpc: true,
    };
    Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(any(&manager.message())) }),
        ..Default::default()
    }
}
