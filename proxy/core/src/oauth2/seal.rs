//! What guards the cookies of a login: signatures and encryption, both with a secret that all proxies of a service share.
//!
//! Everything here is as Envoy writes it (`envoy.filters.http.oauth2`), so that a session of one is a session of the other:
//! HMAC-SHA-256 for sessions and nonces, AES-256-CBC with a random vector in front for what is encrypted, the key of which is the
//! secret's SHA-256. CBC by itself does not tell who encrypted a text: whatever is decrypted counts for nothing until the session's
//! signature, which is over the plain texts, was found to be right.

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// As many bytes a vector has.
const VECTOR: usize = 16;

/// Why a text could not be decrypted, in Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is no base64url, or too short for a vector and anything behind it.
    #[error("Invalid encrypted data")]
    Form,
    /// It was not encrypted with this secret.
    #[error("failed to finalize decryption")]
    Secret,
}

/// What a session's signature is over.
#[derive(Clone, Copy, Default)]
pub struct Session<'a> {
    /// The domain of the cookies, or the request's host.
    pub domain: &'a [u8],
    /// The end, in seconds since 1970, as it is written in its cookie.
    pub expires: &'a [u8],
    /// The access token; empty for none, as the others.
    pub access: &'a [u8],
    /// The ID token.
    pub id: &'a [u8],
    /// The refresh token.
    pub refresh: &'a [u8],
}

/// A secret, made ready. It shows nothing of itself.
pub struct Seal {
    mac: hmac::Key,
    key: [u8; 32],
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Seal {
    /// Of `secret`.
    pub fn new(secret: &[u8]) -> Self {
        let digest = digest::digest(&SHA256, secret);
        let (digest, mut key): (&[u8], [u8; 32]) = (digest.as_ref(), [0; 32]);
        // SHA-256 has as many bytes.
        key.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
        Self { mac: hmac::Key::new(hmac::HMAC_SHA256, secret), key }
    }

    /// A session's signature: base64.
    pub fn sign(&self, session: &Session<'_>) -> String {
        STANDARD.encode(self.tag(session))
    }

    /// Whether `signature` is the session's. Older versions of Envoy wrote the digits of the bytes as base64: that is taken as well.
    /// It takes as long for a guess that is nearly right as for any other.
    pub fn is_signed(&self, session: &Session<'_>, signature: &[u8]) -> bool {
        let tag = self.tag(session);
        let plain = STANDARD.encode(tag);
        let digits = STANDARD.encode(hex(tag.as_ref()));
        let is = |text: &str| verify_slices_are_equal(text.as_bytes(), signature).is_ok();
        is(&plain) | is(&digits)
    }

    fn tag(&self, session: &Session<'_>) -> hmac::Tag {
        let Session { domain, expires, access, id, refresh } = session;
        hmac::sign(&self.mac, &[*domain, *expires, *access, *id, *refresh].join(&b'\n'))
    }

    /// A token against forged requests: `nonce` and its signature.
    pub fn csrf(&self, nonce: &str) -> String {
        format!("{nonce}.{}", STANDARD.encode(hmac::sign(&self.mac, nonce.as_bytes())))
    }

    /// Whether `token` was made by [`Seal::csrf`] with this secret.
    pub fn is_csrf(&self, token: &[u8]) -> bool {
        let Some(dot) = token.iter().position(|byte| *byte == b'.') else { return false };
        let (nonce, signature) = (token.get(..dot), token.get(dot + 1..));
        let (Some(nonce), Some(signature)) = (nonce, signature) else { return false };
        let wanted = STANDARD.encode(hmac::sign(&self.mac, nonce));
        verify_slices_are_equal(wanted.as_bytes(), signature).is_ok()
    }

    /// `text`, encrypted: base64url. `None` when there is no randomness to be had.
    pub fn encrypt(&self, text: &[u8]) -> Option<String> {
        let key = UnboundCipherKey::new(&AES_256, &self.key).ok()?;
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).ok()?;
        let mut data = text.to_vec();
        let context = key.encrypt(&mut data).ok()?;
        let DecryptionContext::Iv128(vector) = context else { return None };
        let vector: &[u8; VECTOR] = vector.as_ref();
        Some(URL_SAFE_NO_PAD.encode([vector.as_slice(), data.as_slice()].concat()))
    }

    /// What [`Seal::encrypt`] was given.
    ///
    /// # Errors
    /// It is nothing of that kind.
    pub fn decrypt(&self, text: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut data = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Form)?;
        let Some((vector, data)) = data.split_first_chunk_mut::<VECTOR>() else {
            return Err(SealError::Form);
        };
        if data.is_empty() {
            return Err(SealError::Form);
        }
        let key = UnboundCipherKey::new(&AES_256, &self.key).map_err(|_| SealError::Secret)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| SealError::Secret)?;
        let context = DecryptionContext::Iv128((&*vector).into());
        let text = key.decrypt(data, context).map_err(|_| SealError::Secret)?;
        Ok(text.to_vec())
    }
}

/// Sixteen random digits: what one login is told from another by. `None` when there is no randomness to be had.
pub fn nonce() -> Option<String> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).ok()?;
    Some(hex(&bytes))
}

/// A verifier of a code (RFC 7636, 7.1): 32 random bytes as base64url. `None` as for [`nonce`].
pub fn verifier() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

/// The challenge of a verifier (RFC 7636, 4.2, `S256`).
pub fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&SHA256, verifier.as_bytes()))
}

/// Whether the bytes of a secret of a session, or of a cookie, are those of another: it takes as long for any of the same length.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    verify_slices_are_equal(one, other).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| DIGITS.get(usize::from(digit))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of a login at Envoy 1.40 with the secret `macsecret`.
    const CSRF: &str = "b42b65e6ceabff53.PPjHThWrbi8ivIiUzN1kQmF2ugVZjaMsiev1Jc4j07M=";

    fn session() -> Session<'static> {
        Session { domain: b"app.test", expires: b"1795388540", access: b"acc", id: b"idt", refresh: b"ref" }
    }

    #[test]
    fn sessions_of_envoy_are_sessions_here() {
        let seal = Seal::new(b"macsecret");
        let signature = "F2iH2gjFvLFFbm1a+ZHnR4FNdzguRi1cBdwez3vkH6E=";
        assert_eq!(seal.sign(&session()), signature);
        assert!(seal.is_signed(&session(), signature.as_bytes()));
        assert_eq!(seal.csrf("b42b65e6ceabff53"), CSRF);
        assert!(seal.is_csrf(CSRF.as_bytes()));
        for (cookie, text) in [
            ("P6ZphNMILhBKdJ3hKN3haiguMkefUinijzILSlB-iOA", "acc"),
            ("S4f9j6nf7hrKkP8aOd-V1nSgMjySQHQ8jl-6a8j8rdo", "idt"),
            ("Kj6YigFylqATfJ3WzJxz76P66mITfZZZ_3WIaS8F41g", "ref"),
        ] {
            assert_eq!(seal.decrypt(cookie.as_bytes()).as_deref(), Ok(text.as_bytes()));
        }
    }

    #[test]
    fn the_older_signature_is_taken() {
        let seal = Seal::new(b"s");
        let digits = hex(seal.tag(&session()).as_ref());
        assert!(seal.is_signed(&session(), STANDARD.encode(digits).as_bytes()));
    }

    #[test]
    fn what_is_changed_or_of_another_secret_is_not_signed() {
        let (seal, other) = (Seal::new(b"one"), Seal::new(b"two"));
        let signature = seal.sign(&session());
        assert!(!other.is_signed(&session(), signature.as_bytes()));
        assert!(!seal.is_signed(&Session { access: b"acd", ..session() }, signature.as_bytes()));
        assert!(!seal.is_signed(&session(), b""));
        assert!(!other.is_csrf(seal.csrf("n").as_bytes()));
        for token in ["", ".", "n", "n.", "a.b"] {
            assert!(!seal.is_csrf(token.as_bytes()), "{token}");
        }
        let sealed = seal.encrypt(b"hush").expect("randomness");
        assert_ne!(seal.encrypt(b"hush").as_deref(), Some(&*sealed), "a vector of its own each time");
        assert_ne!(other.decrypt(sealed.as_bytes()).as_deref(), Ok(&b"hush"[..]));
        for text in ["", "acc", "AAAAAAAAAAAAAAAAAAAAAA", "+/+/"] {
            assert_eq!(seal.decrypt(text.as_bytes()), Err(SealError::Form), "{text}");
        }
        assert_eq!(seal.decrypt("A".repeat(65).as_bytes()), Err(SealError::Form), "no base64url");
        assert!(!format!("{seal:?}").contains("one"));
    }

    #[test]
    fn a_challenge_is_as_the_rfc_has_it() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert_eq!(super::verifier().map(|text| text.len()), Some(43));
        assert_eq!(nonce().map(|text| text.len()), Some(16));
        assert_ne!(nonce(), nonce());
    }

    proptest! {
        #[test]
        fn what_was_encrypted_comes_back(secret: Vec<u8>, text: Vec<u8>) {
            let seal = Seal::new(&secret);
            let sealed = seal.encrypt(&text).expect("randomness");
            prop_assert_eq!(seal.decrypt(sealed.as_bytes()), Ok(text));
        }

        #[test]
        fn nothing_from_outside_breaks_it(text: Vec<u8>) {
            let seal = Seal::new(b"secret");
            let _ = seal.decrypt(&text);
            prop_assert!(!seal.is_csrf(&text));
            prop_assert!(!seal.is_signed(&session(), &text));
        }
    }
}
