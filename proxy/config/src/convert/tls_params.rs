//! TLS versions, cipher suites and curves, in the names that Envoy (BoringSSL) gives them.

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::cx::{Cx, refuse};
use super::scalar::enumeration;
use crate::model::TlsVersion;

/// TLS 1.2 suites that rustls has: the OpenSSL name and the IANA name, in rustls's order of preference.
const SUITES: [(&str, &str); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Suites that BoringSSL has and rustls has not, and why not.
const LACKING: [(&str, &str); 14] = [
    ("AES128-GCM-SHA256", RSA),
    ("AES256-GCM-SHA384", RSA),
    ("AES128-SHA", RSA),
    ("AES256-SHA", RSA),
    ("DES-CBC3-SHA", RSA),
    ("ECDHE-RSA-AES128-SHA", CBC),
    ("ECDHE-RSA-AES256-SHA", CBC),
    ("ECDHE-RSA-AES128-SHA256", CBC),
    ("ECDHE-ECDSA-AES128-SHA", CBC),
    ("ECDHE-ECDSA-AES256-SHA", CBC),
    ("PSK-AES128-CBC-SHA", PSK),
    ("PSK-AES256-CBC-SHA", PSK),
    ("ECDHE-PSK-AES128-CBC-SHA", PSK),
    ("ECDHE-PSK-CHACHA20-POLY1305", PSK),
];
const RSA: &str = "rustls has no RSA key exchange; peers that offer nothing better cannot connect";
const CBC: &str = "rustls has no CBC suites; peers that offer nothing better cannot connect";
const PSK: &str = "rustls has no pre-shared keys; they need settings that Envoy has not either";

/// Groups that `!` may take away: rustls has none of their suites.
const ABSENT_GROUPS: [&str; 16] = [
    "SHA1", "SHA", "MD5", "RC4", "DES", "3DES", "PSK", "kRSA", "RSA", "NULL", "aNULL", "eNULL", "EXPORT",
    "EXP", "LOW", "CBC",
];

/// Which side of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The listener's.
    Server,
    /// The cluster's.
    Client,
}

/// What `tls_params` says, with the defaults of the side.
#[derive(Debug, Clone)]
pub(crate) struct Params {
    pub(crate) min: TlsVersion,
    pub(crate) max: TlsVersion,
    /// OpenSSL names; empty for the default.
    pub(crate) suites: Vec<String>,
    /// BoringSSL names; empty for the default.
    pub(crate) curves: Vec<String>,
}

/// The parameters at `path`.
pub(crate) fn params(cx: &Cx, path: &Path<'_>, message: Option<&pb::TlsParameters>, side: Side) -> Params {
    // Envoy's defaults: TLS 1.2 and 1.3 for servers, TLS 1.2 alone for clients.
    let default_max = if side == Side::Server { TlsVersion::V13 } else { TlsVersion::V12 };
    let default = pb::TlsParameters::default();
    let pb::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = message.unwrap_or(&default);
    refuse!(cx, path, "signature algorithms cannot be chosen; remove it"; signature_algorithms);
    refuse!(cx, path, "compliance policies are not supported; write versions, cipher_suites and ecdh_curves";
        compliance_policies);
    let min = minimum(cx, path, *tls_minimum_protocol_version);
    let max = maximum(cx, path, *tls_maximum_protocol_version).unwrap_or(default_max.max(min));
    if min > max {
        cx.error(
            &path.field("tls_maximum_protocol_version"),
            "it is below tls_minimum_protocol_version: no version is left",
        );
    }
    let suites = suites(cx, &path.field("cipher_suites"), cipher_suites);
    if suites.is_empty() && !cipher_suites.is_empty() && min == TlsVersion::V12 {
        cx.refuse(
            &path.field("cipher_suites"),
            "rustls has none of these suites; name one of ECDHE-(ECDSA|RSA)-(AES128-GCM-SHA256|AES256-GCM-SHA384|CHACHA20-POLY1305)",
        );
    }
    Params { min, max, suites, curves: curves(cx, &path.field("ecdh_curves"), ecdh_curves) }
}

fn minimum(cx: &Cx, path: &Path<'_>, value: i32) -> TlsVersion {
    use pb::tls_parameters::TlsProtocol;
    match enumeration::<TlsProtocol>(cx, path, "tls_minimum_protocol_version", value) {
        TlsProtocol::TlsAuto | TlsProtocol::TlSv12 => TlsVersion::V12,
        TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
            cx.inert(
                &path.field("tls_minimum_protocol_version"),
                "TLS 1.2 is the lowest version that rustls speaks; it stays the minimum",
            );
            TlsVersion::V12
        }
        TlsProtocol::TlSv13 => TlsVersion::V13,
    }
}

fn maximum(cx: &Cx, path: &Path<'_>, value: i32) -> Option<TlsVersion> {
    use pb::tls_parameters::TlsProtocol;
    match enumeration::<TlsProtocol>(cx, path, "tls_maximum_protocol_version", value) {
        TlsProtocol::TlsAuto => None,
        TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
            cx.refuse(
                &path.field("tls_maximum_protocol_version"),
                "TLS 1.2 is the lowest version that rustls speaks; allow TLSv1_2",
            );
            None
        }
        TlsProtocol::TlSv12 => Some(TlsVersion::V12),
        TlsProtocol::TlSv13 => Some(TlsVersion::V13),
    }
}

/// The suites in the order given. Each text may hold several: `A:B`, `[A|B]`.
fn suites(cx: &Cx, path: &Path<'_>, texts: &[String]) -> Vec<String> {
    let mut suites: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        if !suites.iter().any(|suite| suite == name) {
            suites.push(name.to_owned());
        }
    };
    for (i, text) in texts.iter().enumerate() {
        let path = path.index(i);
        for name in text.split([':', '|', '[', ']', ' ', ',']).filter(|name| !name.is_empty()) {
            if let Some((openssl, _)) =
                SUITES.iter().find(|(openssl, iana)| name == *openssl || name == *iana)
            {
                add(openssl);
            } else if let Some((_, why)) = LACKING.iter().find(|(lacking, _)| name == *lacking) {
                cx.inert(&path, format!("{name}: {why}"));
            } else if matches!(name, "ALL" | "HIGH") {
                SUITES.iter().for_each(|(openssl, _)| add(openssl));
            } else if matches!(
                name,
                "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305_SHA256"
            ) {
                cx.inert(&path, format!("{name}: the suites of TLS 1.3 cannot be chosen, in Envoy neither"));
            } else if name.strip_prefix('!').is_some_and(|group| ABSENT_GROUPS.contains(&group)) {
                cx.inert(&path, format!("{name}: rustls has none of these suites"));
            } else if name.starts_with(['!', '-', '+', '@']) {
                cx.refuse(&path, format!("{name}: lists cannot be edited; name the suites that are wanted"));
            } else {
                cx.error(&path, format!("{name:?} is not a cipher suite that Envoy knows"));
            }
        }
    }
    suites
}

/// The curves in the order given.
fn curves(cx: &Cx, path: &Path<'_>, texts: &[String]) -> Vec<String> {
    let mut curves: Vec<String> = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let path = path.index(i);
        for name in text.split(':').filter(|name| !name.is_empty()) {
            let known = match name {
                "X25519" => "X25519",
                "P-256" | "prime256v1" => "P-256",
                "P-384" | "secp384r1" => "P-384",
                "X25519MLKEM768" => "X25519MLKEM768",
                "P-521" | "secp521r1" | "MLKEM1024" => {
                    cx.inert(
                        &path,
                        format!("{name}: our provider does not offer it; the other curves are used"),
                    );
                    continue;
                }
                _ => {
                    cx.error(&path, format!("{name:?} is not a curve that Envoy knows"));
                    continue;
                }
            };
            curves.push(known.to_owned());
        }
    }
    if curves.is_empty() && !texts.is_empty() {
        cx.refuse(path, "none of these curves is there; name one of X25519MLKEM768, X25519, P-256 and P-384");
    }
    curves
}
