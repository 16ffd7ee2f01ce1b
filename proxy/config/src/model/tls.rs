//! TLS contexts and secrets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{DataSource, DataSourceKind, SecretRef, ValidationRef};
pub use outrider_core::san::{SanKind, SanMatcher};

/// TLS versions that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

/// What both sides share.
#[derive(Debug, Clone)]
pub struct CommonTls {
    /// Our certificates; chosen by SNI where there are several.
    pub certificates: Vec<SecretRef<TlsCertificate>>,
    /// How the peer is verified.
    pub validation: ValidationRef,
    /// ALPN protocols in order of preference.
    pub alpn: Vec<String>,
    /// The lowest version.
    pub min_version: TlsVersion,
    /// The highest version.
    pub max_version: TlsVersion,
    /// TLS 1.2 suites by OpenSSL name that rustls has, in order; empty for the default.
    pub cipher_suites: Vec<String>,
    /// Curves by BoringSSL name that rustls has; empty for the default.
    pub curves: Vec<String>,
    /// File to which session keys are logged; `None` for none.
    pub key_log: Option<Arc<str>>,
}

/// A certificate chain and its key.
#[derive(Debug, Clone)]
pub struct TlsCertificate {
    /// PEM chain, leaf first.
    pub chain: DataSource,
    /// PEM key.
    pub key: DataSource,
    /// The stapled OCSP response.
    pub ocsp_staple: Option<DataSource>,
}

/// How a peer is verified.
#[derive(Debug, Clone, Default)]
pub struct CertificateValidation {
    /// PEM bundle of the roots.
    pub trusted_ca: Option<DataSource>,
    /// `envoy.tls.cert_validator.spiffe`: roots by trust domain, in the place of `trusted_ca`.
    pub spiffe: Option<Arc<SpiffeTrust>>,
    /// A peer must match one of these.
    pub san_matchers: Vec<SanMatcher>,
    /// Accepted SHA-256 of the certificate, raw bytes.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// Accepted SHA-256 of the SPKI, raw bytes.
    pub spki_hashes: Vec<[u8; 32]>,
    /// PEM revocation lists.
    pub crl: Option<DataSource>,
    /// Check revocation of the leaf alone.
    pub only_verify_leaf_crl: bool,
    /// Certificates out of their dates are accepted.
    pub allow_expired: bool,
    /// An untrusted chain is accepted (`ACCEPT_UNTRUSTED`).
    pub accept_untrusted: bool,
    /// Longest chain accepted; `None` for rustls's own limit.
    pub max_verify_depth: Option<u32>,
}

/// `SPIFFECertValidatorConfig`
#[derive(Debug, Clone)]
pub struct SpiffeTrust {
    /// PEM bundles of the roots, by trust domain; no name is there twice.
    pub domains: Vec<(Box<str>, DataSource)>,
    /// A SPIFFE bundle map (JSON) of all trust domains, in the place of `domains`.
    pub bundles: Option<DataSource>,
}

impl SpiffeTrust {
    /// Where the bundles are.
    pub fn sources(&self) -> impl Iterator<Item = &DataSource> {
        self.domains.iter().map(|(_, source)| source).chain(&self.bundles)
    }
}

impl CertificateValidation {
    /// All that it reads: authorities, bundles of trust domains, revocation lists.
    pub fn sources(&self) -> impl Iterator<Item = &DataSource> {
        let spiffe = self.spiffe.iter().flat_map(|spiffe| spiffe.sources());
        self.trusted_ca.iter().chain(&self.crl).chain(spiffe)
    }
}

/// `DownstreamTlsContext`
#[derive(Debug, Clone)]
pub struct DownstreamTls {
    /// What both sides share.
    pub common: CommonTls,
    /// A client without a certificate is refused.
    pub require_client_certificate: bool,
    /// A client hello whose SNI matches no certificate is refused instead of getting the first.
    pub require_sni: bool,
    /// `full_scan_certs_on_sni_mismatch`
    pub full_scan_certs: bool,
    /// Stateless (ticket) resumption is off.
    pub disable_stateless_resumption: bool,
    /// Stateful (session id) resumption is off.
    pub disable_stateful_resumption: bool,
    /// How long a session may be resumed.
    pub session_timeout: Option<Duration>,
    /// Ticket keys (80 bytes each), the first one for new tickets; `None`: keys of our own.
    pub session_ticket_keys: Option<SecretRef<Vec<DataSource>>>,
}

/// `UpstreamTlsContext`
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// What both sides share.
    pub common: CommonTls,
    /// The server name that is sent; empty for none.
    pub sni: String,
    /// Send the host's hostname as SNI.
    pub auto_host_sni: bool,
    /// Verify the certificate against the SNI that was sent.
    pub auto_sni_san_validation: bool,
    /// Sessions kept for resumption; 0 for none. Default 1.
    pub max_session_keys: u32,
}

/// A secret.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: SecretKind,
    /// The directory whose moves announce that its files have changed; `None`: those that the files are in.
    pub watched: Option<Arc<str>>,
}

impl Secret {
    /// The directories that are watched for moves: of certificates and validation contexts that are in files. Others are read
    /// when they come, as in Envoy.
    pub fn watched_directories(&self) -> Vec<PathBuf> {
        if !matches!(self.kind, SecretKind::Certificate(_) | SecretKind::Validation(_)) {
            return Vec::new();
        }
        let files = self.files();
        if let Some(directory) = self.watched.as_ref().filter(|_| !files.is_empty()) {
            return vec![PathBuf::from(&**directory)];
        }
        let mut directories = Vec::with_capacity(files.len());
        for file in files {
            let parent = Path::new(&**file).parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).to_owned();
            if !directories.contains(&parent) {
                directories.push(parent);
            }
        }
        directories
    }

    /// The files that it is in.
    pub fn files(&self) -> Vec<&Arc<str>> {
        let sources: Vec<&DataSource> = match &self.kind {
            SecretKind::Certificate(certificate) => {
                let TlsCertificate { chain, key, ocsp_staple } = certificate;
                [chain, key].into_iter().chain(ocsp_staple).collect()
            }
            SecretKind::Validation(validation) => validation.sources().collect(),
            SecretKind::TicketKeys(keys) => keys.iter().collect(),
            SecretKind::Generic(source) => vec![source],
        };
        let mut files = Vec::with_capacity(sources.len());
        for source in sources {
            if let DataSourceKind::File(name) = &source.kind {
                files.push(name);
            }
        }
        files
    }
}

/// Kinds of secrets.
#[derive(Debug, Clone)]
pub enum SecretKind {
    /// A certificate with its key.
    Certificate(TlsCertificate),
    /// A validation context.
    Validation(CertificateValidation),
    /// Session ticket keys.
    TicketKeys(Vec<DataSource>),
    /// Anything.
    Generic(DataSource),
}
