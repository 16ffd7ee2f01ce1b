//! The webhook's certificate, and the authority that it hangs from: both are made here, in memory, and the authority's key is gone as soon
//! as it has signed. So there is no key that could be stolen from anywhere, none to share between control planes, and none to
//! keep: each of them makes its own, and the API server is told all of them ([`bundle`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a certificate and its authority are valid.
const LIFE: Duration = DAY.saturating_mul(6);
/// When the next one is made.
const HALF: Duration = DAY.saturating_mul(3);
/// Clocks differ.
const BACKDATE: Duration = Duration::from_secs(3600);
/// How the subjects of these authorities begin.
const NAME: &str = "Outrider webhook CA ";
/// The most authorities in a configuration: one or two of each control plane, and those of processes that are gone.
const MOST: usize = 64;

/// A certificate with its authority.
pub(super) struct Generation {
    config: Arc<ServerConfig>,
    root: CertificateDer<'static>,
    /// When the next one is to be made.
    pub(super) renew_at: SystemTime,
}

impl Generation {
    /// A new one for these DNS names.
    pub(super) fn new(names: &[String]) -> anyhow::Result<Self> {
        let now = SystemTime::now();
        let lives = |params: &mut CertificateParams| {
            params.not_before = (now - BACKDATE).into();
            params.not_after = (now + LIFE).into();
        };
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random)
            .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
        let mut root = CertificateParams::new(Vec::new())?;
        root.distinguished_name = DistinguishedName::new();
        // Each has a subject of its own, so that a verifier takes none for another.
        root.distinguished_name
            .push(DnType::CommonName, format!("{NAME}{:016x}", u64::from_be_bytes(random)));
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        root.name_constraints = Some(NameConstraints {
            permitted_subtrees: names.iter().cloned().map(GeneralSubtree::DnsName).collect(),
            excluded_subtrees: Vec::new(),
        });
        lives(&mut root);
        let root_key = KeyPair::generate()?;
        let root_der = root.self_signed(&root_key)?.der().clone();

        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(names.to_vec())
            .with_context(|| format!("--webhook-name: names for the certificate: {}", names.join(", ")))?;
        leaf.distinguished_name = DistinguishedName::new();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        lives(&mut leaf);
        let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key))?.der().clone();

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), root: root_der, renew_at: now + HALF })
    }

    /// What a connection is met with.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// What it is verified with.
    pub(super) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }
}

/// What is to be in a configuration's `caBundle`, as PEM: these authorities, and those there that other control planes put in, as long as
/// they are valid. Anything else there goes: it would let others pass for the webhook.
pub(super) fn bundle(there: &[u8], own: &[&CertificateDer<'static>], now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX));
    let mut others: Vec<(i64, CertificateDer<'static>)> = CertificateDer::pem_slice_iter(there)
        .filter_map(Result::ok)
        .filter(|it| !own.contains(&it))
        .filter_map(|it| Some((ends(&it)?, it)))
        .filter(|(end, _)| *end > now)
        .collect();
    // The youngest are those that are in use.
    others.sort_by(|one, other| (other.0, &*other.1).cmp(&(one.0, &*one.1)));
    others.dedup();
    let others = others.iter().map(|(_, it)| it).take(MOST.saturating_sub(own.len()));
    own.iter().copied().chain(others).map(pem).collect()
}

/// Until when one of these authorities is valid; `None`: it is another certificate.
fn ends(der: &CertificateDer<'_>) -> Option<i64> {
    let (_, it) = X509Certificate::from_der(der).ok()?;
    let mut names = it.subject().iter_common_name();
    let ours = names.any(|name| name.as_str().is_ok_and(|name| name.starts_with(NAME)));
    ours.then(|| it.validity().not_after.timestamp())
}

fn pem(der: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::with_capacity(text.len() + text.len() / 64 + 64);
    out.push_str("-----BEGIN CERTIFICATE-----");
    for (index, letter) in text.chars().enumerate() {
        if index % 64 == 0 {
            out.push('\n');
        }
        out.push(letter);
    }
    out.push_str("\n-----END CERTIFICATE-----\n");
    out
}
