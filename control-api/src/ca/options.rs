//! What flags say about the certificate authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::ensure;

use super::credential::jwks::Source;
use super::identity::TrustDomain;
use super::supplied::Supplied;
use super::{Ca, SHORTEST};
use crate::model::own::Duration as Written;

/// The longest life of a certificate that can be configured.
pub const MOST_TTL: Duration = Duration::from_secs(90 * 24 * 3600);

/// The authority, and who gets what from it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Identity")]
pub struct CaArgs {
    /// The trust domain of workloads: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// Sign workloads' certificates with this one (PEM; those above it may follow). Without, an authority is made in DATA-DIR/ca;
    /// where several control planes may share a store (etcd, Kubernetes) it has to be given, the same to each
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    pub ca_cert: Option<PathBuf>,
    /// The key of --ca-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,
    /// The roots (PEM) that workloads believe; several while one takes the place of another [default: the last certificate of
    /// --ca-cert]
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_root: Option<PathBuf>,
    /// How long workloads' certificates are valid, 10m to 2160h
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub cert_ttl: Written,
    /// Verify service-account tokens with these keys (a JWKS: a file, or an https URL) rather than by asking Kubernetes
    #[arg(long, value_name = "FILE|URL", requires = "token_issuer")]
    pub token_jwks: Option<Source>,
    /// Who issues the tokens of --token-jwks (their `iss`)
    #[arg(long, value_name = "ISSUER", requires = "token_jwks")]
    pub token_issuer: Option<String>,
    /// An audience that service-account tokens must have one of; may be repeated [default: outrider, istio-ca]
    #[arg(long, value_name = "AUDIENCE")]
    pub token_audience: Vec<String>,
}

/// Why there is no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAuthority {
    /// Others may use the same store.
    #[error(
        "this control plane signs no certificates: others may share its store, and all must have the same authority; give each of \
         them --ca-cert and --ca-key"
    )]
    Shared,
    /// There is no place for one.
    #[error(
        "this control plane signs no certificates: it has no authority; start it with --data-dir, or with --ca-cert and --ca-key"
    )]
    Nowhere,
}

impl CaArgs {
    /// Reads the authority, or makes it. `shared`: other control planes may use the same store.
    ///
    /// # Errors
    /// When a file is wrong or damaged.
    pub fn build(
        &self,
        data_dir: Option<&Path>,
        shared: bool,
        now: SystemTime,
    ) -> anyhow::Result<Result<Arc<Ca>, NoAuthority>> {
        let ttl = self.cert_ttl.std();
        ensure!((SHORTEST..=MOST_TTL).contains(&ttl), "--cert-ttl {}: want 10m to 2160h", self.cert_ttl);
        let domain = self.trust_domain.clone();
        if let (Some(certificate), Some(key)) = (&self.ca_cert, &self.ca_key) {
            let root = self.ca_root.clone();
            let files = Supplied { certificate: certificate.clone(), key: key.clone(), root };
            return Ok(Ok(Arc::new(Ca::supplied(files, data_dir, domain, ttl, now)?)));
        }
        match data_dir {
            _ if shared => Ok(Err(NoAuthority::Shared)),
            None => Ok(Err(NoAuthority::Nowhere)),
            Some(dir) => Ok(Ok(Arc::new(Ca::own(dir, domain, ttl, now)?))),
        }
    }

    /// The audiences that tokens must have one of.
    pub fn audiences(&self) -> Vec<String> {
        if self.token_audience.is_empty() {
            return vec!["outrider".to_owned(), "istio-ca".to_owned()];
        }
        self.token_audience.clone()
    }
}
