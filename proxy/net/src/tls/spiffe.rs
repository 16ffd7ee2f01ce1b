//! Envoy's SPIFFE validator: each trust domain has authorities of its own, and the leaf's id says whose word counts.
//!
//! Stricter than Envoy in one point: it takes the first URI of several, we want exactly one, as the X.509-SVID standard does.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use outrider_config::model::SpiffeTrust;
use rustls::DistinguishedName;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

use super::TlsError;
use super::cert::{cert_info, traits};
use super::in_use::CertInUse;
use super::reason::Reason;
use super::roots::Roots;
use super::source::Content;

/// The authorities of each trust domain.
pub(super) struct Domains {
    by_name: BTreeMap<Box<str>, Roots>,
    pub(super) subjects: Vec<DistinguishedName>,
}

impl Domains {
    /// Reads the bundles of `trust`.
    ///
    /// # Errors
    /// What cannot be read, or is no bundle.
    pub(super) fn read(trust: &SpiffeTrust) -> Result<Self, TlsError> {
        let mut by_name = BTreeMap::new();
        if let Some(source) = &trust.bundles {
            let content = Content::read(source)?;
            let source = content.name().into();
            by_name = bundle_map(content.bytes(), &source).map_err(|why| content.wrong(why))?;
        } else {
            for (name, source) in &trust.domains {
                let mut roots = Roots::new(false);
                roots.add_all(&Content::read(source)?)?;
                by_name.insert(name.clone(), roots);
            }
        }
        let subjects = by_name.values().flat_map(|roots| roots.subjects.iter().cloned()).collect();
        Ok(Self { by_name, subjects })
    }

    /// The authorities for the leaf `der`.
    ///
    /// # Errors
    /// It is no SPIFFE leaf, or one of a domain that is not known.
    pub(super) fn of(&self, der: &[u8]) -> Result<&Roots, Reason> {
        let (Some(info), Some(traits)) = (cert_info(der), traits(der)) else { return Err(Reason::Malformed) };
        if traits.authority {
            return Err(Reason::SpiffeId);
        }
        if !traits.named {
            return Err(Reason::NoSan);
        }
        let [id] = info.uri_sans.as_slice() else { return Err(Reason::SpiffeId) };
        let domain = domain_of(id).ok_or(Reason::SpiffeId)?;
        self.by_name.get(domain).ok_or(Reason::TrustDomain)
    }

    /// The authorities of all.
    pub(super) fn in_use(&self) -> impl Iterator<Item = CertInUse<'_>> {
        self.by_name.values().flat_map(Roots::in_use)
    }

    /// As [`Roots::believed`].
    pub(super) fn believed(&self) -> impl Iterator<Item = Vec<u8>> {
        self.by_name.iter().flat_map(|(name, roots)| roots.believed(name))
    }

    /// A digest of all that decides.
    pub(super) fn fingerprint(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for (name, roots) in &self.by_name {
            all.extend_from_slice(name.as_bytes());
            all.push(b'|');
            all.extend(roots.fingerprint());
        }
        all
    }

    /// The first end of an authority, in seconds since the epoch.
    pub(super) fn first_end(&self) -> Option<i64> {
        self.by_name.values().filter_map(Roots::first_end).min()
    }
}

/// The trust domain of a SPIFFE id; there must be a path behind it.
pub(super) fn domain_of(id: &str) -> Option<&str> {
    let (domain, _) = id.strip_prefix("spiffe://")?.split_once('/')?;
    (!domain.is_empty()).then_some(domain)
}

/// `{"trust_domains": {NAME: {"keys": [{"use": "x509-svid", "x5c": [BASE64, ..]}, ..]}}}`
fn bundle_map(json: &[u8], source: &Arc<str>) -> Result<BTreeMap<Box<str>, Roots>, String> {
    let all: Value = serde_json::from_slice(json).map_err(|error| format!("not JSON: {error}"))?;
    let domains = all.get("trust_domains").and_then(Value::as_object);
    let domains = domains.filter(|domains| !domains.is_empty()).ok_or("no trust_domains in it")?;
    let mut map = BTreeMap::new();
    for (name, bundle) in domains {
        let wrong = |why: &str| format!("trust domain {name:?}: {why}");
        let keys = bundle.get("keys").and_then(Value::as_array).filter(|keys| !keys.is_empty());
        let mut roots = Roots::new(false);
        for key in keys.ok_or_else(|| wrong("no keys"))? {
            if key.get("use").and_then(Value::as_str) != Some("x509-svid") {
                return Err(wrong("a key whose use is not x509-svid"));
            }
            let chain = key.get("x5c").and_then(Value::as_array).filter(|chain| !chain.is_empty());
            for text in chain.ok_or_else(|| wrong("a key without x5c"))? {
                let text = text.as_str().unwrap_or_default();
                let der = base64::engine::general_purpose::STANDARD.decode(text);
                let der = der.map_err(|error| wrong(&format!("x5c is not base64: {error}")))?;
                roots.add(CertificateDer::from(der), source).map_err(|why| wrong(&why))?;
            }
        }
        map.insert(name.as_str().into(), roots);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_stands_before_a_path() {
        assert_eq!(domain_of("spiffe://td.test/ns/a"), Some("td.test"));
        assert_eq!(domain_of("spiffe://td.test/"), Some("td.test"));
        for bad in ["spiffe://td.test", "spiffe:///a", "https://td.test/a", "SPIFFE://td.test/a", ""] {
            assert_eq!(domain_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bundle_map_that_is_none_says_why() {
        let why = |json: &str| bundle_map(json.as_bytes(), &"".into()).err().unwrap_or_default();
        assert!(why("{").starts_with("not JSON"));
        assert_eq!(why("{}"), "no trust_domains in it");
        assert_eq!(why(r#"{"trust_domains": {}}"#), "no trust_domains in it");
        assert_eq!(why(r#"{"trust_domains": {"a": {}}}"#), r#"trust domain "a": no keys"#);
        let key = |key: &str| why(&format!(r#"{{"trust_domains": {{"a": {{"keys": [{key}]}}}}}}"#));
        assert!(key(r#"{"use": "jwt-svid"}"#).ends_with("not x509-svid"));
        assert!(key(r#"{"use": "x509-svid", "x5c": []}"#).ends_with("without x5c"));
        assert!(key(r#"{"use": "x509-svid", "x5c": ["*"]}"#).contains("not base64"));
        assert!(key(r#"{"use": "x509-svid", "x5c": ["aGk="]}"#).contains("cannot be a root"));
    }
}
