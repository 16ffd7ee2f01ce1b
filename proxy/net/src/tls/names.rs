//! The names in a certificate against the name that is wanted.

use outrider_core::san::dns_matches;
use outrider_core::stream::CertInfo;

/// Whether the certificate of `info` is one for the host `name` (a DNS name, an IP address or a URI).
pub(super) fn is_for(info: &CertInfo, name: &str) -> bool {
    info.dns_sans.iter().any(|pattern| dns_matches(name, pattern))
        || info.uri_sans.iter().any(|uri| uri == name)
        || info.ip_sans.iter().any(|ip| ip == name)
}
