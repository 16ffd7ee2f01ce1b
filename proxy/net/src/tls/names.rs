//! The names in a certificate against the names that are wanted.

use outrider_config::model::{SanKind, SanMatcher};
use outrider_core::matcher::StringMatch;
use outrider_core::stream::CertInfo;

/// Whether one of the certificate's names is what one of the matchers wants.
pub(super) fn matches_any(matchers: &[SanMatcher], info: &CertInfo) -> bool {
    matchers.iter().any(|wanted| {
        let names = match wanted.kind {
            SanKind::Dns => &info.dns_sans,
            SanKind::Uri => &info.uri_sans,
            SanKind::Ip => &info.ip_sans,
            SanKind::Email => &info.email_sans,
        };
        names.iter().any(|name| match &wanted.matcher.matcher {
            StringMatch::Exact(exact) if wanted.kind == SanKind::Dns => dns_matches(exact, name),
            _ => wanted.matcher.matches(name),
        })
    })
}

/// Whether the certificate of `info` is one for the host `name` (a DNS name, an IP address or a URI).
pub(super) fn is_for(info: &CertInfo, name: &str) -> bool {
    info.dns_sans.iter().any(|pattern| dns_matches(name, pattern))
        || info.uri_sans.iter().any(|uri| uri == name)
        || info.ip_sans.iter().any(|ip| ip == name)
}

/// Whether `pattern`, out of a certificate, is a DNS name for `name`: the same without regard to case, or
/// `*.` in place of exactly one label.
fn dns_matches(name: &str, pattern: &str) -> bool {
    if name.eq_ignore_ascii_case(pattern) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix('*').filter(|suffix| suffix.len() > 1 && suffix.starts_with('.'))
    else {
        return false;
    };
    let label = name.len().checked_sub(suffix.len()).and_then(|at| name.split_at_checked(at));
    label.is_some_and(|(label, rest)| {
        !label.is_empty() && !label.contains('.') && rest.eq_ignore_ascii_case(suffix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_label() {
        assert!(dns_matches("a.example.com", "*.Example.com"));
        assert!(dns_matches("A.example.com", "a.example.com"));
        assert!(!dns_matches("a.b.example.com", "*.example.com"));
        assert!(!dns_matches("example.com", "*.example.com"));
        assert!(!dns_matches(".example.com", "*.example.com"));
        assert!(!dns_matches("a.example.com", "a*.example.com"));
        assert!(!dns_matches("a", "*"));
    }
}
