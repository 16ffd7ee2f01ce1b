//! The ways in which a peer's certificate is refused, each with its own counter.

use rustls::{Error, InvalidMessage};

/// Why a peer was refused for what it showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It showed nothing, and had to.
    NoCertificate,
    /// Its certificate, or one above, has ended.
    Expired,
    /// Its certificate, or one above, has not begun.
    NotYetValid,
    /// The key may not be used for this (`keyUsage`): of the leaf, or of an authority that may not sign certificates.
    KeyUsage,
    /// The certificate is not for this side of TLS (`extendedKeyUsage`).
    ExtendedKeyUsage,
    /// A key that is too short to believe.
    WeakKey,
    /// A SPIFFE id of a trust domain that is not believed here.
    TrustDomain,
    /// Not exactly one URI that is a SPIFFE id, or what a SPIFFE leaf may not be.
    SpiffeId,
    /// No subject alternative name at all: a common name is none.
    NoSan,
    /// None of its names is one that must be there.
    San,
    /// Neither its hash nor its key's is one of the list.
    Hash,
    /// The name of an authority that is believed, but not its key.
    LookAlike,
    /// Signed by nobody who is believed.
    UnknownIssuer,
    /// A signature in the chain that does not hold.
    Signature,
    /// An authority below one that allows none there.
    PathLength,
    /// More authorities than `max_verify_depth`, or than are looked through.
    Depth,
    /// A name that an authority above may not vouch for.
    NameConstraints,
    /// An authority's certificate where a leaf's belongs.
    AuthorityAsLeaf,
    /// A leaf that plays the authority.
    LeafAsAuthority,
    /// It is on a revocation list.
    Revoked,
    /// There are revocation lists, and none speaks of it, or the one that does is outdated.
    RevocationUnknown,
    /// More bytes of certificates than are read.
    TooLarge,
    /// What cannot be read, or has a critical extension that nobody knows.
    Malformed,
}

impl Reason {
    /// How many there are.
    pub(super) const COUNT: usize = Self::Malformed as usize + 1;

    /// The name of its counter.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::KeyUsage => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::WeakKey => "weak_key",
            Self::TrustDomain => "trust_domain",
            Self::SpiffeId => "spiffe_id",
            Self::NoSan => "no_san",
            Self::San => "san",
            Self::Hash => "hash",
            Self::LookAlike => "look_alike",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Signature => "signature",
            Self::PathLength => "path_length",
            Self::Depth => "depth",
            Self::NameConstraints => "name_constraints",
            Self::AuthorityAsLeaf => "authority_as_leaf",
            Self::LeafAsAuthority => "leaf_as_authority",
            Self::Revoked => "revoked",
            Self::RevocationUnknown => "revocation_unknown",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }

    /// What the log and the transport failure reason say.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::NoCertificate => "no certificate was shown",
            Self::Expired => "certificate has expired",
            Self::NotYetValid => "certificate is not yet valid",
            Self::KeyUsage => "key usage does not allow it",
            Self::ExtendedKeyUsage => "extended key usage does not allow it",
            Self::WeakKey => "weak key (RSA needs 2048 bits, a curve 256)",
            Self::TrustDomain => "no trust bundle for its trust domain",
            Self::SpiffeId => "not a SPIFFE leaf with exactly one SPIFFE id",
            Self::NoSan => "no subject alternative name (a common name is none)",
            Self::San => "SAN matcher",
            Self::Hash => "cert hash and spki",
            Self::LookAlike => "issuer or subject has the name of a root, but not its key",
            Self::UnknownIssuer => "unable to get issuer certificate",
            Self::Signature => "certificate signature failure",
            Self::PathLength => "path length constraint exceeded",
            Self::Depth => "certificate chain too long",
            Self::NameConstraints => "name constraints violated",
            Self::AuthorityAsLeaf => "an authority's certificate in the place of a leaf",
            Self::LeafAsAuthority => "a leaf in the place of an authority",
            Self::Revoked => "certificate revoked",
            Self::RevocationUnknown => "no current revocation list speaks of it",
            Self::TooLarge => "more than 64 KiB of certificates",
            Self::Malformed => "a certificate that cannot be read",
        }
    }

    /// The reason in what ended the verification of a chain; it has no word for look-alikes.
    pub(super) const fn of_chain(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } | E::InvalidCertValidity => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::ExtendedKeyUsage,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::PathLenConstraintViolated => Self::PathLength,
            E::MaximumPathDepthExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Self::Depth,
            E::NameConstraintViolation => Self::NameConstraints,
            E::CaUsedAsEndEntity => Self::AuthorityAsLeaf,
            E::EndEntityUsedAsCa => Self::LeafAsAuthority,
            E::CertRevoked => Self::Revoked,
            E::UnknownRevocationStatus
            | E::CrlExpired { .. }
            | E::IssuerNotCrlSigner
            | E::InvalidCrlSignatureForPublicKey => Self::RevocationUnknown,
            E::InvalidSignatureForPublicKey
            | E::SignatureAlgorithmMismatch
            | E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::Signature,
            _ => Self::Malformed,
        }
    }

    /// The reason of a handshake that failed before anything was verified.
    pub(super) const fn of_handshake(error: &Error) -> Option<Self> {
        match error {
            Error::NoCertificatesPresented => Some(Self::NoCertificate),
            Error::InvalidMessage(
                InvalidMessage::CertificatePayloadTooLarge | InvalidMessage::HandshakePayloadTooLarge,
            ) => Some(Self::TooLarge),
            _ => None,
        }
    }
}
