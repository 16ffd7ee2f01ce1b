//! Client certificates of two kinds: of whom `--client-ca` speaks for, and of workloads.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

/// Lets in whom one of the two lets in.
#[derive(Debug)]
pub(super) struct Either {
    first: Arc<dyn ClientCertVerifier>,
    second: Arc<dyn ClientCertVerifier>,
    hints: Vec<DistinguishedName>,
}

impl Either {
    pub(super) fn new(first: Arc<dyn ClientCertVerifier>, second: Arc<dyn ClientCertVerifier>) -> Self {
        let hints = first.root_hint_subjects().iter().chain(second.root_hint_subjects()).cloned().collect();
        Self { first, second, hints }
    }
}

impl ClientCertVerifier for Either {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.first
            .verify_client_cert(leaf, above, now)
            .or_else(|_| self.second.verify_client_cert(leaf, above, now))
    }

    // Signatures are verified alike by both: they have one provider.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.first.supported_verify_schemes()
    }
}
