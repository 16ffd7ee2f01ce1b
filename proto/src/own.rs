//! Extensions of our own, which Envoy does not have.
//!
//! Their descriptors are added to Envoy's at build time (`build/extra.rs`), so text, JSON and validation treat them alike.

use prost::{Message, Name};

use crate::pb::google::protobuf::Duration;

/// A bootstrap extension: the identity agent, which gets this proxy a certificate of the mesh (`outrider.identity.v1`) and serves it by
/// SDS on a unix socket.
#[derive(Clone, PartialEq, Message)]
pub struct IdentityAgent {
    /// The control plane, `HOST:PORT`. Required.
    #[prost(string, tag = "1")]
    pub address: String,
    /// A file of roots (PEM) that the control plane's certificate is verified with. Required, but for a control plane on this host's
    /// loopback, which is spoken to without TLS when there is none.
    #[prost(string, tag = "2")]
    pub ca_file: String,
    /// The name in the control plane's certificate. Default: the host of `address`.
    #[prost(string, tag = "3")]
    pub server_name: String,
    /// A file with a token of `outriderctl token create`. Needed for the first certificate; the later ones are got with the one before.
    #[prost(string, tag = "4")]
    pub join_token_file: String,
    /// A file with a Kubernetes service-account token, read anew each time. Exactly one of both files is to be given.
    #[prost(string, tag = "5")]
    pub service_account_token_file: String,
    /// Where SDS is served. Required.
    #[prost(string, tag = "6")]
    pub socket_path: String,
    /// A folder in which key and certificate outlive a restart. Default: they do not.
    #[prost(string, tag = "7")]
    pub state_dir: String,
    /// How long a certificate should be valid. Default: as long as the control plane gives by itself.
    #[prost(message, optional, tag = "8")]
    pub lifetime: Option<Duration>,
}

impl Name for IdentityAgent {
    const NAME: &'static str = "IdentityAgent";
    const PACKAGE: &'static str = "outrider.extensions.bootstrap.identity.v1";
}
