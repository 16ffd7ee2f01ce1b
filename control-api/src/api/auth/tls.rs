//! The server's side of TLS, from files that are read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::verifier::Either;

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
    built: ArcSwap<Built>,
    stamp: Mutex<Stamp>,
    /// The roots of the mesh's authority.
    workloads: ArcSwap<Vec<CertificateDer<'static>>>,
}

struct Built {
    config: Arc<ServerConfig>,
    /// By the authorities of `client_ca`.
    clients: Option<Arc<dyn ClientCertVerifier>>,
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
        let built = ArcSwap::from_pointee(build(&files, &[])?);
        Ok(Self { files, built, stamp: Mutex::new(stamp), workloads: ArcSwap::default() })
    }

    /// Reads the files again if they changed. What is in force stays so when they are wrong.
    ///
    /// # Errors
    /// When they changed and one is wrong: once for each change.
    pub fn refresh(&self) -> anyhow::Result<bool> {
        let new = stamp(&self.files);
        // Held until it is in force, as roots of workloads may come meanwhile.
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == new {
            return Ok(false);
        }
        *known = new;
        self.built.store(Arc::new(build(&self.files, &self.workloads.load())?));
        Ok(true)
    }

    /// Lets those in, besides whom `client_ca` speaks for, who have a certificate under one of these roots: workloads.
    ///
    /// # Errors
    /// When one is no root, or the files are wrong meanwhile. Then what was in force stays.
    pub fn set_workloads(&self, roots: Vec<CertificateDer<'static>>) -> anyhow::Result<()> {
        let _held = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        self.built.store(Arc::new(build(&self.files, &roots)?));
        self.workloads.store(Arc::new(roots));
        Ok(())
    }

    /// Whether `client_ca` speaks for a chain, leaf first.
    pub(super) fn is_client(&self, chain: &[CertificateDer<'_>]) -> bool {
        let built = self.built.load();
        let (Some(clients), Some((leaf, above))) = (&built.clients, chain.split_first()) else {
            return false;
        };
        clients.verify_client_cert(leaf, above, UnixTime::now()).is_ok()
    }

    /// What the next connection is met with.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.built.load().config)
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

fn build(files: &TlsFiles, workloads: &[CertificateDer<'static>]) -> anyhow::Result<Built> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("{}: want a private key in PEM", files.key.display()))?;
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = |roots: Vec<CertificateDer<'static>>| {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root)?;
        }
        // Whoever brings none may still have a token; the guard behind asks.
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
        Ok::<_, anyhow::Error>(builder.allow_unauthenticated().build()?)
    };
    let clients = match &files.client_ca {
        None => None,
        Some(path) => {
            let roots = certificates(path)?;
            Some(verifier(roots).with_context(|| format!("{}", path.display()))?)
        }
    };
    let meshed = match workloads {
        [] => None,
        roots => Some(verifier(roots.to_vec()).context("the roots of workloads")?),
    };
    let builder = match (clients.clone(), meshed) {
        (None, None) => builder.with_no_client_auth(),
        (Some(one), None) | (None, Some(one)) => builder.with_client_cert_verifier(one),
        (Some(clients), Some(workloads)) => {
            builder.with_client_cert_verifier(Arc::new(Either::new(clients, workloads)))
        }
    };
    let mut config = builder.with_single_cert(chain, key).with_context(|| {
        format!("{} and {} do not go together", files.certificate.display(), files.key.display())
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Built { config: Arc::new(config), clients })
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

/// What the system believes: the bundles where distributions keep them, or `SSL_CERT_FILE`.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn system_roots() -> anyhow::Result<RootCertStore> {
    // Without a library for it.
    const BUNDLES: [&str; 3] =
        ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let path = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let path = path.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()));
    let path = path.context("no authorities are installed here (SSL_CERT_FILE may name a file of them)")?;
    let mut roots = RootCertStore::empty();
    let listed = CertificateDer::pem_file_iter(&path).with_context(|| path.display().to_string())?;
    roots.add_parsable_certificates(listed.flatten());
    Ok(roots)
}
