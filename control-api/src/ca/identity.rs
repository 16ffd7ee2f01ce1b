//! Names of workloads: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
//!
//! The form of trust domains is that of SPIFFE-ID, section 2.1; namespaces and service accounts are named as Kubernetes names them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest trust domain, in bytes.
const LONGEST_DOMAIN: usize = 255;
/// The longest namespace (a DNS label), in bytes.
const LONGEST_NAMESPACE: usize = 63;
/// The longest name of a service account (a DNS subdomain), in bytes.
const LONGEST_ACCOUNT: usize = 253;

/// A trust domain, as in `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(Arc<str>);

impl Default for TrustDomain {
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

/// A workload: its service account in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The service account.
    pub account: Arc<str>,
}

/// Why a text names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is no trust domain.
    #[error(
        "{0:?} is no trust domain; use lower-case letters, digits, '.', '-' and '_', {LONGEST_DOMAIN} at most"
    )]
    Domain(String),
    /// It is no namespace.
    #[error("{0:?} is no namespace; use lower-case letters, digits and '-', {LONGEST_NAMESPACE} at most")]
    Namespace(String),
    /// It is no service account.
    #[error(
        "{0:?} is no service account; use lower-case letters, digits, '-' and '.', {LONGEST_ACCOUNT} at most"
    )]
    Account(String),
    /// It is no identity of a workload.
    #[error("{0:?} is no workload's identity; want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Uri(String),
}

impl TrustDomain {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity of a workload in it.
    pub fn uri(&self, workload: &Workload) -> String {
        format!("spiffe://{self}/ns/{}/sa/{}", workload.namespace, workload.account)
    }

    /// The workload that a URI names, when it is one of this trust domain.
    ///
    /// # Errors
    /// When it is of another trust domain, or names no workload.
    pub fn workload(&self, uri: &str) -> Result<Workload, NameError> {
        let wrong = || NameError::Uri(uri.chars().take(512).collect());
        let path = uri.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(self.as_str()));
        let path = path.and_then(|rest| rest.strip_prefix('/')).ok_or_else(wrong)?;
        let parts: Vec<&str> = path.splitn(5, '/').collect();
        match parts.as_slice() {
            ["ns", namespace, "sa", account] => Workload::new(namespace, account),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        if text.is_empty() || text.len() > LONGEST_DOMAIN || !text.chars().all(fine) {
            return Err(NameError::Domain(text.chars().take(LONGEST_DOMAIN).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl Workload {
    /// Reads names.
    ///
    /// # Errors
    /// When Kubernetes would not have them.
    pub fn new(namespace: &str, account: &str) -> Result<Self, NameError> {
        let cut = |text: &str| text.chars().take(LONGEST_ACCOUNT).collect();
        if !dns(namespace, LONGEST_NAMESPACE, false) {
            return Err(NameError::Namespace(cut(namespace)));
        }
        if !dns(account, LONGEST_ACCOUNT, true) {
            return Err(NameError::Account(cut(account)));
        }
        Ok(Self { namespace: namespace.into(), account: account.into() })
    }

    /// Reads a user of Kubernetes, as in `system:serviceaccount:shop:web`.
    ///
    /// # Errors
    /// When it is no service account.
    pub fn of_user(user: &str) -> Result<Self, NameError> {
        let names = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let (namespace, account) =
            names.ok_or_else(|| NameError::Account(user.chars().take(LONGEST_ACCOUNT).collect()))?;
        Self::new(namespace, account)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service account {}/{}", self.namespace, self.account)
    }
}

/// Whether a text is a DNS label (RFC 1123), or with `dots` several.
fn dns(text: &str, longest: usize, dots: bool) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let label = |label: &str| {
        edge(label.chars().next())
            && edge(label.chars().last())
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= longest && if dots { text.split('.').all(label) } else { label(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_as_they_are_written() {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let web = Workload::new("shop", "web.v2").unwrap();
        assert_eq!(domain.uri(&web), "spiffe://cluster.local/ns/shop/sa/web.v2");
        assert_eq!(domain.workload("spiffe://cluster.local/ns/shop/sa/web.v2"), Ok(web.clone()));
        assert_eq!(Workload::of_user("system:serviceaccount:shop:web.v2"), Ok(web));
    }

    #[test]
    fn what_names_nobody_is_refused() {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        for uri in [
            "spiffe://cluster.locale/ns/shop/sa/web",
            "spiffe://cluster.local.evil/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web/more",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe://cluster.local/ns/shop/sa/web%2fadmin",
            "spiffe://cluster.local/ns/sh.op/sa/web",
            "spiffe://cluster.local/ns/Shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web?x",
            "SPIFFE://cluster.local/ns/shop/sa/web",
            "spiffe://other/ns/shop/sa/web",
        ] {
            assert!(domain.workload(uri).is_err(), "{uri}");
        }
        for domain in ["", "Cluster", "a/b", "a:1", "a b", &"a".repeat(256)] {
            assert!(domain.parse::<TrustDomain>().is_err(), "{domain}");
        }
        for user in ["jane", "system:serviceaccount:shop", "system:serviceaccount:shop:a:b", "system:node:a"]
        {
            assert!(Workload::of_user(user).is_err(), "{user}");
        }
    }
}
