//! The client's side.

use std::io;
use std::sync::Arc;

use outrider_config::model::{self, Resolved};
use outrider_core::stats::Scope;
use outrider_core::stream::TlsInfo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use webpki::KeyUsage;

use super::error::failure;
use super::identity::Identities;
use super::in_use::CertInUse;
use super::names::is_for;
use super::provider::{provider, versions};
use super::reason::Reason;
use super::server::{key_log, session_info};
use super::stats::Counts;
use super::verify::PeerVerifier;
use super::{TlsError, TlsStats};
use crate::io::IoStream;

/// What ALPN is offered when the context lists none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AlpnDefault {
    /// No ALPN at all.
    #[default]
    None,
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
    /// `h2`, then `http/1.1`.
    Auto,
}

/// What one connection asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsTarget<'a> {
    /// The server name to send in place of the context's `sni` (the host's name, or the request's authority);
    /// `None` for the context's.
    pub sni: Option<&'a str>,
    /// A name (DNS or IP) that the certificate's SANs must match as well (`auto_san_validation`).
    pub verify_name: Option<&'a str>,
    /// In place of the default given to [`ClientTls::build`]; the context's own list goes before either.
    pub alpn: Option<AlpnDefault>,
}

/// An upstream TLS context, ready for handshakes.
#[derive(Debug)]
pub struct ClientTls {
    with_sni: TlsConnectorConfig,
    without_sni: TlsConnectorConfig,
    sni: Box<str>,
    auto_host_sni: bool,
    verify_sni: bool,
    alpn: Vec<Vec<u8>>,
    alpn_default: AlpnDefault,
    identities: Arc<Identities>,
    verifier: Arc<PeerVerifier>,
    counts: Arc<Counts>,
}

type TlsConnectorConfig = Arc<ClientConfig>;

impl ClientTls {
    /// Builds the context with its secrets; reads its files. Counts under `scope` (`cluster.<name>.`) + `ssl.`.
    ///
    /// # Errors
    /// Unreadable or malformed certificates, keys, roots or lists; each error names the field and the file.
    pub fn build(
        tls: &Resolved<model::UpstreamTls>,
        alpn: AlpnDefault,
        scope: &Scope,
    ) -> Result<Arc<Self>, TlsError> {
        let common = &tls.common;
        let counts = Arc::new(Counts::new(scope));
        let provider = provider(common, "common_tls_context.tls_params")?;
        let identities = Identities::build(tls.certificates(), &provider, false, false)?;
        identities.tell_ends(&counts, &common.certificates);
        let identities = Arc::new(identities);
        let verifier = Arc::new(PeerVerifier::build(
            tls.validation(),
            KeyUsage::server_auth(),
            false,
            provider.signature_verification_algorithms,
            counts.clone(),
        )?);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(common))
            .map_err(|error| TlsError::Config {
                field: "common_tls_context.tls_params".into(),
                reason: error.to_string(),
            })?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(identities.clone());
        config.resumption = match tls.max_session_keys {
            0 => Resumption::disabled(),
            keys => Resumption::in_memory_sessions(keys as usize),
        };
        if let Some(path) = &common.key_log {
            config.key_log = key_log(path)?;
        }
        let mut without_sni = config.clone();
        without_sni.enable_sni = false;
        Ok(Arc::new(Self {
            with_sni: Arc::new(config),
            without_sni: Arc::new(without_sni),
            sni: tls.sni.as_str().into(),
            auto_host_sni: tls.auto_host_sni,
            verify_sni: tls.auto_sni_san_validation,
            alpn: common.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
            alpn_default: alpn,
            identities,
            verifier,
            counts,
        }))
    }

    /// Whether the host's hostname is to be given as [`TlsTarget::sni`] (`auto_host_sni`).
    pub fn wants_host_sni(&self) -> bool {
        self.auto_host_sni
    }

    /// The stats of this context.
    pub fn stats(&self) -> &TlsStats {
        &self.counts.base
    }

    /// The certificates that it was built with: our leaf, and the authorities that it believes.
    pub fn in_use(&self) -> impl Iterator<Item = CertInUse<'_>> {
        self.identities.in_use().chain(self.verifier.in_use())
    }

    /// Whether it may refuse servers that `before` believed: what was opened under that does not stand any more.
    pub fn narrows(&self, before: &Self) -> bool {
        self.verifier.narrows(&before.verifier)
    }

    /// Does the handshake as the client.
    ///
    /// # Errors
    /// The handshake failed: [`TlsError::Handshake`] or [`TlsError::Closed`]. The stream is closed then.
    pub async fn connect(
        &self,
        stream: IoStream,
        target: &TlsTarget<'_>,
    ) -> Result<(IoStream, TlsInfo), TlsError> {
        let sni = target.sni.filter(|sni| !sni.is_empty()).unwrap_or(&self.sni);
        let (config, name) = match ServerName::try_from(sni) {
            Ok(name @ ServerName::DnsName(_)) => (&self.with_sni, name.to_owned()),
            // rustls wants a name for its cache of sessions, also where none is sent.
            Ok(name) => (&self.without_sni, name.to_owned()),
            Err(_) => (&self.without_sni, nameless()?),
        };
        let connector = TlsConnector::from(config.clone());
        let connect = connector.with_alpn(self.alpn_for(target.alpn)).connect(name, stream);
        let stream = connect.await.map_err(|error| self.failed(error))?;
        let session = stream.get_ref().1;
        let sni = (!sni.is_empty()).then(|| sni.into());
        let info = TlsInfo { sni, local: self.identities.first_info(), ..session_info(session) };
        self.verify_name(&info, target)?;
        self.counts.handshake(session);
        Ok((IoStream::from_client_tls(stream), info))
    }

    /// After the handshake, so that it holds for resumed sessions too. Nothing was sent yet but our certificate.
    fn verify_name(&self, info: &TlsInfo, target: &TlsTarget<'_>) -> Result<(), TlsError> {
        let own = self.verify_sni.then_some(info.sni.as_deref()).flatten();
        for name in target.verify_name.iter().copied().chain(own) {
            if !info.peer.as_ref().is_some_and(|peer| is_for(peer, name)) {
                self.counts.base.fail_verify_san().inc();
                self.counts.refused(Reason::San, info.peer.as_ref().map(|peer| peer.der.as_slice()));
                let text = "TLS_error:CERTIFICATE_VERIFY_FAILED:verify cert failed: verify SAN list";
                return Err(TlsError::Handshake(text.into(), None));
            }
        }
        Ok(())
    }

    fn alpn_for(&self, default: Option<AlpnDefault>) -> Vec<Vec<u8>> {
        if !self.alpn.is_empty() {
            return self.alpn.clone();
        }
        match default.unwrap_or(self.alpn_default) {
            AlpnDefault::None => Vec::new(),
            AlpnDefault::Http1 => vec![b"http/1.1".to_vec()],
            AlpnDefault::Http2 => vec![b"h2".to_vec()],
            AlpnDefault::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }

    fn failed(&self, error: io::Error) -> TlsError {
        let error = failure(error);
        // What a verifier counted is no other error.
        let other =
            |error: &Option<rustls::Error>| !matches!(error, Some(rustls::Error::InvalidCertificate(_)));
        if matches!(&error, TlsError::Handshake(_, cause) if other(cause)) {
            self.counts.base.connection_error().inc();
        }
        if let TlsError::Handshake(_, Some(cause)) = &error
            && let Some(reason) = Reason::of_handshake(cause)
        {
            self.counts.refused(reason, None);
        }
        error
    }
}

fn nameless() -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from("no-sni.invalid").map_err(|error| TlsError::Handshake(error.to_string(), None))
}
