//! What we are.

/// The Envoy release whose documented behaviour is followed.
pub const ENVOY_API: &str = "1.40.0";

/// `0.1.0/1.40.0/RELEASE`: ours, the Envoy release that we follow, how it was built.
pub fn long() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("{}/{ENVOY_API}/{build}/rustls-aws-lc", env!("CARGO_PKG_VERSION"))
}
