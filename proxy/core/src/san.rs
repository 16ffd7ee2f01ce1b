//! Subject alternative names, and what they are asked for.

use crate::matcher::{StringMatch, StringMatcher};
use crate::stream::CertInfo;

/// Kinds of subject alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// DNS name; exact matchers honour a wildcard in the certificate.
    Dns,
    /// URI.
    Uri,
    /// IP address.
    Ip,
    /// E-mail.
    Email,
}

/// `SubjectAltNameMatcher`
#[derive(Debug, Clone)]
pub struct SanMatcher {
    /// Which names.
    pub kind: SanKind,
    /// What they must be.
    pub matcher: StringMatcher,
}

impl SanMatcher {
    /// Whether one of the certificate's names is what is wanted.
    pub fn matches(&self, certificate: &CertInfo) -> bool {
        let names = match self.kind {
            SanKind::Dns => &certificate.dns_sans,
            SanKind::Uri => &certificate.uri_sans,
            SanKind::Ip => &certificate.ip_sans,
            SanKind::Email => &certificate.email_sans,
        };
        names.iter().any(|name| match &self.matcher.matcher {
            StringMatch::Exact(exact) if self.kind == SanKind::Dns => dns_matches(exact, name),
            _ => self.matcher.matches(name),
        })
    }
}

/// Whether `pattern`, out of a certificate, is a DNS name for `name`: the same without regard to case, or
/// `*.` in place of exactly one label.
pub fn dns_matches(name: &str, pattern: &str) -> bool {
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
