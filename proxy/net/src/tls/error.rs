//! What can go wrong with TLS, when it is set up and in a handshake.

use std::io;

use super::reason::Reason;

/// A TLS context that cannot be built, or a handshake that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file (or an environment variable) cannot be read.
    #[error("{field}: cannot read {name:?}: {source}")]
    Read {
        /// The field that names it.
        field: String,
        /// The file's or the variable's name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// What was read is not what it should be.
    #[error("{field}: {name}: {reason}")]
    Content {
        /// The field that holds or names it.
        field: String,
        /// The file's name, or where else it came from.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Settings that do not go together, or that we cannot honour.
    #[error("{field}: {reason}")]
    Config {
        /// The field at fault.
        field: String,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// Secrets of the context are missing or wrong: it is not ready.
    #[error(transparent)]
    Secrets(#[from] outrider_config::model::SecretError),
    /// The handshake failed. The text begins with `TLS_error:` and goes to logs and
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    #[error("{0}")]
    Handshake(String, #[source] Option<rustls::Error>),
    /// The peer closed the connection, or the socket failed, before the handshake was done.
    #[error("TLS_error:connection closed in handshake: {0}")]
    Closed(io::Error),
}

/// The error for what a handshake's future ended with.
pub(super) fn failure(error: io::Error) -> TlsError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
    let Some(inner) = inner else { return TlsError::Closed(error) };
    use rustls::{CertificateError, Error};
    let text = match &inner {
        Error::InvalidCertificate(CertificateError::Other(why)) => {
            format!("TLS_error:CERTIFICATE_VERIFY_FAILED:{why}")
        }
        Error::InvalidCertificate(why) => {
            let words = words(why).map_or_else(|| why.to_string(), str::to_owned);
            format!("TLS_error:CERTIFICATE_VERIFY_FAILED:verify cert failed: {words}")
        }
        other if Reason::of_handshake(other) == Some(Reason::TooLarge) => {
            format!("TLS_error:EXCESSIVE_MESSAGE_SIZE:{}", Reason::TooLarge.words())
        }
        Error::NoCertificatesPresented => "TLS_error:PEER_DID_NOT_RETURN_A_CERTIFICATE".into(),
        Error::AlertReceived(alert) => format!("TLS_error:ALERT_RECEIVED:{alert:?}"),
        other => format!("TLS_error:{other}"),
    };
    TlsError::Handshake(text, Some(inner))
}

/// What we say of a certificate that rustls has a word of its own for.
fn words(why: &rustls::CertificateError) -> Option<&'static str> {
    use rustls::CertificateError as E;
    let reason = match why {
        E::UnknownIssuer => Reason::UnknownIssuer,
        E::Revoked => Reason::Revoked,
        E::Expired => Reason::Expired,
        E::NotValidYet => Reason::NotYetValid,
        E::InvalidPurpose => Reason::ExtendedKeyUsage,
        E::BadSignature => Reason::Signature,
        _ => return None,
    };
    Some(reason.words())
}
