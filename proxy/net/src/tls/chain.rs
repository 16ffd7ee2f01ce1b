//! Whether a chain leads to an authority that is believed: webpki, and what BoringSSL asks for beside it.

use std::cell::Cell;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::cert::{cert_info, names_and_key, traits};
use super::reason::Reason;
use super::roots::Roots;

/// How a chain is verified, whatever the authorities.
pub(super) struct ChainRules {
    pub(super) allow_expired: bool,
    pub(super) max_depth: Option<usize>,
    pub(super) usage: KeyUsage,
    pub(super) algorithms: &'static [&'static dyn rustls::pki_types::SignatureVerificationAlgorithm],
}

/// What ended the verification, and the reason for which it is counted.
pub(super) type Broken = (Reason, webpki::Error);

impl ChainRules {
    /// Whether the chain holds; `any_time`: at any moment.
    pub(super) fn verify(
        &self,
        roots: &Roots,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        any_time: bool,
    ) -> Result<(), Broken> {
        let first = match self.verify_at(roots, end_entity, intermediates, now) {
            Err(broken) if any_time && is_about_time(&broken.1) => broken,
            Err((reason @ (Reason::Signature | Reason::UnknownIssuer | Reason::AuthorityAsLeaf), error))
                if looks_alike(roots, end_entity, intermediates, reason == Reason::Signature) =>
            {
                return Err((Reason::LookAlike, error));
            }
            other => return other,
        };
        // Any moment at which the whole chain held will do: each certificate's first and last seconds
        // are the only candidates.
        for der in std::iter::once(end_entity).chain(intermediates) {
            let Some(info) = cert_info(der) else { continue };
            for second in [info.not_after, info.not_before] {
                let Ok(second) = u64::try_from(second) else { continue };
                let then = UnixTime::since_unix_epoch(Duration::from_secs(second));
                if self.verify_at(roots, end_entity, intermediates, then).is_ok() {
                    return Ok(());
                }
            }
        }
        Err(first)
    }

    fn verify_at(
        &self,
        roots: &Roots,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Broken> {
        let known = |error: webpki::Error| (Reason::of_chain(&error), error);
        // Envoy trusts what is in trusted_ca itself, be it a leaf (X509_V_FLAG_PARTIAL_CHAIN).
        if let Some(root) = roots.certificates.iter().find(|root| root.der == *end_entity) {
            return self.check_validity(root.from, root.to, now).map_err(known);
        }
        let crls: Vec<&CertRevocationList<'_>> = roots.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            let depth = if roots.leaf_crl_only {
                RevocationCheckDepth::EndEntity
            } else {
                RevocationCheckDepth::Chain
            };
            // As BoringSSL: once there are lists, a certificate that none speaks of is refused, and so is
            // what an outdated list says.
            builder
                .with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let no_issuer = Cell::new(false);
        let accept = |path: &VerifiedPath<'_>| {
            // The leaf does not count, the root does.
            let depth = path.intermediate_certificates().count() + 1;
            if self.max_depth.is_some_and(|most| depth > most) {
                return Err(webpki::Error::MaximumPathDepthExceeded);
            }
            // webpki does not look at what keys of authorities are for.
            let issues = |der: &[u8]| traits(der).is_some_and(|traits| traits.issues);
            if !path.intermediate_certificates().all(|cert| issues(&cert.der())) {
                no_issuer.set(true);
                return Err(webpki::Error::UnknownIssuer);
            }
            self.check_anchor(roots, path.anchor(), now, &no_issuer)
        };
        let leaf = EndEntityCert::try_from(end_entity).map_err(known)?;
        let verified = leaf.verify_for_usage(
            self.algorithms,
            &roots.anchors,
            intermediates,
            now,
            self.usage,
            revocation,
            Some(&accept),
        );
        match verified {
            Ok(_) => Ok(()),
            Err(error @ webpki::Error::UnknownIssuer) if no_issuer.get() => Err((Reason::KeyUsage, error)),
            Err(error) => Err(known(error)),
        }
    }

    fn check_anchor(
        &self,
        roots: &Roots,
        anchor: &TrustAnchor<'_>,
        now: UnixTime,
        no_issuer: &Cell<bool>,
    ) -> Result<(), webpki::Error> {
        let same = |known: &TrustAnchor<'_>| {
            known.subject == anchor.subject && known.subject_public_key_info == anchor.subject_public_key_info
        };
        let beside = roots.anchors.iter().zip(&roots.certificates);
        let mut these = beside.filter(|(known, _)| same(known)).map(|(_, root)| root).peekable();
        if these.peek().is_some_and(|root| !root.issues) {
            no_issuer.set(true);
            return Err(webpki::Error::UnknownIssuer);
        }
        let valid = these.any(|root| self.check_validity(root.from, root.to, now).is_ok());
        if valid { Ok(()) } else { Err(webpki::Error::InvalidCertValidity) }
    }

    fn check_validity(&self, from: i64, to: i64, now: UnixTime) -> Result<(), webpki::Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = self.allow_expired || (from <= now && now <= to);
        if valid { Ok(()) } else { Err(webpki::Error::InvalidCertValidity) }
    }
}

fn is_about_time(error: &webpki::Error) -> bool {
    use webpki::Error;
    matches!(error, Error::CertExpired { .. } | Error::CertNotValidYet { .. } | Error::InvalidCertValidity)
}

/// Whether the chain has the name of an authority, but not its key; `signed`: what is wrong is a signature. Only asked of
/// chains that do not hold.
fn looks_alike(
    roots: &Roots,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    signed: bool,
) -> bool {
    let is_root = |name: &[u8]| roots.subjects.iter().any(|root| root.as_ref() == name);
    let is_key = |key: &[u8]| {
        roots.certificates.iter().any(|root| names_and_key(&root.der).is_some_and(|(_, _, own)| own == key))
    };
    std::iter::once(end_entity).chain(intermediates).any(|der| {
        names_and_key(der).is_some_and(|(subject, issuer, key)| {
            is_root(&subject) && !is_key(&key) || signed && is_root(&issuer)
        })
    })
}
