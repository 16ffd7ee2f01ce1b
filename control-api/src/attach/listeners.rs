//! Listeners of gateways: what is valid of them, which conflict, and whom they let in.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::apis::standard::gateways as api;

use super::backends::Refusal;
use super::certificates::{self, Referring};
use super::refs::GATEWAY_GROUP;
use super::selector;
use super::{ClientValidation, Protocol, hostnames, ir};
use crate::model::{Key, Kind};
use crate::world::World;

/// A listener with all that is known of it.
#[derive(Debug)]
pub(super) struct ListenerState<'w> {
    pub(super) spec: &'w api::GatewayListeners,
    /// What is spoken; `None` for protocols that nobody here speaks.
    pub(super) protocol: Option<Protocol>,
    pub(super) hostname: Option<Arc<str>>,
    /// The kinds of routes that it takes.
    pub(super) kinds: Vec<Kind>,
    /// Why it is not accepted.
    pub(super) refused: Option<Refusal>,
    /// Reason and words of a conflict with another listener.
    pub(super) conflict: Option<Refusal>,
    /// References that lead nowhere, or kinds that it cannot have.
    pub(super) unresolved: Vec<Refusal>,
    /// Its references leave it nothing to serve with.
    pub(super) broken: bool,
    /// Another listener at the port has a host name that overlaps.
    pub(super) overlaps: Option<String>,
    /// What is asked of clients.
    pub(super) client_validation: Option<ClientValidation>,
    pub(super) attached: BTreeSet<Key>,
    pub(super) http: Vec<Arc<ir::HttpRoute>>,
    pub(super) tcp: Vec<Arc<ir::TcpRoute>>,
}

impl<'w> ListenerState<'w> {
    /// What a listener is by itself.
    pub(super) fn new(world: &'w World, namespace: &'w str, spec: &'w api::GatewayListeners) -> Self {
        let mut state = Self {
            spec,
            protocol: None,
            hostname: spec.hostname.as_deref().filter(|name| !name.is_empty()).map(hostnames::lower),
            kinds: Vec::new(),
            refused: None,
            conflict: None,
            unresolved: Vec::new(),
            broken: false,
            overlaps: None,
            client_validation: None,
            attached: BTreeSet::new(),
            http: Vec::new(),
            tcp: Vec::new(),
        };
        if state.port().is_none() {
            let why = format!("port {} is none; use 1 to 65535", spec.port);
            state.refused = Some(Refusal::new("PortUnavailable", why));
        }
        state.read_protocol(world, namespace);
        state.read_kinds();
        state
    }

    /// Its port, when it is one.
    pub(super) fn port(&self) -> Option<u16> {
        u16::try_from(self.spec.port).ok().filter(|port| *port > 0)
    }

    /// Whether proxies are given it.
    pub(super) fn serves(&self) -> bool {
        self.protocol.is_some() && self.refused.is_none() && self.conflict.is_none() && !self.broken
    }

    fn read_protocol(&mut self, world: &World, namespace: &str) {
        let tls = self.spec.tls.as_ref();
        let passthrough =
            tls.and_then(|tls| tls.mode.as_ref()) == Some(&api::GatewayListenersTlsMode::Passthrough);
        self.protocol = match (self.spec.protocol.as_str(), passthrough) {
            ("HTTP", _) => Some(Protocol::Http),
            ("TCP", _) => Some(Protocol::Tcp),
            ("TLS", true) => Some(Protocol::TlsPassthrough),
            ("HTTPS", false) => Some(Protocol::Https(self.certificates(world, namespace))),
            ("TLS", false) => Some(Protocol::TlsTerminate(self.certificates(world, namespace))),
            ("HTTPS", true) => {
                let why = "protocol HTTPS cannot have tls.mode Passthrough; use protocol TLS and a TLSRoute";
                self.refused = Some(Refusal::new("UnsupportedValue", why));
                None
            }
            (other, _) => {
                let why = format!("protocol {other:?} is not spoken here; use HTTP, HTTPS, TLS or TCP");
                self.refused = Some(Refusal::new("UnsupportedProtocol", why));
                None
            }
        };
        if let Some(option) = tls.and_then(|tls| tls.options.as_ref()).and_then(|it| it.keys().next()) {
            let why = format!("tls.options[{option:?}] is not known here; remove it");
            self.refused = Some(Refusal::new("UnsupportedValue", why));
        }
    }

    /// The secrets that can be used; the others are told.
    fn certificates(&mut self, world: &World, namespace: &str) -> Vec<crate::world::Named> {
        let from = Referring { world, kind: Kind::Gateway, namespace };
        let refs = self.spec.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten());
        let mut good = Vec::new();
        for (at, it) in refs.enumerate() {
            let group = it.group.as_deref().unwrap_or_default();
            let kind = it.kind.as_deref().unwrap_or("Secret");
            let field = format!("tls.certificateRefs[{at}]");
            let named = (it.namespace.as_deref().unwrap_or(namespace), it.name.as_str());
            match certificates::key_pair(from, (group, kind), named, &field) {
                Ok(secret) => good.push(secret),
                Err(refusal) => self.unresolved.push(refusal),
            }
        }
        if good.is_empty() {
            self.broken = true;
            if self.unresolved.is_empty() {
                let why = "tls.certificateRefs: missing; name a Secret of type kubernetes.io/tls";
                self.unresolved.push(Refusal::new("InvalidCertificateRef", why));
            }
        }
        good
    }

    fn read_kinds(&mut self) {
        let able: &[Kind] = match &self.protocol {
            Some(Protocol::Http | Protocol::Https(_)) => &[Kind::HttpRoute, Kind::GrpcRoute],
            Some(Protocol::TlsTerminate(_)) => &[Kind::TlsRoute, Kind::TcpRoute],
            Some(Protocol::TlsPassthrough) => &[Kind::TlsRoute],
            Some(Protocol::Tcp) => &[Kind::TcpRoute],
            None => &[],
        };
        let wanted = self.spec.allowed_routes.iter().flat_map(|it| it.kinds.iter().flatten());
        let mut any = false;
        for it in wanted {
            any = true;
            let group = it.group.as_deref().unwrap_or(GATEWAY_GROUP);
            match able.iter().find(|kind| kind.group() == group && kind.name() == it.kind) {
                Some(kind) if self.kinds.contains(kind) => {}
                Some(kind) => self.kinds.push(*kind),
                None if self.protocol.is_none() => {}
                None => self.unresolved.push(Refusal::new(
                    "InvalidRouteKinds",
                    format!(
                        "allowedRoutes.kinds: {} of group {group:?} cannot be attached where {} is spoken",
                        it.kind, self.spec.protocol
                    ),
                )),
            }
        }
        if !any {
            self.kinds = able.to_vec();
        }
    }

    /// Whether routes from this namespace are let in.
    pub(super) fn admits(&self, world: &World, own: &str, namespace: &str) -> bool {
        use api::GatewayListenersAllowedRoutesNamespacesFrom as From;
        let namespaces = self.spec.allowed_routes.as_ref().and_then(|it| it.namespaces.as_ref());
        match namespaces.and_then(|it| it.from.as_ref()) {
            Some(From::All) => true,
            Some(From::Same) | None => own == namespace,
            // A selector that is missing selects nothing; one that is empty selects everything.
            Some(From::Selector) => namespaces.and_then(|it| it.selector.as_ref()).is_some_and(|selector| {
                let expressions = selector.match_expressions.iter().flatten().map(|it| {
                    (it.key.as_str(), it.operator.as_str(), it.values.as_deref().unwrap_or_default())
                });
                selector::selects(world, namespace, selector.match_labels.as_ref(), expressions)
            }),
        }
    }
}

/// Marks listeners that cannot be told from one another: all of them, by the Gateway API, not just the later ones.
pub(super) fn find_conflicts(listeners: &mut [ListenerState<'_>]) {
    let facts: Vec<_> = listeners
        .iter()
        .map(|it| (it.port(), family(it.protocol.as_ref()), it.hostname.clone(), it.spec.name.as_str()))
        .collect();
    for (at, it) in listeners.iter_mut().enumerate() {
        let Some((port, Some(own), hostname, _)) = facts.get(at) else { continue };
        let others = || {
            facts
                .iter()
                .enumerate()
                .filter(move |(index, fact)| *index != at && fact.0 == *port && port.is_some())
        };
        if let Some((_, other)) = others().find(|(_, fact)| fact.1.is_some_and(|family| family != *own)) {
            let why = format!("listener {} speaks another protocol at the same port", other.3);
            it.conflict = Some(Refusal::new("ProtocolConflict", why));
        } else if let Some((_, other)) =
            others().find(|(_, fact)| fact.1.is_some() && (fact.2 == *hostname || *own == Family::Bytes))
        {
            let why = format!("listener {} has the same port and host name", other.3);
            it.conflict = Some(Refusal::new("HostnameConflict", why));
        } else if *own == Family::Tls {
            let overlapping = others().find(|(_, fact)| match (&fact.2, hostname) {
                (Some(one), Some(other)) => hostnames::intersect(one, other).is_some(),
                (None, _) | (_, None) => true,
            });
            it.overlaps = overlapping.map(|(_, other)| other.3.to_owned());
        }
    }
}

/// What can share a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Http,
    /// Told apart by server names.
    Tls,
    Bytes,
}

fn family(protocol: Option<&Protocol>) -> Option<Family> {
    Some(match protocol? {
        Protocol::Http => Family::Http,
        Protocol::Https(_) | Protocol::TlsTerminate(_) | Protocol::TlsPassthrough => Family::Tls,
        Protocol::Tcp => Family::Bytes,
    })
}
