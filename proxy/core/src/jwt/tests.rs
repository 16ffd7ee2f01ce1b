use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::*;

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn key(&self, more: &str) -> String {
        let point = self.0.public_key().as_ref();
        format!(r#"{{"kty":"EC","x":"{}","y":"{}"{more}}}"#, base64(&point[1..33]), base64(&point[33..]))
    }

    fn token(&self, header: &str, claims: &str) -> String {
        let text = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", base64(signature.as_ref()))
    }
}

fn set(keys: &[String]) -> Result<Jwks, JwtError> {
    Jwks::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes())
}

fn verify(set: &Jwks, token: &str) -> Result<(), JwtError> {
    let mut buffers = Buffers::default();
    set.verify(&Token::parse(token.as_bytes(), &mut buffers)?)
}

#[test]
fn only_the_key_that_signed_a_token_verifies_it() {
    let (one, other) = (Signer::new(), Signer::new());
    let plain = one.token(r#"{"alg":"ES256"}"#, "{}");
    let named = one.token(r#"{"alg":"ES256","kid":"one"}"#, "{}");
    assert_eq!(verify(&set(&[one.key("")]).unwrap(), &plain), Ok(()));
    assert_eq!(verify(&set(&[other.key("")]).unwrap(), &plain), Err(JwtError::Verification));
    let both = set(&[other.key(r#","kid":"other""#), one.key(r#","kid":"one","alg":"ES256""#)]).unwrap();
    assert_eq!((verify(&both, &plain), verify(&both, &named)), (Ok(()), Ok(())));
    let other = set(&[other.key(r#","kid":"other""#)]).unwrap();
    assert_eq!(verify(&other, &named), Err(JwtError::NoSuchKey));
}

#[test]
fn a_key_is_good_for_its_own_kind_alone() {
    let one = Signer::new();
    let keys = set(&[one.key("")]).unwrap();
    for algorithm in ["RS256", "PS512", "HS256", "ES384", "EdDSA"] {
        // What Envoy hands to the key whatever it says.
        let token = one.token(&format!(r#"{{"alg":"{algorithm}"}}"#), "{}");
        assert_eq!(verify(&keys, &token), Err(JwtError::Verification), "{algorithm}");
    }
    assert_eq!(verify(&keys, &one.token(r#"{"alg":"none"}"#, "{}")), Err(JwtError::Algorithm));
}

#[test]
fn keys_that_are_weak_or_broken_are_left_out() {
    let one = Signer::new();
    let weak = format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, base64(&[0xc5; 128]));
    let odd = format!(r#"{{"kty":"RSA","n":"{}","e":"AAEC"}}"#, base64(&[0xc5; 256]));
    let broken = [
        weak,
        odd,
        one.key(r#","crv":"P-384""#),
        one.key(r#","crv":"P-256","alg":"ES384""#),
        one.key(r#","alg":"RS256""#),
        r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#.to_owned(),
        r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#.to_owned(),
        r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#.to_owned(),
        r#"{"kty":"oct","k":""}"#.to_owned(),
        r#"{"kty":"oct","k":"AAAA","alg":"RS256"}"#.to_owned(),
        r#"{"kty":"new"}"#.to_owned(),
        "{}".to_owned(),
        "7".to_owned(),
    ];
    for key in &broken {
        assert_eq!(set(std::slice::from_ref(key)).err(), Some(JwtError::NoValidKeys), "{key}");
    }
    let mut all = broken.to_vec();
    all.push(one.key(""));
    let keys = set(&all).unwrap();
    assert_eq!(keys.left_out(), broken.len());
    assert_eq!(verify(&keys, &one.token(r#"{"alg":"ES256"}"#, "{}")), Ok(()));
    for (text, error) in [
        ("", JwtError::KeysJson),
        ("[]", JwtError::KeysJson),
        ("{}", JwtError::NoKeys),
        (r#"{"keys":1}"#, JwtError::BadKeys),
    ] {
        assert_eq!(Jwks::parse(text.as_bytes()).err(), Some(error), "{text}");
    }
}

#[test]
fn time_is_judged_with_the_skew() {
    let one = Signer::new();
    let at = |claims: &str, now| {
        let token = one.token(r#"{"alg":"ES256"}"#, claims);
        let mut buffers = Buffers::default();
        Token::parse(token.as_bytes(), &mut buffers).unwrap().check_time(now, 60)
    };
    let exp = r#"{"exp":1000}"#;
    assert_eq!((at(exp, 1060), at(exp, 1061)), (Ok(()), Err(JwtError::Expired)));
    let nbf = r#"{"nbf":1000}"#;
    assert_eq!((at(nbf, 940), at(nbf, 939)), (Ok(()), Err(JwtError::NotYetValid)));
    let iat = r#"{"iat":1000}"#;
    assert_eq!((at(iat, 940), at(iat, 939)), (Ok(()), Err(JwtError::FromTheFuture)));
    assert_eq!(at(r#"{"exp":18446744073709549568}"#, u64::MAX - 2000), Ok(()));
}

#[test]
fn audiences_are_compared_without_scheme_and_slash() {
    let one = Signer::new();
    let allowed = Audiences::new(["https://one/", "two"]);
    let allows = |aud: &str| {
        let token = one.token(r#"{"alg":"ES256"}"#, &format!(r#"{{"aud":{aud}}}"#));
        let mut buffers = Buffers::default();
        allowed.allow(&Token::parse(token.as_bytes(), &mut buffers).unwrap())
    };
    assert!(allows(r#""one""#) && allows(r#""http://two""#) && allows(r#"["x","one/"]"#));
    assert!(!allows(r#""three""#) && !allows("[]") && !allows(r#""""#));
}

#[test]
fn ten_megabytes_of_claims_are_read_and_refused_like_any_other() {
    let one = Signer::new();
    let keys = set(&[one.key("")]).unwrap();
    let claims = format!(r#"{{"x":"{}"}}"#, "x".repeat(10_000_000));
    let token = one.token(r#"{"alg":"ES256"}"#, &claims);
    assert_eq!(verify(&keys, &token), Ok(()));
    assert_eq!(verify(&keys, token.get(..token.len() - 2).unwrap()), Err(JwtError::Verification));
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let token = one.token(r#"{"alg":"ES256"}"#, &deep);
    let mut buffers = Buffers::default();
    let token = Token::parse(token.as_bytes(), &mut buffers).unwrap();
    assert!(token.payload().is_none());
}

#[test]
fn every_reason_has_a_text_and_a_name() {
    for error in JwtError::ALL {
        assert!(!error.to_string().is_empty() && !error.name().is_empty());
        assert!((1..=40).contains(&error.code()), "{error:?}");
    }
}

proptest! {
    #[test]
    fn nothing_that_was_not_signed_is_verified(
        part in 0_usize..3, at in 0_usize..200, byte in any::<u8>(), claims in "\\{(\"[a-z]{1,3}\":[1-9][0-9]{0,4})?\\}"
    ) {
        let one = Signer::new();
        let keys = set(&[one.key("")]).unwrap();
        let token = one.token(r#"{"alg":"ES256"}"#, &claims);
        prop_assert_eq!(verify(&keys, &token), Ok(()));
        let mut parts: Vec<Vec<u8>> = token.split('.').map(|part| part.as_bytes().to_vec()).collect();
        let at = at % parts[part].len();
        let last = part == 2 && at + 1 == parts[2].len();
        if parts[part][at] != byte && !last {
            parts[part][at] = byte;
            let changed = parts.join(&b'.');
            let mut buffers = Buffers::default();
            let verdict = Token::parse(&changed, &mut buffers).and_then(|token| keys.verify(&token));
            prop_assert!(verdict.is_err());
        }
    }

    #[test]
    fn whatever_comes_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200), json in ".{0,100}") {
        let mut buffers = Buffers::default();
        let _ = Token::parse(&text, &mut buffers);
        let token = format!("{}.{}.AA", base64(br#"{"alg":"ES256"}"#), base64(json.as_bytes()));
        let _ = Token::parse(token.as_bytes(), &mut buffers).map(|token| token.payload());
        let _ = Jwks::parse(&text);
        let _ = Jwks::parse(json.as_bytes());
    }
}
