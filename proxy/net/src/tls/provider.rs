//! The cryptography of a context: suites, curves, versions.

use std::sync::Arc;

use outrider_config::model::{CommonTls, TlsVersion};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};

use super::TlsError;

/// The suites that there are with OpenSSL's names, in BoringSSL's order of preference.
const SUITES: &[(&str, SupportedCipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
];

/// The curves that there are with BoringSSL's names. Without a list a client offers the first three; a server takes the
/// last as well, and before all others, as Envoy 1.40 does.
const CURVES: &[(&str, &dyn SupportedKxGroup)] = &[
    ("X25519", kx_group::X25519),
    ("P-256", kx_group::SECP256R1),
    ("P-384", kx_group::SECP384R1),
    ("X25519MLKEM768", kx_group::X25519MLKEM768),
];
const DEFAULT_CURVES: usize = 3;

/// The provider for `tls`.
///
/// # Errors
/// A suite or curve that rustls does not have, or none of them left.
pub(super) fn provider(tls: &CommonTls, field: &str) -> Result<Arc<CryptoProvider>, TlsError> {
    let unknown = |what: &str, name: &str| TlsError::Config {
        field: field.into(),
        reason: format!("there is no {what} {name:?} here"),
    };
    let mut provider = aws_lc_rs::default_provider();
    let is_13 = |suite: &SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
    provider.cipher_suites = if tls.cipher_suites.is_empty() {
        SUITES.iter().map(|(_, suite)| *suite).collect()
    } else {
        // As in BoringSSL the list is that of TLS 1.2; 1.3 always has its three.
        let mut suites: Vec<_> = SUITES.iter().map(|(_, suite)| *suite).filter(is_13).collect();
        for name in &tls.cipher_suites {
            let found = SUITES.iter().find(|(known, _)| known == name);
            let (_, suite) = found.ok_or_else(|| unknown("cipher suite", name))?;
            if !suites.contains(suite) {
                suites.push(*suite);
            }
        }
        suites
    };
    // Suites of a version that is off would only mislead the peer.
    let versions = versions(tls);
    let enabled = |suite: &SupportedCipherSuite| versions.contains(&suite.version());
    provider.cipher_suites.retain(enabled);
    provider.kx_groups = if tls.curves.is_empty() {
        CURVES.iter().take(DEFAULT_CURVES).map(|(_, curve)| *curve).collect()
    } else {
        let mut curves = Vec::new();
        for name in &tls.curves {
            let found = CURVES.iter().find(|(known, _)| known == name);
            curves.push(found.ok_or_else(|| unknown("curve", name))?.1);
        }
        curves
    };
    Ok(Arc::new(provider))
}

/// The versions from `min` to `max`.
pub(super) fn versions(tls: &CommonTls) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::V12, &rustls::version::TLS12), (TlsVersion::V13, &rustls::version::TLS13)];
    let fits = |version: &TlsVersion| tls.min_version <= *version && *version <= tls.max_version;
    all.into_iter().filter(|(version, _)| fits(version)).map(|(_, version)| version).collect()
}

/// The provider for a server with `tls`.
///
/// # Errors
/// As [`provider`].
pub(super) fn server_provider(tls: &CommonTls, field: &str) -> Result<Arc<CryptoProvider>, TlsError> {
    let mut provider = provider(tls, field)?;
    if tls.curves.is_empty() && tls.max_version == TlsVersion::V13 {
        Arc::make_mut(&mut provider).kx_groups.insert(0, kx_group::X25519MLKEM768);
    }
    Ok(provider)
}

/// A suite's index among [`SUITES`] and its OpenSSL name.
pub(super) fn suite_name(suite: CipherSuite) -> Option<(usize, &'static str)> {
    let mut all = SUITES.iter().enumerate();
    all.find(|(_, (_, known))| known.suite() == suite).map(|(i, (name, _))| (i, *name))
}

/// A curve's index among [`CURVES`].
pub(super) fn curve_index(group: NamedGroup) -> Option<usize> {
    CURVES.iter().position(|(_, known)| known.name() == group)
}

/// How a version is named in logs.
pub(super) fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}
