//! Our own certificates, and which of them a client gets.

use std::collections::HashMap;
use std::sync::Arc;

use outrider_config::model::{SecretRef, TlsCertificate};
use outrider_core::stream::CertInfo;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm, SignatureScheme};

use super::TlsError;
use super::cert::{cert_info, common_names};
use super::in_use::{CertInUse, Held};
use super::source::Content;
use super::stats::{Counts, UNNAMED};

/// A certificate with its key.
#[derive(Debug)]
struct Identity {
    key: Arc<CertifiedKey>,
    leaf: Held,
    source: Box<str>,
    ecdsa: bool,
}

/// All certificates of a context, by the names they are for.
#[derive(Debug)]
pub(super) struct Identities {
    list: Vec<Identity>,
    /// Lower case; wildcards as `.example.com`. Indices in the configuration's order.
    by_name: HashMap<Box<str>, Vec<usize>>,
    require_match: bool,
    full_scan: bool,
}

/// What a peer can check: signature schemes, and (before TLS 1.3) suites that fit the kind of key.
struct Able<'a> {
    schemes: &'a [SignatureScheme],
    ecdsa: bool,
    rsa: bool,
}

impl Identities {
    /// Reads `certificates`.
    ///
    /// # Errors
    /// A chain or key that cannot be read, or a key that is not the certificate's.
    pub(super) fn build(
        certificates: &[TlsCertificate],
        provider: &CryptoProvider,
        require_match: bool,
        full_scan: bool,
    ) -> Result<Self, TlsError> {
        let mut all = Self { list: Vec::new(), by_name: HashMap::new(), require_match, full_scan };
        for certificate in certificates {
            all.add(certificate, provider)?;
        }
        Ok(all)
    }

    fn add(&mut self, certificate: &TlsCertificate, provider: &CryptoProvider) -> Result<(), TlsError> {
        let content = Content::read(&certificate.chain)?;
        let chain = content.certificates()?;
        let key_content = Content::read(&certificate.key)?;
        let key = key_content.private_key()?;
        let leaf = chain.first().cloned().ok_or_else(|| content.wrong("no PEM certificate in it"))?;
        let info = cert_info(&leaf).ok_or_else(|| content.wrong("its first certificate cannot be read"))?;
        let mut key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                key_content.wrong("this private key does not belong to the certificate")
            }
            other => key_content.wrong(format!("a private key that cannot be used: {other}")),
        })?;
        if let Some(staple) = &certificate.ocsp_staple {
            let staple = Content::read(staple)?;
            if staple.bytes().is_empty() {
                return Err(staple.wrong("an empty OCSP response"));
            }
            key.ocsp = Some(staple.bytes().to_vec());
        }
        let index = self.list.len();
        let ecdsa = key.key.algorithm() == SignatureAlgorithm::ECDSA;
        // Envoy: the common name counts where there is no DNS name.
        let names = if info.dns_sans.is_empty() { common_names(&leaf) } else { info.dns_sans.clone() };
        for name in names {
            let name = name.to_ascii_lowercase();
            let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(&name);
            self.by_name.entry(name.into()).or_default().push(index);
        }
        let (leaf, source) = (Held::new(&info), content.name().into());
        self.list.push(Identity { key: Arc::new(key), leaf, source, ecdsa });
        Ok(())
    }

    /// Tells when each certificate ends; `names` has those that are secrets with a name.
    pub(super) fn tell_ends(&self, counts: &Counts, names: &[SecretRef<TlsCertificate>]) {
        for (i, identity) in self.list.iter().enumerate() {
            let name = names.get(i).and_then(SecretRef::dynamic).map(|secret| &*secret.name);
            counts.expires(name.unwrap_or(UNNAMED), identity.leaf.info().not_after);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The facts of the first certificate.
    pub(super) fn first_info(&self) -> Option<Arc<CertInfo>> {
        self.list.first().map(|identity| identity.leaf.shown())
    }

    /// The DER of every leaf, for telling contexts apart.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().map(|identity| identity.leaf.info().der.as_slice())
    }

    /// The facts of the certificate that `hello` gets.
    pub(super) fn info_for(&self, hello: &ClientHello<'_>) -> Option<Arc<CertInfo>> {
        self.select(hello.server_name(), &Able::of(hello)).map(|identity| identity.leaf.shown())
    }

    /// The leaves, with where they came from.
    pub(super) fn in_use(&self) -> impl Iterator<Item = CertInUse<'_>> {
        self.list.iter().map(|identity| {
            let info = identity.leaf.info();
            CertInUse {
                authority: false,
                source: &identity.source,
                not_before: info.not_before,
                not_after: info.not_after,
                der: &info.der,
            }
        })
    }

    /// Exact name, then wildcard, then (unless a match is required) the first or the best of all.
    fn select(&self, name: Option<&str>, peer: &Able<'_>) -> Option<&Identity> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || self.by_name.get(name.get(name.find('.')?..)?);
            self.by_name.get(name.as_str()).or_else(wildcard)
        });
        if let Some(candidates) = named {
            return best(candidates.iter().filter_map(|i| self.list.get(*i)), peer);
        }
        if self.require_match {
            return None;
        }
        if self.full_scan || name.is_none() {
            return best(self.list.iter(), peer);
        }
        self.list.first()
    }
}

impl<'a> Able<'a> {
    fn of(hello: &'a ClientHello<'a>) -> Self {
        let suites = hello.cipher_suites();
        let any = |fits: fn(&CipherSuite) -> bool| suites.iter().any(|suite| is_13(suite) || fits(suite));
        Self { schemes: hello.signature_schemes(), ecdsa: any(is_ecdsa), rsa: any(is_rsa) }
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.select(hello.server_name(), &Able::of(&hello)).map(|identity| identity.key.clone())
    }
}

impl ResolvesClientCert for Identities {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        best(self.list.iter(), &Able { schemes, ecdsa: true, rsa: true }).map(|identity| identity.key.clone())
    }

    fn has_certs(&self) -> bool {
        !self.list.is_empty()
    }
}

/// ECDSA for those who can, else the first that the peer can check; the first of all when there is none.
fn best<'a>(
    mut candidates: impl Iterator<Item = &'a Identity> + Clone,
    peer: &Able<'_>,
) -> Option<&'a Identity> {
    let usable = |identity: &&Identity| {
        let suite = if identity.ecdsa { peer.ecdsa } else { peer.rsa };
        suite && identity.key.key.choose_scheme(peer.schemes).is_some()
    };
    let ecdsa = candidates.clone().find(|identity| identity.ecdsa && usable(identity));
    ecdsa.or_else(|| candidates.clone().find(usable)).or_else(|| candidates.next())
}

/// Whether it is a suite of TLS 1.3, which goes with every kind of key.
pub(super) fn is_13(suite: &CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    )
}

fn is_ecdsa(suite: &CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

fn is_rsa(suite: &CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}
