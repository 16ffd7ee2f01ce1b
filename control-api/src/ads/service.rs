//! The gRPC streams: requests in, responses out, with the state machine between.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tonic::Status;
use xxhash_rust::xxh64::xxh64;

use super::connected::{Connected, Limits, Listed, Stream};
use super::places::{Places, Seat};
use super::refusals::shortened;
use super::session::Session;
use super::wire::{Framed, Incoming, Protocol, Said};
use crate::api::auth::{Identity, Peer};
use crate::engine::{Engine, ScopeKey, Since, View};
use crate::translate::{Resources, Scope, Type, own};
use crate::world::Proxy;

/// How long a new stream may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(15);
/// How many bytes what a proxy says of itself (its node) has, without the list of its extensions. It is kept as long as the stream.
const NODE: usize = 64 << 10;
/// Over how many milliseconds the streams of a control plane that leaves are ended. Less than what the server waits for them.
const LEAVING: u64 = 3000;

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`.
#[derive(Clone, Debug)]
pub struct Ads {
    engine: Arc<Engine>,
    connected: Arc<Connected>,
    limits: Limits,
    /// What is left of `limits.streams`: streams count before they say who they are.
    streams: Arc<Semaphore>,
    /// What each identity has of them.
    places: Arc<Places>,
    /// Becomes true when streams are to end: their proxies go to another control plane.
    leaving: watch::Receiver<bool>,
}

impl Ads {
    /// A service on an engine. Streams end when `leaving` becomes true.
    pub fn new(
        engine: Arc<Engine>,
        connected: Arc<Connected>,
        limits: Limits,
        leaving: watch::Receiver<bool>,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(limits.streams.min(Semaphore::MAX_PERMITS)));
        Self { engine, connected, limits, streams, places: Arc::default(), leaving }
    }

    /// What bounds its streams.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A place among the open streams.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{} streams are open, the most allowed", self.limits.streams))
        })
    }

    /// Begins a stream: its responses, framed, and at last how it ended.
    pub(super) fn open<P: Protocol>(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> Result<mpsc::Receiver<Result<Framed, Status>>, Status> {
        let place = self.place()?;
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address);
        let who = request.extensions().get::<Identity>().cloned();
        let incoming = Incoming::new(request.into_body());
        // One: what a slow client has not taken is not made.
        let (answers, receiver) = mpsc::channel(1);
        let ads = self.clone();
        tokio::spawn(async move {
            let ended = ads.serve::<P>(peer, who, incoming, &answers).await;
            drop(place);
            if let Err(status) = ended {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(receiver)
    }

    async fn serve<P: Protocol>(
        &self,
        peer: Option<SocketAddr>,
        who: Option<Identity>,
        mut incoming: Incoming<P::In>,
        answers: &mpsc::Sender<Result<Framed, Status>>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(INTRODUCTION, incoming.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no request on this stream"))??;
        let Some(said) = first.map(P::read) else { return Ok(()) };
        let mut node =
            said.node.clone().ok_or_else(|| Status::invalid_argument("the first request has no node"))?;
        // Envoy lists half a thousand in sixty kilobytes; nobody here asks for them.
        node.extensions = Vec::new();
        small_enough(&node)?;
        let proxy = Proxy::from_node(&node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        // The guard in front says who it is; without one nobody is let in.
        let who = who.ok_or_else(|| {
            Status::unauthenticated("nobody asked who you are; this server is put together wrongly")
        })?;
        let seat = self.places.take(&who, self.limits.of_one)?;
        // Before the world is known nobody can be told from anybody else.
        let mut leaving = self.leaving.clone();
        tokio::select! {
            () = self.engine.until_ready() => {}
            () = gone(&mut leaving) => return Err(left()),
            status = who.ended() => return Err(status),
        }
        who.may_be(&proxy, &self.engine.snapshot().context.world)?;
        let session = Mutex::new(Session::new(P::DELTA));
        let name = Arc::clone(&who.name);
        let stream = Stream { proxy, node, peer, who: name, since: Instant::now(), session };
        let listed = self.connected.list(stream);
        tracing::info!(proxy = %listed.stream.proxy.id, peer = ?peer, delta = P::DELTA, "a proxy is connected");
        let driver = Driver {
            ads: self,
            who,
            listed: &listed,
            seat,
            delta: P::DELTA,
            held: None,
            own: Arc::default(),
            generation: 0,
        };
        let ended = driver.run::<P>(said, &mut incoming, answers).await;
        let reason = ended.as_ref().err().map_or("it closed the stream", Status::message);
        tracing::info!(proxy = %listed.stream.proxy.id, reason, "a proxy has left");
        ended
    }
}

/// What drives one stream.
struct Driver<'a> {
    ads: &'a Ads,
    who: Identity,
    listed: &'a Listed,
    seat: Seat,
    delta: bool,
    held: Option<Arc<ScopeKey>>,
    own: Arc<Resources>,
    generation: u64,
}

impl Driver<'_> {
    async fn run<P: Protocol>(
        mut self,
        said: Said,
        incoming: &mut Incoming<P::In>,
        answers: &mpsc::Sender<Result<Framed, Status>>,
    ) -> Result<(), Status> {
        let mut leaving = self.ads.leaving.clone();
        let mut ended = std::pin::pin!(self.who.ended());
        let mut news = self.ads.engine.news();
        // First what there is, then what it asks for: names of what there is are kept once for all streams.
        self.refresh().await?;
        self.take(said)?;
        loop {
            // Made only when the client can take it: it always gets the newest.
            if let Ok(permit) = answers.try_reserve() {
                // Written out when the session is free again: that takes its time.
                let due = self.listed.stream.session().due(Instant::now());
                if let Some(due) = due {
                    tracing::debug!(proxy = %self.listed.stream.proxy.id, kind = ?due.kind, resources = due.resources.len(),
                        removed = due.removed.len(), "sent");
                    permit.send(Ok(P::write(&due, crate::server::instance())));
                    continue;
                }
            }
            let blocked = answers.capacity() == 0;
            let wake = self.listed.stream.session().wake(Instant::now());
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(message) => self.take(P::read(message))?,
                    None => return Ok(()),
                },
                changed = news.changed() => {
                    if changed.is_err() {
                        return Err(left());
                    }
                    news.borrow_and_update();
                    self.refresh().await?;
                }
                room = answers.reserve(), if blocked => {
                    if room.is_err() {
                        return Ok(());
                    }
                }
                () = sleep_until(wake) => {}
                status = &mut ended => return Err(status),
                () = gone(&mut leaving) => {
                    tokio::time::sleep(self.turn()).await;
                    return Err(left());
                }
                () = answers.closed() => return Ok(()),
            }
        }
    }

    /// When its turn to leave is: not all proxies should come to the next control plane at once.
    fn turn(&self) -> Duration {
        Duration::from_millis(xxh64(self.listed.stream.proxy.id.as_bytes(), 0) % LEAVING)
    }

    /// Takes a request.
    fn take(&self, said: Said) -> Result<(), Status> {
        let Some(kind) = Type::of_url(&said.type_url) else {
            tracing::debug!(proxy = %self.listed.stream.proxy.id, type_url = said.type_url, "a type that is not served");
            return Ok(());
        };
        if let Some(words) = &said.refused {
            tracing::warn!(proxy = %self.listed.stream.proxy.id, ?kind, reason = shortened(words), "a proxy refused what it was sent");
        }
        let mut session = self.listed.stream.session();
        session
            .request(kind, &said.nonce, said.refused.as_deref(), said.wish, Instant::now())
            .map_err(Status::resource_exhausted)
    }

    /// Takes over what is published now.
    ///
    /// # Errors
    /// When it is no longer for this proxy, or there are too many scopes.
    async fn refresh(&mut self) -> Result<(), Status> {
        let snapshot = self.ads.engine.snapshot();
        let since = if self.generation == 0 { Since::Anything } else { snapshot.since(self.generation) };
        let proxy = &self.listed.stream.proxy;
        if matches!(since, Since::Anything) {
            // Pods and Gateways change: who might be a proxy when it came may not be it any more.
            self.who.may_be(proxy, &snapshot.context.world)?;
        }
        let (anything, moved) = match &since {
            Since::Anything => (true, true),
            Since::Endpoints { addresses, .. } => (false, addresses.contains(&proxy.address)),
        };
        let shared = if anything {
            let mut scope = Scope::of(&snapshot.context.world, proxy);
            // On demand means to ask for one more name, for which state of the world has no words.
            scope.observed &= self.delta;
            self.seat.enter(&scope)?;
            let held = self.ads.engine.enter(&scope);
            let held = held.map_err(|error| Status::resource_exhausted(error.to_string()))?;
            let Some(shared) = self.ads.engine.shared(&snapshot, &held.0).await else {
                tracing::error!(proxy = %proxy.id, "its configuration could not be worked out; it keeps what it has");
                return Ok(());
            };
            self.held = Some(held);
            shared
        } else {
            Arc::clone(&self.listed.stream.session().view().shared)
        };
        if moved {
            let (context, of) = (Arc::clone(&snapshot.context), proxy.clone());
            // On a thread that may be busy, and that may fail: a fault of ours is no reason to end the stream.
            let Ok(mut own) = tokio::task::spawn_blocking(move || own(&context, &of)).await else {
                tracing::error!(proxy = %proxy.id, "what is its own could not be worked out; it keeps what it has");
                return Ok(());
            };
            own.share_with(&self.own);
            self.own = Arc::new(own);
        }
        let view = View { shared, own: Arc::clone(&self.own), endpoints: Arc::clone(&snapshot.endpoints) };
        self.generation = snapshot.generation;
        // The application moved: listeners and clusters of its own may have changed with the endpoints.
        let since = if moved { Since::Anything } else { since };
        self.listed.stream.session().update(view, snapshot.generation, &since, Instant::now());
        Ok(())
    }
}

/// Whether what a proxy says of itself is of bearable size.
pub(super) fn small_enough(node: &Node) -> Result<(), Status> {
    let size = node.encoded_len();
    if size <= NODE {
        return Ok(());
    }
    let id: String = node.id.chars().take(128).collect();
    Err(Status::invalid_argument(format!(
        "node {id:?} has {size} bytes, {NODE} at most are taken: leave out what its metadata does not need"
    )))
}

/// Waits until streams are to end.
async fn gone(leaving: &mut watch::Receiver<bool>) {
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

fn left() -> Status {
    Status::unavailable("this control plane is leaving; connect to another one")
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
