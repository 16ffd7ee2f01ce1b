//! A control plane in the process: tonic's server with the services that the API's package generates. The test holds
//! both ends of each stream.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrider_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use outrider_proto::pb::google::protobuf::Any;
use outrider_xds::{Event, Kind};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service as _;

use super::{Client, soon};

/// Any kind of resource: all begin with their name.
#[derive(Clone, PartialEq, Message)]
pub struct Body {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "900")]
    pub text: String,
}

/// A resource of `kind`.
pub fn any(kind: Kind, name: &str, text: &str) -> Any {
    let body = Body { name: name.into(), text: text.into() };
    Any { type_url: kind.type_url().into(), value: body.encode_to_vec() }
}

/// Looks until it is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    soon(what, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Why the stream ended, and which service it was.
pub async fn disconnected(client: &mut Client) -> (usize, String) {
    loop {
        match client.event().await {
            Event::Disconnected { service, why, .. } => return (service, why),
            Event::Connected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// One stream, as the server has it.
pub struct Call<Q, S> {
    pub metadata: MetadataMap,
    pub requests: Streaming<Q>,
    pub responses: mpsc::Sender<Result<S, Status>>,
}

impl<Q, S> Call<Q, S> {
    /// The next request.
    pub async fn request(&mut self) -> Q {
        soon("a request", self.requests.message()).await.unwrap().unwrap()
    }

    /// Sends a response.
    pub async fn respond(&self, response: S) {
        soon("room for a response", self.responses.send(Ok(response))).await.unwrap();
    }

    /// Ends the stream.
    pub async fn end(self, status: Status) {
        soon("room for the status", self.responses.send(Err(status))).await.unwrap();
    }
}

type Sotw = Call<DiscoveryRequest, DiscoveryResponse>;
type Delta = Call<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

/// Hands every stream to the test.
#[derive(Clone)]
struct Service {
    sotw: mpsc::UnboundedSender<Sotw>,
    delta: mpsc::UnboundedSender<Delta>,
}

type Reply<'a, S> =
    Pin<Box<dyn Future<Output = Result<Response<ReceiverStream<Result<S, Status>>>, Status>> + Send + 'a>>;

fn open<'a, Q, S: Send + 'static>(
    request: Request<Streaming<Q>>,
    calls: &mpsc::UnboundedSender<Call<Q, S>>,
) -> Reply<'a, S> {
    let (responses, receiver) = mpsc::channel(1);
    let metadata = request.metadata().clone();
    let _ = calls.send(Call { metadata, requests: request.into_inner(), responses });
    Box::pin(async move { Ok(Response::new(ReceiverStream::new(receiver))) })
}

impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    fn stream_aggregated_resources<'a, 'b>(
        &'a self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Reply<'b, DiscoveryResponse>
    where
        'a: 'b,
    {
        open(request, &self.sotw)
    }

    fn delta_aggregated_resources<'a, 'b>(
        &'a self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Reply<'b, DeltaDiscoveryResponse>
    where
        'a: 'b,
    {
        open(request, &self.delta)
    }
}

/// A control plane that listens.
pub struct Plane {
    pub address: SocketAddr,
    sotw: mpsc::UnboundedReceiver<Sotw>,
    delta: mpsc::UnboundedReceiver<Delta>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plane {
    /// Listens on a port of its own.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Listens on `address`.
    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sotw_sender, sotw) = mpsc::unbounded_channel();
        let (delta_sender, delta) = mpsc::unbounded_channel();
        let server =
            AggregatedDiscoveryServiceServer::new(Service { sotw: sotw_sender, delta: delta_sender })
                .max_decoding_message_size(usize::MAX);
        let task = tokio::spawn(async move {
            // Connections end with the plane.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = server.clone();
                let service =
                    service_fn(move |request: http::Request<Incoming>| server.clone().call(request));
                connections.spawn(async move {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, sotw, delta, task }
    }

    /// The next state-of-the-world stream.
    pub async fn sotw(&mut self) -> Sotw {
        soon("a stream", self.sotw.recv()).await.unwrap()
    }

    /// The next incremental stream.
    pub async fn delta(&mut self) -> Delta {
        soon("a stream", self.delta.recv()).await.unwrap()
    }
}

/// A server that answers each call with this status and this body, whatever it is.
pub async fn rude(status: u16, body: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |_: http::Request<Incoming>| async move {
                let body =
                    Full::new(bytes::Bytes::from_static(body)).map_err(|never: Infallible| match never {});
                Ok::<_, Infallible>(http::Response::builder().status(status).body(body).unwrap())
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// A server that takes connections and says nothing.
pub async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
    address
}
