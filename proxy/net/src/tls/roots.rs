//! The authorities that a context believes, and what they have revoked.

use outrider_config::model::{CertificateValidation, DataSource};
use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::TlsError;
use super::cert::cert_info;
use super::source::Content;

/// Authorities and revocation lists.
pub(super) struct Roots {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    /// Beside the anchors: the certificates they come from, with their first and last second.
    pub(super) certificates: Vec<(CertificateDer<'static>, i64, i64)>,
    pub(super) subjects: Vec<DistinguishedName>,
    pub(super) crls: Vec<CertRevocationList<'static>>,
    pub(super) leaf_crl_only: bool,
}

impl Roots {
    /// Reads the authorities in `source`, and the lists of `config`.
    ///
    /// # Errors
    /// What cannot be read, or is no authority or list.
    pub(super) fn read(source: &DataSource, config: &CertificateValidation) -> Result<Self, TlsError> {
        let content = Content::read(source)?;
        let mut roots = Self {
            anchors: Vec::new(),
            certificates: Vec::new(),
            subjects: Vec::new(),
            crls: Vec::new(),
            leaf_crl_only: config.only_verify_leaf_crl,
        };
        for der in content.certificates()? {
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|error| content.wrong(format!("a certificate that cannot be a root: {error}")))?
                .to_owned();
            let info = cert_info(&der).ok_or_else(|| content.wrong("a certificate that cannot be read"))?;
            roots.subjects.push(DistinguishedName::in_sequence(anchor.subject.as_ref()));
            roots.anchors.push(anchor);
            roots.certificates.push((der, info.not_before, info.not_after));
        }
        if let Some(source) = &config.crl {
            let content = Content::read(source)?;
            for der in content.revocation_lists()? {
                let crl = OwnedCertRevocationList::from_der(&der).map_err(|error| {
                    content.wrong(format!("a revocation list that cannot be used: {error}"))
                })?;
                roots.crls.push(crl.into());
            }
        }
        Ok(roots)
    }
}
