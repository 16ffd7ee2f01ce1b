//! Entries of Secrets, and the certificates and keys in them. A proxy refuses what it cannot read, and with it all else that stands beside it,
//! so whatever goes to one is read here first.

use k8s_openapi::api::core::v1::Secret;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The content of an entry of a Secret. What was written as text goes before, as at the API server.
pub fn entry<'s>(secret: &'s Secret, key: &str) -> Option<&'s [u8]> {
    let text = secret.string_data.as_ref().and_then(|data| data.get(key)).map(String::as_bytes);
    text.or_else(|| Some(secret.data.as_ref()?.get(key)?.0.as_slice()))
}

/// The certificates in a text of PEM, each of which can be read.
///
/// # Errors
/// What is wrong with it, to be read after "a text".
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("that is no PEM: {error}"))?;
    if all.is_empty() {
        return Err("without a certificate in PEM".to_owned());
    }
    for der in &all {
        x509_parser::parse_x509_certificate(der)
            .map_err(|error| format!("with something that is no certificate: {error}"))?;
    }
    Ok(all)
}

/// Whether a key in PEM is there and belongs to the first of these certificates.
///
/// # Errors
/// What is wrong with the pair, to be read after the name of what has it.
pub fn key_pair(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = certificates(chain).map_err(|why| format!("has a tls.crt {why}"))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("has a tls.key that is no key in PEM: {error}"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("has a tls.key that does not belong to its tls.crt".to_owned())
        }
        Err(error) => Err(format!("cannot be used: {error}")),
    }
}
