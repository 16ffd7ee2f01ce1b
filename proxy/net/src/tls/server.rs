//! The server's side.

use std::io;
use std::sync::Arc;

use outrider_config::model::{self, Resolved};
use outrider_core::stats::Scope;
use outrider_core::stream::TlsInfo;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::{CommonState, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};
use tokio_rustls::LazyConfigAcceptor;
use webpki::KeyUsage;

use super::cert::{cert_info, sha256};
use super::error::failure;
use super::identity::{Identities, is_13};
use super::in_use::CertInUse;
use super::keylog::FileKeyLog;
use super::provider::{server_provider, suite_name, version_name, versions};
use super::reason::Reason;
use super::stats::Counts;
use super::tickets;
use super::verify::PeerVerifier;
use super::{TlsError, TlsStats};
use crate::io::IoStream;

/// Sessions kept for clients that resume by session id.
const SESSIONS: usize = 1024;

/// A downstream TLS context, ready for handshakes.
#[derive(Debug)]
pub struct ServerTls {
    /// With our ALPN protocols.
    config: ByOrder,
    /// Without: for clients who offer none of ours. BoringSSL goes on without ALPN then, rustls would refuse.
    without_alpn: ByOrder,
    alpn: Vec<Vec<u8>>,
    speaks_13: bool,
    identities: Arc<Identities>,
    counts: Arc<Counts>,
    admission: Admission,
}

/// What decides which sessions may be begun.
#[derive(Debug)]
struct Admission {
    verifier: Arc<PeerVerifier>,
    versions: Vec<&'static str>,
    /// Of TLS 1.2: those of 1.3 are always all there.
    suites: Vec<&'static str>,
}

/// A configuration in two forms: as BoringSSL does it with Envoy's settings, the client's order of suites
/// counts in TLS 1.3 and ours before.
#[derive(Debug)]
struct ByOrder {
    client: Arc<ServerConfig>,
    ours: Arc<ServerConfig>,
}

impl ByOrder {
    fn new(mut config: ServerConfig) -> Self {
        config.ignore_client_order = false;
        let client = Arc::new(config.clone());
        config.ignore_client_order = true;
        Self { client, ours: Arc::new(config) }
    }
}

impl ServerTls {
    /// Builds the context with its secrets; reads its files. Counts under `scope` (`listener.<address>.`) + `ssl.`.
    ///
    /// # Errors
    /// Unreadable or malformed certificates, keys, roots or lists; each error names the field and the file.
    pub fn build(tls: &Resolved<model::DownstreamTls>, scope: &Scope) -> Result<Arc<Self>, TlsError> {
        let common = &tls.common;
        let counts = Arc::new(Counts::new(scope));
        let provider = server_provider(common, "common_tls_context.tls_params")?;
        let identities =
            Identities::build(tls.certificates(), &provider, tls.require_sni, tls.full_scan_certs)?;
        if identities.is_empty() {
            return Err(TlsError::Config {
                field: "common_tls_context.tls_certificates".into(),
                reason: "a server needs at least one certificate".into(),
            });
        }
        if tls.require_client_certificate && tls.validation().is_none() {
            // Envoy lets in even those who show none then, against its own documentation.
            tracing::warn!(
                context = scope.prefix(),
                "require_client_certificate without a validation_context: any certificate will do"
            );
        }
        let verifier = PeerVerifier::build(
            tls.validation(),
            KeyUsage::client_auth(),
            tls.require_client_certificate,
            provider.signature_verification_algorithms,
            counts.clone(),
        )?;
        identities.tell_ends(&counts, &common.certificates);
        let mut context = verifier.fingerprint();
        context.extend(identities.leaves().flat_map(sha256));
        let ticketer = tickets::producer(tls, sha256(&context))?;
        let verifier = Arc::new(verifier);
        let suites = provider.cipher_suites.iter().filter_map(|suite| suite_name(suite.suite()));
        let admission = Admission {
            verifier: verifier.clone(),
            versions: versions(common).iter().map(|version| version_name(Some(version.version))).collect(),
            suites: suites.map(|(_, name)| name).collect(),
        };
        let identities = Arc::new(identities);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(common))
            .map_err(|error| TlsError::Config {
                field: "common_tls_context.tls_params".into(),
                reason: error.to_string(),
            })?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(identities.clone());
        config.session_storage = if tls.disable_stateful_resumption {
            Arc::new(NoServerSessionStorage {})
        } else {
            ServerSessionMemoryCache::new(SESSIONS)
        };
        match ticketer {
            Some(ticketer) => config.ticketer = ticketer,
            None if tls.disable_stateful_resumption => config.send_tls13_tickets = 0,
            None => {}
        }
        if let Some(path) = &common.key_log {
            config.key_log = key_log(path)?;
        }
        let without_alpn = ByOrder::new(config.clone());
        let alpn: Vec<_> = common.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.alpn_protocols = alpn.clone();
        let speaks_13 = common.max_version == model::TlsVersion::V13;
        let config = ByOrder::new(config);
        Ok(Arc::new(Self { config, without_alpn, alpn, speaks_13, identities, counts, admission }))
    }

    /// The stats of this context.
    pub fn stats(&self) -> &TlsStats {
        &self.counts.base
    }

    /// Whether the session of an open connection could be begun under this context too. The passage of time is no
    /// reason against it.
    ///
    /// # Errors
    /// Why not, in the word by which it is counted.
    pub fn admits(&self, session: &TlsInfo) -> Result<(), &'static str> {
        let Admission { verifier, versions, suites } = &self.admission;
        if !versions.contains(&session.version) {
            return Err("tls_version");
        }
        if session.version == version_name(Some(ProtocolVersion::TLSv1_2))
            && !suites.contains(&session.cipher)
        {
            return Err("tls_cipher");
        }
        let leaf = session.peer.as_ref().map(|leaf| leaf.der.as_slice());
        verifier.admits(leaf, &session.peer_chain, UnixTime::now())
    }

    /// Whether [`admits`](Self::admits) answers as that of `other` does, whatever the session.
    pub fn admits_like(&self, other: &Self) -> bool {
        let of = |tls: &Self| {
            let Admission { verifier, versions, suites } = &tls.admission;
            (verifier.fingerprint(), versions.clone(), suites.clone())
        };
        of(self) == of(other)
    }

    /// The certificates that it was built with: our leaves, and the authorities that it believes.
    pub fn in_use(&self) -> impl Iterator<Item = CertInUse<'_>> {
        self.identities.in_use().chain(self.admission.verifier.in_use())
    }

    /// Does the handshake as the server.
    ///
    /// # Errors
    /// The handshake failed: [`TlsError::Handshake`] or [`TlsError::Closed`].
    pub async fn accept(&self, stream: IoStream) -> Result<(IoStream, TlsInfo), TlsError> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
        let start = start.map_err(|error| self.no_hello(error))?;
        let hello = start.client_hello();
        let config = self.config_for(&hello).clone();
        let local = self.identities.info_for(&hello);
        let stream = start.into_stream(config).await.map_err(|error| self.failed(error))?;
        let session = stream.get_ref().1;
        self.counts.handshake(session);
        let sni = session.server_name().map(Into::into);
        let mut info = TlsInfo { sni, local, ..session_info(session) };
        let leaf = info.peer.as_ref().map(|leaf| leaf.der.as_slice());
        info.peer_verified = self.admission.verifier.vouches(leaf, &info.peer_chain, UnixTime::now());
        Ok((IoStream::from_server_tls(stream), info))
    }

    fn config_for(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let ours = |offered: &[u8]| self.alpn.iter().any(|our| our == offered);
        let common = hello.alpn().is_some_and(|mut offered| offered.any(ours));
        let configs = if common { &self.config } else { &self.without_alpn };
        let is_13 = self.speaks_13 && hello.cipher_suites().iter().any(is_13);
        if is_13 { &configs.client } else { &configs.ours }
    }

    /// What came was no hello, so nothing of a certificate.
    fn no_hello(&self, error: io::Error) -> TlsError {
        let error = failure(error);
        if matches!(error, TlsError::Handshake(..)) {
            self.counts.base.connection_error().inc();
        }
        error
    }

    fn failed(&self, error: io::Error) -> TlsError {
        let error = failure(error);
        // What a verifier counted is no other error.
        match &error {
            TlsError::Handshake(_, Some(rustls::Error::NoCertificatesPresented)) => {
                self.counts.base.fail_verify_no_cert().inc();
            }
            TlsError::Handshake(_, Some(rustls::Error::InvalidCertificate(_))) => {}
            TlsError::Handshake(..) => self.counts.base.connection_error().inc(),
            _ => {}
        }
        if let TlsError::Handshake(_, Some(cause)) = &error
            && let Some(reason) = Reason::of_handshake(cause)
        {
            self.counts.refused(reason, None);
        }
        error
    }
}

/// What either side says of a session.
pub(super) fn session_info(session: &CommonState) -> TlsInfo {
    let suite = session.negotiated_cipher_suite().and_then(|suite| suite_name(suite.suite()));
    let alpn = session.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).as_ref().into());
    TlsInfo {
        version: version_name(session.protocol_version()),
        cipher: suite.map_or("", |(_, name)| name),
        alpn,
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        peer: session.peer_certificates().and_then(|chain| cert_info(chain.first()?)),
        peer_chain: session.peer_certificates().map(chain_behind).unwrap_or_default(),
        group: session.negotiated_key_exchange_group().map_or("", |group| group_name(group.name())),
        ..TlsInfo::default()
    }
}

/// The certificates that the peer sent behind its own.
fn chain_behind(chain: &[CertificateDer<'_>]) -> Arc<[Box<[u8]>]> {
    match chain {
        [] | [_] => Arc::default(),
        [_, rest @ ..] => rest.iter().map(|cert| Box::from(cert.as_ref())).collect(),
    }
}

/// BoringSSL's name of a group.
const fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::secp521r1 => "P-521",
        NamedGroup::X25519 => "X25519",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "",
    }
}

pub(super) fn key_log(path: &str) -> Result<Arc<FileKeyLog>, TlsError> {
    let log = FileKeyLog::open(path).map_err(|source| TlsError::Read {
        field: "common_tls_context.key_log.path".into(),
        name: path.into(),
        source,
    })?;
    Ok(Arc::new(log))
}
