//! Tokens, and the keys that sign them.

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// One key of each kind, made for this run.
#[derive(Debug)]
pub struct Keys {
    rsa: RsaKeyPair,
    weak: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
    secret: Vec<u8>,
}

impl Keys {
    /// New keys.
    ///
    /// # Errors
    /// When the library cannot make them.
    pub fn new() -> Result<Self> {
        let no = |_| anyhow!("no key");
        Ok(Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).map_err(no)?,
            weak: RsaKeyPair::generate(KeySize::Rsa2048).map_err(no)?,
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(no)?,
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).map_err(no)?,
            p521: EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).map_err(no)?,
            ed25519: Ed25519KeyPair::generate().map_err(no)?,
            secret: b"a secret that is long enough for HMAC".to_vec(),
        })
    }

    /// The public keys as a set; each has the name of its algorithm's kind as id: `rsa`, `p256`, `p384`, `p521`, `ed`, `oct`.
    ///
    /// # Errors
    /// When a key is not of the form that is expected.
    pub fn set(&self) -> Result<String> {
        let keys = [
            rsa("rsa", &self.rsa)?,
            ec("p256", "P-256", &self.p256),
            ec("p384", "P-384", &self.p384),
            ec("p521", "P-521", &self.p521),
            format!(
                r#"{{"kty":"OKP","kid":"ed","alg":"EdDSA","crv":"Ed25519","x":"{}"}}"#,
                base64(self.ed25519.public_key().as_ref())
            ),
            format!(r#"{{"kty":"oct","kid":"oct","k":"{}"}}"#, base64(&self.secret)),
        ];
        Ok(format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
    }

    /// A token with these claims, signed as `algorithm` says by the key that is for it.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, algorithm: &str, claims: &str) -> Result<String> {
        self.with_header(algorithm, &format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#), claims)
    }

    /// A token with this header, signed as `algorithm` says, whatever the header says.
    ///
    /// # Errors
    /// As [`Keys::token`].
    pub fn with_header(&self, algorithm: &str, header: &str, claims: &str) -> Result<String> {
        let text = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
        Ok(format!("{text}.{}", base64(&self.sign(algorithm, text.as_bytes())?)))
    }

    /// A token by an RSA key that is in no set.
    ///
    /// # Errors
    /// As [`Keys::token`].
    pub fn by_a_stranger(&self, claims: &str) -> Result<String> {
        let text = format!("{}.{}", base64(br#"{"alg":"RS256"}"#), base64(claims.as_bytes()));
        let mut signature = vec![0; self.weak.public_modulus_len()];
        let random = SystemRandom::new();
        self.weak
            .sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature)
            .map_err(|_| anyhow!("not signed"))?;
        Ok(format!("{text}.{}", base64(&signature)))
    }

    fn sign(&self, algorithm: &str, text: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        let no = |_| anyhow!("not signed");
        let rsa: Option<&'static dyn RsaEncoding> = match algorithm {
            "RS256" => Some(&RSA_PKCS1_SHA256),
            "RS384" => Some(&RSA_PKCS1_SHA384),
            "RS512" => Some(&RSA_PKCS1_SHA512),
            "PS256" => Some(&RSA_PSS_SHA256),
            "PS384" => Some(&RSA_PSS_SHA384),
            "PS512" => Some(&RSA_PSS_SHA512),
            _ => None,
        };
        if let Some(padding) = rsa {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, text, &mut signature).map_err(no)?;
            return Ok(signature);
        }
        let ec = |key: &EcdsaKeyPair| Ok(key.sign(&random, text).map_err(no)?.as_ref().to_vec());
        let mac = |of| Ok(hmac::sign(&hmac::Key::new(of, &self.secret), text).as_ref().to_vec());
        match algorithm {
            "ES256" => ec(&self.p256),
            "ES384" => ec(&self.p384),
            "ES512" => ec(&self.p521),
            "EdDSA" => Ok(self.ed25519.sign(text).as_ref().to_vec()),
            "HS256" => mac(hmac::HMAC_SHA256),
            "HS384" => mac(hmac::HMAC_SHA384),
            "HS512" => mac(hmac::HMAC_SHA512),
            "none" => Ok(Vec::new()),
            _ => Err(anyhow!("no algorithm {algorithm}")),
        }
    }
}

/// Base64url without padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec(id: &str, curve: &str, key: &EcdsaKeyPair) -> String {
    let point = key.public_key().as_ref();
    let (x, y) = point[1..].split_at(point.len() / 2);
    format!(r#"{{"kty":"EC","kid":"{id}","crv":"{curve}","x":"{}","y":"{}"}}"#, base64(x), base64(y))
}

fn rsa(id: &str, key: &RsaKeyPair) -> Result<String> {
    // PKCS#1: a sequence of two numbers.
    let der = key.public_key().as_ref();
    let (sequence, _) = der_value(der, 0x30)?;
    let (modulus, rest) = der_value(sequence, 2)?;
    let (exponent, _) = der_value(rest, 2)?;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    Ok(format!(r#"{{"kty":"RSA","kid":"{id}","n":"{}","e":"{}"}}"#, base64(modulus), base64(exponent)))
}

/// The value with this tag that `der` begins with, and what is behind it.
fn der_value(der: &[u8], tag: u8) -> Result<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag]).context("another tag")?;
    let (first, rest) = rest.split_first().context("no length")?;
    let more = if *first < 0x80 { 0 } else { usize::from(first & 0x7f) };
    let (bytes, rest) = rest.split_at_checked(more).context("no length")?;
    let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    rest.split_at_checked(if more == 0 { usize::from(*first) } else { length }).context("too short")
}
