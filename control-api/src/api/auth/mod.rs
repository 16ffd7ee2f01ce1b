//! Who may do what: TLS, tokens and certificates, roles, and the layer that asks for them in front of a gRPC server. It
//! guards the API and the xDS port alike.

mod certificates;
pub mod claims;
mod guard;
mod incoming;
mod lease;
mod roles;
mod setup;
mod tls;
mod tokens;
mod verifier;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

pub(crate) use certificates::{private_folder, write_private};
pub use guard::{Guard, Guarded, Throttle};
pub use incoming::{Bounds, Connection, Peer, incoming};
pub use lease::Lease;
pub use roles::{Access, CertificateRule, Role, access_of};
pub use setup::{AuthArgs, Security};
pub use tls::{Tls, TlsFiles, system_roots};
pub use tokens::{NewToken, Tokens, new_token};
use tokio::sync::watch;
use tonic::Status;

use crate::ca::identity::TrustDomain;
use crate::world::{Proxy, World};

/// Who asks.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The token's name, or the certificate's.
    pub name: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// How that was shown.
    pub how: How,
    /// Where from.
    pub peer: Option<SocketAddr>,
    /// How long that holds.
    pub lease: Lease,
}

impl Identity {
    /// Whether somebody may get what is a proxy's. A workload's certificate (`spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`) is good for the
    /// proxies of its own account, whatever the node says; a token is good for all proxies. See [`claims`].
    ///
    /// # Errors
    /// PERMISSION_DENIED, with what is claimed and what is shown.
    pub fn may_be(&self, proxy: &Proxy, world: &World) -> Result<(), Status> {
        if self.how != How::Certificate || self.role == Role::Admin {
            return Ok(());
        }
        if world.is_revoked(&self.name) {
            return Err(Status::permission_denied(format!("{} is revoked", self.name)));
        }
        claims::judge(&self.name, proxy, world).map_err(Status::permission_denied)
    }

    /// Resolves, with what to tell them, when the credential of whoever has a stream has ended.
    pub fn ended(&self) -> impl Future<Output = Status> + Send + use<> {
        self.lease.clone().ended()
    }
}

/// How somebody showed who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A bearer token.
    Token,
    /// A client certificate.
    Certificate,
    /// A service-account token of Kubernetes: good for a certificate alone.
    ServiceAccount,
    /// A join token: good for a certificate alone.
    JoinToken,
    /// Not at all: development on the loopback.
    Loopback,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::ServiceAccount => "service-account-token",
            Self::JoinToken => "join-token",
            Self::Loopback => "insecure-loopback",
        })
    }
}

/// Tells who asks.
#[derive(Debug)]
pub struct Authenticator {
    /// Nobody is asked: development on the loopback.
    insecure: bool,
    tokens: watch::Sender<Arc<Tokens>>,
    rules: Vec<CertificateRule>,
    /// The trust domain of workloads.
    domain: OnceLock<TrustDomain>,
}

impl Authenticator {
    /// One that believes these tokens, and certificates (which TLS verified) by these rules.
    pub fn new(tokens: Tokens, rules: Vec<CertificateRule>) -> Self {
        let tokens = watch::Sender::new(Arc::new(tokens));
        Self { insecure: false, tokens, rules, domain: OnceLock::new() }
    }

    /// One that takes everybody for an admin. Only for sockets on the loopback.
    pub fn insecure() -> Self {
        Self { insecure: true, ..Self::new(Tokens::default(), Vec::new()) }
    }

    /// Knows workloads of this trust domain by their certificates: those of the mesh's authority, and where nobody gave rules
    /// those of the clients' authorities.
    pub fn set_trust_domain(&self, domain: TrustDomain) {
        // Once, at the start.
        let _ = self.domain.set(domain);
    }

    /// Whether nobody is asked who they are.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Believes other tokens from now on. Streams of those that are gone end.
    pub fn set_tokens(&self, tokens: Tokens) {
        self.tokens.send_replace(Arc::new(tokens));
    }

    /// Who asks. A token goes before a certificate; a token that is not known is refused even with a certificate.
    ///
    /// # Errors
    /// UNAUTHENTICATED, with what to do.
    pub fn identify(&self, authorization: Option<&[u8]>, peer: Option<&Peer>) -> Result<Identity, Status> {
        let address = peer.and_then(|peer| peer.address);
        let identity =
            |name: Arc<str>, role, how| Identity { name, role, how, peer: address, lease: Lease::default() };
        if self.insecure {
            return Ok(identity("anonymous".into(), Role::Admin, How::Loopback));
        }
        if let Some(header) = authorization {
            let token = bearer(header).ok_or_else(|| {
                Status::unauthenticated("the authorization metadata has another form than \"Bearer TOKEN\"")
            })?;
            let known = self.tokens.borrow().entry(token).cloned();
            let entry = known.ok_or_else(|| {
                Status::unauthenticated(
                    "this token is not known here; it was mistyped, revoked, or belongs to another control plane \
                     (the first administrator's is in DATA-DIR/tokens/admin.token)",
                )
            })?;
            let known = identity(Arc::clone(&entry.name), entry.role, How::Token);
            return Ok(Identity { lease: Lease::of_token(entry, self.tokens.subscribe()), ..known });
        }
        let Some(certificate) = peer.and_then(|peer| peer.certificate.as_deref()) else {
            return Err(Status::unauthenticated(
                "nobody may do this without saying who they are: send a token as `authorization: Bearer TOKEN` \
                 (outriderctl: --token-file, or OUTRIDER_TOKEN_FILE), or a client certificate (--cert and --key)",
            ));
        };
        let names = roles::Names::of(certificate).map_err(|reason| {
            Status::unauthenticated(format!("the client certificate cannot be read: {reason}"))
        })?;
        if let Some(until) = names.ended(chrono::Utc::now().timestamp()) {
            // The connection outlived it.
            return Err(Status::unauthenticated(format!(
                "the client certificate ended at {until}; connect anew"
            )));
        }
        let identity = |name, role, how| Identity {
            lease: Lease::of_certificate(names.not_after()),
            ..identity(name, role, how)
        };
        if peer.is_some_and(|peer| peer.workload) {
            let workload = self.domain.get().and_then(|domain| names.workload(domain));
            return workload.map(|name| identity(name, Role::Proxy, How::Certificate)).ok_or_else(|| {
                Status::unauthenticated(format!(
                    "the client certificate ({names}) is no workload's of this mesh"
                ))
            });
        }
        let domain = self.domain.get();
        match self.rules.iter().find_map(|rule| rule.matches(&names, domain)) {
            Some((name, role)) => Ok(identity(name, role, How::Certificate)),
            None => Err(Status::unauthenticated(format!(
                "the client certificate ({names}) has no role here; a proxy has one URI, spiffe://{}/ns/NAMESPACE/sa/ACCOUNT; \
                 map another name with --client-role, or send a token",
                domain.map_or("TRUST-DOMAIN", TrustDomain::as_str)
            ))),
        }
    }
}

/// The token in `Bearer TOKEN`; the scheme in any case, as RFC 9110 (11.1) has it.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}
