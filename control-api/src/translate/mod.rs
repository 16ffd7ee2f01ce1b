//! From the world to xDS, as pure functions: the same world and the same proxy give the same bytes.
//!
//! What a proxy gets has two parts: what it shares with others of its [`Scope`] (outbound: the same for a whole namespace), and what
//! is its own (inbound). Endpoints depend on neither and are one set for all.

pub mod cluster;
pub mod endpoints;
pub mod external;
pub mod gateway;
pub mod grpc;
pub mod hcm;
pub mod mtls;
pub mod names;
mod once;
pub mod policy;
mod resource;
pub mod routes;
pub mod scope;
pub mod sidecar;
#[cfg(test)]
pub(crate) mod testing;
pub mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use crate::world::port;
pub use resource::{Resource, Resources, Type, TypeSet};
pub use scope::Scope;

use crate::attach::Attachments;
use crate::world::{Proxy, Role, World};

/// The world and what follows from it for everybody.
#[derive(Debug, Default)]
pub struct Context {
    /// All objects.
    pub world: Arc<World>,
    /// Routes at their parents, and the statuses of everything, policies too.
    pub attachments: Arc<Attachments>,
    /// Which policy is in force where.
    pub policies: Arc<policy::Policies>,
    /// What was worked out once for all that ask.
    once: Arc<once::Once>,
}

impl Context {
    /// Works out what follows from a world.
    pub fn of(world: Arc<World>) -> Self {
        let (attachments, policies) = (Attachments::of(&world), policy::Policies::of(&world));
        Self::with(world, attachments, policies)
    }

    /// Together, with all statuses in one place for who shows or writes them.
    fn with(world: Arc<World>, mut attachments: Attachments, policies: policy::Policies) -> Self {
        attachments.statuses.extend(policies.statuses.clone());
        Self { world, attachments: Arc::new(attachments), policies: Arc::new(policies), once: Arc::default() }
    }

    /// Works out what follows from the world that comes after this one, at `now` (seconds since 1970): status conditions that
    /// are as they were keep their time.
    #[must_use]
    pub fn after(&self, world: Arc<World>, now: i64) -> Self {
        let attachments = Attachments::after(&world, now, Some(&self.attachments));
        let policies = policy::Policies::after(&world, now, Some(&self.policies));
        Self::with(world, attachments, policies)
    }

    /// The same for a world in which endpoints alone are other ones: neither routes nor policies depend on them.
    #[must_use]
    pub fn with_endpoints(&self, world: Arc<World>) -> Self {
        let (attachments, policies) = (Arc::clone(&self.attachments), Arc::clone(&self.policies));
        Self { world, attachments, policies, once: Arc::clone(&self.once) }
    }
}

/// All that a proxy gets.
pub fn translate(context: &Context, proxy: &Proxy) -> Resources {
    let scope = Scope::of(&context.world, proxy);
    let mut all = shared(context, &scope);
    all.merge(&own(context, proxy));
    // What the proxy will ask for: its clusters say it, those included that routes reach and its scope alone does not.
    let clusters = all.of(Type::Cluster).iter().chain(all.on_demand.iter());
    let reached: BTreeSet<_> =
        clusters.filter_map(|it| names::parse_outbound(&it.name)).map(|it| it.0).collect();
    *all.of_mut(Type::Endpoints) = endpoints::all(context, |service| reached.contains(service));
    all
}

/// What all proxies of a scope get alike, without endpoints.
pub fn shared(context: &Context, scope: &Scope) -> Resources {
    match (scope.role, scope.grpc) {
        (Role::Sidecar, true) => grpc::shared(context, scope),
        (Role::Sidecar, false) => sidecar::shared(context, scope),
        (Role::Router, _) => gateway::shared(context, scope),
    }
}

/// What this proxy alone gets.
pub fn own(context: &Context, proxy: &Proxy) -> Resources {
    match (proxy.role, proxy.grpc) {
        (Role::Sidecar, false) => sidecar::own(context, proxy),
        _ => Resources::default(),
    }
}
