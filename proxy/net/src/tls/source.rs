//! Certificates, keys and lists out of the configuration's data sources. Control thread.

use std::io;

use outrider_config::model::{DataSource, DataSourceKind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::TlsError;

/// What a data source held, and how to speak of it.
pub(super) struct Content<'a> {
    source: &'a DataSource,
    bytes: Vec<u8>,
}

impl<'a> Content<'a> {
    pub(super) fn read(source: &'a DataSource) -> Result<Self, TlsError> {
        let failed = |name: &str, error: io::Error| TlsError::Read {
            field: source.field.to_string(),
            name: name.into(),
            source: error,
        };
        let bytes = match &source.kind {
            DataSourceKind::Inline(bytes) => bytes.to_vec(),
            DataSourceKind::File(path) => std::fs::read(&**path).map_err(|error| failed(path, error))?,
            DataSourceKind::Environment(name) => std::env::var(&**name)
                .map_err(|error| failed(name, io::Error::new(io::ErrorKind::NotFound, error)))?
                .into_bytes(),
        };
        Ok(Self { source, bytes })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The error that this content is not what it should be.
    pub(super) fn wrong(&self, reason: impl ToString) -> TlsError {
        let name = self.place();
        TlsError::Content { field: self.source.field.to_string(), name, reason: reason.to_string() }
    }

    /// The field, and what it names.
    pub(super) fn name(&self) -> String {
        format!("{}: {}", self.source.field, self.place())
    }

    fn place(&self) -> String {
        match &self.source.kind {
            DataSourceKind::Inline(_) => "inline".into(),
            DataSourceKind::File(path) => format!("{path:?}"),
            DataSourceKind::Environment(name) => format!("environment variable {name}"),
        }
    }

    /// All certificates; at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Vec<_> =
            CertificateDer::pem_slice_iter(&self.bytes).collect::<Result<_, _>>().map_err(|error| {
                self.wrong(format!("not PEM: {error}; was it cut short? write the file anew"))
            })?;
        if all.is_empty() {
            return Err(self.wrong(
                "no PEM certificate in it; write the chain, leaf first, or the roots, as -----BEGIN CERTIFICATE-----",
            ));
        }
        Ok(all)
    }

    /// Whether there is a revocation list in it, readable or not.
    pub(super) fn has_lists(&self) -> bool {
        const BEGIN: &[u8] = b"-----BEGIN X509 CRL-----";
        self.bytes.windows(BEGIN.len()).any(|part| part == BEGIN)
    }

    /// The private key; the first if there are several.
    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes)
            .map_err(|_| self.wrong("no unencrypted PEM private key in it (PKCS#8, PKCS#1 or SEC1)"))
    }

    /// All revocation lists; at least one.
    pub(super) fn revocation_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        let all: Vec<_> =
            CertificateRevocationListDer::pem_slice_iter(&self.bytes).collect::<Result<_, _>>().map_err(
                |error| self.wrong(format!("not PEM: {error}; was it cut short? write the file anew")),
            )?;
        if all.is_empty() {
            return Err(self.wrong("no PEM revocation list in it"));
        }
        Ok(all)
    }
}
