//! From the Host to the virtual host.

use std::collections::HashMap;

use outrider_config::model;
use smallvec::SmallVec;

/// The virtual hosts of a route table by domain.
///
/// Precedence as Envoy's: the exact domain, the longest `*suffix`, the longest `prefix*`, `*`. A wildcard stands
/// for at least one character. Whoever matches first has the request, even if none of its routes does.
#[derive(Debug, Default)]
pub(crate) struct DomainIndex {
    exact: HashMap<Box<str>, u32>,
    suffixes: Vec<Wildcards>,
    prefixes: Vec<Wildcards>,
    default: Option<u32>,
    ignore_port: bool,
}

/// Wildcard domains of one length; the lists are sorted by it, longest first.
#[derive(Debug)]
struct Wildcards {
    len: usize,
    hosts: HashMap<Box<str>, u32>,
}

/// A domain that two virtual hosts claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "domain {domain:?} is given twice, the second time by virtual host {virtual_host:?}; domains must be unique"
)]
pub struct DuplicateDomain {
    /// The domain.
    pub domain: String,
    /// The virtual host that comes second.
    pub virtual_host: String,
}

impl DomainIndex {
    pub(crate) fn build<'h>(
        hosts: impl Iterator<Item = &'h model::VirtualHost>,
        ignore_port: bool,
    ) -> Result<Self, DuplicateDomain> {
        let mut index = Self { ignore_port, ..Self::default() };
        for (number, host) in hosts.enumerate() {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            for domain in &host.domains {
                if !index.insert(&domain.to_ascii_lowercase(), number) {
                    return Err(DuplicateDomain {
                        domain: domain.clone(),
                        virtual_host: host.name.to_string(),
                    });
                }
            }
        }
        Ok(index)
    }

    fn insert(&mut self, domain: &str, host: u32) -> bool {
        if domain == "*" {
            return self.default.replace(host).is_none();
        }
        if let Some(suffix) = domain.strip_prefix('*') {
            return Wildcards::insert(&mut self.suffixes, suffix, host);
        }
        if let Some(prefix) = domain.strip_suffix('*') {
            return Wildcards::insert(&mut self.prefixes, prefix, host);
        }
        self.exact.insert(domain.into(), host).is_none()
    }

    /// The number of the virtual host for `authority` (with or without port; case does not count).
    pub(crate) fn find(&self, authority: &str) -> Option<u32> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.default;
        }
        if authority.is_empty() {
            return None;
        }
        let host = if self.ignore_port { without_port(authority) } else { authority };
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let mut lower: SmallVec<[u8; 128]> = SmallVec::from_slice(host.as_bytes());
            lower.make_ascii_lowercase();
            // ASCII lower case keeps UTF-8 valid.
            return std::str::from_utf8(&lower).ok().and_then(|host| self.find_lower(host));
        }
        self.find_lower(host)
    }

    fn find_lower(&self, host: &str) -> Option<u32> {
        if let Some(found) = self.exact.get(host) {
            return Some(*found);
        }
        let suffix = |len: usize| host.get(host.len() - len..);
        let prefix = |len: usize| host.get(..len);
        Wildcards::find(&self.suffixes, host.len(), suffix)
            .or_else(|| Wildcards::find(&self.prefixes, host.len(), prefix))
            .or(self.default)
    }
}

impl Wildcards {
    fn insert(list: &mut Vec<Self>, fixed: &str, host: u32) -> bool {
        let position = list.binary_search_by(|entry| fixed.len().cmp(&entry.len));
        let at = position.unwrap_or_else(|at| {
            list.insert(at, Self { len: fixed.len(), hosts: HashMap::new() });
            at
        });
        list.get_mut(at).is_some_and(|entry| entry.hosts.insert(fixed.into(), host).is_none())
    }

    fn find<'h>(list: &[Self], len: usize, part: impl Fn(usize) -> Option<&'h str>) -> Option<u32> {
        let shorter = list.iter().filter(|entry| entry.len < len);
        shorter.filter_map(|entry| entry.hosts.get(part(entry.len)?).copied()).next()
    }
}

/// `host:port` and `[v6]:port` without the port; anything that is not a port stays.
pub(crate) fn without_port(authority: &str) -> &str {
    port_start(authority).and_then(|colon| authority.get(..colon)).unwrap_or(authority)
}

/// Where the colon before the port is.
pub(crate) fn port_start(authority: &str) -> Option<usize> {
    let colon = authority.rfind(':')?;
    let port = authority.get(colon + 1..)?;
    // The colons of a bare or bracketed IPv6 address begin no port.
    let v6_colon = authority.rfind(']').is_some_and(|bracket| bracket > colon);
    let numeric = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (numeric && !v6_colon).then_some(colon)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn index(domains: &[&[&str]], ignore_port: bool) -> Result<DomainIndex, DuplicateDomain> {
        let host = |domains: &&[&str]| {
            Arc::new(model::VirtualHost {
                name: "v".into(),
                domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
                routes: Vec::new(),
                require_tls: model::RequireTls::None,
                headers: model::HeaderMutations::default(),
                request_attempt_count: false,
                attempt_count_in_response: false,
                is_timeout_retry_header: false,
                virtual_clusters: Vec::new(),
                filters: Vec::new(),
                metadata: None,
            })
        };
        let hosts: Vec<_> = domains.iter().map(host).collect();
        DomainIndex::build(hosts.iter().map(|host| &**host), ignore_port)
    }

    #[test]
    fn the_most_exact_domain_wins() {
        let domains: &[&[&str]] =
            &[&["*"], &["www.foo.com"], &["*.foo.com"], &["*-bar.foo.com"], &["foo.*"], &["foo-*"]];
        let index = index(domains, false).expect("unique");
        for (host, want) in [
            ("www.foo.com", 1),
            ("WWW.Foo.COM", 1),
            ("www.foo.com:80", 0),
            ("a.foo.com", 2),
            (".foo.com", 0),
            ("baz-bar.foo.com", 3),
            ("-bar.foo.com", 2),
            ("foo.org", 4),
            ("foo.", 0),
            ("foo-64.org", 5),
            ("foo-64.foo.com", 2),
            ("other", 0),
        ] {
            assert_eq!(index.find(host), Some(want), "{host}");
        }
    }

    #[test]
    fn no_default_means_no_virtual_host() {
        let index = index(&[&["a.com", "b.com"]], false).expect("unique");
        assert_eq!(index.find("b.com"), Some(0));
        assert_eq!(index.find("c.com"), None);
        assert_eq!(index.find(""), None);
    }

    #[test]
    fn ports_count_unless_they_are_ignored() {
        let strict = index(&[&["a.com:8080"], &["a.com"]], false).expect("unique");
        assert_eq!(strict.find("a.com:8080"), Some(0));
        assert_eq!(strict.find("a.com"), Some(1));
        assert_eq!(strict.find("a.com:1"), None);
        let loose = index(&[&["a.com"], &["[::1]"]], true).expect("unique");
        assert_eq!(loose.find("a.com:1"), Some(0));
        assert_eq!(loose.find("[::1]:443"), Some(1));
        assert_eq!(loose.find("[::1]"), Some(1));
        assert_eq!(loose.find("a.com:x"), None);
    }

    #[test]
    fn a_domain_belongs_to_one_virtual_host() {
        let error = index(&[&["a.com"], &["A.com"]], false).expect_err("duplicate");
        assert_eq!(error.domain, "A.com");
        assert!(index(&[&["*"], &["*"]], false).is_err());
    }
}
