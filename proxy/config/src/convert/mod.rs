//! Envoy's messages to the model.
//!
//! Every message is destructured whole, so that a field that Envoy adds breaks the build until someone decides it:
//! honoured exactly, refused by its full path, or inert with a written reason. Refused and inert fields are
//! listed in the [`Ledger`]. Problems do not stop the conversion: all of them are found in one go.

#![expect(
    deprecated,
    reason = "Envoy still accepts its deprecated fields, and so do we; each is decided like any other"
)]

mod access_log;
mod active;
mod address;
mod bootstrap;
mod bootstrap_extension;
mod breaker;
mod cel;
mod cluster;
mod cluster_http;
mod cluster_specifier;
mod cx;
mod discovery;
mod dns;
mod dynamic;
mod endpoint;
mod extension;
mod filter_chain;
mod grpc_channel;
mod grpc_service;
mod hash;
mod hcm;
mod hcm_settings;
mod header;
mod http_filter;
mod http_options;
mod json;
mod lb;
mod listener;
mod listener_filter;
mod local_reply;
mod log_filter;
mod matcher;
mod metadata;
mod network_rbac;
mod node;
mod outlier;
mod overload;
mod rbac;
mod re2;
mod resource;
mod retry;
mod route;
mod route_action;
mod router;
mod runtime;
mod scalar;
mod scope;
mod secret;
mod spiffe;
mod stats;
mod tcp_proxy;
mod tls_context;
mod tls_params;
mod transport;
mod validation;
mod xds;

#[cfg(test)]
mod tests;

pub use bootstrap::bootstrap;
pub use cx::{KnownClusters, Ledger, Options, ReadDiskLayer, UnknownFields};
pub use resource::{Outcome, Resource, ResourceKind, ResourceReader, from_any};
pub use runtime::runtime_entry;
