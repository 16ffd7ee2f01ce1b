//! Whom we believe: Envoy's default certificate validator on webpki.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use outrider_config::model::{CertificateValidation, SanKind, SanMatcher};
use outrider_core::matcher::StringMatch;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::KeyUsage;

use super::TlsError;
use super::cert::{cert_info, sha256, spki_sha256, traits};
use super::chain::ChainRules;
use super::in_use::CertInUse;
use super::reason::Reason;
use super::roots::Roots;
use super::spiffe::{Domains, domain_of};
use super::stats::{Counts, UNNAMED_CA};

/// Verifies the peer's certificate, in either role.
pub(super) struct PeerVerifier {
    trust: Trust,
    sans: Vec<SanMatcher>,
    certificate_hashes: Vec<[u8; 32]>,
    spki_hashes: Vec<[u8; 32]>,
    chain: ChainRules,
    accept_untrusted: bool,
    /// Whether a client is asked for a certificate, and whether it must have one.
    request: bool,
    require: bool,
    algorithms: WebPkiSupportedAlgorithms,
    counts: Arc<Counts>,
}

/// Whose word counts.
enum Trust {
    /// The chain is not verified.
    Nobody,
    Roots(Roots),
    Domains(Domains),
}

/// Under which of Envoy's stats a refusal counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stat {
    /// `fail_verify_error`
    Error,
    /// `fail_verify_san`
    San,
    /// `fail_verify_cert_hash`
    Hash,
    /// `connection_error`: what BoringSSL itself does not put up with, whoever verifies.
    Protocol,
}

/// Why a certificate is not believed.
#[derive(Debug, Clone, Copy)]
struct Distrust {
    reason: Reason,
    stat: Stat,
}

impl Distrust {
    const fn new(reason: Reason, stat: Stat) -> Self {
        Self { reason, stat }
    }
}

/// Why a certificate was refused, in Envoy's words where it has some.
#[derive(Debug, thiserror::Error)]
#[error("verify cert failed: {0}")]
struct Refused(&'static str);

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
        let trust = trust(config)?;
        if let Some(end) = trust.first_end() {
            counts.expires(UNNAMED_CA, end);
        }
        let hashes = !config.certificate_hashes.is_empty() || !config.spki_hashes.is_empty();
        // As in Envoy, who asks for a name, a hash or a SPIFFE id asks for a certificate, whatever
        // `require_client_certificate` says.
        let asks = hashes || !config.san_matchers.is_empty() || matches!(trust, Trust::Domains(_));
        let require = require || asks && !config.accept_untrusted;
        Ok(Self {
            request: require || asks || config.accept_untrusted || !matches!(trust, Trust::Nobody),
            trust,
            sans: config.san_matchers.clone(),
            certificate_hashes: config.certificate_hashes.clone(),
            spki_hashes: config.spki_hashes.clone(),
            accept_untrusted: config.accept_untrusted,
            require,
            chain: ChainRules {
                allow_expired: config.allow_expired,
                max_depth: config.max_verify_depth.map(|depth| depth as usize),
                usage,
                algorithms: algorithms.all,
            },
            algorithms,
            counts,
        })
    }

    /// A digest of all that decides whom we believe: sessions are not resumed across a change of it.
    pub(super) fn fingerprint(&self) -> Vec<u8> {
        let mut all = self.rules();
        match &self.trust {
            Trust::Nobody => {}
            Trust::Roots(roots) => all.extend(roots.fingerprint()),
            Trust::Domains(domains) => {
                all.extend(b"spiffe|");
                all.extend(domains.fingerprint());
            }
        }
        all
    }

    /// Whether it may refuse peers that `before` believed: another rule, an authority less, other revocation lists. More
    /// authorities are no reason.
    pub(super) fn narrows(&self, before: &Self) -> bool {
        self.rules() != before.rules()
            || std::mem::discriminant(&self.trust) != std::mem::discriminant(&before.trust)
            || !before.believed().is_subset(&self.believed())
    }

    fn believed(&self) -> HashSet<Vec<u8>> {
        match &self.trust {
            Trust::Nobody => HashSet::new(),
            Trust::Roots(roots) => roots.believed("").collect(),
            Trust::Domains(domains) => domains.believed().collect(),
        }
    }

    /// What decides beside the authorities.
    fn rules(&self) -> Vec<u8> {
        format!(
            "{:?}|{:?}|{:?}|{}|{}|{:?}|{}|{}|",
            self.sans,
            self.certificate_hashes,
            self.spki_hashes,
            self.chain.allow_expired,
            self.accept_untrusted,
            self.chain.max_depth,
            self.request,
            self.require
        )
        .into_bytes()
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let stats = &self.counts.base;
        let Err(distrust) = self.check(end_entity, intermediates, now, self.chain.allow_expired) else {
            return Ok(());
        };
        match distrust.stat {
            Stat::Error => stats.fail_verify_error().inc(),
            Stat::San => stats.fail_verify_san().inc(),
            Stat::Hash => stats.fail_verify_cert_hash().inc(),
            Stat::Protocol => stats.connection_error().inc(),
        }
        if self.accept_untrusted && distrust.stat != Stat::Protocol {
            return Ok(());
        }
        self.counts.refused(distrust.reason, Some(end_entity));
        Err(refusal(distrust.reason))
    }

    /// Whether the chain and its leaf are to be believed; `any_time`: at any moment.
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        any_time: bool,
    ) -> Result<(), Distrust> {
        let error = |reason| Distrust::new(reason, Stat::Error);
        self.check_key(end_entity)?;
        let roots = match &self.trust {
            Trust::Nobody => None,
            Trust::Roots(roots) => Some(roots),
            Trust::Domains(domains) => Some(domains.of(end_entity).map_err(error)?),
        };
        if let Some(roots) = roots {
            let chain = self.chain.verify(roots, end_entity, intermediates, now, any_time);
            chain.map_err(|(reason, _)| error(reason))?;
        }
        self.verify_leaf(end_entity)
    }

    /// What the leaf's key is, and what it is for: webpki looks at neither.
    fn check_key(&self, end_entity: &CertificateDer<'_>) -> Result<(), Distrust> {
        let trusts = !matches!(self.trust, Trust::Nobody);
        let Some(traits) = traits(end_entity) else {
            return if trusts { Err(Distrust::new(Reason::Malformed, Stat::Error)) } else { Ok(()) };
        };
        if traits.weak {
            return Err(Distrust::new(Reason::WeakKey, Stat::Protocol));
        }
        if !traits.rsa {
            // BoringSSL asks this of every key but RSA's before anything is verified.
            let fits = traits.signs;
            return if fits { Ok(()) } else { Err(Distrust::new(Reason::KeyUsage, Stat::Protocol)) };
        }
        let is_client = self.chain.usage == KeyUsage::client_auth();
        let fits = if is_client { traits.signs } else { traits.serves };
        if fits || !trusts { Ok(()) } else { Err(Distrust::new(Reason::KeyUsage, Stat::Error)) }
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
            Distrust { reason: Reason::Revoked, .. } => "client_certificate_revoked",
            Distrust { stat: Stat::San, .. } => "client_certificate_name",
            Distrust { stat: Stat::Hash, .. } => "client_certificate_hash",
            Distrust { .. } => "client_certificate_untrusted",
        })
    }

    /// Whether it vouches for the client of a session that was begun under it: the client showed a certificate, there was
    /// something to hold it against, and it held (which under `ACCEPT_UNTRUSTED` it need not).
    pub(super) fn vouches(&self, leaf: Option<&[u8]>, behind: &[Box<[u8]>], now: UnixTime) -> bool {
        let Some(leaf) = leaf else { return false };
        let hashes = !self.certificate_hashes.is_empty() || !self.spki_hashes.is_empty();
        if matches!(self.trust, Trust::Nobody) && !hashes {
            return false;
        }
        let behind = || behind.iter().map(|der| CertificateDer::from(&**der)).collect::<Vec<_>>();
        !self.accept_untrusted
            || self.check(&CertificateDer::from(leaf), &behind(), now, self.chain.allow_expired).is_ok()
    }

    /// Names and hashes of the leaf.
    fn verify_leaf(&self, end_entity: &CertificateDer<'_>) -> Result<(), Distrust> {
        if !self.sans.is_empty() {
            // Envoy's SPIFFE validator looks at URIs alone.
            let all = !matches!(self.trust, Trust::Domains(_));
            let mut wanted = self.sans.iter().filter(|wanted| all || wanted.kind == SanKind::Uri);
            let matches =
                cert_info(end_entity).is_some_and(|info| wanted.any(|wanted| wanted.matches(&info)));
            if !matches {
                return Err(Distrust::new(self.name_reason(end_entity), Stat::San));
            }
        }
        if !self.certificate_hashes.is_empty() || !self.spki_hashes.is_empty() {
            let certificate = self.certificate_hashes.contains(&sha256(end_entity));
            let spki = || spki_sha256(end_entity).is_some_and(|hash| self.spki_hashes.contains(&hash));
            if !certificate && !spki() {
                return Err(Distrust::new(Reason::Hash, Stat::Hash));
            }
        }
        Ok(())
    }

    /// Why a leaf has none of the names: it has none at all, or is of another trust domain than all that are wanted.
    fn name_reason(&self, end_entity: &CertificateDer<'_>) -> Reason {
        if traits(end_entity).is_some_and(|traits| !traits.named) {
            return Reason::NoSan;
        }
        let domains: Option<Vec<&str>> = self.sans.iter().map(domain_wanted).collect();
        let Some((domains, info)) = domains.zip(cert_info(end_entity)) else { return Reason::San };
        let mut shown = info.uri_sans.iter().filter_map(|uri| domain_of(uri)).peekable();
        let other = shown.peek().is_some() && !shown.any(|domain| domains.contains(&domain));
        if other { Reason::TrustDomain } else { Reason::San }
    }
}

impl PeerVerifier {
    /// The authorities that it believes.
    pub(super) fn in_use(&self) -> impl Iterator<Item = CertInUse<'_>> {
        let (roots, domains) = match &self.trust {
            Trust::Nobody => (None, None),
            Trust::Roots(roots) => (Some(roots), None),
            Trust::Domains(domains) => (None, Some(domains)),
        };
        roots.into_iter().flat_map(Roots::in_use).chain(domains.into_iter().flat_map(Domains::in_use))
    }
}

impl Trust {
    fn first_end(&self) -> Option<i64> {
        match self {
            Self::Nobody => None,
            Self::Roots(roots) => roots.first_end(),
            Self::Domains(domains) => domains.first_end(),
        }
    }
}

fn trust(config: &CertificateValidation) -> Result<Trust, TlsError> {
    if let Some(spiffe) = &config.spiffe {
        return Domains::read(spiffe).map(Trust::Domains);
    }
    if let Some(ca) = &config.trusted_ca {
        return Roots::read(ca, config).map(Trust::Roots);
    }
    let wrong =
        |field: &str, reason: &str| Err(TlsError::Config { field: field.into(), reason: reason.into() });
    if !config.san_matchers.is_empty() && !config.accept_untrusted {
        let reason = "verifying names without trusted_ca is no verification: give a trusted_ca";
        return wrong("match_typed_subject_alt_names", reason);
    }
    if config.crl.is_some() {
        return wrong("crl", "a revocation list needs a trusted_ca to go with it");
    }
    Ok(Trust::Nobody)
}

/// The one trust domain whose ids a matcher takes.
fn domain_wanted(wanted: &SanMatcher) -> Option<&str> {
    match &wanted.matcher.matcher {
        StringMatch::Exact(text) | StringMatch::Prefix(text) if wanted.kind == SanKind::Uri => {
            domain_of(text)
        }
        _ => None,
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
            .field("verifies", &!matches!(self.trust, Trust::Nobody))
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
        match &self.trust {
            Trust::Nobody => &[],
            Trust::Roots(roots) => &roots.subjects,
            Trust::Domains(domains) => &domains.subjects,
        }
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

/// With the alert that the peer shall see, where there is a special one.
fn refusal(reason: Reason) -> rustls::Error {
    match reason {
        Reason::UnknownIssuer => CertificateError::UnknownIssuer,
        Reason::Revoked => CertificateError::Revoked,
        Reason::Expired => CertificateError::Expired,
        Reason::NotYetValid => CertificateError::NotValidYet,
        Reason::ExtendedKeyUsage => CertificateError::InvalidPurpose,
        Reason::LookAlike | Reason::Signature => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(Refused(other.words())))),
    }
    .into()
}
