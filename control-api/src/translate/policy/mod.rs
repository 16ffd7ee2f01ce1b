//! What policies say, put where Envoy's API has it.

pub mod authorization;
pub mod backend_tls;
pub mod telemetry;
pub mod traffic;

use crate::world::World;

/// Which policy is in force where. Pure: the same world gives the same.
#[derive(Clone, Debug, Default)]
pub struct Policies {}

impl Policies {
    /// Resolves all policies of a world: among several for one target, the older one is in force, then the first by name.
    pub fn of(world: &World) -> Self {
        let _ = world;
        Self::default()
    }
}
