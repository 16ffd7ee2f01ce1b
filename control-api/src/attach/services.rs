//! Routes at Services (GAMMA).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use super::ServiceRoutes;
use super::backends::Refusal;
use super::refs::ParentRef;
use super::routes::{Content, Route};
use crate::model::Kind;
use crate::world::port::{self, Spoken};
use crate::world::{Named, World};

/// Where routes were attached.
#[derive(Debug, Default)]
pub(super) struct AtServices {
    pub(super) routes: BTreeMap<(Named, Option<u16>), ServiceRoutes>,
    /// The kind that has a port, for clients of a namespace.
    taken: BTreeMap<(Named, u16, Arc<str>), Kind>,
}

/// Attaches a route to ports of a service (GAMMA). Host names mean nothing there.
/// <https://gateway-api.sigs.k8s.io/geps/gep-1294/>
pub(super) fn at_service(
    world: &World,
    services: &mut AtServices,
    route: &Route<'_>,
    parent: &ParentRef<'_>,
    named: Named,
    content: &Content,
) -> Result<String, Refusal> {
    let none =
        |what: String| Refusal::new("NoMatchingParent", format!("Service {}/{} {what}", named.0, named.1));
    let service =
        world.get::<Service>(&named.0, &named.1).ok_or_else(|| none("does not exist".to_owned()))?;
    let spec = service.spec.as_ref();
    if spec.and_then(|it| it.type_.as_deref()) == Some("ExternalName") {
        return Err(none("has type ExternalName; use an ExternalService instead".to_owned()));
    }
    let ports: BTreeSet<u16> = spec
        .iter()
        .flat_map(|it| it.ports.iter().flatten())
        .filter(|it| it.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter(|it| parent.port.is_none_or(|port| port == it.port))
        .filter(|it| parent.section.is_none_or(|name| it.name.as_deref() == Some(name)))
        .filter_map(|it| u16::try_from(it.port).ok().filter(|port| *port > 0))
        .collect();
    if ports.is_empty() {
        return Err(none("has no such TCP port".to_owned()));
    }
    // What is spoken at a port settles which routes can be followed there.
    let spoken = |port: u16| port::ports(service.body()).into_iter().find(|it| it.number == port);
    let fits = |port: &u16| spoken(*port).is_some_and(|it| can_be_routed(it.spoken, route.kind));
    let (ports, others): (BTreeSet<u16>, BTreeSet<u16>) = ports.into_iter().partition(fits);
    if let (true, Some(port)) = (ports.is_empty(), others.first()) {
        let other = if matches!(content, Content::Http(_)) { "TLS or TCP" } else { "HTTP" };
        return Err(none(format!(
            "speaks {other} at port {port}, as its appProtocol or name says, where {}s mean nothing",
            route.kind
        )));
    }
    let mut lost = None;
    let mut won = Vec::new();
    for port in ports {
        let who = (named.clone(), port, Arc::clone(&route.object.key.namespace));
        let kind = *services.taken.entry(who).or_insert(route.kind);
        if kind != route.kind {
            lost = Some((port, kind));
            continue;
        }
        won.push(port.to_string());
        let at = services.routes.entry((named.clone(), Some(port))).or_default();
        match content {
            Content::Http(rules) => {
                if !at.http.iter().any(|it| it.key == route.object.key) {
                    at.http.push(route.http(Vec::new(), rules));
                }
            }
            Content::Tcp(backends) => {
                if !at.tcp.iter().any(|it| it.key == route.object.key) {
                    at.tcp.push(route.tcp(Vec::new(), backends));
                }
            }
        }
    }
    if let (true, Some((port, kind))) = (won.is_empty(), lost) {
        let why = format!("port {port} is routed by {kind}s already, which go before {}s", route.kind);
        return Err(Refusal::new("Conflicted", why));
    }
    let ignored = if route.hostnames.is_empty() {
        ""
    } else {
        "; spec.hostnames mean nothing where the parent is a Service, match the header host instead"
    };
    Ok(format!("attached to port {}{ignored}", won.join(", ")))
}

/// Whether a kind of routes can be followed where this is spoken. Where nobody says it, a route does.
fn can_be_routed(spoken: Spoken, kind: Kind) -> bool {
    match kind {
        Kind::HttpRoute | Kind::GrpcRoute => spoken.is_http() || spoken == Spoken::Unknown,
        _ => !spoken.is_http(),
    }
}
