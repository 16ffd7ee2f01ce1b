//! `x-forwarded-client-cert`: what a client's certificate says, for those behind us.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use outrider_config::model::{ClientCertDetails, ForwardClientCert};
use outrider_core::stream::TlsInfo;

use super::names::X_FORWARDED_CLIENT_CERT;

/// Applies the mode to the request's header. Only a client that showed a certificate may bring or get one,
/// except under [`ForwardClientCert::AlwaysForwardOnly`].
pub(crate) fn apply(
    headers: &mut HeaderMap,
    mode: ForwardClientCert,
    details: ClientCertDetails,
    tls: Option<&TlsInfo>,
) {
    let mutual = tls.filter(|tls| tls.peer.is_some());
    match (mode, mutual) {
        (ForwardClientCert::AlwaysForwardOnly, _) | (ForwardClientCert::ForwardOnly, Some(_)) => {}
        (ForwardClientCert::AppendForward, Some(tls)) => {
            super::append_joined(headers, X_FORWARDED_CLIENT_CERT, ",", element(tls, details).as_bytes());
        }
        (ForwardClientCert::SanitizeSet, Some(tls)) => {
            match HeaderValue::from_str(&element(tls, details)) {
                Ok(value) => headers.insert(X_FORWARDED_CLIENT_CERT, value),
                // A subject with bytes that no header may carry: better none than the client's own claim.
                Err(_) => headers.remove(X_FORWARDED_CLIENT_CERT),
            };
        }
        (ForwardClientCert::Sanitize, _) | (_, None) => {
            headers.remove(X_FORWARDED_CLIENT_CERT);
        }
    }
}

/// One element: `By=..;Hash=..;...`, its keys in Envoy's order.
fn element(tls: &TlsInfo, details: ClientCertDetails) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(local) = &tls.local {
        parts.extend(local.uri_sans.iter().map(|uri| format!("By={uri}")));
    }
    let Some(peer) = &tls.peer else { return parts.join(";") };
    if !peer.sha256.is_empty() {
        parts.push(format!("Hash={}", peer.sha256));
    }
    if details.cert {
        parts.push(format!("Cert=\"{}\"", url_encoded_pem(&peer.der)));
    }
    if details.chain {
        let behind = tls.peer_chain.iter().map(|der| url_encoded_pem(der));
        let chain: String = std::iter::once(url_encoded_pem(&peer.der)).chain(behind).collect();
        parts.push(format!("Chain=\"{chain}\""));
    }
    if details.subject {
        parts.push(format!("Subject=\"{}\"", peer.subject));
    }
    if details.uri {
        if peer.uri_sans.is_empty() {
            parts.push("URI=".to_owned());
        }
        parts.extend(peer.uri_sans.iter().map(|uri| format!("URI={uri}")));
    }
    if details.dns {
        parts.extend(peer.dns_sans.iter().map(|dns| format!("DNS={dns}")));
    }
    parts.join(";")
}

/// `der` as PEM with the characters encoded that a quoted value must not have.
pub(crate) fn url_encoded_pem(der: &[u8]) -> String {
    let mut out = String::from("-----BEGIN%20CERTIFICATE-----%0A");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        for byte in line {
            match byte {
                b'+' => out.push_str("%2B"),
                b'/' => out.push_str("%2F"),
                b'=' => out.push_str("%3D"),
                other => out.push(char::from(*other)),
            }
        }
        out.push_str("%0A");
    }
    out.push_str("-----END%20CERTIFICATE-----%0A");
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrider_core::stream::CertInfo;

    use super::*;

    fn tls(peer: bool) -> TlsInfo {
        let cert = |uri: &str| {
            Some(Arc::new(CertInfo {
                subject: "CN=x".into(),
                sha256: "ab".into(),
                uri_sans: vec![uri.into()],
                dns_sans: vec!["d1".into(), "d2".into()],
                der: vec![0xff; 4],
                ..CertInfo::default()
            }))
        };
        TlsInfo {
            peer: peer.then(|| cert("spiffe://c")).flatten(),
            local: cert("spiffe://l"),
            ..TlsInfo::default()
        }
    }

    #[test]
    fn each_mode_trusts_only_what_it_should() {
        const OURS: &str = "By=spiffe://l;Hash=ab;Subject=\"CN=x\";URI=spiffe://c;DNS=d1;DNS=d2";
        let details =
            ClientCertDetails { subject: true, uri: true, dns: true, ..ClientCertDetails::default() };
        let appended = format!("By=theirs,{OURS}");
        let (mutual, plain) = (tls(true), tls(false));
        let table = [
            (ForwardClientCert::Sanitize, Some(&mutual), None),
            (ForwardClientCert::ForwardOnly, Some(&mutual), Some("By=theirs")),
            (ForwardClientCert::ForwardOnly, Some(&plain), None),
            (ForwardClientCert::ForwardOnly, None, None),
            (ForwardClientCert::AppendForward, Some(&mutual), Some(appended.as_str())),
            (ForwardClientCert::AppendForward, None, None),
            (ForwardClientCert::SanitizeSet, Some(&mutual), Some(OURS)),
            (ForwardClientCert::SanitizeSet, Some(&plain), None),
            (ForwardClientCert::AlwaysForwardOnly, None, Some("By=theirs")),
        ];
        for (mode, tls, want) in table {
            let mut headers = HeaderMap::new();
            headers.insert(X_FORWARDED_CLIENT_CERT, HeaderValue::from_static("By=theirs"));
            apply(&mut headers, mode, details, tls);
            let got = headers.get(X_FORWARDED_CLIENT_CERT).map(|value| value.to_str().unwrap());
            assert_eq!(got, want, "{mode:?}");
        }
    }

    #[test]
    fn a_certificate_is_carried_as_encoded_pem() {
        let text = element(&tls(true), ClientCertDetails { cert: true, ..ClientCertDetails::default() });
        assert!(text.ends_with(
            "Cert=\"-----BEGIN%20CERTIFICATE-----%0A%2F%2F%2F%2F%2Fw%3D%3D%0A-----END%20CERTIFICATE-----%0A\""
        ));
    }
}
