//! Configuration that comes while the process runs: from a control plane to what is in force.

mod claims;
mod clusters;
mod connector;
mod controller;
mod decode;
mod demand;
mod extensions;
mod files;
mod generations;
mod keys;
mod listeners;
mod load;
mod order;
mod records;
mod restore;
mod routes;
mod runtime;
mod scopes;
mod secret_files;
mod secrets;
mod stale;
mod stats;
mod streams;
mod subscriptions;
mod tidy;
mod vhosts;

pub(crate) use controller::{Controller, lock};
pub(crate) use files::check_files;
pub use generations::{Change, Generation, Generations};
pub(crate) use listeners::{dynamic_secrets, needs_routes};
pub(crate) use records::InForce;
pub use records::{Record, Records, RefusedVersion, Version};
pub use routes::{RouteKey, RouteTables};
pub use scopes::{ScopePlaces, ScopesKey};
pub use secrets::Secrets;
pub use subscriptions::{Missing, Subscriptions};
