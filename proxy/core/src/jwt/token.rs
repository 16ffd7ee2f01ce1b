//! A token, and what it says of itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::json::{self, Field};
use super::{Algorithm, JwtError};
use crate::metadata::MetadataValue;

/// With or without padding, as Envoy takes it.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Where the parts of a token are decoded to.
#[derive(Debug, Default)]
pub struct Buffers {
    header: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// What a token says that decides about it. Nothing of it is true before it was verified.
#[derive(Debug, Clone)]
pub struct Token<'a> {
    pub(super) signed: Cow<'a, [u8]>,
    pub(super) signature: &'a [u8],
    pub(super) algorithm: Algorithm,
    /// The key that signed it; empty for any.
    pub(super) key: Cow<'a, str>,
    header: &'a [u8],
    payload: &'a [u8],
    encoded: &'a [u8],
    /// `iss`; empty for none.
    pub issuer: Cow<'a, str>,
    /// `sub`; empty for none.
    pub subject: Cow<'a, str>,
    audiences: Field<'a>,
    issued: u64,
    not_before: u64,
    /// `exp`, in seconds since 1970; `None` for never.
    pub expires: Option<u64>,
}

impl<'a> Token<'a> {
    /// Reads the token `text`.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub fn parse(text: &'a [u8], buffers: &'a mut Buffers) -> Result<Self, JwtError> {
        // Envoy skips empty parts.
        let mut parts = text.split(|byte| *byte == b'.').filter(|part| !part.is_empty());
        let (Some(head), Some(encoded), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::BadFormat);
        };
        let Buffers { header: header_buffer, payload: payload_buffer, signature: signature_buffer } = buffers;
        let header: &'a [u8] = decode(head, header_buffer).ok_or(JwtError::HeaderBase64)?;
        let [alg, kid] = json::fields(header, ["alg", "kid"]).ok_or(JwtError::HeaderJson)?;
        let Field::Text(alg) = alg else { return Err(JwtError::NoAlgorithm) };
        let algorithm = Algorithm::named(&alg).ok_or(JwtError::Algorithm)?;
        let key = text_of(kid, JwtError::KeyId)?;

        let payload: &'a [u8] = decode(encoded, payload_buffer).ok_or(JwtError::PayloadBase64)?;
        let names = ["iss", "sub", "iat", "nbf", "exp", "jti", "aud"];
        let [iss, sub, iat, nbf, exp, jti, aud] =
            json::fields(payload, names).ok_or(JwtError::PayloadJson)?;
        let issuer = text_of(iss, JwtError::Issuer)?;
        let subject = text_of(sub, JwtError::Subject)?;
        let issued = seconds(&iat, JwtError::IssuedAt, JwtError::IssuedAtRange)?;
        let not_before = seconds(&nbf, JwtError::NotBefore, JwtError::NotBeforeRange)?;
        let expires = seconds(&exp, JwtError::Expiration, JwtError::ExpirationRange)?;
        text_of(jti, JwtError::Id)?;
        if matches!(aud, Field::Number(_) | Field::Other) {
            return Err(JwtError::Audience);
        }
        let signature: &'a [u8] = decode(signature, signature_buffer).ok_or(JwtError::SignatureBase64)?;
        Ok(Self {
            signed: signed(text, head, encoded),
            signature,
            algorithm,
            key,
            header,
            payload,
            encoded,
            issuer,
            subject,
            audiences: aud,
            issued,
            not_before,
            expires: (expires != 0).then_some(expires),
        })
    }

    /// Whether it is valid at `now`, in seconds since 1970, by clocks that differ by `skew` seconds at most.
    ///
    /// # Errors
    /// It is not.
    pub const fn check_time(&self, now: u64, skew: u64) -> Result<(), JwtError> {
        let latest = now.saturating_add(skew);
        if latest < self.not_before {
            return Err(JwtError::NotYetValid);
        }
        if let Some(expires) = self.expires
            && now > expires.saturating_add(skew)
        {
            return Err(JwtError::Expired);
        }
        if latest < self.issued {
            return Err(JwtError::FromTheFuture);
        }
        Ok(())
    }

    /// Its header, whole; `None` when a name in it is given twice, or when it is too deep.
    pub fn header(&self) -> Option<BTreeMap<Arc<str>, MetadataValue>> {
        json::object(self.header)
    }

    /// Its claims, all of them; `None` as for the header.
    pub fn payload(&self) -> Option<BTreeMap<Arc<str>, MetadataValue>> {
        json::object(self.payload)
    }

    /// Its payload as it came: base64url.
    pub const fn encoded_payload(&self) -> &'a [u8] {
        self.encoded
    }

    fn audiences(&self) -> &[Cow<'a, str>] {
        match &self.audiences {
            Field::Text(audience) => std::slice::from_ref(audience),
            Field::Texts(audiences) => audiences,
            Field::Absent | Field::Number(_) | Field::Other => &[],
        }
    }
}

/// Whom tokens must be for. Scheme and last slash of an audience do not count (Envoy: `CheckAudience`).
#[derive(Debug, Clone, Default)]
pub struct Audiences(Box<[Box<str>]>);

impl Audiences {
    /// One of these; of none of them: anybody.
    pub fn new<'a>(audiences: impl IntoIterator<Item = &'a str>) -> Self {
        Self(audiences.into_iter().map(|audience| bare(audience).into()).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `token` is for one of them.
    pub fn allow(&self, token: &Token<'_>) -> bool {
        let known = |audience: &Cow<'_, str>| self.0.iter().any(|known| **known == *bare(audience));
        self.0.is_empty() || token.audiences().iter().any(known)
    }
}

fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("http://").or_else(|| audience.strip_prefix("https://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// What the signature is about: both parts and the dot between them, which are side by side in all tokens but odd ones.
fn signed<'a>(text: &'a [u8], head: &[u8], payload: &[u8]) -> Cow<'a, [u8]> {
    let begin = text.iter().take_while(|byte| **byte == b'.').count();
    let end = begin + head.len() + 1 + payload.len();
    match text.get(begin..end) {
        Some(both) if both.ends_with(payload) && both.get(head.len() + 1..) == Some(payload) => {
            Cow::Borrowed(both)
        }
        _ => Cow::Owned([head, b".", payload].concat()),
    }
}

fn decode<'a>(text: &[u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    buffer.clear();
    BASE64.decode_vec(text, buffer).ok()?;
    Some(buffer)
}

fn text_of(field: Field<'_>, wrong: JwtError) -> Result<Cow<'_, str>, JwtError> {
    match field {
        Field::Absent => Ok(Cow::Borrowed("")),
        Field::Text(text) => Ok(text),
        Field::Number(_) | Field::Texts(_) | Field::Other => Err(wrong),
    }
}

fn seconds(field: &Field<'_>, wrong: JwtError, range: JwtError) -> Result<u64, JwtError> {
    match field {
        Field::Absent => Ok(0),
        Field::Number(number) if *number >= 0.0 && *number < u64::MAX as f64 => Ok(*number as u64),
        Field::Number(_) => Err(range),
        Field::Text(_) | Field::Texts(_) | Field::Other => Err(wrong),
    }
}
