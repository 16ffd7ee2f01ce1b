//! Who calls whom: services and workloads as nodes, traffic between them as edges. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::{Value, json};

use super::admin::cut;
use super::traffic::{Rate, Tls};
use crate::attach::ir::Target;
use crate::model::own::ExternalService;
use crate::translate::names;
use crate::world::{Named, Proxy, Role, World, port};

/// How many nodes are shown.
pub(super) const NODES: usize = 300;
/// How many edges are shown.
pub(super) const EDGES: usize = 1000;

/// One node's name, as edges have it: `service/shop/web`.
pub(super) type NodeId = String;

/// Who calls whom.
#[derive(Debug, Default)]
pub(super) struct Topology {
    /// The proxies of each node.
    proxies: BTreeMap<NodeId, usize>,
    /// What goes on from one to another.
    traffic: BTreeMap<(NodeId, NodeId), Rate>,
    /// What routes say: from a parent to a backend, with the backend's share of requests.
    routed: BTreeMap<(NodeId, NodeId), f64>,
}

/// The node that a proxy is part of: the Service that selects its Pod or has its address, its Gateway, or else itself.
pub(super) fn node_of(world: &World, proxy: &Proxy) -> NodeId {
    if proxy.role == Role::Router {
        let (namespace, name) = proxy.gateway.clone().unwrap_or((proxy.namespace.clone(), proxy.pod.clone()));
        return format!("gateway/{namespace}/{name}");
    }
    let pod = world.get::<Pod>(&proxy.namespace, &proxy.pod);
    let labels = pod.and_then(|pod| pod.body().metadata.labels.as_ref()).unwrap_or(&proxy.labels);
    let selects = |service: &Service| {
        let selector = service.spec.as_ref().and_then(|it| it.selector.as_ref());
        selector.is_some_and(|it| {
            !it.is_empty() && it.iter().all(|(name, value)| labels.get(name) == Some(value))
        })
    };
    let selected = world.all_in::<Service>(&proxy.namespace).find(|it| selects(it.body()));
    if let Some(service) = selected {
        return format!("service/{}/{}", service.namespace(), service.name());
    }
    // On the loopback of one machine everybody has the same.
    let by_address =
        || world.services_of(proxy.address).into_iter().find(|it| **it.namespace() == *proxy.namespace);
    match by_address().filter(|_| !proxy.address.is_loopback()) {
        Some(service) => format!("service/{}/{}", service.namespace(), service.name()),
        None => format!("workload/{}/{}", proxy.namespace, proxy.pod),
    }
}

/// The node that a cluster leads to.
pub(super) fn node_of_cluster(cluster: &str) -> Option<NodeId> {
    if let Some(((namespace, name), _)) = names::parse_outbound(cluster) {
        return Some(format!("service/{namespace}/{name}"));
    }
    let ((namespace, name), _) = names::parse_external(cluster)?;
    Some(format!("external/{namespace}/{name}"))
}

/// The node of a route's backend.
pub(super) fn node_of_target(target: &Target) -> Option<NodeId> {
    match target {
        Target::Service { service: (namespace, name), .. } => Some(format!("service/{namespace}/{name}")),
        Target::External { service: (namespace, name), .. } => Some(format!("external/{namespace}/{name}")),
        Target::Invalid => None,
    }
}

impl Topology {
    /// A proxy that is there.
    pub(super) fn proxy(&mut self, node: NodeId) {
        *self.proxies.entry(node).or_default() += 1;
    }

    /// What goes on from a node to another one.
    pub(super) fn traffic(&mut self, from: &str, to: NodeId, rate: &Rate) {
        let key = (from.to_owned(), to);
        if self.traffic.len() < EDGES || self.traffic.contains_key(&key) {
            self.traffic.entry(key).or_default().add(rate);
        }
    }

    /// That a route leads from a parent to a backend.
    pub(super) fn routed(&mut self, from: &str, to: NodeId, share: f64) {
        if *from != *to && self.routed.len() < EDGES {
            let known = self.routed.entry((from.to_owned(), to)).or_default();
            *known = known.max(share);
        }
    }

    /// All nodes, and whether some are left out.
    pub(super) fn nodes(&self, world: &World) -> (Vec<Value>, bool) {
        let mut seen = BTreeSet::new();
        let mut nodes = Vec::new();
        // Those first that something is known of: of many they are the ones that are looked for.
        let ends = self.traffic.keys().chain(self.routed.keys()).flat_map(|(from, to)| [from, to]);
        for id in self.proxies.keys().chain(ends) {
            if seen.insert(id.clone()) {
                nodes.push(self.node(world, id));
            }
        }
        let services = world.all::<Service>().map(|it| format!("service/{}/{}", it.namespace(), it.name()));
        let outside =
            world.all::<ExternalService>().map(|it| format!("external/{}/{}", it.namespace(), it.name()));
        for id in services.chain(outside) {
            if nodes.len() > NODES {
                break;
            }
            if seen.insert(id.clone()) {
                nodes.push(self.node(world, &id));
            }
        }
        let more = nodes.len() > NODES;
        nodes.truncate(NODES);
        (nodes, more)
    }

    fn node(&self, world: &World, id: &str) -> Value {
        let mut parts = id.splitn(3, '/');
        let (kind, namespace, name) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let (mut ports, mut endpoints, mut ready) = (Vec::new(), 0, 0);
        if kind == "service" {
            let named: Named = (namespace.into(), name.into());
            (endpoints, ready) = count(world, &named);
            let service = world.get::<Service>(namespace, name);
            let listed = service.map(|it| port::ports(it.body())).unwrap_or_default();
            ports = listed.iter().take(8).map(|it| it.number).collect();
        } else if kind == "external"
            && let Some(service) = world.get::<ExternalService>(namespace, name)
        {
            ports = service.body().spec.ports.iter().take(8).map(|it| it.number).collect();
        }
        json!({
            "id": cut(id),
            "kind": kind,
            "namespace": cut(namespace),
            "name": cut(name),
            "ports": ports,
            "endpoints": endpoints,
            "ready": ready,
            "proxies": self.proxies.get(id).copied().unwrap_or_default(),
        })
    }

    /// All edges: those with traffic, and those of which routes speak.
    pub(super) fn edges(&self) -> Vec<Value> {
        let keys: BTreeSet<&(NodeId, NodeId)> = self.traffic.keys().chain(self.routed.keys()).collect();
        let nothing = Rate::default();
        let edge = |key: &(NodeId, NodeId)| {
            let rate = self.traffic.get(key).unwrap_or(&nothing);
            json!({
                "from": cut(&key.0),
                "to": cut(&key.1),
                "observed": self.traffic.contains_key(key),
                "share": self.routed.get(key),
                "traffic": shown(rate),
            })
        };
        keys.into_iter().take(EDGES).map(edge).collect()
    }
}

/// How many endpoints a service has, and how many of them are ready.
fn count(world: &World, service: &Named) -> (usize, usize) {
    let slices = world.slices(&service.0, &service.1);
    let all = slices.flat_map(|slice| &slice.body().endpoints);
    // Nobody said that it is not ready: it is.
    let ready = |it: &k8s_openapi::api::discovery::v1::Endpoint| {
        it.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true)
    };
    all.fold((0, 0), |(all, good), it| {
        (all + it.addresses.len(), good + if ready(it) { it.addresses.len() } else { 0 })
    })
}

/// What goes on, for the page. Milliseconds; rates each second.
pub(super) fn shown(rate: &Rate) -> Value {
    let share = |part: f64| if rate.requests > 0.0 { (part / rate.requests).min(1.0) } else { 0.0 };
    json!({
        "rps": rounded(rate.requests),
        "connections": rounded(rate.connections),
        "errors": rounded(share(rate.server_errors)),
        "refused": rounded(share(rate.client_errors)),
        "p50": rate.quantile(0.5).map(rounded),
        "p99": rate.quantile(0.99).map(rounded),
        "total": rate.total,
        "tls": match rate.tls() {
            Tls::Unknown => "unknown",
            Tls::Clear => "clear",
            Tls::Mixed => "mixed",
            Tls::All => "all",
        },
    })
}

/// To three places.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The name of a service's node.
pub(super) fn service_node(named: &Named) -> NodeId {
    format!("service/{}/{}", named.0, named.1)
}
