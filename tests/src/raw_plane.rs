//! A control plane by raw bytes: HTTP/2 frames and gRPC messages as a test wants them, right or wrong.
//!
//! Only the aggregated stream, in state of the world. Whoever wants a proper one takes [`crate::control_plane`].

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server};
use http::{Request, Response};
use prost::Message;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use crate::{
    wait,
    wire::{DiscoveryRequest, DiscoveryResponse, any},
};

/// The type URL of a kind by its message's short name.
#[must_use]
pub fn type_url(kind: &str) -> String {
    let package = match kind {
        "Cluster" => "config.cluster.v3",
        "ClusterLoadAssignment" => "config.endpoint.v3",
        "Listener" => "config.listener.v3",
        "RouteConfiguration" => "config.route.v3",
        _ => "unknown.v3",
    };
    format!("{}{package}.{kind}", crate::control_plane::TYPE)
}

/// A message with what gRPC puts before it.
#[must_use]
pub fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(flag);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

/// A control plane that listens. Each stream that is opened is the test's.
#[derive(Debug)]
pub struct RawPlane {
    /// Where.
    pub address: SocketAddr,
    streams: mpsc::UnboundedReceiver<RawStream>,
    sender: mpsc::UnboundedSender<RawStream>,
    accepting: JoinHandle<()>,
}

impl Drop for RawPlane {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl RawPlane {
    /// Listens.
    ///
    /// # Errors
    /// No port is to be had.
    pub async fn listen() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (sender, streams) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(accept(listener, sender.clone()));
        Ok(Self { address, streams, sender, accepting })
    }

    /// Ends all connections and listens no more.
    pub async fn close(&mut self) {
        self.accepting.abort();
        // It was told to end.
        let _ = (&mut self.accepting).await;
    }

    /// Listens again, where it did before.
    ///
    /// # Errors
    /// The port was taken meanwhile.
    pub async fn listen_again(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.accepting = tokio::spawn(accept(listener, self.sender.clone()));
        Ok(())
    }

    /// The next stream that the proxy opens.
    ///
    /// # Errors
    /// It opens none in time.
    pub async fn stream(&mut self) -> Result<RawStream> {
        let next = async { self.streams.recv().await.context("the plane ended") };
        wait::within("a stream", Duration::from_secs(40), next).await
    }
}

/// Hands every stream of every connection to the test.
async fn accept(listener: TcpListener, sender: mpsc::UnboundedSender<RawStream>) {
    // Connections end with this.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let sender = sender.clone();
        connections.spawn(async move {
            let Ok(mut connection) = server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let head = Response::builder().header("content-type", "application/grpc").body(());
                let Ok(Ok(send)) = head.map(|head| respond.send_response(head, false)) else { return };
                let _ = sender.send(RawStream::new(request, send));
            }
        });
    }
}

/// One stream, from the control plane's end.
#[derive(Debug)]
pub struct RawStream {
    send: SendStream<Bytes>,
    body: RecvStream,
    buffer: BytesMut,
    nonce: u64,
}

impl RawStream {
    fn new(request: Request<RecvStream>, send: SendStream<Bytes>) -> Self {
        Self { send, body: request.into_body(), buffer: BytesMut::new(), nonce: 0 }
    }

    /// The next request.
    ///
    /// # Errors
    /// None comes in time, or something that is none.
    pub async fn request(&mut self) -> Result<DiscoveryRequest> {
        wait::within("a request", wait::LIMIT, async {
            loop {
                if let Some([_, a, b, c, d]) = self.buffer.first_chunk::<5>() {
                    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                    if self.buffer.len() >= 5 + length {
                        self.buffer.advance(5);
                        return Ok(DiscoveryRequest::decode(self.buffer.split_to(length))?);
                    }
                }
                let data = self.body.data().await.context("the stream ended")??;
                self.body.flow_control().release_capacity(data.len())?;
                self.buffer.put(data);
            }
        })
        .await
    }

    /// Passes requests over until one is as wanted.
    ///
    /// # Errors
    /// None comes in time.
    pub async fn request_that(
        &mut self,
        wanted: impl Fn(&DiscoveryRequest) -> bool,
    ) -> Result<DiscoveryRequest> {
        loop {
            let request = self.request().await?;
            if wanted(&request) {
                return Ok(request);
            }
        }
    }

    /// Waits for the first request of `kind`, and answers it.
    ///
    /// # Errors
    /// It does not come, or the stream is gone.
    pub async fn serve(&mut self, kind: &str, version: &str, resources: &[Value]) -> Result<()> {
        let url = type_url(kind);
        self.request_that(|request| request.type_url == url && request.response_nonce.is_empty()).await?;
        self.respond(kind, version, resources).await
    }

    /// Sends a response.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn respond(&mut self, kind: &str, version: &str, resources: &[Value]) -> Result<()> {
        self.nonce += 1;
        let response = DiscoveryResponse {
            version_info: version.to_owned(),
            resources: resources.iter().map(any).collect::<Result<_>>()?,
            type_url: type_url(kind),
            nonce: self.nonce.to_string(),
        };
        self.message(&response).await
    }

    /// Sends any message.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn message(&mut self, message: &DiscoveryResponse) -> Result<()> {
        self.bytes(framed(0, &message.encode_to_vec())).await
    }

    /// Sends bytes, as the proxy has room for them.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn bytes(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            self.send.reserve_capacity(bytes.len());
            let room = std::future::poll_fn(|cx| self.send.poll_capacity(cx)).await;
            let room = room.context("the stream ended")??;
            ensure!(room > 0, "no room");
            self.send.send_data(bytes.split_to(room.min(bytes.len())), false)?;
        }
        Ok(())
    }

    /// Ends the stream properly, but without the status that gRPC wants.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn end(mut self) -> Result<()> {
        Ok(self.send.send_data(Bytes::new(), true)?)
    }

    /// Resets the stream.
    pub fn reset(mut self) {
        self.send.send_reset(Reason::INTERNAL_ERROR);
    }
}
