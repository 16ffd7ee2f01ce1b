//! A control plane that is quick: aggregated discovery by h2 and prost alone, both protocols, one proxy at a time.
//!
//! It answers what is asked for with what there is, sends on what is pushed to those who asked for it, and tells when each
//! response left and when it was acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use outrider_proto::pb::google::protobuf::Any;
use outrider_proto::prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

/// A resource as it is served.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// Its name.
    pub(crate) name: String,
    /// Its type and bytes.
    pub(crate) body: Any,
}

/// What the control plane tells.
#[derive(Debug)]
pub(crate) enum Event {
    /// A response left.
    Sent {
        /// Its number.
        nonce: u64,
        /// The type of its resources.
        url: String,
        /// Their number.
        count: usize,
    },
    /// A response was judged.
    Judged {
        /// Its number.
        nonce: u64,
        /// When the judgement came.
        at: Instant,
        /// Why it was refused; empty where it was not.
        error: String,
    },
}

/// A running control plane.
#[derive(Debug)]
pub(crate) struct Plane {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it tells.
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    pushes: mpsc::UnboundedSender<Vec<Served>>,
    accepts: tokio::task::JoinHandle<()>,
}

struct Core {
    served: HashMap<String, BTreeMap<String, (u64, Any)>>,
    pushes: mpsc::UnboundedReceiver<Vec<Served>>,
    events: mpsc::UnboundedSender<Event>,
    nonce: u64,
}

/// What a stream asked for of a type.
#[derive(Default)]
struct Asked {
    all: bool,
    names: BTreeSet<String>,
}

impl Plane {
    /// Starts one that serves these.
    pub(crate) async fn start(served: Vec<Served>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (told, events) = mpsc::unbounded_channel();
        let (pushes, pushed) = mpsc::unbounded_channel();
        let mut core = Core { served: HashMap::new(), pushes: pushed, events: told, nonce: 0 };
        core.take(&served);
        let core = Arc::new(Mutex::new(core));
        let accepts = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(connection(socket, core.clone()));
            }
        });
        Ok(Self { address, events, pushes, accepts })
    }

    /// Serves these from now on, beside what is there, and sends them to whoever asked. Returns when that was.
    pub(crate) fn push(&self, served: Vec<Served>) -> Instant {
        let now = Instant::now();
        // Without a stream it is served to the next one, or to nobody.
        let _ = self.pushes.send(served);
        now
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn connection(socket: TcpStream, core: Arc<Mutex<Core>>) {
    let _ = socket.set_nodelay(true);
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(16 << 20).initial_connection_window_size(16 << 20);
    let Ok(mut connection) = builder.handshake(socket).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let delta = request.uri().path().ends_with("/DeltaAggregatedResources");
        let head = http::Response::builder().header("content-type", "application/grpc").body(());
        let Some(send) = head.ok().and_then(|head| respond.send_response(head, false).ok()) else { return };
        let core = core.clone();
        tokio::spawn(async move {
            let mut core = core.lock().await;
            let stream = Stream { delta, send, asked: HashMap::new() };
            // A stream that breaks is followed by another one.
            let _ = stream.serve(request.into_body(), &mut core).await;
        });
    }
}

impl Core {
    /// Takes resources in; returns those that changed, by type.
    fn take(&mut self, served: &[Served]) -> BTreeMap<String, Vec<String>> {
        let mut changed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for Served { name, body } in served {
            let of_type = self.served.entry(body.type_url.clone()).or_default();
            let version = of_type.get(name).map_or(1, |(version, _)| version + 1);
            of_type.insert(name.clone(), (version, body.clone()));
            changed.entry(body.type_url.clone()).or_default().push(name.clone());
        }
        changed
    }
}

struct Stream {
    delta: bool,
    send: SendStream<Bytes>,
    asked: HashMap<String, Asked>,
}

impl Stream {
    async fn serve(mut self, mut body: RecvStream, core: &mut Core) -> Result<()> {
        let mut read = BytesMut::new();
        loop {
            tokio::select! {
                piece = body.data() => {
                    let Some(piece) = piece else { return Ok(()) };
                    let piece = piece?;
                    body.flow_control().release_capacity(piece.len())?;
                    read.extend_from_slice(&piece);
                    while let Some(message) = next_message(&mut read) {
                        self.request(&message, core)?;
                    }
                }
                Some(pushed) = core.pushes.recv() => {
                    for (url, names) in core.take(&pushed) {
                        let asked = self.asked.entry(url.clone()).or_default();
                        let wanted = |name: &String| asked.all || asked.names.contains(name);
                        let names: Vec<_> = names.into_iter().filter(wanted).collect();
                        if !names.is_empty() {
                            self.respond(&url, names, core)?;
                        }
                    }
                }
            }
        }
    }

    fn request(&mut self, message: &[u8], core: &mut Core) -> Result<()> {
        let (url, nonce, error, subscribe, unsubscribe) = if self.delta {
            let request = DeltaDiscoveryRequest::decode(message)?;
            let error = request.error_detail.map(|status| status.message);
            let (more, less) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
            (request.type_url, request.response_nonce, error, more, less)
        } else {
            let request = DiscoveryRequest::decode(message)?;
            let error = request.error_detail.map(|status| status.message);
            (request.type_url, request.response_nonce, error, request.resource_names, Vec::new())
        };
        if let Ok(nonce) = nonce.parse() {
            let error = error.unwrap_or_default();
            let _ = core.events.send(Event::Judged { nonce, at: Instant::now(), error });
        }
        let first = !self.asked.contains_key(&url);
        let asked = self.asked.entry(url.clone()).or_default();
        asked.all |= first && subscribe.is_empty() || subscribe.iter().any(|name| name == "*");
        for name in unsubscribe {
            asked.names.remove(&name);
        }
        let new: Vec<String> = if self.delta {
            subscribe
        } else if asked.names.iter().eq(subscribe.iter().collect::<BTreeSet<_>>()) {
            Vec::new()
        } else {
            asked.names.clear();
            subscribe
        };
        let changed = first || !new.is_empty();
        asked.names.extend(new.iter().cloned());
        let of_type = core.served.get(&url);
        let names: Vec<String> = match of_type {
            Some(of_type) if asked.all && first => of_type.keys().cloned().collect(),
            Some(of_type) => new.into_iter().filter(|name| of_type.contains_key(name)).collect(),
            None => Vec::new(),
        };
        if changed && !names.is_empty() {
            self.respond(&url, names, core)?;
        }
        Ok(())
    }

    fn respond(&mut self, url: &str, names: Vec<String>, core: &mut Core) -> Result<()> {
        core.nonce += 1;
        let nonce = core.nonce;
        let Some(of_type) = core.served.get(url) else { return Ok(()) };
        let asked = self.asked.get(url);
        let count = names.len();
        let bytes = if self.delta {
            let one = |name: String| {
                let (version, body) = of_type.get(&name)?;
                let body = Some(body.clone());
                Some(Resource { name, version: version.to_string(), resource: body, ..Resource::default() })
            };
            let response = DeltaDiscoveryResponse {
                system_version_info: nonce.to_string(),
                resources: names.into_iter().filter_map(one).collect(),
                type_url: url.to_owned(),
                nonce: nonce.to_string(),
                ..DeltaDiscoveryResponse::default()
            };
            message(&response)
        } else {
            let wanted = |name: &String| asked.is_some_and(|asked| asked.all || asked.names.contains(name));
            let all = of_type.iter().filter(|(name, _)| wanted(name));
            let response = DiscoveryResponse {
                version_info: nonce.to_string(),
                resources: all.map(|(_, (_, body))| body.clone()).collect(),
                type_url: url.to_owned(),
                nonce: nonce.to_string(),
                ..DiscoveryResponse::default()
            };
            message(&response)
        };
        self.send.send_data(bytes, false)?;
        let _ = core.events.send(Event::Sent { nonce, url: url.to_owned(), count });
        Ok(())
    }
}

/// A message with gRPC's prefix.
fn message(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.encoded_len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    // There is room.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// Takes the next whole message out of what was read.
fn next_message(read: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(read.get(1..5)?.try_into().ok()?) as usize;
    if read.len() < 5 + length {
        return None;
    }
    read.advance(5);
    Some(read.split_to(length).freeze())
}
