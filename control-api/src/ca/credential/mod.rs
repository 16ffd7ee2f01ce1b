//! How a workload shows who it is: a service-account token of Kubernetes, a join token, or a certificate that is still valid.

pub mod join;
pub mod jwks;
pub mod kubernetes;

use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use tonic::Code;

use super::Ca;
use super::identity::Workload;
use crate::api::auth::How;
use crate::store::SharedStore;
use join::{JoinTokens, Ticket};
use jwks::Jwks;
use kubernetes::Reviewer;

/// The longest token, in bytes.
const LONGEST: usize = 16 * 1024;

/// What was shown.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'s> {
    /// A service-account token (JWT).
    Account(&'s str),
    /// A join token.
    Join(&'s str),
    /// The client certificate of the connection, leaf first.
    Certificate(&'s [CertificateDer<'static>]),
    /// Nothing.
    Nothing,
}

/// Who it is.
#[derive(Debug)]
pub struct Proven {
    /// The workload.
    pub workload: Workload,
    /// By what.
    pub how: How,
    /// What is to be used up before anything is given out.
    pub ticket: Option<Ticket>,
}

/// Who judges service-account tokens.
#[derive(Debug)]
pub enum Accounts {
    /// Kubernetes' API server.
    Review(Reviewer),
    /// Keys that are known here.
    Jwks(Arc<Jwks>),
    /// Nobody.
    Nobody,
}

/// Judges credentials.
#[derive(Debug)]
pub struct Credentials {
    accounts: Accounts,
    join: JoinTokens,
}

/// Why a credential is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// None was sent.
    #[error(
        "a credential is missing: send a service-account token or a join token, or connect with a certificate of this mesh"
    )]
    Missing,
    /// Longer than any token.
    #[error("the token has {0} bytes; {LONGEST} are the most")]
    TooLarge(usize),
    /// Service-account tokens are not taken here.
    #[error(
        "service-account tokens are not taken here: this control plane has neither Kubernetes as its store nor --token-jwks; use a \
         join token (outriderctl token create)"
    )]
    NoAccounts,
    /// Not of the form.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// `alg` is none, or another one than the key's.
    #[error("the token's algorithm is not taken: {0}")]
    Algorithm(String),
    /// The key is not known.
    #[error(
        "the token is signed with a key that is not known here ({0}); the keys are read again now and then"
    )]
    UnknownKey(String),
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// It ended.
    #[error("the token has expired; get another one")]
    Expired,
    /// It is of the future.
    #[error("the token is not valid yet ({0}); mend the clocks")]
    Early(&'static str),
    /// It is for somebody else.
    #[error("the token is for another audience; want one of {0}")]
    Audience(String),
    /// Somebody else made it.
    #[error("the token is of another issuer; want {0}")]
    Issuer(String),
    /// It names nobody.
    #[error("the token names no service account: {0}")]
    Subject(String),
    /// The API server does not believe it.
    #[error("Kubernetes does not believe the token: {0}")]
    Refused(String),
    /// A join token that there is not.
    #[error(
        "this join token is not known: it was mistyped, is used up, was deleted, or belongs to another control plane"
    )]
    Join,
    /// A certificate that is not believed.
    #[error("the connection's client certificate is no credential: {0}")]
    Certificate(String),
    /// Nobody can say now.
    #[error("the credential cannot be judged now: {0}; come back later")]
    Unavailable(String),
}

impl CredentialError {
    /// A word for it that does not change, for clients and counts.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "credential_missing",
            Self::TooLarge(_) => "token_too_large",
            Self::NoAccounts => "token_not_taken",
            Self::Malformed(_) => "token_malformed",
            Self::Algorithm(_) => "token_algorithm",
            Self::UnknownKey(_) => "token_key_unknown",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::Early(_) => "token_early",
            Self::Audience(_) => "token_audience",
            Self::Issuer(_) => "token_issuer",
            Self::Subject(_) => "token_subject",
            Self::Refused(_) => "token_refused",
            Self::Join => "join_token_unknown",
            Self::Certificate(_) => "certificate_refused",
            Self::Unavailable(_) => "credential_unavailable",
        }
    }

    /// As gRPC has it.
    pub const fn code(&self) -> Code {
        match self {
            Self::Unavailable(_) => Code::Unavailable,
            Self::Subject(_) => Code::PermissionDenied,
            _ => Code::Unauthenticated,
        }
    }
}

impl Credentials {
    /// What believes these. Join tokens are in the store.
    pub fn new(accounts: Accounts, store: SharedStore) -> Self {
        Self { accounts, join: JoinTokens::new(store) }
    }

    /// Who shows this.
    ///
    /// # Errors
    /// Why it is not believed.
    pub async fn prove(&self, shown: Shown<'_>, ca: &Ca, now: SystemTime) -> Result<Proven, CredentialError> {
        let proven = |workload, how| Proven { workload, how, ticket: None };
        match shown {
            Shown::Nothing => Err(CredentialError::Missing),
            Shown::Account(token) | Shown::Join(token) if token.len() > LONGEST => {
                Err(CredentialError::TooLarge(token.len()))
            }
            Shown::Account(token) => {
                let workload = match &self.accounts {
                    Accounts::Review(reviewer) => reviewer.review(token).await?,
                    Accounts::Jwks(jwks) => jwks.judge(token, now).await?,
                    Accounts::Nobody => return Err(CredentialError::NoAccounts),
                };
                Ok(proven(workload, How::ServiceAccount))
            }
            Shown::Join(token) => {
                let (workload, ticket) = self.join.find(token, now).await?;
                Ok(Proven { workload, how: How::JoinToken, ticket: Some(ticket) })
            }
            Shown::Certificate(chain) => {
                let workload = ca.recognise(chain, now).map_err(CredentialError::Certificate)?;
                Ok(proven(workload, How::Certificate))
            }
        }
    }

    /// Uses up what is counted.
    ///
    /// # Errors
    /// When others used it up meanwhile, or the store does not answer.
    pub async fn spend(&self, ticket: Ticket, now: SystemTime) -> Result<(), CredentialError> {
        self.join.spend(ticket, now).await
    }
}
