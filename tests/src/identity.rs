//! Proxies with an identity agent: what stands in their bootstraps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::binary;
use crate::bootstrap::indent;
use crate::control::Control;

/// What a proxy's identity agent works with.
#[derive(Clone, Debug)]
pub struct Agent {
    dir: PathBuf,
    address: String,
    ca: PathBuf,
}

impl Agent {
    /// An agent that asks a control plane, which is at `host`, with a join token for an account (`namespace/name`).
    ///
    /// # Errors
    /// When there is no token.
    pub async fn new(control: &Control, host: &str, account: &str) -> Result<Self> {
        let dir = binary::scratch("identity")?;
        let agent = Self { dir, address: format!("{host}:{}", control.xds()), ca: control.ca()? };
        agent.join(control, account).await?;
        Ok(agent)
    }

    /// Gives it another token.
    ///
    /// # Errors
    /// When the control plane refuses.
    pub async fn join(&self, control: &Control, account: &str) -> Result<()> {
        let token = control.join_token(account).await?;
        fs::write(self.dir.join("token.new"), token)?;
        Ok(fs::rename(self.dir.join("token.new"), self.token())?)
    }

    /// The file with the token.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// Where secrets are served.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sds")
    }

    /// A folder of its own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The extension, for the top level of a bootstrap; `more` are further fields of it.
    #[must_use]
    pub fn extension(&self, more: &str) -> String {
        format!(
            "bootstrap_extensions:\n- name: identity\n  typed_config:\n    \
             \"@type\": type.googleapis.com/outrider.extensions.bootstrap.identity.v1.IdentityAgent\n    \
             address: \"{}\"\n    ca_file: {}\n    join_token_file: {}\n    socket_path: {}\n{}",
            self.address,
            self.ca.display(),
            self.token().display(),
            self.socket().display(),
            indent(4, more)
        )
    }

    /// The body of the cluster `sds-grpc`, which leads to it.
    #[must_use]
    pub fn cluster(&self) -> String {
        format!(
            "type: STATIC\n{HTTP2}load_assignment:\n  cluster_name: sds-grpc\n  endpoints:\n  - lb_endpoints:\n    \
             - endpoint: {{ address: {{ pipe: {{ path: {} }} }} }}\n",
            self.socket().display()
        )
    }
}

/// HTTP/2, as an item of a cluster's body.
pub const HTTP2: &str = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
     \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
     explicit_http_config: { http2_protocol_options: {} }\n";

/// The transport socket of one side (`Upstream` or `Downstream`), with the certificate and the roots of `sds-grpc`; the peer has one of the
/// identities that begin so.
#[must_use]
pub fn transport_socket(side: &str, peers: &str, more: &str) -> String {
    let sds = |name: &str| {
        format!(
            "{{ name: {name}, sds_config: {{ resource_api_version: V3, api_config_source: {{ api_type: GRPC, \
             transport_api_version: V3, grpc_services: [ {{ envoy_grpc: {{ cluster_name: sds-grpc }} }} ] }} }} }}"
        )
    };
    format!(
        "transport_socket:\n  name: envoy.transport_sockets.tls\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext\n{}    \
         common_tls_context:\n      tls_certificate_sds_secret_configs: [ {} ]\n      combined_validation_context:\n        \
         default_validation_context: {{ match_typed_subject_alt_names: [ {{ san_type: URI, matcher: {{ prefix: \"{peers}\" }} }} ] }}\n        \
         validation_context_sds_secret_config: {}\n",
        indent(4, more),
        sds("default"),
        sds("ROOTCA"),
    )
}
