//! What logs, headers and matchers read of a certificate.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest;
use outrider_core::stream::CertInfo;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Peers of a mesh show the same few certificates over and over.
const CACHE: usize = 16;

/// The smallest keys that we believe, as rustls does.
const RSA_BITS: usize = 2048;
const CURVE_BITS: usize = 256;

/// What is known of a certificate.
#[derive(Clone)]
struct Known {
    info: Arc<CertInfo>,
    traits: Traits,
}

/// What a verifier looks at beside the chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    /// Its key is RSA.
    pub rsa: bool,
    /// Its key is too short.
    pub weak: bool,
    /// The key may sign (`digitalSignature`).
    pub signs: bool,
    /// The key may sign, encipher keys or agree on them: what a server's RSA key is used for.
    pub serves: bool,
    /// The key may sign certificates.
    pub issues: bool,
    /// It is an authority's, or says that its key signs certificates or revocation lists.
    pub authority: bool,
    /// It has a subject alternative name of any kind.
    pub named: bool,
}

thread_local! {
    static RECENT: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

/// The facts of the certificate `der`; parsed only if this thread has not met it lately. `None` when it is
/// not a certificate.
pub(super) fn cert_info(der: &[u8]) -> Option<Arc<CertInfo>> {
    known(der).map(|known| known.info)
}

/// What else matters of it, as [`cert_info`].
pub(super) fn traits(der: &[u8]) -> Option<Traits> {
    known(der).map(|known| known.traits)
}

/// Subject, issuer (as DER, with their outer tags) and public key info of a certificate.
pub(super) fn names_and_key(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let (subject, issuer) = (cert.subject().as_raw(), cert.issuer().as_raw());
    Some((subject.to_vec(), issuer.to_vec(), cert.public_key().raw.to_vec()))
}

fn known(der: &[u8]) -> Option<Known> {
    RECENT.with_borrow_mut(|recent| {
        if let Some(i) = recent.iter().position(|known| known.info.der == der) {
            return recent.get(i).cloned();
        }
        let known = parse(der)?;
        recent.truncate(CACHE - 1);
        recent.insert(0, known.clone());
        Some(known)
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

fn parse(der: &[u8]) -> Option<Known> {
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
    let named = names.iter().any(|names| !names.value.general_names.is_empty());
    Some(Known { info: Arc::new(info), traits: traits_of(&cert, named) })
}

fn traits_of(cert: &X509Certificate<'_>, named: bool) -> Traits {
    let (rsa, bits, least) = match cert.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => (true, key.key_size(), RSA_BITS),
        Ok(PublicKey::EC(point)) => (false, point.key_size(), CURVE_BITS),
        // Others have keys of one size.
        _ => (false, usize::MAX, 0),
    };
    // An extension that cannot be read allows nothing.
    let usage = cert.key_usage();
    let may = |allows: fn(&KeyUsage) -> bool| match &usage {
        Ok(Some(usage)) => allows(usage.value),
        Ok(None) => true,
        Err(_) => false,
    };
    let signer = |usage: &KeyUsage| usage.key_cert_sign() || usage.crl_sign();
    let marked = usage.as_ref().is_ok_and(|usage| usage.as_ref().is_some_and(|usage| signer(usage.value)));
    let ca = cert.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
    Traits {
        rsa,
        weak: bits < least,
        signs: may(KeyUsage::digital_signature),
        serves: may(|usage| usage.digital_signature() || usage.key_encipherment() || usage.key_agreement()),
        issues: may(KeyUsage::key_cert_sign),
        authority: ca || marked,
        named,
    }
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
