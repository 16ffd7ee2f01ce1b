//! Which route belongs where, and what everybody is told about it: the Gateway API's rules of attachment, as pure functions
//! from the world to routes at their parents and to status conditions.

mod backend_tls;
mod backends;
mod certificates;
mod features;
mod filter;
mod gateways;
mod grants;
mod grpc;
mod hostnames;
mod http;
pub mod ir;
mod listeners;
mod refs;
mod routes;
mod selector;
mod services;
mod status;
mod tcp;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::model::Key;
pub(crate) use hostnames::covers;
pub use status::CONTROLLER;
pub(crate) use status::{Condition, Writer, rfc3339};

use crate::world::{Named, World};

/// What the world's routes, gateways and policies come to. Pure: the same world gives the same.
#[derive(Clone, Debug, Default)]
pub struct Attachments {
    /// The gateways of our class that are there, with what is valid of them.
    pub gateways: BTreeMap<Named, Gateway>,
    /// Routes whose parent is a Service (GAMMA), by port. Where there is one, it replaces the service's own routing at that
    /// port. A route for all ports of a service stands at each of them; `None` is never there.
    pub services: BTreeMap<(Named, Option<u16>), ServiceRoutes>,
    /// How backends are spoken to over TLS: by service, and by port name where the policy says so.
    pub backend_tls: BTreeMap<(Named, Option<Arc<str>>), BackendTls>,
    /// The `status` of every object that has one, as JSON.
    pub statuses: BTreeMap<Key, Value>,
}

/// Routes of a service.
#[derive(Clone, Debug, Default)]
pub struct ServiceRoutes {
    /// HTTPRoutes and GRPCRoutes. Those from the service's own namespace (producer routes) are for everybody; those from
    /// another one are for clients in that one.
    pub http: Vec<Arc<ir::HttpRoute>>,
    /// TLSRoutes and TCPRoutes.
    pub tcp: Vec<Arc<ir::TcpRoute>>,
}

/// A gateway.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    /// Those of its listeners that are valid, in the order they were written.
    pub listeners: Vec<Listener>,
    /// The Secret whose certificate it shows to backends that are spoken to over TLS.
    pub client_certificate: Option<Named>,
}

/// One valid listener of a gateway.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Its port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// The host; `*.` in front of suffixes; `None`: any.
    pub hostname: Option<Arc<str>>,
    /// HTTPRoutes and GRPCRoutes, attached.
    pub http: Vec<Arc<ir::HttpRoute>>,
    /// TLSRoutes and TCPRoutes, attached.
    pub tcp: Vec<Arc<ir::TcpRoute>>,
    /// What is asked of clients (HTTPS).
    pub client_validation: Option<ClientValidation>,
}

/// Clients of a listener show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientValidation {
    /// The authorities, in PEM.
    pub roots: Arc<str>,
    /// Whether a client without a valid certificate is turned away. Else any client is let in, whatever it shows.
    pub required: bool,
}

/// What a gateway's listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Clear HTTP.
    Http,
    /// HTTP in TLS that ends here, with these secrets.
    Https(Vec<Named>),
    /// TLS that ends here, TCP behind.
    TlsTerminate(Vec<Named>),
    /// TLS that is passed on by server name.
    TlsPassthrough,
    /// Bytes.
    Tcp,
}

/// A `BackendTLSPolicy` that is in force for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// The policy.
    pub policy: Key,
    /// The server name that is sent and verified.
    pub hostname: Arc<str>,
    /// Names that are verified instead of the host name.
    pub names: Vec<SubjectName>,
    /// The authorities.
    pub roots: Roots,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// A DNS name.
    Dns(Arc<str>),
    /// A URI.
    Uri(Arc<str>),
}

/// Whose signature is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those that the system knows.
    System,
    /// These, in PEM.
    Pem(Arc<str>),
    /// The policy's certificates cannot be had: connections must fail, never go without verification.
    Invalid,
}

impl Attachments {
    /// Resolves everything. Conditions that changed have the time of the newest object.
    pub fn of(world: &World) -> Self {
        let newest = world.objects().map(|object| object.created()).max().unwrap_or_default();
        Self::after(world, newest, None)
    }

    /// Resolves everything. Conditions that are not as they were in `previous`, or else in the status that the object carries,
    /// changed at `now` (seconds since 1970).
    pub fn after(world: &World, now: i64, previous: Option<&Self>) -> Self {
        let now = status::rfc3339(now);
        let writer = Writer { now: &now, previous: previous.map(|it| &it.statuses) };
        let mut gateways = gateways::of(world);
        let mut services = services::AtServices::default();
        let mut statuses: BTreeMap<Key, Value> =
            gateways::class_statuses(world, &writer).into_iter().collect();
        statuses.extend(routes::attach(world, &mut gateways, &mut services, &writer));
        let (policies, told) = backend_tls::of(world, &gateways, &writer);
        statuses.extend(told);
        for state in gateways.values() {
            statuses.insert(state.gateway.object.key.clone(), state.status(world, &writer));
        }
        Self {
            gateways: gateways.iter().map(|(named, state)| (named.clone(), state.to_ir())).collect(),
            services: services.routes,
            backend_tls: policies,
            statuses,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
