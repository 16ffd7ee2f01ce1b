//! HTTP/1.1 over TLS 1.3 as a client: full handshakes, the same cryptography with every proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certs::SERVER_NAME;
use crate::drivers::{Ask, Papers};
use crate::upstream::BODY;

/// A client of one proxy with one request.
pub(crate) struct Asker {
    connector: TlsConnector,
    name: ServerName<'static>,
    port: u16,
    request: Vec<u8>,
}

impl Asker {
    /// A client of a loopback port. Fails when its papers cannot be read, or when it has none.
    pub(crate) fn new(port: u16, ask: &Ask) -> Result<Self> {
        let papers = ask.papers.as_ref().context("a TLS client without papers")?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config(papers)?)),
            name: ServerName::try_from(SERVER_NAME)?,
            port,
            request: head(ask, "").into_bytes(),
        })
    }

    /// Connects from a loopback address. Fails when the handshake is anything but a full one without a detour.
    pub(crate) async fn connect(&self, source: Ipv4Addr) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((source, 0)))?;
        let socket = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        socket.set_nodelay(true)?;
        let stream = self.connector.connect(self.name.clone(), socket).await.context("TLS handshake")?;
        let kind = stream.get_ref().1.handshake_kind();
        if kind != Some(HandshakeKind::Full) {
            bail!("not a plain full handshake: {kind:?}");
        }
        Ok(stream)
    }

    /// Sends the request and reads a 200 with the upstream's body. As the server answers only whom it has verified, the
    /// handshake is over on its side, too.
    pub(crate) async fn request(&self, stream: &mut TlsStream<TcpStream>) -> Result<()> {
        stream.write_all(&self.request).await?;
        stream.flush().await?;
        let mut seen = Vec::with_capacity(1024);
        while !seen.ends_with(BODY.as_bytes()) {
            if stream.read_buf(&mut seen).await? == 0 {
                bail!("closed after {} bytes of an answer", seen.len());
            }
            if seen.len() > 12 && !seen.starts_with(b"HTTP/1.1 200") {
                bail!("answered {}", String::from_utf8_lossy(&seen));
            }
        }
        Ok(())
    }
}

/// The head of the request for `ask`, with further header lines (each with its end).
pub(crate) fn head(ask: &Ask, more: &str) -> String {
    let lines: String = ask.headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!("GET {} HTTP/1.1\r\nhost: bench\r\n{lines}{more}\r\n", ask.path)
}

/// Closes a connection and waits until the peer has, too, so that its part is done before time is up.
pub(crate) async fn close(mut stream: TlsStream<TcpStream>) {
    // How the peer ends, with an alert or without, is not what is measured.
    let _ = stream.shutdown().await;
    let mut rest = [0; 256];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}

/// One suite and one group, so that no proxy chooses others than its peers; nothing is resumed.
fn config(papers: &Papers) -> Result<ClientConfig> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let file = |name: String| papers.dir.join(name);
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(file("ca.pem".to_owned()))? {
        roots.add(cert?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match &papers.leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain = CertificateDer::pem_file_iter(file(format!("{leaf}.pem")))?;
            let key = PrivateKeyDer::from_pem_file(file(format!("{leaf}.key")))?;
            builder.with_client_auth_cert(chain.collect::<Result<_, _>>()?, key)?
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_its_lines_and_an_end() {
        let ask = Ask { path: "/a".to_owned(), headers: vec!["x-b: c".to_owned()], papers: None };
        assert_eq!(
            head(&ask, "connection: close\r\n"),
            "GET /a HTTP/1.1\r\nhost: bench\r\nx-b: c\r\nconnection: close\r\n\r\n"
        );
    }
}
