//! References from one resource to another: routes that name clusters which do not exist.

use std::collections::HashSet;
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::bootstrap::v3::Bootstrap as Message;

use super::cx::Cx;
use crate::model::{
    Bootstrap, ClusterSpecifier, FilterChain, MirrorCluster, NetworkFilter, RouteAction, RouteConfiguration,
};

/// Checks every static route table that asks for it (`validate_clusters`, true when not given). Envoy leaves the
/// clusters of tcp_proxy unchecked: they may come later.
pub(crate) fn check(cx: &Cx, path: &Path<'_>, message: &Message, model: &Bootstrap) {
    // The names as written: a cluster that has a problem of its own exists all the same.
    let clusters: HashSet<&str> = message
        .static_resources
        .iter()
        .flat_map(|resources| &resources.clusters)
        .map(|cluster| cluster.name.as_str())
        .collect();
    let written = message.static_resources.iter().flat_map(|resources| &resources.listeners).count();
    // Indices in the model are those of the file only when every listener could be converted.
    if written != model.listeners.len() {
        return;
    }
    let path = path.field("static_resources");
    let path = path.field("listeners");
    for (i, listener) in model.listeners.iter().enumerate() {
        let path = path.index(i);
        let chains = path.field("filter_chains");
        for (i, chain) in listener.filter_chains.iter().enumerate() {
            check_chain(cx, &chains.index(i), chain, &clusters);
        }
        if let Some(chain) = &listener.default_filter_chain {
            check_chain(cx, &path.field("default_filter_chain"), chain, &clusters);
        }
    }
}

fn check_chain(cx: &Cx, path: &Path<'_>, chain: &Arc<FilterChain>, clusters: &HashSet<&str>) {
    let NetworkFilter::Http(manager) = &chain.filter else { return };
    if !manager.routes.validate_clusters {
        return;
    }
    // A chain has one filter, its last.
    let path = path.field("filters");
    let path = path.index(0);
    let path = path.field("typed_config");
    check_routes(cx, &path.field("route_config"), &manager.routes, clusters);
}

fn check_routes(cx: &Cx, path: &Path<'_>, routes: &RouteConfiguration, clusters: &HashSet<&str>) {
    let missing = |path: &Path<'_>, name: &str| {
        if !clusters.contains(name) {
            cx.error(path, format!("there is no cluster named {name:?} in static_resources.clusters"));
        }
    };
    let hosts = path.field("virtual_hosts");
    for (i, host) in routes.virtual_hosts.iter().enumerate() {
        let path = hosts.index(i);
        let path = path.field("routes");
        for (i, route) in host.routes.iter().enumerate() {
            let RouteAction::Forward(forward) = &route.action else { continue };
            let path = path.index(i);
            let path = path.field("route");
            match &forward.cluster {
                ClusterSpecifier::Name(name) => missing(&path.field("cluster"), name),
                ClusterSpecifier::Weighted(weighted) => {
                    let path = path.field("weighted_clusters");
                    let path = path.field("clusters");
                    for (i, cluster) in weighted.clusters.iter().enumerate() {
                        missing(&path.index(i).field("name"), &cluster.name);
                    }
                }
                ClusterSpecifier::Header(_) => {}
            }
            for (i, mirror) in forward.mirrors.iter().enumerate() {
                if let MirrorCluster::Name(name) = &mirror.cluster {
                    missing(&path.field("request_mirror_policies").index(i).field("cluster"), name);
                }
            }
        }
    }
}
