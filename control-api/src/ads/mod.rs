//! The ADS server: state of the world and delta on one state machine, and a thin gRPC stream around it.

mod connected;
mod places;
mod refusals;
mod report;
mod service;
mod session;
mod subscription;
#[cfg(test)]
mod tests;
mod wire;
mod wish;

pub use connected::{Connected, Limits, Listing};
pub use report::TypeReport;
pub use service::Ads;
pub use session::{Due, Session};
pub use wire::AdsServer;
pub use wish::Wish;
