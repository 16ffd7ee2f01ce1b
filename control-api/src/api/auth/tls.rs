//! The server's side of TLS, from files that are read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Where a server's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, in PEM.
    pub certificate: PathBuf,
    /// The key, in PEM.
    pub key: PathBuf,
    /// The authorities of clients' certificates, in PEM. Without, none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// What new connections are met with.
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    stamp: Mutex<Stamp>,
}

/// When the files were written that are in force, or were last tried.
type Stamp = Vec<Option<SystemTime>>;

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one is missing or wrong, with its name.
    pub fn load(files: TlsFiles) -> anyhow::Result<Self> {
        let stamp = stamp(&files);
        let config = ArcSwap::from_pointee(build(&files)?);
        Ok(Self { files, config, stamp: Mutex::new(stamp) })
    }

    /// Reads the files again if they changed. What is in force stays so when they are wrong.
    ///
    /// # Errors
    /// When they changed and one is wrong: once for each change.
    pub fn refresh(&self) -> anyhow::Result<bool> {
        let new = stamp(&self.files);
        {
            let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
            if *known == new {
                return Ok(false);
            }
            *known = new;
        }
        self.config.store(Arc::new(build(&self.files)?));
        Ok(true)
    }

    /// What the next connection is met with.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|it| it.modified()).ok();
    [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| modified(path))
        .collect()
}

fn build(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("{}: want a private key in PEM", files.key.display()))?;
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| format!("{}", path.display()))?;
            }
            // Whoever brings none may still have a token; the guard behind asks.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .with_context(|| format!("{}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).with_context(|| {
        format!("{} and {} do not go together", files.certificate.display(), files.key.display())
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let listed = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("{}: want certificates in PEM", path.display()))?;
    if listed.is_empty() {
        bail!("{}: there is no certificate in it", path.display());
    }
    Ok(listed)
}
