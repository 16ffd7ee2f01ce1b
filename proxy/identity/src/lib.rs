//! The identity agent: one process less in the pod.
//!
//! It makes the workload's key, has it certified by a control plane (`outrider.identity.v1`), renews the certificate at half of its
//! life, and serves both by SDS on a unix socket, by the names that Istio's agents use: `default` is the certificate with its key,
//! `ROOTCA` the roots that peers are verified with. The proxy's own SDS client is one of its readers; so is whatever else in the pod
//! speaks SDS. The key is made here and never leaves the pod: only a signing request travels.
//!
//! - [`Agent`] is what runs: [`Agent::start`] binds the socket, then issues and renews for ever.
//! - `authority` speaks to the control plane, `keep` holds the identity over a restart, `serve` is the SDS server.
//!
//! When the control plane is away, the certificate in hand stays in use until it expires, and nothing is ever served that was not
//! certified: a proxy that has no certificate yet is not ready.

mod agent;
mod authority;
mod keep;
mod serve;
mod stats;

pub use agent::{Agent, AgentError, Legacy, Running};
