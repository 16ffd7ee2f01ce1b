//! Keys that tokens are verified with.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use serde_json::{Map, Value};

use super::token::BASE64;
use super::{JwtError, Token};

/// As many keys a set has at most; the others are left out.
const MOST_KEYS: usize = 1000;
/// Lengths of RSA keys that are used, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Algorithms (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFCs' names")]
pub enum Algorithm {
    Es256,
    Es384,
    Es512,
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    EdDsa,
}

/// A set of keys. Nothing of it is printed.
pub struct Jwks {
    keys: Box<[Jwk]>,
    left_out: usize,
}

struct Jwk {
    id: Box<str>,
    /// The algorithm that it is for; empty for all of its kind.
    algorithm: Option<Box<str>>,
    material: Material,
}

enum Material {
    Rsa(Box<[(Algorithm, ParsedPublicKey)]>),
    /// By the curve the algorithm is given.
    Ec(Algorithm, ParsedPublicKey),
    Ed25519(ParsedPublicKey),
    Secret(Box<[hmac::Key; 3]>),
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Algorithm {
    /// By the name that tokens have for it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::EdDsa => "EdDSA",
        }
    }

    const fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }
}

impl Jwks {
    /// Reads a set (RFC 7517). Keys that cannot be used are left out, as in Envoy.
    ///
    /// # Errors
    /// It is none, or no key of it can be used.
    pub fn parse(json: &[u8]) -> Result<Self, JwtError> {
        let set: Map<String, Value> = serde_json::from_slice(json).map_err(|_| JwtError::KeysJson)?;
        let keys = match set.get("keys") {
            None => return Err(JwtError::NoKeys),
            Some(Value::Array(keys)) => keys,
            Some(_) => return Err(JwtError::BadKeys),
        };
        let usable: Box<[Jwk]> =
            keys.iter().filter_map(|key| Jwk::read(key.as_object()?)).take(MOST_KEYS).collect();
        if usable.is_empty() {
            return Err(JwtError::NoValidKeys);
        }
        Ok(Self { left_out: keys.len() - usable.len(), keys: usable })
    }

    /// How many keys of the set cannot be used.
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether one of the keys signed `token`: that of its `kid`, or any.
    ///
    /// # Errors
    /// None did, or none could have.
    pub fn verify(&self, token: &Token<'_>) -> Result<(), JwtError> {
        let mut tried = false;
        for key in &self.keys {
            if !token.key.is_empty() && !key.id.is_empty() && *key.id != *token.key {
                continue;
            }
            if key.algorithm.as_ref().is_some_and(|algorithm| **algorithm != *token.algorithm.name()) {
                continue;
            }
            tried = true;
            if key.material.verify(token)? {
                return Ok(());
            }
        }
        Err(if tried { JwtError::Verification } else { JwtError::NoSuchKey })
    }
}

impl Jwk {
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let algorithm = text("alg").filter(|name| !name.is_empty());
        let material = match text("kty")? {
            "RSA" => Material::rsa(&bytes(text("n")?)?, &bytes(text("e")?)?, algorithm)?,
            "EC" => {
                let curve = match key.get("crv") {
                    None => "",
                    Some(curve) => curve.as_str()?,
                };
                Material::ec(curve, algorithm, &bytes(text("x")?)?, &bytes(text("y")?)?)?
            }
            "OKP" => {
                if text("crv")? != "Ed25519" || algorithm.is_some_and(|name| name != "EdDSA") {
                    return None;
                }
                let key = bytes(text("x")?).filter(|key| key.len() == 32)?;
                Material::Ed25519(ParsedPublicKey::new(&ED25519, key).ok()?)
            }
            "oct" => {
                if algorithm.is_some_and(|name| !matches!(name, "HS256" | "HS384" | "HS512")) {
                    return None;
                }
                let secret = bytes(text("k")?).filter(|secret| !secret.is_empty())?;
                let key = |algorithm| hmac::Key::new(algorithm, &secret);
                let keys = [key(hmac::HMAC_SHA256), key(hmac::HMAC_SHA384), key(hmac::HMAC_SHA512)];
                Material::Secret(Box::new(keys))
            }
            _ => return None,
        };
        Some(Self {
            id: text("kid").unwrap_or_default().into(),
            algorithm: algorithm.map(Box::from),
            material,
        })
    }
}

impl Material {
    fn rsa(modulus: &[u8], exponent: &[u8], algorithm: Option<&str>) -> Option<Self> {
        use Algorithm::{Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let (modulus, exponent) = (significant(modulus), significant(exponent));
        let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
        // Envoy takes these two exponents alone.
        if !RSA_BITS.contains(&bits) || !matches!(exponent, [3] | [1, 0, 1]) {
            return None;
        }
        let key = RsaPublicKeyComponents { n: modulus, e: exponent };
        let one = |algorithm: Algorithm| Some((algorithm, key.to_parsed_public_key(algorithm.rsa()?).ok()?));
        let algorithms = [Rs256, Rs384, Rs512, Ps256, Ps384, Ps512];
        let wanted = algorithms.into_iter().filter(|it| algorithm.is_none_or(|name| name == it.name()));
        let keys: Box<[_]> = wanted.map(one).collect::<Option<_>>()?;
        (!keys.is_empty()).then_some(Self::Rsa(keys))
    }

    fn ec(curve: &str, algorithm: Option<&str>, x: &[u8], y: &[u8]) -> Option<Self> {
        let of_curve: (_, &'static dyn VerificationAlgorithm, usize) = match (curve, algorithm) {
            ("P-256", _) | ("", None | Some("ES256")) => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
            ("P-384", _) | ("", Some("ES384")) => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
            ("P-521", _) | ("", Some("ES512")) => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED, 66),
            _ => return None,
        };
        let (kind, verifies, size) = of_curve;
        if algorithm.is_some_and(|name| name != kind.name()) {
            return None;
        }
        let mut point = vec![4];
        for coordinate in [significant(x), significant(y)] {
            point.resize(point.len() + size.checked_sub(coordinate.len())?, 0);
            point.extend_from_slice(coordinate);
        }
        Some(Self::Ec(kind, ParsedPublicKey::new(verifies, point).ok()?))
    }

    /// Whether this key signed `token`. A token of another kind is none of its.
    fn verify(&self, token: &Token<'_>) -> Result<bool, JwtError> {
        let holds = |key: &ParsedPublicKey| key.verify_sig(&token.signed, token.signature).is_ok();
        Ok(match self {
            Self::Rsa(keys) => {
                keys.iter().any(|(algorithm, key)| *algorithm == token.algorithm && holds(key))
            }
            Self::Ec(algorithm, key) => *algorithm == token.algorithm && holds(key),
            Self::Ed25519(key) => {
                if token.algorithm != Algorithm::EdDsa {
                    return Ok(false);
                }
                if token.signature.len() != 64 {
                    return Err(JwtError::Ed25519Length);
                }
                holds(key)
            }
            Self::Secret(keys) => {
                let [sha256, sha384, sha512] = &**keys;
                let key = match token.algorithm {
                    Algorithm::Hs256 => sha256,
                    Algorithm::Hs384 => sha384,
                    Algorithm::Hs512 => sha512,
                    _ => return Ok(false),
                };
                let tag = hmac::sign(key, &token.signed);
                constant_time::verify_slices_are_equal(tag.as_ref(), token.signature).is_ok()
            }
        })
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// A number without its leading zeros.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}
