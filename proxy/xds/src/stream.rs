//! The task that keeps a stream open: connects, sends what the core wants to say, feeds it what comes in.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use outrider_core::rng;
use outrider_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use tokio::sync::{Notify, mpsc};

use crate::backoff::Schedule;
use crate::config::{Service, StreamConfig};
use crate::core::{Core, Now, Options, Request, Response};
use crate::event::Event;
use crate::grpc::{Link, Responses, StreamError, chain, frame};
use crate::limit::Bucket;
use crate::transport::Connector;

outrider_core::stat_struct! {
    /// `control_plane.*`. Its `identifier` is text: see [`crate::Handle::control_plane`].
    pub(crate) struct ControlPlaneStats {
        counters { rate_limit_enforced }
        gauges { connected_state, pending_requests }
        histograms {}
    }
}

const AGGREGATED: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const AGGREGATED_DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// How many answers wait for a control plane that does not read. Then nothing more is read from it either.
const UNSENT: usize = 64;

/// What the handle and the task share.
pub(crate) struct Shared {
    pub(crate) core: RefCell<Core>,
    /// Something may have to be sent, or may be read again.
    pub(crate) traffic: Notify,
    /// Something may have to be told, or a timer may have changed.
    pub(crate) upkeep: Notify,
    pub(crate) closed: Cell<bool>,
    pub(crate) connected: Cell<bool>,
    /// The stream is to be left.
    pub(crate) reconnect: Cell<bool>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            core: RefCell::new(Core::new(options)),
            traffic: Notify::new(),
            upkeep: Notify::new(),
            closed: Cell::new(false),
            connected: Cell::new(false),
            reconnect: Cell::new(false),
        }
    }

    pub(crate) fn wake(&self) {
        self.traffic.notify_one();
        self.upkeep.notify_one();
    }
}

/// Why a stream was left.
enum End {
    /// It broke, or never was.
    Broken(String),
    /// The preferred control plane can be reached again.
    Return(Link),
}

/// The task.
pub(crate) struct Driver {
    pub(crate) config: StreamConfig,
    pub(crate) connector: Rc<dyn Connector>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) stats: ControlPlaneStats,
    pub(crate) schedule: RefCell<Schedule>,
    pub(crate) bucket: RefCell<Option<Bucket>>,
}

impl Driver {
    /// Runs until the handle closes or the receiver of the events is dropped.
    pub(crate) async fn run(self) {
        tokio::select! {
            () = upkeep(&self.shared, &self.events) => {}
            () = self.streams() => {}
        }
        self.stats.connected_state().set(0);
        self.shared.connected.set(false);
    }

    /// One stream after the other, with the back-off between them.
    async fn streams(&self) {
        let mut link = None;
        loop {
            let index = self.schedule.borrow().service();
            let Some(service) = self.config.services.get(index) else { return };
            let end = self.stream(index, service, link.take()).await;
            self.shared.core.borrow_mut().disconnected();
            self.shared.connected.set(false);
            self.stats.connected_state().set(0);
            self.count_pending();
            let why = match end {
                End::Broken(why) => why,
                End::Return(primary) => {
                    link = Some(primary);
                    self.schedule.borrow_mut().come_back();
                    self.tell_end(
                        index,
                        "a control plane of higher preference is back".into(),
                        Instant::now(),
                    );
                    continue;
                }
            };
            let wait = self.schedule.borrow_mut().ended(&RngOfThread);
            tracing::info!(service = service.label, why, ?wait, "no stream to the control plane");
            let at = Instant::now() + wait;
            self.tell_end(index, why, at);
            tokio::time::sleep_until(at.into()).await;
        }
    }

    fn tell_end(&self, service: usize, why: String, next: Instant) {
        let attempt = self.schedule.borrow().failed();
        let retry_in = next.saturating_duration_since(Instant::now());
        self.tell(Event::Disconnected { service, why, attempt, retry_in });
    }

    fn tell(&self, event: Event) {
        self.shared.core.borrow_mut().tell(event);
        self.shared.upkeep.notify_one();
    }

    /// One stream, from the connection to its end.
    async fn stream(&self, index: usize, service: &Service, link: Option<Link>) -> End {
        let Some(method) = self.method() else {
            return End::Broken("virtual hosts have no state-of-the-world service: use delta".into());
        };
        let link = match link {
            Some(link) => Ok(link),
            None => Link::open(&*self.connector, service, index).await,
        };
        let mut link = match link {
            Ok(link) => link,
            Err(error) => return End::Broken(error.to_string()),
        };
        let (requests, responses) = link.stream(service, method, self.config.max_message_bytes);
        self.shared.core.borrow_mut().connected(self.schedule.borrow().same_server());
        self.shared.reconnect.set(false);
        self.shared.connected.set(true);
        self.stats.connected_state().set(1);
        tracing::info!(service = service.label, method, "stream to the control plane");
        self.tell(Event::Connected { service: index });
        tokio::select! {
            biased;
            error = self.exchange(requests, responses) => End::Broken(chain(&error)),
            primary = self.primary(index) => End::Return(primary),
        }
    }

    fn method(&self) -> Option<&'static str> {
        match (self.config.only, self.config.delta) {
            (Some(kind), delta) => kind.method(delta),
            (None, false) => Some(AGGREGATED),
            (None, true) => Some(AGGREGATED_DELTA),
        }
    }

    /// Sends and receives until the stream ends.
    async fn exchange(
        &self,
        requests: mpsc::Sender<Bytes>,
        responses: impl Future<Output = Result<Responses, StreamError>>,
    ) -> StreamError {
        let mut responses = pin!(responses);
        let mut reading: Option<Responses> = None;
        // Requests wait for the bucket until then.
        let mut limited: Option<Instant> = None;
        let mut mute = false;
        loop {
            if self.shared.reconnect.take() {
                return StreamError::Left;
            }
            let (speak, listen) = {
                let core = self.shared.core.borrow();
                (
                    !mute && limited.is_none() && core.has_request(),
                    !core.has_event() && core.unsent() < UNSENT,
                )
            };
            tokio::select! {
                opened = &mut responses, if reading.is_none() => match opened {
                    Ok(opened) => reading = Some(opened),
                    Err(error) => return error,
                },
                response = self.next(reading.as_mut()), if listen && reading.is_some() => match response {
                    Ok(response) => self.receive(response),
                    Err(error) => return error,
                },
                permit = requests.reserve(), if speak => {
                    let Ok(permit) = permit else {
                        // Nobody takes requests any more. Why, comes with the responses.
                        mute = true;
                        continue;
                    };
                    limited = self.limited();
                    if limited.is_none() && let Some(bytes) = self.take_request() {
                        permit.send(bytes);
                    }
                    self.count_pending();
                },
                () = sleep_until(limited), if limited.is_some() => limited = None,
                () = self.shared.traffic.notified() => {}
            }
        }
    }

    async fn next(&self, reading: Option<&mut Responses>) -> Result<Response, StreamError> {
        let Some(reading) = reading else { return std::future::pending().await };
        Ok(if self.config.delta {
            Response::Delta(reading.next::<DeltaDiscoveryResponse>().await?)
        } else {
            Response::Sotw(reading.next::<DiscoveryResponse>().await?)
        })
    }

    fn receive(&self, response: Response) {
        self.schedule.borrow_mut().answered();
        let received = self.shared.core.borrow_mut().receive(Now::read(), response);
        if let Err(ignored) = received {
            tracing::warn!(%ignored, "response is ignored");
        }
        self.shared.upkeep.notify_one();
    }

    fn take_request(&self) -> Option<Bytes> {
        let request = self.shared.core.borrow_mut().next_request()?;
        match &request {
            Request::Sotw(request) => frame(request),
            Request::Delta(request) => frame(request),
        }
    }

    /// Takes a token; if there is none, when there will be.
    fn limited(&self) -> Option<Instant> {
        let until = self.bucket.borrow_mut().as_mut()?.take(Instant::now()).err()?;
        self.stats.rate_limit_enforced().inc();
        Some(until)
    }

    fn count_pending(&self) {
        let pending = self.shared.core.borrow().pending();
        self.stats.pending_requests().set(u64::try_from(pending).unwrap_or(u64::MAX));
    }

    /// On another control plane than the first: tries from time to time whether that can be reached.
    async fn primary(&self, index: usize) -> Link {
        let (Some(first), Some(every)) = (self.config.services.first(), self.config.return_interval) else {
            return std::future::pending().await;
        };
        if index == 0 {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(every).await;
            match Link::open(&*self.connector, first, 0).await {
                Ok(link) => return link,
                Err(error) => tracing::debug!(service = first.label, %error, "not back yet"),
            }
        }
    }
}

/// Tells events and lets timers fire, whatever the stream does.
pub(crate) async fn upkeep(shared: &Shared, events: &mpsc::Sender<Event>) {
    loop {
        if shared.closed.get() {
            return;
        }
        let (waiting, deadline) = {
            let mut core = shared.core.borrow_mut();
            core.tick(Now::read());
            (core.has_event(), core.next_deadline())
        };
        tokio::select! {
            permit = events.reserve(), if waiting => {
                let Ok(permit) = permit else { return };
                if let Some(event) = shared.core.borrow_mut().next_event() {
                    permit.send(event);
                }
                // Reading waits for the queue to be empty.
                shared.traffic.notify_one();
            }
            () = events.closed(), if !waiting => return,
            // What a timer held back may be sent.
            () = sleep_until(deadline), if deadline.is_some() => shared.traffic.notify_one(),
            () = shared.upkeep.notified() => {}
        }
    }
}

/// The thread's own generator.
struct RngOfThread;

impl rng::Rng for RngOfThread {
    fn next_u64(&self) -> u64 {
        rng::with(rng::Rng::next_u64)
    }
}

pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
