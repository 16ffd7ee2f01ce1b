//! Public keys of workloads: which are good enough, and whether a signature is theirs. No I/O.

use std::fmt;

use aws_lc_rs::signature as aws;
use rcgen::{PublicKeyData, SignatureAlgorithm};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::AlgorithmIdentifier;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::csr::CsrError;

/// The fewest bits of an RSA modulus.
const RSA_LEAST: usize = 2048;
/// The most: beyond it verification takes long, and nothing is gained.
const RSA_MOST: usize = 8192;
/// The smallest public exponent (NIST SP 800-89, 5.3.3).
const EXPONENT_LEAST: u64 = 65_537;

/// A key that a certificate may be made for.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkloadKey {
    kind: KeyKind,
    /// The content of `subjectPublicKey`.
    bytes: Vec<u8>,
}

/// What kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA of 2048 to 8192 bits.
    Rsa,
    /// Ed25519.
    Ed25519,
}

impl WorkloadKey {
    /// Reads a key, and judges it.
    ///
    /// # Errors
    /// [`CsrError::KeyKind`] or [`CsrError::KeyWeak`].
    pub(super) fn read(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, CsrError> {
        let algorithm = &info.algorithm.algorithm;
        let kind = if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
            curve(&info.algorithm)?
        } else if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
            rsa(info)?;
            KeyKind::Rsa
        } else if *algorithm == oid::OID_SIG_ED25519 {
            KeyKind::Ed25519
        } else {
            return Err(CsrError::KeyKind(algorithm.to_id_string()));
        };
        if info.subject_public_key.unused_bits != 0 {
            return Err(CsrError::Malformed("its public key has no whole bytes".into()));
        }
        let bytes = info.subject_public_key.data.to_vec();
        // Ed25519 keys are 32 bytes; points of the curves are uncompressed (RFC 5480, 2.2).
        let (length, front) = match kind {
            KeyKind::P256 => (65, Some(4)),
            KeyKind::P384 => (97, Some(4)),
            KeyKind::Ed25519 => (32, None),
            KeyKind::Rsa => (bytes.len(), None),
        };
        if bytes.len() != length || front.is_some_and(|front| bytes.first() != Some(&front)) {
            return Err(CsrError::Malformed(format!("its public key is no {kind} key")));
        }
        Ok(Self { kind, bytes })
    }

    /// What kind it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Whether a signature over a message was made with it.
    ///
    /// # Errors
    /// [`CsrError::SignatureKind`] or [`CsrError::SignatureWeak`] for algorithms that are not taken, [`CsrError::Signature`] when it is
    /// wrong, or the key is no point of its curve.
    pub(super) fn verify(
        &self,
        algorithm: &AlgorithmIdentifier<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CsrError> {
        let name = &algorithm.algorithm;
        let weak = [
            oid::OID_PKCS1_MD5WITHRSAENC,
            oid::OID_PKCS1_SHA1WITHRSA,
            oid::OID_SHA1_WITH_RSA,
            // ecdsa-with-SHA1 (RFC 5758, 3.2).
            oid::asn1_rs::oid!(1.2.840.10045.4.1),
        ];
        if weak.contains(name) {
            return Err(CsrError::SignatureWeak(name.to_id_string()));
        }
        let found: &'static dyn aws::VerificationAlgorithm = match self.kind {
            KeyKind::P256 if *name == oid::OID_SIG_ECDSA_WITH_SHA256 => &aws::ECDSA_P256_SHA256_ASN1,
            KeyKind::P256 if *name == oid::OID_SIG_ECDSA_WITH_SHA384 => &aws::ECDSA_P256_SHA384_ASN1,
            KeyKind::P256 if *name == oid::OID_SIG_ECDSA_WITH_SHA512 => &aws::ECDSA_P256_SHA512_ASN1,
            KeyKind::P384 if *name == oid::OID_SIG_ECDSA_WITH_SHA256 => &aws::ECDSA_P384_SHA256_ASN1,
            KeyKind::P384 if *name == oid::OID_SIG_ECDSA_WITH_SHA384 => &aws::ECDSA_P384_SHA384_ASN1,
            KeyKind::P384 if *name == oid::OID_SIG_ECDSA_WITH_SHA512 => &aws::ECDSA_P384_SHA512_ASN1,
            KeyKind::Rsa if *name == oid::OID_PKCS1_SHA256WITHRSA => &aws::RSA_PKCS1_2048_8192_SHA256,
            KeyKind::Rsa if *name == oid::OID_PKCS1_SHA384WITHRSA => &aws::RSA_PKCS1_2048_8192_SHA384,
            KeyKind::Rsa if *name == oid::OID_PKCS1_SHA512WITHRSA => &aws::RSA_PKCS1_2048_8192_SHA512,
            KeyKind::Ed25519 if *name == oid::OID_SIG_ED25519 => &aws::ED25519,
            kind => return Err(CsrError::SignatureKind(name.to_id_string(), kind)),
        };
        aws::UnparsedPublicKey::new(found, &self.bytes)
            .verify(message, signature)
            .map_err(|_| CsrError::Signature)
    }
}

impl PublicKeyData for WorkloadKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.kind {
            KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyKind::Rsa => &rcgen::PKCS_RSA_SHA256,
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkloadKey").field(&self.kind).finish()
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa => "RSA",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// The curve of an EC key: always by name (RFC 5480, 2.1.1).
fn curve(algorithm: &AlgorithmIdentifier<'_>) -> Result<KeyKind, CsrError> {
    let name = algorithm.parameters.as_ref().and_then(|it| it.as_oid().ok());
    match name {
        Some(name) if name == oid::OID_EC_P256 => Ok(KeyKind::P256),
        Some(name) if name == oid::OID_NIST_EC_P384 => Ok(KeyKind::P384),
        Some(name) => Err(CsrError::KeyKind(format!("curve {}", name.to_id_string()))),
        None => Err(CsrError::KeyKind("a curve without a name".into())),
    }
}

fn rsa(info: &SubjectPublicKeyInfo<'_>) -> Result<(), CsrError> {
    let Ok(PublicKey::RSA(key)) = info.parsed() else {
        return Err(CsrError::Malformed("its RSA key cannot be read".into()));
    };
    let modulus = key.modulus.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
    let bits =
        (modulus.len() * 8).saturating_sub(modulus.first().map_or(0, |it| it.leading_zeros() as usize));
    if !(RSA_LEAST..=RSA_MOST).contains(&bits) {
        return Err(CsrError::KeyWeak(format!(
            "RSA of {bits} bits; use {RSA_LEAST} to {RSA_MOST}, or P-256"
        )));
    }
    let exponent = key.try_exponent().unwrap_or(0);
    if exponent < EXPONENT_LEAST || exponent % 2 == 0 || exponent > u64::from(u32::MAX) {
        return Err(CsrError::KeyWeak("RSA with this public exponent; use 65537".into()));
    }
    Ok(())
}
