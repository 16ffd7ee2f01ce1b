//! TLS on rustls and aws-lc-rs, with Envoy's rules of who is verified and how.

mod cert;
mod chain;
mod client;
mod error;
mod identity;
mod in_use;
mod keylog;
mod names;
mod provider;
mod reason;
mod roots;
mod secret;
mod server;
mod source;
mod spiffe;
mod stats;
mod tickets;
mod verify;

pub use client::{AlpnDefault, ClientTls, TlsTarget};
pub use error::TlsError;
pub use in_use::{CertInUse, oldest_open_leaf};
pub use secret::check_secret;
pub use server::ServerTls;
pub use stats::TlsStats;
