//! Connections to control planes: through our own clusters, or straight to a target.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use outrider_config::model::{ChannelTarget, GrpcChannel, GrpcService, GrpcTarget};
use outrider_net::io::IoStream;
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
}

impl Dialer {
    pub(super) const fn new(services: Vec<GrpcService>, clusters: Rc<WorkerClusters>) -> Self {
        Self { services, clusters }
    }
}

impl Connector for Dialer {
    fn connect(&self, service: usize) -> Connecting {
        let Some(service) = self.services.get(service).cloned() else {
            return Box::pin(async { Err(ConnectError("there is no such service".into())) });
        };
        let clusters = self.clusters.clone();
        Box::pin(async move {
            match &service.target {
                GrpcTarget::Cluster { cluster, authority, .. } => {
                    let authority = authority.as_ref().map_or(&**cluster, |authority| authority.as_str());
                    through(&clusters, cluster, authority).await
                }
                GrpcTarget::Channel(channel) => straight(channel).await,
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
    Ok(Connection {
        io: Box::new(Leased(lease)),
        authority: authority.to_owned(),
        secure,
        metadata: http::HeaderMap::new(),
    })
}

/// A plain connection to a `google_grpc` target.
async fn straight(channel: &GrpcChannel) -> Result<Connection, ConnectError> {
    if channel.tls.is_some() {
        return Err(ConnectError(
            "google_grpc over TLS is not supported: use envoy_grpc and a cluster".into(),
        ));
    }
    let failed = |error: io::Error| ConnectError(format!("{:?}: {error}", channel.target));
    let (io, authority): (Box<dyn outrider_xds::Io>, String) = match &channel.target {
        ChannelTarget::Host { host, port } => {
            let stream = TcpStream::connect((&**host, *port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            (Box::new(stream), format!("{host}:{port}"))
        }
        ChannelTarget::Unix(path) => {
            (Box::new(UnixStream::connect(&**path).await.map_err(failed)?), "localhost".to_owned())
        }
    };
    let authority = channel.authority.as_ref().map_or(authority, |authority| authority.to_string());
    Ok(Connection { io, authority, secure: false, metadata: http::HeaderMap::new() })
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
