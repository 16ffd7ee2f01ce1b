//! Secrets judged by themselves, before anything uses them.

use outrider_config::model::{Secret, SecretKind};
use rustls::crypto::aws_lc_rs;

use super::TlsError;
use super::identity::Identities;
use super::roots::Roots;
use super::spiffe::Domains;

/// Whether a context could be built with `secret`: so that a control plane hears of one that is none, and what is in force
/// stays. Reads its files.
///
/// # Errors
/// A chain, key, authority or list that cannot be read, or a key that is not the certificate's.
pub fn check_secret(secret: &Secret) -> Result<(), TlsError> {
    match &secret.kind {
        SecretKind::Certificate(certificate) => {
            let provider = aws_lc_rs::default_provider();
            Identities::build(std::slice::from_ref(certificate), &provider, false, false).map(drop)
        }
        SecretKind::Validation(validation) => match (&validation.spiffe, &validation.trusted_ca) {
            (Some(spiffe), _) => Domains::read(spiffe).map(drop),
            (None, Some(ca)) => Roots::read(ca, validation).map(drop),
            (None, None) => Ok(()),
        },
        SecretKind::TicketKeys(_) | SecretKind::Generic(_) => Ok(()),
    }
}
