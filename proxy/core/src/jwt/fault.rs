//! What can be wrong with a token, or with the keys for it.

/// Why a token is refused. The texts and the codes are what Envoy tells clients and metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// There is none.
    #[error("Jwt is missing")]
    Missing,
    /// `nbf` is yet to come.
    #[error("Jwt not yet valid")]
    NotYetValid,
    /// `iat` is yet to come.
    #[error("Jwt not yet valid")]
    FromTheFuture,
    /// `exp` is over.
    #[error("Jwt is expired")]
    Expired,
    /// It has not three parts.
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    BadFormat,
    /// Its header cannot be decoded.
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    /// Its header is no JSON object.
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    /// `alg` is not there.
    #[error("Jwt header [alg] field is required and must be a string")]
    NoAlgorithm,
    /// `alg` is `none`, or one that nobody here knows.
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    /// `kid` is no text.
    #[error("Jwt header [kid] field is not a string")]
    KeyId,
    /// Its payload cannot be decoded.
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    /// Its payload is no JSON object.
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    /// `iss` is no text.
    #[error("Jwt payload [iss] field is not a string")]
    Issuer,
    /// `sub` is no text.
    #[error("Jwt payload [sub] field is not a string")]
    Subject,
    /// `iat` is no number.
    #[error("Jwt payload [iat] field is not an integer")]
    IssuedAt,
    /// `iat` is negative, or too large.
    #[error("Jwt payload [iat] field is not a positive 64 bit integer")]
    IssuedAtRange,
    /// `nbf` is no number.
    #[error("Jwt payload [nbf] field is not an integer")]
    NotBefore,
    /// `nbf` is negative, or too large.
    #[error("Jwt payload [nbf] field is not a positive 64 bit integer")]
    NotBeforeRange,
    /// `exp` is no number.
    #[error("Jwt payload [exp] field is not an integer")]
    Expiration,
    /// `exp` is negative, or too large.
    #[error("Jwt payload [exp] field is not a positive 64 bit integer")]
    ExpirationRange,
    /// `jti` is no text.
    #[error("Jwt payload [jti] field is not a string")]
    Id,
    /// `aud` is neither text nor a list of texts.
    #[error("Jwt payload [aud] field is not a string or string list")]
    Audience,
    /// Its signature cannot be decoded.
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    /// A signature by Ed25519 has not 64 bytes.
    #[error("Jwt ED25519 signature is wrong length")]
    Ed25519Length,
    /// Nobody is configured who issues such tokens.
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    /// It is for others.
    #[error("Audiences in Jwt are not allowed")]
    AudienceNotAllowed,
    /// It is about somebody whom its issuer may not speak of.
    #[error("Jwt verification fails")]
    SubjectNotAllowed,
    /// It never expires, or too late.
    #[error("Jwt verification fails")]
    LifetimeNotAllowed,
    /// No key made its signature.
    #[error("Jwt verification fails")]
    Verification,
    /// The set of keys is no JSON object.
    #[error("Jwks is an invalid JSON")]
    KeysJson,
    /// The set of keys has none.
    #[error("Jwks does not have [keys] field")]
    NoKeys,
    /// The set of keys has no list of them.
    #[error("[keys] in Jwks is not an array")]
    BadKeys,
    /// No key of the set can be used.
    #[error("Jwks doesn't have any valid public key")]
    NoValidKeys,
    /// No key of the set has its id and is for its algorithm.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoSuchKey,
    /// The keys cannot be had.
    #[error("Jwks remote fetch is failed")]
    Fetch,
}

impl JwtError {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 35] = [
        Self::Missing,
        Self::NotYetValid,
        Self::FromTheFuture,
        Self::Expired,
        Self::BadFormat,
        Self::HeaderBase64,
        Self::HeaderJson,
        Self::NoAlgorithm,
        Self::Algorithm,
        Self::KeyId,
        Self::PayloadBase64,
        Self::PayloadJson,
        Self::Issuer,
        Self::Subject,
        Self::IssuedAt,
        Self::IssuedAtRange,
        Self::NotBefore,
        Self::NotBeforeRange,
        Self::Expiration,
        Self::ExpirationRange,
        Self::Id,
        Self::Audience,
        Self::SignatureBase64,
        Self::Ed25519Length,
        Self::UnknownIssuer,
        Self::AudienceNotAllowed,
        Self::SubjectNotAllowed,
        Self::LifetimeNotAllowed,
        Self::Verification,
        Self::KeysJson,
        Self::NoKeys,
        Self::BadKeys,
        Self::NoValidKeys,
        Self::NoSuchKey,
        Self::Fetch,
    ];

    /// The number that metadata has for it (`failed_status_in_metadata`).
    pub const fn code(self) -> u8 {
        match self {
            Self::Missing => 1,
            Self::NotYetValid | Self::FromTheFuture => 2,
            Self::Expired => 3,
            Self::BadFormat => 4,
            Self::HeaderBase64 => 5,
            Self::HeaderJson => 6,
            Self::NoAlgorithm => 7,
            Self::Algorithm => 8,
            Self::KeyId => 9,
            Self::PayloadBase64 => 10,
            Self::PayloadJson => 11,
            Self::Issuer => 12,
            Self::Subject => 13,
            Self::IssuedAt => 14,
            Self::IssuedAtRange => 15,
            Self::NotBefore => 16,
            Self::NotBeforeRange => 17,
            Self::Expiration => 18,
            Self::ExpirationRange => 19,
            Self::Id => 20,
            Self::Audience => 21,
            Self::SignatureBase64 => 22,
            Self::Ed25519Length => 23,
            Self::UnknownIssuer => 24,
            Self::AudienceNotAllowed => 25,
            Self::Verification | Self::SubjectNotAllowed | Self::LifetimeNotAllowed => 26,
            Self::KeysJson => 28,
            Self::NoKeys => 29,
            Self::BadKeys => 30,
            Self::NoValidKeys => 31,
            Self::NoSuchKey => 32,
            Self::Fetch => 40,
        }
    }

    /// The name that it is counted under.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotYetValid => "not_yet_valid",
            Self::FromTheFuture => "issued_in_the_future",
            Self::Expired => "expired",
            Self::BadFormat => "bad_format",
            Self::HeaderBase64 => "header_bad_base64",
            Self::HeaderJson => "header_bad_json",
            Self::NoAlgorithm => "no_alg",
            Self::Algorithm => "alg_not_supported",
            Self::KeyId => "bad_kid",
            Self::PayloadBase64 => "payload_bad_base64",
            Self::PayloadJson => "payload_bad_json",
            Self::Issuer => "bad_iss",
            Self::Subject => "bad_sub",
            Self::IssuedAt | Self::IssuedAtRange => "bad_iat",
            Self::NotBefore | Self::NotBeforeRange => "bad_nbf",
            Self::Expiration | Self::ExpirationRange => "bad_exp",
            Self::Id => "bad_jti",
            Self::Audience => "bad_aud",
            Self::SignatureBase64 => "signature_bad_base64",
            Self::Ed25519Length => "signature_bad_length",
            Self::UnknownIssuer => "unknown_issuer",
            Self::AudienceNotAllowed => "audience_not_allowed",
            Self::SubjectNotAllowed => "subject_not_allowed",
            Self::LifetimeNotAllowed => "lifetime_not_allowed",
            Self::Verification => "bad_signature",
            Self::KeysJson | Self::NoKeys | Self::BadKeys | Self::NoValidKeys => "no_valid_keys",
            Self::NoSuchKey => "no_such_key",
            Self::Fetch => "fetch_failed",
        }
    }
}
