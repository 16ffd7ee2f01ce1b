//! An authority that is supplied by files: `--ca-cert`, `--ca-key`, `--ca-root`. They are read again when they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::{Authority, seconds};
use super::identity::TrustDomain;
use super::own::Loaded;

/// The most bytes of one file.
const LARGEST: u64 = 1024 * 1024;
/// The most roots.
const MOST_ROOTS: usize = 64;

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supplied {
    /// The issuing certificate and those above it, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// The roots that are believed, in PEM. Without, the last certificate of the chain.
    pub root: Option<PathBuf>,
}

impl Supplied {
    /// Reads and judges the files.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(&self, domain: &TrustDomain, now: SystemTime) -> anyhow::Result<Loaded> {
        let chain = certificates(&self.certificate).context("--ca-cert")?;
        let key = read(&self.key).context("--ca-key")?;
        let key = key_of(&key).with_context(|| format!("--ca-key: {}", self.key.display()))?;
        let mut roots = match &self.root {
            Some(path) => certificates(path).context("--ca-root")?,
            None => Vec::new(),
        };
        ensure!(
            roots.len() <= MOST_ROOTS,
            "--ca-root: {} roots are too many; {MOST_ROOTS} are the most",
            roots.len()
        );
        // One that ended is of no use, and no reason to stand still.
        let moment = seconds(now);
        let given = roots.len();
        roots.retain(|root| ends(root).is_none_or(|end| end > moment));
        if roots.len() < given {
            tracing::warn!(
                ended = given - roots.len(),
                "--ca-root has roots that have ended; they are left out"
            );
        }
        ensure!(given == 0 || !roots.is_empty(), "--ca-root: all its certificates have ended");
        let authority = Authority::new(chain, key, &roots, &super::trial(domain), now)
            .with_context(|| format!("--ca-cert {}", self.certificate.display()))?;
        if roots.is_empty() {
            roots.push(authority.root().clone());
        }
        Ok(Loaded { authority, roots })
    }

    /// When the files were written.
    pub fn stamp(&self) -> Vec<Option<SystemTime>> {
        let modified = |path: &PathBuf| fs::metadata(path).and_then(|it| it.modified()).ok();
        [Some(&self.certificate), Some(&self.key), self.root.as_ref()]
            .into_iter()
            .flatten()
            .map(modified)
            .collect()
    }
}

/// The key in a text in PEM: PKCS #8, SEC 1 or PKCS #1.
///
/// # Errors
/// Without any part of the text.
pub(super) fn key_of(text: &str) -> anyhow::Result<KeyPair> {
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        anyhow::anyhow!("there is no private key in it that can be read (PEM, without a passphrase)")
    })?;
    KeyPair::try_from(&der)
        .map_err(|_| anyhow::anyhow!("its private key is damaged, or of a kind that is not known; use P-256"))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let place = || path.display().to_string();
    let size = fs::metadata(path).with_context(place)?.len();
    ensure!(size <= LARGEST, "{}: {size} bytes; {LARGEST} are the most", path.display());
    fs::read_to_string(path).with_context(place)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = read(path)?;
    let listed = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let listed = listed.with_context(|| format!("{}: want certificates in PEM", path.display()))?;
    ensure!(!listed.is_empty(), "{}: there is no certificate in it", path.display());
    Ok(listed)
}

fn ends(der: &CertificateDer<'_>) -> Option<i64> {
    let (_, it) = X509Certificate::from_der(der).ok()?;
    Some(it.validity().not_after.timestamp())
}
