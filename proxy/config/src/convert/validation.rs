//! How the certificate of a peer is verified.

use std::net::IpAddr;

use outrider_core::matcher::StringMatch;
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::matcher;
use super::scalar::{bool_of, data_source, enumeration, u32_of};
use super::secret::not_watched;
use super::spiffe;
use crate::model::{CertificateValidation, NeedsRoots, SanKind, SanMatcher};

/// A validation context as it stands; [`check`] says whether it is whole.
pub(crate) fn context(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::CertificateValidationContext,
) -> CertificateValidation {
    use pb::certificate_validation_context::TrustChainVerification;
    let pb::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    } = message;
    refuse!(cx, path, UNSUPPORTED; ca_certificate_provider_instance, suppress_client_ca_list);
    refuse!(cx, path, "not implemented, in Envoy neither; name the system's bundle as trusted_ca"; system_root_certs);
    not_watched(cx, path, watched_directory);
    if bool_of(require_signed_certificate_timestamp) == Some(true) {
        cx.refuse(
            &path.field("require_signed_certificate_timestamp"),
            "signed timestamps are not verified; remove it",
        );
    }
    let source = |field: &str, message: &Option<outrider_proto::pb::envoy::config::core::v3::DataSource>| {
        message.as_ref().and_then(|message| data_source(cx, &path.field(field), message))
    };
    let spiffe = custom_validator_config
        .as_ref()
        .and_then(|message| spiffe::validator(cx, &path.field("custom_validator_config"), message));
    if spiffe.is_some() {
        inert!(cx, path, "the SPIFFE validator has the roots of its trust domains, in Envoy too"; trusted_ca);
    }
    let trust: TrustChainVerification =
        enumeration(cx, path, "trust_chain_verification", *trust_chain_verification);
    CertificateValidation {
        trusted_ca: source("trusted_ca", trusted_ca),
        spiffe,
        san_matchers: sans(cx, path, match_typed_subject_alt_names, match_subject_alt_names),
        certificate_hashes: hashes(cx, &path.field("verify_certificate_hash"), verify_certificate_hash, hex),
        spki_hashes: hashes(cx, &path.field("verify_certificate_spki"), verify_certificate_spki, base64),
        crl: source("crl", crl),
        only_verify_leaf_crl: *only_verify_leaf_cert_crl,
        allow_expired: *allow_expired_certificate,
        accept_untrusted: trust == TrustChainVerification::AcceptUntrusted,
        max_verify_depth: u32_of(max_verify_depth),
    }
}

/// What only makes sense with roots needs them: otherwise it would look like verification and be none.
pub(crate) fn check(cx: &Cx, path: &Path<'_>, validation: &CertificateValidation) {
    if let Some((field, why)) = validation.not_for_spiffe() {
        cx.refuse(&path.field(field), why);
    }
    if let Some(NeedsRoots { field }) = validation.incomplete() {
        cx.error(&path.field(field), "it needs trusted_ca: without roots anyone can make such a certificate");
    }
}

fn sans(
    cx: &Cx,
    path: &Path<'_>,
    typed: &[pb::SubjectAltNameMatcher],
    old: &[outrider_proto::pb::envoy::r#type::matcher::v3::StringMatcher],
) -> Vec<SanMatcher> {
    let at = path.field("match_typed_subject_alt_names");
    let mut matchers = Vec::new();
    for (i, message) in typed.iter().enumerate() {
        matchers.extend(san(cx, &at.index(i), message));
    }
    let at = path.field("match_subject_alt_names");
    if !typed.is_empty() && !old.is_empty() {
        // Envoy ignores it with a warning.
        cx.inert(&at, "match_typed_subject_alt_names comes before it, in Envoy too");
        return matchers;
    }
    for matcher in matcher::strings(cx, &at, old) {
        for kind in [SanKind::Dns, SanKind::Uri, SanKind::Email, SanKind::Ip] {
            matchers.push(SanMatcher { kind, matcher: matcher.clone() });
        }
    }
    matchers
}

fn hashes(cx: &Cx, path: &Path<'_>, texts: &[String], decode: fn(&str) -> Option<[u8; 32]>) -> Vec<[u8; 32]> {
    let mut hashes = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match decode(text) {
            Some(hash) => hashes.push(hash),
            None => cx.error(&path.index(i), format!("{text:?} is not a SHA-256 in this field's notation")),
        }
    }
    hashes
}

/// 64 hexadecimal digits, in pairs with or without colons between them.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = if text.contains(':') {
        if text.split(':').any(|pair| pair.len() != 2) {
            return None;
        }
        text.bytes().filter(|byte| *byte != b':').collect()
    } else {
        text.bytes().collect()
    };
    let nibble = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[high, low]| Some(nibble(high)? << 4 | nibble(low)?)).collect();
    bytes?.try_into().ok()
}

/// 44 characters of base64.
fn base64(text: &str) -> Option<[u8; 32]> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()
}

/// A matcher of one kind of names; `None`, and an error, when it is not usable.
pub(crate) fn san(cx: &Cx, path: &Path<'_>, message: &pb::SubjectAltNameMatcher) -> Option<SanMatcher> {
    use pb::subject_alt_name_matcher::SanType;
    let pb::SubjectAltNameMatcher { san_type, matcher: message, oid } = message;
    inert!(cx, path, "only OTHER_NAME has one"; oid);
    let kind = match enumeration::<SanType>(cx, path, "san_type", *san_type) {
        SanType::Email => SanKind::Email,
        SanType::Dns => SanKind::Dns,
        SanType::Uri => SanKind::Uri,
        SanType::IpAddress => SanKind::Ip,
        SanType::OtherName => {
            cx.refuse(
                &path.field("san_type"),
                "OTHER_NAME is not supported; use DNS, URI, EMAIL or IP_ADDRESS",
            );
            return None;
        }
        SanType::Unspecified => {
            cx.error(&path.field("san_type"), "a type is needed: DNS, URI, EMAIL or IP_ADDRESS");
            return None;
        }
    };
    let path = path.field("matcher");
    let Some(message) = message else {
        cx.error(&path, "a matcher is needed");
        return None;
    };
    let matcher = matcher::string(cx, &path, message)?;
    if let (SanKind::Ip, StringMatch::Exact(text)) = (kind, &matcher.matcher)
        && text.parse::<IpAddr>().is_err()
    {
        cx.error(
            &path.field("exact"),
            format!("{text:?} is not an IP address, so no certificate could match"),
        );
    }
    Some(SanMatcher { kind, matcher })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_in_both_notations() {
        let plain = "df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a";
        let mut colons = String::new();
        for (i, c) in plain.chars().enumerate() {
            if i > 0 && i % 2 == 0 {
                colons.push(':');
            }
            colons.push(c);
        }
        assert_eq!(hex(plain).unwrap()[..2], [0xdf, 0x6f]);
        assert_eq!(hex(plain), hex(&colons.to_uppercase()));
        assert_eq!(hex("zz"), None);
        assert_eq!(hex(&plain[..62]), None);
        assert_eq!(base64("NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=").unwrap()[0], 0x36);
    }
}
