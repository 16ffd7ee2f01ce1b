//! Routes and policies as rows of a table. Values of headers stay out: some are credentials.

use serde_json::{Value, json};

use super::admin::cut;
use super::topology::{Topology, node_of_target, service_node};
use crate::attach::Attachments;
use crate::attach::ir::{Filter, HttpMatch, HttpRoute, HttpRule, PathMatch, Target, TcpRoute};
use crate::model::own::{AuthorizationPolicy, PeerPolicy};
use crate::model::{Key, Kind};
use crate::world::World;

/// How many rows there are.
pub(super) const ROWS: usize = 300;
/// How many matches, hosts and backends of one rule.
const PARTS: usize = 12;

/// Where a route is attached.
struct Parent {
    /// Its node in the topology.
    node: String,
    /// What people call it.
    label: String,
}

/// All routes at all their parents, and whether some are left out. Tells the topology where they lead.
pub(super) fn routes(attachments: &Attachments, topology: &mut Topology) -> (Vec<Value>, bool) {
    let mut rows = Vec::new();
    for ((service, port), routes) in &attachments.services {
        let port = port.map(|it| format!(":{it}")).unwrap_or_default();
        let label = format!("Service {}/{}{port}", service.0, service.1);
        let parent = Parent { node: service_node(service), label };
        routes.http.iter().for_each(|route| http(route, &parent, topology, &mut rows));
        routes.tcp.iter().for_each(|route| tcp(route, &parent, topology, &mut rows));
    }
    for (named, gateway) in &attachments.gateways {
        for listener in &gateway.listeners {
            let label = format!("Gateway {}/{} {}:{}", named.0, named.1, listener.name, listener.port);
            let parent = Parent { node: format!("gateway/{}/{}", named.0, named.1), label };
            listener.http.iter().for_each(|route| http(route, &parent, topology, &mut rows));
            listener.tcp.iter().for_each(|route| tcp(route, &parent, topology, &mut rows));
        }
    }
    let more = rows.len() > ROWS;
    rows.truncate(ROWS);
    (rows, more)
}

fn http(route: &HttpRoute, parent: &Parent, topology: &mut Topology, rows: &mut Vec<Value>) {
    for rule in &route.rules {
        if rows.len() > ROWS {
            return;
        }
        let weighted: Vec<(&Target, u32)> = rule.backends.iter().map(|it| (&it.target, it.weight)).collect();
        let backends = backends(&weighted, parent, topology);
        rows.push(json!({
            "kind": route.key.kind.name(),
            "namespace": cut(&route.key.namespace),
            "name": cut(&route.key.name),
            "parent": cut(&parent.label),
            "hosts": route.hostnames.iter().take(PARTS).map(|it| cut(it)).collect::<Vec<_>>(),
            "matches": rule.matches.iter().take(PARTS).map(matched).collect::<Vec<_>>(),
            "backends": backends,
            "extras": extras(rule),
        }));
    }
}

fn tcp(route: &TcpRoute, parent: &Parent, topology: &mut Topology, rows: &mut Vec<Value>) {
    let weighted: Vec<(&Target, u32)> =
        route.backends.iter().map(|(target, weight)| (target, *weight)).collect();
    let backends = backends(&weighted, parent, topology);
    rows.push(json!({
        "kind": route.key.kind.name(),
        "namespace": cut(&route.key.namespace),
        "name": cut(&route.key.name),
        "parent": cut(&parent.label),
        "hosts": route.hostnames.iter().take(PARTS).map(|it| cut(it)).collect::<Vec<_>>(),
        "matches": ["any connection"],
        "backends": backends,
        "extras": [],
    }));
}

fn backends(weighted: &[(&Target, u32)], parent: &Parent, topology: &mut Topology) -> Vec<Value> {
    let all: u64 = weighted.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut rows = Vec::new();
    for (target, weight) in weighted {
        let share = if all == 0 { 0.0 } else { f64::from(*weight) / all as f64 };
        if let Some(node) = node_of_target(target) {
            topology.routed(&parent.node, node, share);
        }
        let label = match target {
            Target::Service { service, port } => format!("{}/{}:{port}", service.0, service.1),
            Target::External { service, port } => format!("{}/{}:{port} (external)", service.0, service.1),
            Target::Invalid => "nowhere (500)".to_owned(),
        };
        if rows.len() < PARTS {
            rows.push(json!({ "to": cut(&label), "share": share }));
        }
    }
    rows
}

fn matched(it: &HttpMatch) -> String {
    let mut words = Vec::new();
    words.extend(it.method.as_deref().map(str::to_owned));
    words.push(match &it.path {
        PathMatch::Exact(path) => format!("= {path}"),
        PathMatch::Prefix(path) if it.grpc && &**path == "/" => "gRPC".to_owned(),
        PathMatch::Prefix(path) => format!("{}/*", path.trim_end_matches('/')),
        PathMatch::Regex(regex) => format!("~ {regex}"),
    });
    words.extend(it.headers.iter().take(PARTS).map(|(name, _)| format!("header {name}")));
    words.extend(it.query.iter().take(PARTS).map(|(name, _)| format!("?{name}")));
    cut(&words.join(" "))
}

/// What a rule does besides choosing where to.
fn extras(rule: &HttpRule) -> Vec<String> {
    let mut words: Vec<String> = rule
        .filters
        .iter()
        .map(|filter| match filter {
            Filter::RequestHeaders(_) => "request headers".to_owned(),
            Filter::ResponseHeaders(_) => "response headers".to_owned(),
            Filter::Mirror { per_million, .. } => format!("mirror {} %", f64::from(*per_million) / 10_000.0),
            Filter::Redirect { status, .. } => format!("redirect {status}"),
            Filter::Rewrite { .. } => "rewrite".to_owned(),
            Filter::Cors(_) => "CORS".to_owned(),
        })
        .collect();
    let timeout = |what: &str, time: std::time::Duration| format!("{what} {} ms", time.as_millis());
    words.extend(rule.request_timeout.map(|it| timeout("timeout", it)));
    words.extend(rule.backend_timeout.map(|it| timeout("per try", it)));
    words.truncate(PARTS);
    words
}

/// The policies that there are, and whether some are left out.
pub(super) fn policies(world: &World) -> (Vec<Value>, bool) {
    const KINDS: [Kind; 6] = [
        Kind::AuthorizationPolicy,
        Kind::PeerPolicy,
        Kind::TrafficPolicy,
        Kind::BackendTlsPolicy,
        Kind::Telemetry,
        Kind::Revocation,
    ];
    let all = KINDS.into_iter().flat_map(|kind| world.objects_of(kind)).map(|object| &object.key);
    let mut rows: Vec<Value> = all.take(ROWS + 1).map(|key| policy(world, key)).collect();
    let more = rows.len() > ROWS;
    rows.truncate(ROWS);
    (rows, more)
}

fn policy(world: &World, key: &Key) -> Value {
    let said = match key.kind {
        Kind::AuthorizationPolicy => world.get::<AuthorizationPolicy>(&key.namespace, &key.name).map(|it| {
            let spec = &it.body().spec;
            let rules = spec.rules.len();
            format!("{:?}, {rules} {}", spec.action, if rules == 1 { "rule" } else { "rules" })
        }),
        Kind::PeerPolicy => world.get::<PeerPolicy>(&key.namespace, &key.name).map(|it| {
            let spec = &it.body().spec;
            spec.mtls.as_ref().map_or_else(String::new, |mtls| format!("mTLS {:?}", mtls.mode))
        }),
        _ => None,
    };
    json!({
        "kind": key.kind.name(),
        "namespace": cut(&key.namespace),
        "name": cut(&key.name),
        "summary": said.unwrap_or_default(),
    })
}
