//! The authorities that a context believes, and what they have revoked.

use std::sync::Arc;

use outrider_config::model::{CertificateValidation, DataSource};
use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::TlsError;
use super::cert::{cert_info, sha256, traits};
use super::in_use::CertInUse;
use super::source::Content;

/// Authorities and revocation lists.
pub(super) struct Roots {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    /// Beside the anchors: the certificates they come from.
    pub(super) certificates: Vec<Root>,
    pub(super) subjects: Vec<DistinguishedName>,
    pub(super) crls: Vec<CertRevocationList<'static>>,
    pub(super) leaf_crl_only: bool,
}

/// The certificate of an authority.
pub(super) struct Root {
    pub(super) der: CertificateDer<'static>,
    /// Its first and last second.
    pub(super) from: i64,
    pub(super) to: i64,
    /// Whether its key may sign certificates.
    pub(super) issues: bool,
    /// Where it came from.
    source: Arc<str>,
}

impl Roots {
    /// None yet.
    pub(super) const fn new(leaf_crl_only: bool) -> Self {
        Self {
            anchors: Vec::new(),
            certificates: Vec::new(),
            subjects: Vec::new(),
            crls: Vec::new(),
            leaf_crl_only,
        }
    }

    /// Reads the authorities in `source`, and the lists of `config`.
    ///
    /// # Errors
    /// What cannot be read, or is no authority or list.
    pub(super) fn read(source: &DataSource, config: &CertificateValidation) -> Result<Self, TlsError> {
        let content = Content::read(source)?;
        let mut roots = Self::new(config.only_verify_leaf_crl);
        roots.add_all(&content)?;
        if let Some(source) = &config.crl {
            roots.add_lists(&Content::read(source)?)?;
        }
        Ok(roots)
    }

    /// Adds all authorities in `content`; there must be one.
    pub(super) fn add_all(&mut self, content: &Content<'_>) -> Result<(), TlsError> {
        let source: Arc<str> = content.name().into();
        for der in content.certificates()? {
            self.add(der, &source).map_err(|why| content.wrong(why))?;
        }
        // Lists may stand among the authorities, in Envoy too.
        if content.has_lists() { self.add_lists(content) } else { Ok(()) }
    }

    /// Adds an authority out of `source`.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub(super) fn add(&mut self, der: CertificateDer<'static>, source: &Arc<str>) -> Result<(), String> {
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| format!("a certificate that cannot be a root: {error}"))?
            .to_owned();
        let (Some(info), Some(traits)) = (cert_info(&der), traits(&der)) else {
            return Err("a certificate that cannot be read".to_owned());
        };
        self.subjects.push(DistinguishedName::in_sequence(anchor.subject.as_ref()));
        self.anchors.push(anchor);
        let (from, to) = (info.not_before, info.not_after);
        let source = source.clone();
        self.certificates.push(Root { der, from, to, issues: traits.issues, source });
        Ok(())
    }

    /// Adds all revocation lists in `content`; there must be one.
    pub(super) fn add_lists(&mut self, content: &Content<'_>) -> Result<(), TlsError> {
        for der in content.revocation_lists()? {
            let crl = OwnedCertRevocationList::from_der(&der)
                .map_err(|error| content.wrong(format!("a revocation list that cannot be used: {error}")))?;
            self.crls.push(crl.into());
        }
        Ok(())
    }

    /// When the first of them ends, in seconds since the epoch.
    pub(super) fn first_end(&self) -> Option<i64> {
        self.certificates.first().map(|root| root.to)
    }

    /// The authorities, with where they came from.
    pub(super) fn in_use(&self) -> impl Iterator<Item = CertInUse<'_>> {
        self.certificates.iter().map(|root| CertInUse {
            authority: true,
            source: &root.source,
            not_before: root.from,
            not_after: root.to,
            der: &root.der,
        })
    }

    /// Each authority with its trust domain and the lists that count beside it: what tells a bundle that has lost something.
    pub(super) fn believed(&self, domain: &str) -> impl Iterator<Item = Vec<u8>> {
        let lists = sha256(format!("{:?}{}", self.crls, self.leaf_crl_only).as_bytes());
        let domain = domain.as_bytes().to_vec();
        self.certificates
            .iter()
            .map(move |root| [&domain[..], b"|".as_slice(), &lists[..], &root.der[..]].concat())
    }

    /// A digest of all that decides.
    pub(super) fn fingerprint(&self) -> Vec<u8> {
        let mut all: Vec<u8> = self.certificates.iter().flat_map(|root| sha256(&root.der)).collect();
        all.extend(sha256(format!("{:?}{}", self.crls, self.leaf_crl_only).as_bytes()));
        all
    }
}
