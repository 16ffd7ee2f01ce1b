//! TLS on rustls and aws-lc-rs, with Envoy's rules of who is verified and how.

mod cert;
mod client;
mod error;
mod identity;
mod keylog;
mod names;
mod provider;
mod roots;
mod secret;
mod server;
mod source;
mod stats;
mod tickets;
mod verify;

pub use client::{AlpnDefault, ClientTls, TlsTarget};
pub use error::TlsError;
pub use secret::check_secret;
pub use server::ServerTls;
pub use stats::TlsStats;
