//! One request and its response, from the first to the last byte.

mod end;
mod limits;
mod passed;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use outrider_core::StreamInfo;
use outrider_core::matcher::HeadView;
use outrider_core::rng::{self, Rng};

use crate::hcm::HcmWorker;
use crate::hcm::conn::Conn;
use passed::{Passed, PassedHead};

/// `http` or `https`, as `:scheme` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// Its text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What a request asks to be upgraded to. In the request's head it looks like HTTP/1.1's upgrade (`connection:
/// upgrade`, `upgrade: websocket`, GET) whatever the client spoke; a CONNECT keeps its method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeKind {
    /// A CONNECT.
    Connect,
    /// An upgrade to this protocol, lower case.
    Protocol(Box<str>),
}

impl UpgradeKind {
    /// The name that `upgrade_configs` knows it by.
    pub fn name(&self) -> &str {
        match self {
            Self::Connect => "CONNECT",
            Self::Protocol(name) => name,
        }
    }
}

/// A request's head that outlives its forwarding, because a log or a format reads it.
#[derive(Debug, Clone)]
pub struct KeptHead {
    /// Its method.
    pub method: Method,
    /// Its path and query (origin form).
    pub uri: Uri,
    /// Its headers, `host` among them.
    pub headers: HeaderMap,
}

/// A response's head, and later its trailers, kept for the log.
#[derive(Debug)]
struct KeptResponse {
    status: StatusCode,
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
}

/// Why the proxy ends a stream before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    /// Nothing moved for too long.
    Idle,
    /// The request took too long to arrive.
    Request,
    /// The stream lived too long.
    Duration,
    /// The request's body is not as HTTP has it.
    Malformed,
    /// A policy that changed refuses it.
    Refused,
}

/// How far a stream came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Not to its end.
    Open,
    /// The whole response went out.
    Complete,
    /// The upstream broke off behind the response's head.
    Broken,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// Its facts. Borrow it for a moment only, never over an await.
    pub info: RefCell<StreamInfo>,
    /// Its connection manager on this worker.
    pub hcm: Rc<HcmWorker>,
    /// The scheme; settled before the request is routed.
    pub scheme: Cell<Scheme>,
    /// The number that fractions and weights draw from.
    pub random: Cell<u64>,
    /// The request came from inside (`x-envoy-internal`).
    pub internal: Cell<bool>,
    /// The request is gRPC: local replies are trailers-only.
    pub grpc: Cell<bool>,
    /// The request's method is HEAD.
    pub head_request: Cell<bool>,
    /// The whole request has arrived.
    pub request_done: Cell<bool>,
    /// What it asks to be upgraded to.
    pub upgrade: RefCell<Option<UpgradeKind>>,
    /// Its way through the HTTP filters.
    pub(crate) filters: crate::filter::Run,
    /// A filter reads the request's head after it was forwarded.
    pub(crate) keeps_head: Cell<bool>,
    /// Its connection.
    pub(crate) conn: Rc<Conn>,
    /// Its place in the connection's list.
    pub(crate) slot: Cell<usize>,
    /// It became a tunnel.
    pub(crate) tunnel: Cell<bool>,
    /// The upstream takes no trailers.
    pub(crate) drops_trailers: Cell<bool>,
    /// The client went away in the middle of its request.
    pub(crate) client_left: Cell<bool>,
    /// The client asked for the connection's end in a way that hyper does not see.
    pub(crate) client_closes: Cell<bool>,
    /// An HTTP/1.0 client wants to go on.
    pub(crate) keep_alive_10: Cell<bool>,
    /// hyper's end of an HTTP/2 CONNECT.
    pub(crate) h2_upgrade: RefCell<Option<hyper::upgrade::OnUpgrade>>,
    /// The request id, when the response is to carry it.
    pub(crate) request_id: RefCell<Option<HeaderValue>>,
    head: RefCell<Option<Box<KeptHead>>>,
    /// How far it came past the policies, and its head as they saw it.
    passed: Cell<Passed>,
    passed_head: RefCell<Option<PassedHead>>,
    response: RefCell<Option<Box<KeptResponse>>>,
    abort: Cell<Option<Abort>>,
    /// Its time was over before the response's head: the answer is the proxy's own.
    pub(crate) cut_short: Cell<bool>,
    end: Cell<End>,
    waker: RefCell<Option<Waker>>,
    /// Whom the request's end wakes.
    request_waker: RefCell<Option<Waker>>,
    last_active: Cell<Instant>,
    idle_timeout: Cell<Option<Duration>>,
    request_end: Cell<Option<Instant>>,
    longest_end: Cell<Option<Instant>>,
    next_log: Cell<Option<Instant>>,
    /// When a limit of the router's is reached, and whether it was.
    limit: Cell<Option<Instant>>,
    limit_due: Cell<bool>,
}

/// Finishes its stream when dropped: exactly once, however the stream ends.
#[derive(Debug)]
pub(crate) struct StreamGuard(Rc<Stream>);

impl StreamGuard {
    pub(crate) const fn stream(&self) -> &Rc<Stream> {
        &self.0
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Stream {
    /// Opens a stream on `conn`: it counts from now on, and the guard ends it.
    pub(crate) fn open(conn: &Rc<Conn>) -> (Rc<Self>, StreamGuard) {
        let hcm = conn.hcm.latest();
        let config = &hcm.shared.config;
        let start = conn.now();
        let time = hcm.wall_clock(start);
        let info = StreamInfo::at(conn.info.clone(), Some(conn.protocol.get()), start, time);
        let after = |duration: Option<Duration>| duration.map(|duration| start + duration);
        let stream = Rc::new(Self {
            info: RefCell::new(info),
            scheme: Cell::new(Scheme::Http),
            random: Cell::new(rng::with(Rng::next_u64)),
            internal: Cell::new(false),
            grpc: Cell::new(false),
            head_request: Cell::new(false),
            request_done: Cell::new(false),
            upgrade: RefCell::default(),
            filters: crate::filter::Run::default(),
            keeps_head: Cell::new(false),
            conn: conn.clone(),
            slot: Cell::new(0),
            tunnel: Cell::new(false),
            drops_trailers: Cell::new(false),
            client_left: Cell::new(false),
            client_closes: Cell::new(false),
            keep_alive_10: Cell::new(false),
            h2_upgrade: RefCell::default(),
            request_id: RefCell::default(),
            head: RefCell::default(),
            passed: Cell::new(Passed::NotYet),
            passed_head: RefCell::default(),
            response: RefCell::default(),
            abort: Cell::new(None),
            cut_short: Cell::new(false),
            end: Cell::new(End::Open),
            waker: RefCell::default(),
            request_waker: RefCell::default(),
            last_active: Cell::new(start),
            idle_timeout: Cell::new(config.stream_idle_timeout),
            request_end: Cell::new(after(config.request_timeout)),
            longest_end: Cell::new(after(config.max_stream_duration)),
            next_log: Cell::new(after(config.log_interval)),
            hcm,
            limit: Cell::new(None),
            limit_due: Cell::new(false),
        });
        let stats = &conn.hcm.shared.stats;
        stats.downstream_rq_total().inc();
        stats.downstream_rq_active().inc();
        if conn.is_h2() {
            stats.downstream_rq_http2_total().inc();
            conn.hcm.shared.h2_stats.streams_active().inc();
        } else {
            stats.downstream_rq_http1_total().inc();
            conn.h1.response_pending.set(true);
            conn.h1.head_started.set(None);
            conn.h1.head_bytes.set(0);
        }
        conn.open(&stream);
        if let Some(deadline) = stream.next_deadline() {
            conn.want(deadline);
        }
        let guard = StreamGuard(stream.clone());
        (stream, guard)
    }

    /// Whether something will read the request's head after it was forwarded. If so, the router calls
    /// [`Stream::keep_head`] once it has made its changes and before it returns, whatever it returns.
    pub fn wants_head(&self) -> bool {
        self.hcm.wants_head() || self.keeps_head.get()
    }

    /// Keeps a copy of the request's head.
    pub fn keep_head(&self, parts: &Parts) {
        self.store_head(parts.method.clone(), parts.uri.clone(), parts.headers.clone());
    }

    /// Keeps the request's head itself.
    pub fn store_head(&self, method: Method, uri: Uri, headers: HeaderMap) {
        *self.head.borrow_mut() = Some(Box::new(KeptHead { method, uri, headers }));
    }

    /// Calls `f` with the kept head, if one was kept.
    pub fn with_head<T>(&self, f: impl FnOnce(Option<HeadView<'_>>) -> T) -> T {
        let head = self.head.borrow();
        f(head.as_deref().map(|head| self.view(&head.method, &head.uri, &head.headers)))
    }

    /// A request's head as matchers and formats see it. `host` stands for `:authority`; the path is empty for a
    /// CONNECT.
    pub fn view<'a>(&self, method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> HeadView<'a> {
        HeadView {
            headers,
            method: method.as_str(),
            authority: headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
            path: uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str),
            scheme: self.scheme.get().as_str(),
            status: "",
            protocol: "",
        }
    }

    /// A frame of the request's body arrived with `bytes` bytes of data.
    pub(crate) fn request_frame(&self, bytes: usize) {
        self.touch();
        self.info.borrow_mut().bytes_received += bytes as u64;
    }

    /// The request's last byte arrived.
    pub(crate) fn request_complete(&self) {
        self.request_ends(false);
    }

    /// The request's last byte arrived, and whoever sends it upstream has it. Later calls change nothing.
    pub(crate) fn request_handed_on(&self) {
        self.request_ends(true);
    }

    fn request_ends(&self, handed_on: bool) {
        if !self.request_done.replace(true) {
            let mut info = self.info.borrow_mut();
            let since = self.conn.now().saturating_duration_since(info.start);
            info.timings.last_downstream_rx = Some(since);
            if handed_on {
                info.timings.last_upstream_tx = Some(since);
            }
            drop(info);
            let waker = self.request_waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// When the request's last byte arrived. While it has not, the task of `cx` is woken when it does.
    pub(crate) fn request_done_at(&self, cx: &Context<'_>) -> Option<tokio::time::Instant> {
        if !self.request_done.get() {
            *self.request_waker.borrow_mut() = Some(cx.waker().clone());
            return None;
        }
        let info = self.info.borrow();
        Some((info.start + info.timings.last_downstream_rx.unwrap_or_default()).into())
    }

    /// The response's head goes out with `status`.
    pub(crate) fn response_head(&self, status: StatusCode, headers: &HeaderMap) {
        let now = self.conn.now();
        self.last_active.set(now);
        let logger = &self.hcm.shared.logger;
        if logger.reads_response() {
            let kept = KeptResponse { status, headers: headers.clone(), trailers: None };
            *self.response.borrow_mut() = Some(Box::new(kept));
        }
        let mut info = self.info.borrow_mut();
        info.response_code = Some(status.as_u16());
        info.timings.first_downstream_tx = Some(now.saturating_duration_since(info.start));
    }

    /// A frame of the response's body goes out with `bytes` bytes of data.
    pub(crate) fn response_frame(&self, bytes: usize) {
        self.touch();
        self.info.borrow_mut().bytes_sent += bytes as u64;
    }

    /// The response's trailers go out.
    pub(crate) fn response_trailers(&self, trailers: &HeaderMap) {
        if let Some(kept) = self.response.borrow_mut().as_deref_mut() {
            kept.trailers = Some(trailers.clone());
        }
    }

    /// The response's last byte goes out.
    pub(crate) fn response_complete(&self) {
        if self.end.get() == End::Open {
            self.end.set(End::Complete);
            let mut info = self.info.borrow_mut();
            let since = self.conn.now().saturating_duration_since(info.start);
            info.timings.last_downstream_tx = Some(since);
        }
    }

    /// The upstream broke off behind the response's head; the router has noted why.
    pub(crate) fn response_broken(&self) {
        self.end.set(End::Broken);
    }

    /// Whether trailers pass between the client and us: HTTP/1 has to be told.
    pub(crate) fn passes_trailers(&self) -> bool {
        self.conn.is_h2() || self.hcm.shared.config.http1.enable_trailers
    }

    /// The proxy resets the stream without an answer.
    pub(crate) fn reset(&self) {
        self.end.set(End::Broken);
    }

    /// How long it has run.
    pub(crate) fn since_start(&self, start: Instant) -> Duration {
        self.conn.now().saturating_duration_since(start)
    }

    /// Something moved.
    pub(crate) fn touch(&self) {
        self.last_active.set(self.conn.now());
    }
}
