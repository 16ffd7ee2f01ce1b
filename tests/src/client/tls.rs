//! The TLS client.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SupportedProtocolVersion, client::ResolvesClientCert,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::ca::{self, Papers};

/// How to shake hands.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    roots: RootCertStore,
    name: String,
    sni: bool,
    alpn: Vec<Vec<u8>>,
    cert: Option<Arc<CertifiedKey>>,
    versions: Vec<&'static SupportedProtocolVersion>,
    blind: bool,
}

/// What a handshake told the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// Names of the server's certificate.
    pub server: Vec<String>,
    /// The protocol agreed on.
    pub alpn: Option<String>,
    /// TLS version.
    pub version: String,
}

/// Offers one certificate whatever authorities the server names: the server shall judge it, not we.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies nothing but that the server has the key of its certificate.
#[derive(Debug)]
struct Blind(Arc<CryptoProvider>);

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl TlsOptions {
    /// Trusts the test authority and asks for (and checks) a server name.
    ///
    /// # Errors
    /// When the authority cannot be read.
    pub fn new(papers: &Papers, name: &str) -> Result<Self> {
        Ok(Self {
            roots: papers.roots()?,
            name: name.to_owned(),
            sni: true,
            alpn: Vec::new(),
            cert: None,
            versions: rustls::ALL_VERSIONS.to_vec(),
            blind: false,
        })
    }

    /// Sends no server name; the certificate is still checked for it.
    #[must_use]
    pub const fn without_sni(mut self) -> Self {
        self.sni = false;
        self
    }

    /// Takes any server's certificate: it is the server's judgement that matters.
    #[must_use]
    pub const fn blind(mut self) -> Self {
        self.blind = true;
        self
    }

    /// Offers protocols.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// Shows a client certificate.
    ///
    /// # Errors
    /// When there is no such leaf.
    pub fn cert(mut self, papers: &Papers, leaf: &str) -> Result<Self> {
        self.cert = Some(papers.leaf(leaf)?);
        Ok(self)
    }

    /// Speaks TLS 1.2 only.
    #[must_use]
    pub fn only_tls12(mut self) -> Self {
        self.versions = vec![&rustls::version::TLS12];
        self
    }

    pub(super) async fn connect(&self, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, TlsFacts)> {
        let builder = ClientConfig::builder_with_provider(ca::provider())
            .with_protocol_versions(&self.versions)?
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.cert {
            Some(key) => builder.with_client_cert_resolver(Arc::new(Always(Arc::clone(key)))),
            None => builder.with_no_client_auth(),
        };
        if self.blind {
            config.dangerous().set_certificate_verifier(Arc::new(Blind(ca::provider())));
        }
        config.enable_sni = self.sni;
        config.alpn_protocols.clone_from(&self.alpn);
        let name = ServerName::try_from(self.name.clone())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        let stream = stream.context("TLS handshake")?;
        let connection = stream.get_ref().1;
        let facts = TlsFacts {
            server: connection
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(|leaf| ca::names_of(leaf))
                .unwrap_or_default(),
            alpn: connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
            version: connection.protocol_version().map_or_else(String::new, |v| format!("{v:?}")),
        };
        Ok((stream.into(), facts))
    }
}
