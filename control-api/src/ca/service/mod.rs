//! Both services: what a request shows is judged, then what it asks for; a line is in the audit log before anything is given out.

mod istio;
mod own;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, watch};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

use super::authority::{Signed, date};
use super::credential::join::Ticket;
use super::credential::{CredentialError, Credentials, Proven, Shown};
use super::csr::{self, CsrError};
use super::limits::Limits;
use super::{Bundle, Ca, IssueError, NoAuthority};
use crate::api::audit::{Audit, Entry, Item};
use crate::api::auth::{Identity, Lease, Peer, Role};
use crate::engine::Engine;
use crate::pb::identity::identity_server::IdentityServer;
use crate::pb::istio::istio_certificate_service_server::IstioCertificateServiceServer;

/// Bytes of one request: the largest signing request, the longest token, and what is around them.
const LARGEST_REQUEST: usize = 64 * 1024;
/// How many workloads may follow the trust bundle at a time.
const WATCHERS: usize = 50_000;
/// How many of whom nobody knows who they are.
const STRANGERS: usize = 512;
/// How long a request waits for what is revoked to be known, after the start.
const KNOWN: Duration = Duration::from_secs(5);
/// Metadata of errors: a word for the reason that does not change.
pub const REASON: &str = "outrider-reason";

/// Gives certificates to workloads, over both services.
#[derive(Clone, Debug)]
pub struct CertificateService {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    ca: Result<Arc<Ca>, NoAuthority>,
    credentials: Credentials,
    limits: Limits,
    audit: Arc<Audit>,
    watchers: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    leaving: watch::Receiver<bool>,
    /// Who knows which identities are revoked; without one nobody is.
    engine: OnceLock<Arc<Engine>>,
}

/// One request, whichever service it came by.
struct Asked<'a> {
    csr: Vec<u8>,
    shown: Shown<'a>,
    lifetime: Option<Duration>,
    peer: Peer,
}

/// What is given for it.
struct Given {
    signed: Signed,
    identity: String,
    bundle: Arc<Bundle>,
}

/// Why nothing is given.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    NoAuthority(#[from] NoAuthority),
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("too many requests from this address; come back in {0:?}")]
    Attempts(Duration),
    #[error("too many certificates for this identity, or in all; come back in {0:?}")]
    Issues(Duration),
    #[error("metadata.{0}: {1}")]
    Metadata(String, &'static str),
    #[error("{0} is revoked")]
    Revoked(String),
    #[error("what is revoked is not known yet; come back in a moment")]
    Starting,
    #[error("it did not come to an end")]
    Ended,
}

impl Refusal {
    const fn reason(&self) -> &'static str {
        match self {
            Self::NoAuthority(_) => "no_authority",
            Self::Credential(it) => it.reason(),
            Self::Csr(it) => it.reason(),
            Self::Issue(IssueError::TooShort(_)) => "lifetime_too_short",
            Self::Issue(IssueError::Authority(_)) => "authority_failed",
            Self::Issue(IssueError::Unwritten(_)) => "not_written",
            Self::Attempts(_) => "limit_address",
            Self::Issues(_) => "limit_issue",
            Self::Metadata(..) => "metadata",
            Self::Revoked(_) => "revoked",
            Self::Starting => "starting",
            Self::Ended => "internal",
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::NoAuthority(_) => Code::FailedPrecondition,
            Self::Credential(it) => it.code(),
            Self::Csr(it) => it.code(),
            Self::Issue(IssueError::TooShort(_)) | Self::Metadata(..) => Code::InvalidArgument,
            Self::Issue(_) | Self::Starting => Code::Unavailable,
            Self::Revoked(_) => Code::PermissionDenied,
            Self::Attempts(_) | Self::Issues(_) => Code::ResourceExhausted,
            Self::Ended => Code::Internal,
        }
    }

    fn status(&self) -> Status {
        let mut metadata = MetadataMap::new();
        metadata.insert(REASON, AsciiMetadataValue::from_static(self.reason()));
        Status::with_metadata(self.code(), self.to_string(), metadata)
    }
}

impl CertificateService {
    /// One of an authority, or of the reason why there is none.
    pub fn new(
        ca: Result<Arc<Ca>, NoAuthority>,
        credentials: Credentials,
        limits: Limits,
        audit: Arc<Audit>,
        leaving: watch::Receiver<bool>,
    ) -> Self {
        let watchers = Arc::new(Semaphore::new(WATCHERS));
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        let engine = OnceLock::new();
        let parts = Parts { ca, credentials, limits, audit, watchers, strangers, leaving, engine };
        Self { parts: Arc::new(parts) }
    }

    /// Asks this one which identities are revoked. Until it is ready nobody gets a certificate.
    #[must_use]
    pub fn following(self, engine: Arc<Engine>) -> Self {
        // Once, at the start.
        let _ = self.parts.engine.set(engine);
        self
    }

    /// What is believed of workloads' certificates; `None`: nobody is certified here.
    pub fn bundle(&self) -> Option<watch::Receiver<Arc<Bundle>>> {
        self.parts.ca.as_ref().ok().map(|ca| ca.bundle())
    }

    /// `outrider.identity.v1.Identity`.
    pub fn own(&self) -> IdentityServer<Self> {
        IdentityServer::new(self.clone()).max_decoding_message_size(LARGEST_REQUEST)
    }

    /// `istio.v1.auth.IstioCertificateService`.
    pub fn istio(&self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self.clone()).max_decoding_message_size(LARGEST_REQUEST)
    }

    /// Gives a certificate, or says why not; either is in the audit log before the answer is.
    async fn issue(&self, asked: Asked<'_>) -> Result<Given, Status> {
        let (address, introduced) = (asked.peer.address, Arc::clone(&asked.peer.introduced));
        let mut who = None;
        match self.try_issue(asked, &mut who).await {
            Ok((given, ticket)) => {
                let object =
                    format!("Certificate {} until {}", given.signed.serial, date(given.signed.not_after));
                let mut entry = Entry::new(who.as_ref(), address, "issue");
                entry.objects = vec![Item { object, outcome: Some("created") }];
                match ticket {
                    None => self.parts.audit.record(entry).await?,
                    Some(ticket) => {
                        entry.objects.push(Item { object: ticket.name(), outcome: Some("used") });
                        self.spend(ticket, entry).await?;
                    }
                }
                // Whoever got one may stay connected, to follow the trust bundle.
                introduced.store(true, Ordering::Relaxed);
                Ok(given)
            }
            Err(refusal) => {
                let status = refusal.status();
                tracing::debug!(peer = ?address, reason = refusal.reason(), "no certificate: {refusal}");
                let mut entry = Entry::new(who.as_ref(), address, "issue");
                entry.objects =
                    vec![Item { object: format!("Certificate ({})", refusal.reason()), outcome: None }];
                self.parts.audit.refuse(&entry, &status).await;
                Err(status)
            }
        }
    }

    /// Uses a ticket up, as a write of the store: between two lines of the audit log. A task of its own does it, which
    /// goes on when the caller goes away: no use is without its lines.
    async fn spend(&self, ticket: Ticket, entry: Entry) -> Result<(), Status> {
        let parts = Arc::clone(&self.parts);
        let spent = tokio::spawn(async move {
            let entry = parts.audit.begin(&entry).await?;
            let spent = parts.credentials.spend(ticket, SystemTime::now()).await;
            let spent = spent.map_err(|error| Refusal::from(error).status());
            parts.audit.end(&entry, spent.as_ref().copied()).await;
            spent
        });
        spent.await.unwrap_or_else(|_| Err(Refusal::Ended.status()))
    }

    /// Judges, and signs what is given once the ticket, if there is one, was used up. Whatever can fail comes before
    /// that: nobody pays for what they do not get.
    async fn try_issue(
        &self,
        asked: Asked<'_>,
        who: &mut Option<Identity>,
    ) -> Result<(Given, Option<Ticket>), Refusal> {
        let parts = &self.parts;
        let ca = Arc::clone(parts.ca.as_ref().map_err(|it| *it)?);
        if let Some(address) = asked.peer.address {
            parts.limits.attempt(address.ip(), Instant::now()).map_err(Refusal::Attempts)?;
        }
        let now = SystemTime::now();
        let Proven { workload, how, ticket } = parts.credentials.prove(asked.shown, &ca, now).await?;
        let identity = ca.domain().uri(&workload);
        let name = identity.as_str().into();
        let (peer, lease) = (asked.peer.address, Lease::default());
        *who = Some(Identity { name, role: Role::Proxy, how, peer, lease });
        if let Some(engine) = parts.engine.get() {
            let known = tokio::time::timeout(KNOWN, engine.until_ready()).await;
            known.map_err(|_| Refusal::Starting)?;
            if engine.snapshot().context.world.is_revoked(&identity) {
                return Err(Refusal::Revoked(identity));
            }
        }
        parts.limits.issue(&workload, Instant::now()).map_err(Refusal::Issues)?;
        let (csr, uri) = (asked.csr, identity.clone());
        let key = blocking(move || csr::judge(&csr, &uri)).await??;
        let (bundle, lifetime) = (ca.bundle(), asked.lifetime);
        let signed = blocking(move || ca.issue(&key, &workload, lifetime, now)).await??;
        let bundle = Arc::clone(&bundle.borrow());
        Ok((Given { signed, identity, bundle }, ticket))
    }

    /// The line and the answer of what is wrong with a request beside what it asks for.
    async fn refuse(&self, refusal: Refusal, peer: &Peer) -> Status {
        let status = refusal.status();
        self.parts.audit.refuse(&Entry::new(None, peer.address, "issue"), &status).await;
        status
    }
}

/// Cryptography and files, on a thread that may take its time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::Ended)
}

/// Who is at the other end of a request's connection.
fn peer_of<T>(request: &tonic::Request<T>) -> Peer {
    request.extensions().get::<Peer>().cloned().unwrap_or_default()
}

/// The certificate of a connection as a credential.
fn shown_by<'s>(chain: &'s [CertificateDer<'static>]) -> Shown<'s> {
    if chain.is_empty() { Shown::Nothing } else { Shown::Certificate(chain) }
}
