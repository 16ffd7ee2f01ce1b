//! The identity agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How the identity agent comes by certificates, and where it serves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityAgent {
    /// The control plane, `host:port`.
    pub address: Arc<str>,
    /// Roots that its certificate is verified with; `None`: it is on this host's loopback, and there is no TLS.
    pub ca_file: Option<PathBuf>,
    /// The name in its certificate, when it is not the host.
    pub server_name: Option<Arc<str>>,
    /// What shows who we are.
    pub credential: AgentCredential,
    /// The unix socket of SDS.
    pub socket: PathBuf,
    /// Where key and certificate are kept over a restart.
    pub state_dir: Option<PathBuf>,
    /// How long a certificate should be valid.
    pub lifetime: Option<Duration>,
}

/// What shows a control plane who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentCredential {
    /// A file with a token that is good for the first certificate.
    JoinToken(PathBuf),
    /// A file with a Kubernetes service-account token.
    ServiceAccountToken(PathBuf),
}
