//! What logs, headers and matchers read of a certificate.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest;
use outrider_core::stream::CertInfo;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Peers of a mesh show the same few certificates over and over.
const CACHE: usize = 16;

thread_local! {
    static RECENT: RefCell<Vec<Arc<CertInfo>>> = const { RefCell::new(Vec::new()) };
}

/// The facts of the certificate `der`; parsed only if this thread has not met it lately. `None` when it is
/// not a certificate.
pub(super) fn cert_info(der: &[u8]) -> Option<Arc<CertInfo>> {
    RECENT.with_borrow_mut(|recent| {
        if let Some(i) = recent.iter().position(|known| known.der == der) {
            return recent.get(i).cloned();
        }
        let info = Arc::new(parse(der)?);
        recent.truncate(CACHE - 1);
        recent.insert(0, info.clone());
        Some(info)
    })
}

/// The SHA-256 of a certificate's public key info (SPKI).
pub(super) fn spki_sha256(der: &[u8]) -> Option<[u8; 32]> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    sha256(cert.public_key().raw).into()
}

/// The SHA-256 of `bytes`.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// The common names of the subject: for choosing a certificate that has no DNS names.
pub(super) fn common_names(der: &[u8]) -> Vec<String> {
    let Ok((_, cert)) = X509Certificate::from_der(der) else { return Vec::new() };
    cert.subject().iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_owned)).collect()
}

fn parse(der: &[u8]) -> Option<CertInfo> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let mut info = CertInfo {
        subject: rfc2253(cert.subject()),
        issuer: rfc2253(cert.issuer()),
        serial: hex(strip_zero(cert.tbs_certificate.raw_serial())),
        sha256: hex(&sha256(der)),
        sha1: hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
        der: der.to_vec(),
        ..CertInfo::default()
    };
    let names = cert.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => info.uri_sans.push((*uri).into()),
            GeneralName::DNSName(dns) => info.dns_sans.push((*dns).into()),
            GeneralName::RFC822Name(mail) => info.email_sans.push((*mail).into()),
            GeneralName::IPAddress(bytes) => info.ip_sans.extend(ip_text(bytes)),
            _ => {}
        }
    }
    Some(info)
}

fn ip_text(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).to_string()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_string()),
        _ => None,
    }
}

fn strip_zero(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A distinguished name as RFC 2253 and `XN_FLAG_RFC2253` write it: last part first, `CN=a,O=b`.
fn rfc2253(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for (i, rdn) in parts.iter().rev().enumerate() {
        text.push_str(if i == 0 { "" } else { "," });
        for (j, attribute) in rdn.iter().enumerate() {
            text.push_str(if j == 0 { "" } else { "+" });
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let name = match oid.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        other => other,
    };
    text.push_str(name);
    text.push('=');
    match attribute.as_str() {
        Ok(value) => escape(text, value),
        Err(_) => {
            let _ = write!(text, "#{}", hex(attribute.attr_value().data));
        }
    }
}

fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (i, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if i == 0 => text.push_str("\\#"),
            b' ' if i == 0 || i == last => text.push_str("\\ "),
            0x20..0x7f => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}
