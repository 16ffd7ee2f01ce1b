//! Connections to control planes: through our own clusters, or straight to a target.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use outrider_config::model::{
    CertificateValidation, ChannelTarget, ChannelTls, CommonTls, GrpcChannel, GrpcService, GrpcTarget,
    SecretRef, TlsCertificate, TlsVersion, UpstreamTls,
};
use outrider_core::stats::Registry;
use outrider_net::io::IoStream;
use outrider_net::tls::{AlpnDefault, ClientTls, TlsError, TlsTarget};
use outrider_upstream::{PickContext, TcpLease, WorkerClusters};
use outrider_xds::{ConnectError, Connecting, Connection, Connector};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Opens connections for the streams of one source.
#[derive(Debug)]
pub(super) struct Dialer {
    services: Vec<GrpcService>,
    // The control thread's own view of the clusters.
    clusters: Rc<WorkerClusters>,
    registry: Registry,
}

impl Dialer {
    pub(super) const fn new(
        services: Vec<GrpcService>,
        clusters: Rc<WorkerClusters>,
        registry: Registry,
    ) -> Self {
        Self { services, clusters, registry }
    }
}

impl Connector for Dialer {
    fn connect(&self, service: usize) -> Connecting {
        let Some(service) = self.services.get(service).cloned() else {
            return Box::pin(async { Err(ConnectError("there is no such service".into())) });
        };
        let (clusters, registry) = (self.clusters.clone(), self.registry.clone());
        Box::pin(async move {
            match &service.target {
                GrpcTarget::Cluster { cluster, authority, .. } => {
                    let authority = authority.as_ref().map_or(&**cluster, |authority| authority.as_str());
                    through(&clusters, cluster, authority).await
                }
                GrpcTarget::Channel(channel) => straight(channel, &registry).await,
            }
        })
    }
}

/// A connection to a host of `cluster`.
async fn through(
    clusters: &WorkerClusters,
    cluster: &Arc<str>,
    authority: &str,
) -> Result<Connection, ConnectError> {
    let found = clusters.by_name(cluster);
    let found = found.ok_or_else(|| ConnectError(format!("there is no cluster named {cluster:?}")))?;
    let host = found.pick(&PickContext::default());
    let host = host.map_err(|error| ConnectError(format!("cluster {cluster:?}: {error}")))?;
    let lease = found.http2_connect(&host).await;
    let lease =
        lease.map_err(|error| ConnectError(format!("cluster {cluster:?}, {}: {error}", host.address)))?;
    let secure = lease.guard.tls.is_some();
    let pings = found.shared.config.http.http2.keepalive;
    let keepalive = pings.and_then(|pings| Some((pings.interval?, pings.timeout)));
    Ok(Connection {
        io: Box::new(Leased(lease)),
        authority: authority.to_owned(),
        secure,
        metadata: http::HeaderMap::new(),
        keepalive,
    })
}

/// A connection to a `google_grpc` target.
async fn straight(channel: &GrpcChannel, registry: &Registry) -> Result<Connection, ConnectError> {
    let failed = |error: io::Error| ConnectError(format!("{:?}: {error}", channel.target));
    let (io, host, mut authority) = match &channel.target {
        ChannelTarget::Host { host, port } => {
            let stream = TcpStream::connect((&**host, *port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            (IoStream::from_tcp(stream), &**host, format!("{host}:{port}"))
        }
        ChannelTarget::Unix(path) => {
            let stream = unix(path).await.map_err(failed)?;
            (IoStream::from_unix(stream), "localhost", "localhost".to_owned())
        }
    };
    if let Some(own) = &channel.authority {
        authority = own.to_string();
    }
    let io: Box<dyn outrider_xds::Io> = match &channel.tls {
        None => Box::new(io),
        Some(tls) => {
            let own = channel.authority.as_ref().map(|authority| authority.host());
            let name = channel.tls_name.as_deref().or(own).unwrap_or(host);
            let scope = registry.scope(format!("grpc.{}.", channel.stat_prefix));
            let secure = |error: TlsError| ConnectError(format!("{:?}: {error}", channel.target));
            // Read at each connect: certificates may have been replaced since the last one.
            let context =
                Arc::new(context(tls)).resolve(&|_| None).map_err(TlsError::from).map_err(secure)?;
            let client = ClientTls::build(&context, AlpnDefault::Http2, &scope).map_err(secure)?;
            let target = TlsTarget { sni: Some(name), verify_name: Some(name), alpn: None };
            Box::new(client.connect(io, &target).await.map_err(secure)?.0)
        }
    };
    Ok(Connection {
        io,
        authority,
        secure: channel.tls.is_some(),
        metadata: http::HeaderMap::new(),
        keepalive: None,
    })
}

async fn unix(path: &str) -> io::Result<UnixStream> {
    let Some(name) = path.strip_prefix('@') else { return UnixStream::connect(path).await };
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// The TLS context that the credentials of a channel amount to.
fn context(tls: &ChannelTls) -> UpstreamTls {
    let validation = CertificateValidation { trusted_ca: Some(tls.roots.clone()), ..Default::default() };
    let certificate =
        tls.identity.clone().map(|(chain, key)| TlsCertificate { chain, key, ocsp_staple: None });
    UpstreamTls {
        common: CommonTls {
            certificates: certificate.into_iter().map(SecretRef::from).collect(),
            validation: validation.into(),
            alpn: vec!["h2".to_owned()],
            min_version: TlsVersion::V12,
            max_version: TlsVersion::V13,
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            key_log: None,
        },
        sni: String::new(),
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: 1,
    }
}

/// A cluster's connection, and its place in the cluster's breakers and gauges.
struct Leased(TcpLease);

impl Leased {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut IoStream> {
        Pin::new(&mut self.get_mut().0.stream)
    }
}

impl AsyncRead for Leased {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Leased {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrider_config::model::{DataSource, DataSourceKind, DownstreamTls};
    use outrider_net::tls::ServerTls;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn inline(text: &str) -> DataSource {
        DataSource { kind: DataSourceKind::Inline(text.as_bytes().into()), field: "test".into() }
    }

    #[tokio::test]
    async fn a_channel_over_tls_verifies_the_name_of_its_target() -> Result<(), Box<dyn std::error::Error>> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["cp.test".to_owned()])?.self_signed(&key)?.pem();
        let tls = ChannelTls { roots: inline(&certificate), identity: None };
        let mut common = context(&tls).common;
        let own = TlsCertificate {
            chain: inline(&certificate),
            key: inline(&key.serialize_pem()),
            ocsp_staple: None,
        };
        (common.certificates, common.validation) = (vec![own.into()], Default::default());
        let server = DownstreamTls {
            common,
            require_client_certificate: false,
            require_sni: false,
            full_scan_certs: false,
            disable_stateless_resumption: false,
            disable_stateful_resumption: false,
            session_timeout: None,
            session_ticket_keys: None,
        };
        let registry = Registry::new();
        let server = ServerTls::build(&Arc::new(server).resolve(&|_| None)?, &registry.scope("listener."))?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mut channel = GrpcChannel {
            target: ChannelTarget::Host { host: "127.0.0.1".into(), port },
            tls: Some(tls),
            authorization: None,
            stat_prefix: "cp".into(),
            authority: None,
            tls_name: Some("cp.test".into()),
            keepalive_time: None,
            keepalive_timeout: Duration::from_secs(20),
            max_receive_message_length: None,
        };
        for (name, good) in [("cp.test", true), ("other.test", false)] {
            channel.tls_name = Some(name.into());
            let accept = async {
                let (stream, _) = listener.accept().await.map_err(TlsError::Closed)?;
                server.accept(IoStream::from_tcp(stream)).await
            };
            let (accepted, connected) = tokio::join!(accept, straight(&channel, &registry));
            assert_eq!(connected.is_ok(), good, "{name}");
            if let (Ok(connected), Ok((_, info))) = (connected, accepted) {
                assert!(connected.secure);
                assert_eq!((info.alpn.as_deref(), info.sni.as_deref()), (Some("h2"), Some("cp.test")));
            }
        }
        Ok(())
    }
}
