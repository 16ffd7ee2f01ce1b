//! Configuration that comes while the process runs.

mod routes;

pub use routes::{RouteKey, RouteTables};
