//! The certificate authority of the mesh: who a workload is, and a certificate that says so.
//!
//! What judges and signs has no I/O: [`csr`] (what a signing request may ask for), [`key`] (which keys are good enough),
//! [`authority`] (what signs, judged whole), [`identity`] (names), [`limits`]. Around it: [`own`] and [`supplied`] (where the authority
//! comes from), [`trust`] (which roots are believed, and until when), [`credential`] (how a workload shows who it is), and
//! [`service`] (the two gRPC services). [`Ca`] keeps what is in force; everything follows it.

pub mod authority;
pub mod credential;
pub mod csr;
pub mod identity;
pub mod key;
pub mod limits;
mod options;
pub mod own;
pub mod service;
pub mod supplied;
pub mod trust;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use authority::{Authority, AuthorityError, Signed};
use identity::{TrustDomain, Workload};
use key::WorkloadKey;
pub use options::{CaArgs, MOST_TTL, NoAuthority};
use own::{Loaded, Own};
use supplied::Supplied;
use trust::Trust;

/// The shortest life of a certificate.
pub const SHORTEST: Duration = Duration::from_secs(600);
/// How often files are looked at, and rotations moved on.
const INTERVAL: Duration = Duration::from_secs(5);

/// What certificates are verified with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// All roots that are believed, the signing one first.
    pub roots: Vec<CertificateDer<'static>>,
}

/// The authority as it is in force.
pub struct Ca {
    domain: TrustDomain,
    /// How long certificates live at most.
    ttl: Duration,
    source: Mutex<Source>,
    trust: Mutex<Trust>,
    /// The roots of the source, without former ones.
    configured: Mutex<Vec<CertificateDer<'static>>>,
    authority: ArcSwap<Authority>,
    verifier: ArcSwap<Verifier>,
    bundle: watch::Sender<Arc<Bundle>>,
}

/// Where the authority comes from.
enum Source {
    Own(Own),
    Supplied { files: Supplied, stamp: Vec<Option<SystemTime>> },
}

struct Verifier(Arc<dyn ClientCertVerifier>);

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority cannot.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Less than [`SHORTEST`] was asked for.
    #[error("a life of {0:?} is too short; ask for ten minutes or more, or for none in particular")]
    TooShort(Duration),
    /// Until when the root is needed could not be written down.
    #[error("nothing is signed, because it cannot be written down until when the root is needed: {0}")]
    Unwritten(String),
}

impl Ca {
    /// The authority below a data directory, made when there is none.
    ///
    /// # Errors
    /// When what is there is damaged.
    pub fn own(data_dir: &Path, domain: TrustDomain, ttl: Duration, now: SystemTime) -> anyhow::Result<Self> {
        let mut own = Own::new(data_dir, &domain);
        let mut trust = Trust::open(Some(data_dir.join("ca/trust.json")))?;
        let loaded = own.load(&mut trust, now)?;
        Self::of(Source::Own(own), trust, loaded, domain, ttl, now)
    }

    /// One of files. What former roots are needed is kept below the data directory, if there is one.
    ///
    /// # Errors
    /// When they are wrong.
    pub fn supplied(
        files: Supplied,
        data_dir: Option<&Path>,
        domain: TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        if let Some(dir) = data_dir {
            crate::api::auth::private_folder(&dir.join("ca"))?;
        }
        let trust = Trust::open(data_dir.map(|dir| dir.join("ca/trust.json")))?;
        // Before the files are read: what is written meanwhile is seen the next time.
        let stamp = files.stamp();
        let loaded = files.load(&domain, now)?;
        Self::of(Source::Supplied { files, stamp }, trust, loaded, domain, ttl, now)
    }

    fn of(
        source: Source,
        trust: Trust,
        loaded: Loaded,
        domain: TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        let Loaded { authority, roots } = loaded;
        let bundle = Bundle { roots: all(&roots, &trust, now) };
        let verifier = authority::verifier(&bundle.roots).map_err(anyhow::Error::msg)?;
        Ok(Self {
            domain,
            ttl,
            source: Mutex::new(source),
            trust: Mutex::new(trust),
            configured: Mutex::new(roots),
            authority: ArcSwap::from_pointee(authority),
            verifier: ArcSwap::from_pointee(Verifier(verifier)),
            bundle: watch::Sender::new(Arc::new(bundle)),
        })
    }

    /// The trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// What certificates are verified with, now and as it changes.
    pub fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// Signs a workload's key. `lifetime`: what was asked for; none, or more than is given, gets what is given.
    ///
    /// # Errors
    /// When too little was asked for, or the authority cannot sign.
    pub fn issue(
        &self,
        key: &WorkloadKey,
        workload: &Workload,
        lifetime: Option<Duration>,
        now: SystemTime,
    ) -> Result<Signed, IssueError> {
        let life = match lifetime {
            Some(asked) if asked < SHORTEST => return Err(IssueError::TooShort(asked)),
            Some(asked) => asked.min(self.ttl),
            None => self.ttl,
        };
        let authority = self.authority.load_full();
        let signed = authority.sign(key, &self.domain.uri(workload), life, now)?;
        let noted = lock(&self.trust).extend(&signed.root, signed.not_after);
        noted.map_err(|error| IssueError::Unwritten(format!("{error:#}")))?;
        Ok(signed)
    }

    /// Whose certificate a chain is, leaf first, when it is one of this mesh that is still valid.
    ///
    /// # Errors
    /// Why it is not, in words.
    pub fn recognise(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Workload, String> {
        authority::verify(&*self.verifier.load().0, chain, now)?;
        let leaf = chain.first().ok_or("there is no certificate")?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let names = leaf.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map(|it| it.value.general_names.as_slice()).unwrap_or_default();
        // A SPIFFE certificate has one URI (X509-SVID, section 2).
        match names {
            [GeneralName::URI(uri)] => self.domain.workload(uri).map_err(|error| error.to_string()),
            _ => Err("it has not one URI alone as its name".into()),
        }
    }

    /// Looks at files and rotations, and takes over what changed. What is wrong is an error, and nothing changes.
    ///
    /// # Errors
    /// What is wrong; of files, once for each change.
    pub fn refresh(&self, now: SystemTime) -> anyhow::Result<()> {
        let mut source = lock(&self.source);
        let mut trust = lock(&self.trust);
        let loaded = match &mut *source {
            Source::Own(own) => Some(own.load(&mut trust, now)?),
            Source::Supplied { files, stamp } => {
                let new = files.stamp();
                if *stamp == new {
                    None
                } else {
                    *stamp = new;
                    Some(files.load(&self.domain, now)?)
                }
            }
        };
        let mut configured = lock(&self.configured);
        if let Some(Loaded { authority, roots }) = loaded {
            self.authority.store(Arc::new(authority));
            *configured = roots;
        }
        trust.prune(&configured, authority::seconds(now));
        let roots = all(&configured, &trust, now);
        let before = self.bundle.borrow().roots.clone();
        drop(trust);
        if roots != before {
            let verifier = authority::verifier(&roots).map_err(anyhow::Error::msg)?;
            self.verifier.store(Arc::new(Verifier(verifier)));
            tracing::info!(before = before.len(), now = roots.len(), "the trust bundle changed");
            self.bundle.send_replace(Arc::new(Bundle { roots }));
        }
        Ok(())
    }

    /// Does [`Ca::refresh`] every few seconds. Never ends.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut told = String::new();
        loop {
            ticks.tick().await;
            let this = Arc::clone(&self);
            let done = tokio::task::spawn_blocking(move || this.refresh(SystemTime::now())).await;
            let wrong = done.ok().and_then(Result::err).map(|error| format!("{error:#}")).unwrap_or_default();
            if !wrong.is_empty() && wrong != told {
                tracing::error!(
                    error = wrong,
                    "the certificate authority could not be read; the one before stays"
                );
            }
            told = wrong;
        }
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("domain", &self.domain).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// An identity that no workload has, for trials.
fn trial(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}/ns/outrider-trial/sa/trial")
}

/// The configured roots, and then the former ones that are still needed.
fn all(
    configured: &[CertificateDer<'static>],
    trust: &Trust,
    now: SystemTime,
) -> Vec<CertificateDer<'static>> {
    let former = trust.former(configured, authority::seconds(now));
    let mut roots: Vec<CertificateDer<'static>> = Vec::with_capacity(configured.len() + former.len());
    for root in configured.iter().cloned().chain(former) {
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}
