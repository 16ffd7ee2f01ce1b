//! Whom we believe: Envoy's default certificate validator on webpki.

use std::fmt;
use std::sync::Arc;

use outrider_config::model::{CertificateValidation, SanMatcher};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::TlsError;
use super::cert::{cert_info, sha256, spki_sha256};
use super::roots::Roots;
use super::stats::{Counts, UNNAMED_CA};

/// Verifies the peer's certificate, in either role.
pub(super) struct PeerVerifier {
    /// `None`: the chain is not verified.
    roots: Option<Roots>,
    sans: Vec<SanMatcher>,
    certificate_hashes: Vec<[u8; 32]>,
    spki_hashes: Vec<[u8; 32]>,
    allow_expired: bool,
    accept_untrusted: bool,
    max_depth: Option<usize>,
    /// Whether a client is asked for a certificate, and whether it must have one.
    request: bool,
    require: bool,
    usage: KeyUsage,
    algorithms: WebPkiSupportedAlgorithms,
    counts: Arc<Counts>,
}

/// Why a certificate is not believed.
enum Distrust {
    Chain(webpki::Error),
    /// None of its names is one that must be there.
    Name,
    Hash,
}

/// Why a certificate was refused, in Envoy's words where it has some.
#[derive(Debug, thiserror::Error)]
#[error("verify cert failed: {0}")]
struct Refused(String);

impl PeerVerifier {
    /// The verifier for `validation`; `require` says whether a client must show a certificate.
    ///
    /// # Errors
    /// Roots or revocation lists that cannot be read, or SAN matchers that no root backs.
    pub(super) fn build(
        validation: Option<&CertificateValidation>,
        usage: KeyUsage,
        require: bool,
        algorithms: WebPkiSupportedAlgorithms,
        counts: Arc<Counts>,
    ) -> Result<Self, TlsError> {
        let nothing = CertificateValidation::default();
        let config = validation.unwrap_or(&nothing);
        let roots = config.trusted_ca.as_ref().map(|ca| Roots::read(ca, config)).transpose()?;
        if roots.is_none() && !config.san_matchers.is_empty() && !config.accept_untrusted {
            return Err(TlsError::Config {
                field: "match_typed_subject_alt_names".into(),
                reason: "verifying names without trusted_ca is no verification: give a trusted_ca".into(),
            });
        }
        if let Some((_, _, last)) = roots.as_ref().and_then(|roots| roots.certificates.first()) {
            counts.expires(UNNAMED_CA, *last);
        }
        if roots.is_none() && config.crl.is_some() {
            return Err(TlsError::Config {
                field: "crl".into(),
                reason: "a revocation list needs a trusted_ca to go with it".into(),
            });
        }
        let hashes = !config.certificate_hashes.is_empty() || !config.spki_hashes.is_empty();
        Ok(Self {
            request: require
                || roots.is_some()
                || hashes
                || config.accept_untrusted
                || !config.san_matchers.is_empty(),
            roots,
            sans: config.san_matchers.clone(),
            certificate_hashes: config.certificate_hashes.clone(),
            spki_hashes: config.spki_hashes.clone(),
            allow_expired: config.allow_expired,
            accept_untrusted: config.accept_untrusted,
            max_depth: config.max_verify_depth.map(|depth| depth as usize),
            require,
            usage,
            algorithms,
            counts,
        })
    }

    /// A digest of all that decides whom we believe: sessions are not resumed across a change of it.
    pub(super) fn fingerprint(&self) -> Vec<u8> {
        let mut all = format!(
            "{:?}|{:?}|{:?}|{}|{}|{:?}|{}|{}|",
            self.sans,
            self.certificate_hashes,
            self.spki_hashes,
            self.allow_expired,
            self.accept_untrusted,
            self.max_depth,
            self.request,
            self.require
        )
        .into_bytes();
        if let Some(roots) = &self.roots {
            all.extend(roots.certificates.iter().flat_map(|(der, ..)| sha256(der)));
            all.extend(sha256(format!("{:?}{}", roots.crls, roots.leaf_crl_only).as_bytes()));
        }
        all
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let stats = &self.counts.base;
        let Err(distrust) = self.check(end_entity, intermediates, now, self.allow_expired) else {
            return Ok(());
        };
        match distrust {
            Distrust::Chain(_) => stats.fail_verify_error().inc(),
            Distrust::Name => stats.fail_verify_san().inc(),
            Distrust::Hash => stats.fail_verify_cert_hash().inc(),
        }
        if self.accept_untrusted {
            return Ok(());
        }
        Err(match distrust {
            Distrust::Chain(error) => refusal(&error),
            Distrust::Name => refused("SAN matcher"),
            Distrust::Hash => refused("cert hash and spki"),
        })
    }

    /// Whether the chain and its leaf are to be believed; `any_time`: at any moment.
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        any_time: bool,
    ) -> Result<(), Distrust> {
        if let Some(roots) = &self.roots {
            self.verify_chain(roots, end_entity, intermediates, now, any_time).map_err(Distrust::Chain)?;
        }
        self.verify_leaf(end_entity)
    }

    /// Whether a session that was begun under another context could be begun under this one, but for the passage of
    /// time: a certificate that has expired since is no reason. `leaf` is the certificate that the client showed, and
    /// `behind` what came behind it.
    ///
    /// # Errors
    /// Why not, in the word by which it is counted.
    pub(super) fn admits(
        &self,
        leaf: Option<&[u8]>,
        behind: &[Box<[u8]>],
        now: UnixTime,
    ) -> Result<(), &'static str> {
        let Some(leaf) = leaf else {
            return if self.require { Err("client_certificate_missing") } else { Ok(()) };
        };
        if self.accept_untrusted {
            return Ok(());
        }
        let leaf = CertificateDer::from(leaf);
        let behind: Vec<_> = behind.iter().map(|der| CertificateDer::from(&**der)).collect();
        self.check(&leaf, &behind, now, true).map_err(|distrust| match distrust {
            Distrust::Chain(webpki::Error::CertRevoked) => "client_certificate_revoked",
            Distrust::Chain(_) => "client_certificate_untrusted",
            Distrust::Name => "client_certificate_name",
            Distrust::Hash => "client_certificate_hash",
        })
    }

    /// Whether it vouches for the client of a session that was begun under it: the client showed a certificate, there was
    /// something to hold it against, and it held (which under `ACCEPT_UNTRUSTED` it need not).
    pub(super) fn vouches(&self, leaf: Option<&[u8]>, behind: &[Box<[u8]>], now: UnixTime) -> bool {
        let Some(leaf) = leaf else { return false };
        let hashes = !self.certificate_hashes.is_empty() || !self.spki_hashes.is_empty();
        if self.roots.is_none() && !hashes {
            return false;
        }
        let behind = || behind.iter().map(|der| CertificateDer::from(&**der)).collect::<Vec<_>>();
        !self.accept_untrusted
            || self.check(&CertificateDer::from(leaf), &behind(), now, self.allow_expired).is_ok()
    }

    fn verify_chain(
        &self,
        roots: &Roots,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        any_time: bool,
    ) -> Result<(), webpki::Error> {
        let first = match self.verify_chain_at(roots, end_entity, intermediates, now) {
            Err(error) if any_time && is_about_time(&error) => error,
            other => return other,
        };
        // Any moment at which the whole chain held will do: each certificate's first and last seconds
        // are the only candidates.
        for der in std::iter::once(end_entity).chain(intermediates) {
            let Some(info) = cert_info(der) else { continue };
            for second in [info.not_after, info.not_before] {
                let Ok(second) = u64::try_from(second) else { continue };
                let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(second));
                if self.verify_chain_at(roots, end_entity, intermediates, then).is_ok() {
                    return Ok(());
                }
            }
        }
        Err(first)
    }

    fn verify_chain_at(
        &self,
        roots: &Roots,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        // Envoy trusts what is in trusted_ca itself, be it a leaf (X509_V_FLAG_PARTIAL_CHAIN).
        if let Some((_, from, to)) = roots.certificates.iter().find(|(der, ..)| der == end_entity) {
            return self.check_validity(*from, *to, now);
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
        let accept = |path: &VerifiedPath<'_>| {
            // The leaf does not count, the root does.
            let depth = path.intermediate_certificates().count() + 1;
            if self.max_depth.is_some_and(|most| depth > most) {
                return Err(webpki::Error::MaximumPathDepthExceeded);
            }
            let anchor = path.anchor();
            let same = |known: &TrustAnchor<'_>| {
                known.subject == anchor.subject
                    && known.subject_public_key_info == anchor.subject_public_key_info
            };
            let valid = roots
                .anchors
                .iter()
                .zip(&roots.certificates)
                .filter(|(known, _)| same(known))
                .any(|(_, (_, from, to))| self.check_validity(*from, *to, now).is_ok());
            if valid { Ok(()) } else { Err(webpki::Error::InvalidCertValidity) }
        };
        let leaf = EndEntityCert::try_from(end_entity)?;
        leaf.verify_for_usage(
            self.algorithms.all,
            &roots.anchors,
            intermediates,
            now,
            self.usage,
            revocation,
            Some(&accept),
        )?;
        Ok(())
    }

    fn check_validity(&self, from: i64, to: i64, now: UnixTime) -> Result<(), webpki::Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = self.allow_expired || (from <= now && now <= to);
        if valid { Ok(()) } else { Err(webpki::Error::InvalidCertValidity) }
    }

    /// Names and hashes of the leaf.
    fn verify_leaf(&self, end_entity: &CertificateDer<'_>) -> Result<(), Distrust> {
        if !self.sans.is_empty() {
            let matches = cert_info(end_entity)
                .is_some_and(|info| self.sans.iter().any(|wanted| wanted.matches(&info)));
            if !matches {
                return Err(Distrust::Name);
            }
        }
        if !self.certificate_hashes.is_empty() || !self.spki_hashes.is_empty() {
            let certificate = self.certificate_hashes.contains(&sha256(end_entity));
            let spki = || spki_sha256(end_entity).is_some_and(|hash| self.spki_hashes.contains(&hash));
            if !certificate && !spki() {
                return Err(Distrust::Hash);
            }
        }
        Ok(())
    }
}

impl PeerVerifier {
    /// The outcome of looking at the peer's signature; a good one is counted by its algorithm.
    fn signed(
        &self,
        dss: &DigitallySignedStruct,
        outcome: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if outcome.is_ok() {
            self.counts.signature(dss.scheme);
        }
        outcome
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier")
            .field("roots", &self.roots.as_ref().map(|roots| roots.anchors.len()))
            .field("sans", &self.sans)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn offer_client_auth(&self) -> bool {
        self.request
    }

    fn client_auth_mandatory(&self) -> bool {
        self.require
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.roots.as_ref().map_or(&[], |roots| &roots.subjects)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(dss, verify_tls12_signature(message, cert, dss, &self.algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(dss, verify_tls13_signature(message, cert, dss, &self.algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(dss, verify_tls12_signature(message, cert, dss, &self.algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(dss, verify_tls13_signature(message, cert, dss, &self.algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_about_time(error: &webpki::Error) -> bool {
    use webpki::Error;
    matches!(error, Error::CertExpired { .. } | Error::CertNotValidYet { .. } | Error::InvalidCertValidity)
}

fn refused(why: &str) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Refused(why.into())))).into()
}

/// With the alert that the peer shall see, where there is a special one.
fn refusal(error: &webpki::Error) -> rustls::Error {
    match error {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        webpki::Error::CertRevoked => CertificateError::Revoked.into(),
        webpki::Error::CertExpired { .. } | webpki::Error::InvalidCertValidity => {
            CertificateError::Expired.into()
        }
        other => refused(&other.to_string()),
    }
}
