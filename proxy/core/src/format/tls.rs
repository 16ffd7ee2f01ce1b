//! Operators that speak of TLS sessions and certificates.

use super::op::Op;
use super::{FormatContext, parse};
use crate::stream::{CertInfo, TlsInfo};

/// Whose session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

/// What of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsField {
    Version,
    Cipher,
    SessionId,
    Group,
    /// The name that was asked for.
    ServerName,
    Peer(CertField),
    Local(CertField),
}

/// What of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertField {
    Subject,
    Issuer,
    Serial,
    Sha256,
    Sha1,
    UriSan,
    DnsSan,
    IpSan,
    EmailSan,
    NotBefore,
    NotAfter,
}

pub(super) fn operator(name: &str) -> Option<Op> {
    let (side, rest) = parse::side(name)?;
    let field = match rest {
        "TLS_VERSION" => TlsField::Version,
        "TLS_CIPHER" => TlsField::Cipher,
        "TLS_SESSION_ID" => TlsField::SessionId,
        "TLS_GROUP" => TlsField::Group,
        "SERVER_NAME" if side == Side::Upstream => TlsField::ServerName,
        "PEER_SUBJECT" => TlsField::Peer(CertField::Subject),
        "PEER_ISSUER" => TlsField::Peer(CertField::Issuer),
        "PEER_SERIAL" => TlsField::Peer(CertField::Serial),
        "PEER_FINGERPRINT_256" => TlsField::Peer(CertField::Sha256),
        "PEER_FINGERPRINT_1" => TlsField::Peer(CertField::Sha1),
        "PEER_URI_SAN" => TlsField::Peer(CertField::UriSan),
        "PEER_DNS_SAN" => TlsField::Peer(CertField::DnsSan),
        "PEER_IP_SAN" => TlsField::Peer(CertField::IpSan),
        "PEER_EMAIL_SAN" => TlsField::Peer(CertField::EmailSan),
        "PEER_CERT_V_START" => TlsField::Peer(CertField::NotBefore),
        "PEER_CERT_V_END" => TlsField::Peer(CertField::NotAfter),
        "LOCAL_SUBJECT" => TlsField::Local(CertField::Subject),
        "LOCAL_URI_SAN" => TlsField::Local(CertField::UriSan),
        "LOCAL_DNS_SAN" => TlsField::Local(CertField::DnsSan),
        "LOCAL_IP_SAN" => TlsField::Local(CertField::IpSan),
        "LOCAL_EMAIL_SAN" => TlsField::Local(CertField::EmailSan),
        _ => return None,
    };
    Some(Op::Tls(side, field))
}

/// Appends the value; `false` when there is none.
pub(super) fn write(side: Side, field: TlsField, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let tls = match side {
        Side::Downstream => cx.info.conn.tls.as_deref(),
        Side::Upstream => cx.info.upstream.tls.as_deref(),
    };
    let Some(tls) = tls else { return false };
    match field {
        TlsField::Version => text(tls.version, out),
        TlsField::Cipher => text(tls.cipher, out),
        TlsField::SessionId => text(&tls.session_id, out),
        TlsField::Group => text(tls.group, out),
        TlsField::ServerName => tls.sni.as_deref().is_some_and(|name| text(name, out)),
        TlsField::Peer(field) => tls.peer.as_deref().is_some_and(|cert| certificate(cert, field, out)),
        TlsField::Local(field) => local(tls).is_some_and(|cert| certificate(cert, field, out)),
    }
}

fn local(tls: &TlsInfo) -> Option<&CertInfo> {
    tls.local.as_deref()
}

fn certificate(cert: &CertInfo, field: CertField, out: &mut Vec<u8>) -> bool {
    match field {
        CertField::Subject => text(&cert.subject, out),
        CertField::Issuer => text(&cert.issuer, out),
        CertField::Serial => text(&cert.serial, out),
        CertField::Sha256 => text(&cert.sha256, out),
        CertField::Sha1 => text(&cert.sha1, out),
        CertField::UriSan => text(&cert.uri_sans.join(","), out),
        CertField::DnsSan => text(&cert.dns_sans.join(","), out),
        CertField::IpSan => text(&cert.ip_sans.join(","), out),
        CertField::EmailSan => text(&cert.email_sans.join(","), out),
        CertField::NotBefore => date(cert.not_before, out),
        CertField::NotAfter => date(cert.not_after, out),
    }
}

fn date(seconds: i64, out: &mut Vec<u8>) -> bool {
    let Some(time) = chrono::DateTime::from_timestamp(seconds, 0) else { return false };
    text(&time.format("%Y-%m-%dT%H:%M:%S.000Z").to_string(), out)
}

fn text(value: &str, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value.as_bytes());
    !value.is_empty()
}
