//! The ADS server: state of the world and delta on one state machine, and a thin gRPC stream around it.

mod connected;
mod service;
mod session;
mod subscription;
#[cfg(test)]
mod tests;

pub use connected::{Connected, Limits};
pub use service::Ads;
pub use session::{Due, Session, TypeReport, Wish};
