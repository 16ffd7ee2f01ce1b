//! TLS on rustls and aws-lc-rs, with Envoy's rules of who is verified and how.

mod client;
mod error;
mod server;
mod stats;

pub use client::{AlpnDefault, ClientTls, TlsTarget};
pub use error::TlsError;
pub use server::ServerTls;
pub use stats::TlsStats;
