//! Routes at their parents: who takes whom, and what routes are told about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::apis::standard::gateways::Gateway;
use serde_json::{Value, json};

use super::backends::{Referrer, Refusal};
use super::gateways::GatewayState;
use super::http::Compiled;
use super::ir::{self, HttpRule, Target};
use super::refs::{GATEWAY_GROUP, ParentRef};
use super::services::{AtServices, at_service};
use super::status::{CONTROLLER, Condition, Writer};
use super::{grpc, hostnames, http, tcp};
use crate::model::{Body, Key, Kind, Object};
use crate::world::{Named, World};

/// The conditions of routes that are ours to say.
const OURS: [&str; 3] = ["Accepted", "ResolvedRefs", "PartiallyInvalid"];

/// What a route does.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Http(Vec<HttpRule>),
    Tcp(Vec<(Target, u32)>),
}

/// A route of any kind.
pub(super) struct Route<'w> {
    pub(super) object: &'w Arc<Object>,
    pub(super) kind: Kind,
    parents: Vec<ParentRef<'w>>,
    pub(super) hostnames: Vec<Arc<str>>,
}

/// In which order kinds of routes are attached to Services: of several kinds at one port the most specific one has it.
/// <https://gateway-api.sigs.k8s.io/geps/gep-1294/#route-types>
const AT_SERVICES: [&[Kind]; 4] =
    [&[Kind::GrpcRoute], &[Kind::HttpRoute], &[Kind::TlsRoute], &[Kind::TcpRoute]];

/// To Gateways: of HTTPRoutes and GRPCRoutes for the same hosts of a listener exactly one kind is accepted, that of the oldest route.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#grpcroute>
const AT_GATEWAYS: [&[Kind]; 3] = [&[Kind::GrpcRoute, Kind::HttpRoute], &[Kind::TlsRoute], &[Kind::TcpRoute]];

/// Attaches all routes. Gives the statuses of those that have parents here.
pub(super) fn attach(
    world: &World,
    gateways: &mut BTreeMap<Named, GatewayState<'_>>,
    services: &mut AtServices,
    writer: &Writer<'_>,
) -> Vec<(Key, Value)> {
    let mut told: BTreeMap<Key, Vec<(usize, Value)>> = BTreeMap::new();
    for (mesh, groups) in [(true, &AT_SERVICES[..]), (false, &AT_GATEWAYS[..])] {
        for kinds in groups {
            let objects = kinds.iter().flat_map(|kind| world.objects_of(*kind));
            let mut routes: Vec<_> = objects.filter_map(Route::of).collect();
            routes.sort_by_cached_key(|route| age(route.object.created(), &route.object.key));
            for route in routes {
                let entries = attach_one(world, gateways, services, writer, &route, mesh);
                told.entry(route.object.key.clone()).or_default().extend(entries);
            }
        }
    }
    let by_age = |routes: &mut Vec<Arc<ir::HttpRoute>>| {
        routes.sort_by_cached_key(|it| age(it.created, &it.key));
    };
    services.routes.values_mut().for_each(|it| by_age(&mut it.http));
    let listeners = gateways.values_mut().flat_map(|it| &mut it.listeners);
    listeners.for_each(|it| by_age(&mut it.http));
    told.into_iter().filter_map(|(key, entries)| status(world, writer, key, entries)).collect()
}

/// The order in which routes go: the older ones first, then by namespace and name.
fn age(created: i64, key: &Key) -> (i64, Arc<str>, Arc<str>, Kind) {
    (created, Arc::clone(&key.namespace), Arc::clone(&key.name), key.kind)
}

/// The status of a route, of what is told about its parents, by their places. `None` when it has nothing to do with us, and had not.
fn status(
    world: &World,
    writer: &Writer<'_>,
    key: Key,
    mut entries: Vec<(usize, Value)>,
) -> Option<(Key, Value)> {
    let old = writer.old(world.object(&key)?);
    let ours = |it: &Value| it.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
    let before = old.get("parents").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if entries.is_empty() && !before.iter().any(ours) {
        return None;
    }
    entries.sort_by_key(|(at, _)| *at);
    let entries = entries.into_iter().map(|(_, entry)| entry);
    let parents: Vec<Value> = entries.chain(before.iter().filter(|it| !ours(it)).cloned()).collect();
    Some((key, json!({"parents": parents})))
}

/// Attaches one route to those of its parents that are Services (`mesh`), or to those that are Gateways. Gives what it is told of each, with its
/// place among the parents.
fn attach_one(
    world: &World,
    gateways: &mut BTreeMap<Named, GatewayState<'_>>,
    services: &mut AtServices,
    writer: &Writer<'_>,
    route: &Route<'_>,
    mesh: bool,
) -> Vec<(usize, Value)> {
    let wanted = if mesh { ("", "Service") } else { (GATEWAY_GROUP, "Gateway") };
    let parents = route.parents.iter().enumerate().filter(|(_, it)| (it.group, it.kind) == wanted);
    let mut compiled = None;
    let mut old = None;
    let mut entries = Vec::new();
    for (at, parent) in parents {
        let named: Named = (parent.namespace.into(), parent.name.into());
        if !mesh && !gateways.contains_key(&named) && exists_elsewhere(world, &named) {
            continue;
        }
        let compiled = compiled.get_or_insert_with(|| route.compile(world, mesh));
        let old = old.get_or_insert_with(|| writer.old(route.object));
        let attached = match compiled.all_dropped() {
            Some(refusal) => Err(refusal),
            None if mesh => at_service(world, services, route, parent, named, &compiled.rules),
            None => match gateways.get_mut(&named) {
                Some(state) => at_gateway(world, state, route, parent, &compiled.rules),
                None => Err(Refusal::new(
                    "NoMatchingParent",
                    format!("Gateway {}/{} does not exist", named.0, named.1),
                )),
            },
        };
        let conditions = conditions(attached, compiled);
        entries.push((at, entry(route, parent, old, &conditions, writer)));
    }
    entries
}

/// Whether there is such a gateway, of a class that others serve.
fn exists_elsewhere(world: &World, named: &Named) -> bool {
    world.get::<Gateway>(&named.0, &named.1).is_some()
}

fn entry(
    route: &Route<'_>,
    parent: &ParentRef<'_>,
    old: &Value,
    conditions: &[Condition],
    writer: &Writer<'_>,
) -> Value {
    let mut before = old.get("parents").and_then(Value::as_array).into_iter().flatten();
    let before = before.find(|it| {
        it.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
            && it.get("parentRef") == Some(&parent.written)
    });
    json!({
        "parentRef": parent.written,
        "controllerName": CONTROLLER,
        "conditions": writer.conditions(
            before.and_then(|it| it.get("conditions")), route.object, &OURS, conditions,
        ),
    })
}

/// What a route is told about one parent.
fn conditions(attached: Result<String, Refusal>, compiled: &Compiled<Content>) -> Vec<Condition> {
    let accepted = attached.is_ok();
    let mut out = vec![
        match attached {
            Ok(message) => Condition::yes("Accepted", "Accepted", message),
            Err(refusal) => Condition::no("Accepted", refusal.reason, refusal.message),
        },
        Condition::of("ResolvedRefs", compiled.unresolved.first(), "all references are resolved"),
    ];
    if let (true, Some((_, first))) = (accepted, compiled.dropped.first()) {
        let rules: Vec<_> =
            compiled.dropped.iter().map(|(index, why)| format!("{index} ({})", why.message)).collect();
        let message = format!("Dropped Rule {}", rules.join(", "));
        out.push(Condition::yes("PartiallyInvalid", first.reason, message));
    }
    out
}

impl Compiled<Content> {
    /// Why there is nothing left of a route.
    fn all_dropped(&self) -> Option<Refusal> {
        let nothing = match &self.rules {
            Content::Http(rules) => rules.is_empty(),
            // Without a rule there is nothing to attach; a rule without backends refuses connections.
            Content::Tcp(backends) => backends.is_empty(),
        };
        let (_, first) = self.dropped.first().filter(|_| nothing)?;
        Some(first.clone())
    }
}

impl<'w> Route<'w> {
    fn of(object: &'w Arc<Object>) -> Option<Self> {
        let namespace = &*object.key.namespace;
        macro_rules! parents {
            ($spec:expr) => {
                $spec.parent_refs.iter().flatten().map(|it| ParentRef::from((namespace, it))).collect()
            };
        }
        let none: &[String] = &[];
        let (parents, hosts) = match &object.body {
            Body::HttpRoute(it) => (parents!(it.spec), it.spec.hostnames.as_deref().unwrap_or_default()),
            Body::GrpcRoute(it) => (parents!(it.spec), it.spec.hostnames.as_deref().unwrap_or_default()),
            Body::TlsRoute(it) => (parents!(it.spec), it.spec.hostnames.as_slice()),
            Body::TcpRoute(it) => (parents!(it.spec), none),
            _ => return None,
        };
        let hostnames = hosts.iter().map(|name| hostnames::lower(name)).collect();
        Some(Self { object, kind: object.key.kind, parents, hostnames })
    }

    fn compile(&self, world: &World, mesh: bool) -> Compiled<Content> {
        let referrer = Referrer { world, kind: self.kind, namespace: &self.object.key.namespace, mesh };
        fn wrap<R>(it: Compiled<R>, content: impl FnOnce(R) -> Content) -> Compiled<Content> {
            Compiled { rules: content(it.rules), unresolved: it.unresolved, dropped: it.dropped }
        }
        match &self.object.body {
            Body::HttpRoute(it) => wrap(http::compile(&referrer, &it.spec), Content::Http),
            Body::GrpcRoute(it) => wrap(grpc::compile(&referrer, &it.spec), Content::Http),
            Body::TlsRoute(it) => wrap(tcp::compile_tls(&referrer, &it.spec), Content::Tcp),
            Body::TcpRoute(it) => wrap(tcp::compile_tcp(&referrer, &it.spec), Content::Tcp),
            _ => wrap(Compiled::default(), Content::Tcp),
        }
    }

    pub(super) fn http(&self, hostnames: Vec<Arc<str>>, rules: &[HttpRule]) -> Arc<ir::HttpRoute> {
        Arc::new(ir::HttpRoute {
            key: self.object.key.clone(),
            created: self.object.created(),
            hostnames,
            rules: rules.to_vec(),
        })
    }

    pub(super) fn tcp(&self, hostnames: Vec<Arc<str>>, backends: &[(Target, u32)]) -> Arc<ir::TcpRoute> {
        Arc::new(ir::TcpRoute {
            key: self.object.key.clone(),
            created: self.object.created(),
            hostnames,
            backends: backends.to_vec(),
        })
    }
}

/// Attaches a route to the listeners of a gateway that take it.
fn at_gateway(
    world: &World,
    state: &mut GatewayState<'_>,
    route: &Route<'_>,
    parent: &ParentRef<'_>,
    content: &Content,
) -> Result<String, Refusal> {
    let own = Arc::clone(state.gateway.namespace());
    let chosen: Vec<_> = state
        .listeners
        .iter_mut()
        .filter(|it| parent.section.is_none_or(|name| name == it.spec.name))
        .filter(|it| parent.port.is_none_or(|port| port == it.spec.port))
        .collect();
    if chosen.is_empty() {
        let what = match (parent.section, parent.port) {
            (Some(section), Some(port)) => format!("listener {section} at port {port}"),
            (Some(section), None) => format!("listener {section}"),
            (None, Some(port)) => format!("listener at port {port}"),
            (None, None) => "listener".to_owned(),
        };
        return Err(Refusal::new("NoMatchingParent", format!("the Gateway has no {what}")));
    }
    let mut admitting: Vec<_> = chosen
        .into_iter()
        .filter(|it| it.kinds.contains(&route.kind) && it.admits(world, &own, &route.object.key.namespace))
        .collect();
    if admitting.is_empty() {
        let why = format!(
            "allowedRoutes of the listeners let in no {} from namespace {}",
            route.kind, route.object.key.namespace
        );
        return Err(Refusal::new("NotAllowedByListeners", why));
    }
    let mut names = Vec::new();
    let mut rival = None;
    for listener in &mut admitting {
        let hosts = match route.kind {
            Kind::TcpRoute => Some(Vec::new()),
            _ => hostnames::at_listener(&route.hostnames, listener.hostname.as_ref()),
        };
        let Some(hosts) = hosts else { continue };
        // Of another kind, and older: such routes come first.
        let other = listener
            .http
            .iter()
            .find(|it| it.key.kind != route.kind && hostnames::overlap(&it.hostnames, &hosts));
        if let (Content::Http(_), Some(other)) = (content, other) {
            rival = Some((listener.spec.name.as_str(), other.key.clone()));
            continue;
        }
        names.push(listener.spec.name.as_str());
        if !listener.attached.insert(route.object.key.clone()) {
            // A second reference of the same route to the same listener.
            continue;
        }
        match content {
            Content::Http(rules) => listener.http.push(route.http(hosts, rules)),
            Content::Tcp(backends) => listener.tcp.push(route.tcp(hosts, backends)),
        }
    }
    if let (true, Some((listener, other))) = (names.is_empty(), &rival) {
        let why = format!(
            "{other} is older and has the same host names at listener {listener}, where {}s cannot stand beside {}s; use other host names",
            route.kind, other.kind
        );
        return Err(Refusal::new("Conflicted", why));
    }
    if names.is_empty() {
        let why = "no listener has a host name in common with spec.hostnames";
        return Err(Refusal::new("NoMatchingListenerHostname", why));
    }
    let but = rival.map_or_else(String::new, |(listener, other)| {
        format!("; not to {listener}, where {other} is older and has the same host names")
    });
    Ok(format!("attached to {}{but}", names.join(", ")))
}
