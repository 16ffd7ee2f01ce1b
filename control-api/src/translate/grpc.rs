//! What a gRPC client gets that speaks xDS itself (`xds:///web.shop.svc.cluster.local:50051`): an API listener for each port that it
//! could name, its table, its clusters.

mod narrow;

use outrider_proto::pb::envoy::config::listener::v3::{ApiListener, Listener};
use outrider_proto::pb::envoy::config::route::v3 as route;

use super::hcm::{Hcm, Routes};
use super::wire::any;
use super::{Context, Resource, Resources, Scope, Type, cluster, names, sidecar};

/// Listeners, tables and clusters of all ports that a scope sees, under each name that a client may use.
pub fn shared(context: &Context, scope: &Scope) -> Resources {
    let mut out = Resources::default();
    let services = sidecar::visible(context, scope);
    let own = services.iter().map(|it| (it.service.clone(), it.port.clone()));
    let reached = sidecar::routes::reached(context, scope, &services);
    for (service, port) in own.chain(sidecar::beyond(context, &services, &reached)) {
        let cluster = narrow::cluster(cluster::message(context, &service, &port, cluster::Way::Grpc));
        out.add(Type::Cluster, cluster::resource(&cluster));
    }
    for it in services {
        let table = sidecar::routes::table_of(&it);
        let hosts = names::domains(&it.service, &scope.namespace);
        for host in &hosts {
            let name = format!("{host}:{}", it.port.number);
            out.add(Type::Listener, Resource::new(&name, &listener(&name, &table)));
        }
        let routes = sidecar::routes::of_service(context, scope, &it);
        let config = route::RouteConfiguration {
            name: table.clone(),
            virtual_hosts: vec![route::VirtualHost {
                name: table.clone(),
                domains: vec!["*".to_owned()],
                routes: routes.into_iter().filter_map(narrow::route).collect(),
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
        certificates: false,
        grpc: true,
    };
    Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(any(&manager.message())) }),
        ..Default::default()
    }
}
