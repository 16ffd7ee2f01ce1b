//! One request and its response, from the first to the last byte.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use outrider_core::format::FormatContext;
use outrider_core::matcher::HeadView;
use outrider_core::reply::details;
use outrider_core::rng::{self, Rng};
use outrider_core::{LocalReply, ResponseFlags, StreamInfo};

use crate::hcm::HcmWorker;
use crate::hcm::conn::Conn;
use crate::headers::names::GRPC_STATUS;
use crate::local_reply;

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

    /// Takes the route's own time limits: `idle` and `longest` in place of the connection manager's where the route
    /// gives them (inner `None`: no limit).
    pub(crate) fn route_limits(&self, idle: Option<Option<Duration>>, longest: Option<Option<Duration>>) {
        if let Some(idle) = idle {
            self.idle_timeout.set(idle);
        }
        if let Some(longest) = longest {
            let start = self.info.borrow().start;
            self.longest_end.set(longest.map(|longest| start + longest));
        }
        if (idle.is_some() || longest.is_some())
            && let Some(deadline) = self.next_deadline()
        {
            self.conn.want(deadline);
        }
    }

    /// A frame of the request's body arrived with `bytes` bytes of data.
    pub(crate) fn request_frame(&self, bytes: usize) {
        self.touch();
        self.info.borrow_mut().bytes_received += bytes as u64;
    }

    /// The request's last byte arrived.
    pub(crate) fn request_complete(&self) {
        if !self.request_done.replace(true) {
            let mut info = self.info.borrow_mut();
            let since = self.conn.now().saturating_duration_since(info.start);
            info.timings.last_downstream_rx = Some(since);
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

    /// Whether the stream's time is over.
    pub(crate) const fn aborted(&self) -> Option<Abort> {
        self.abort.get()
    }

    /// Remembers whom the end of the stream's time wakes.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Runs `answer` until it is done or the stream's time is over; `None` when the client left meanwhile.
    pub(crate) async fn or_abort<T>(
        &self,
        answer: impl Future<Output = Result<T, LocalReply>>,
    ) -> Option<Result<T, LocalReply>> {
        let mut answer = pin!(answer);
        // Once its time is over the answer is not polled again: the reply takes its place at once.
        poll_fn(|cx| {
            let answer = answer.as_mut().poll(cx);
            if self.client_left.get() {
                return Poll::Ready(None);
            }
            match answer {
                // What the router makes of a malformed body is not what is wrong.
                Poll::Ready(done) if done.is_ok() || self.abort.get().is_none() => {
                    return Poll::Ready(Some(done));
                }
                _ => {}
            }
            if let Some(abort) = self.abort.take() {
                // The reply is given all the time it needs: the connection's own limits hold it.
                self.idle_timeout.set(None);
                self.request_end.set(None);
                self.longest_end.set(None);
                self.cut_short.set(true);
                return Poll::Ready(Some(Err(self.abort_reply(abort))));
            }
            self.register(cx);
            Poll::Pending
        })
        .await
    }

    fn abort_reply(&self, abort: Abort) -> LocalReply {
        let late =
            if self.request_done.get() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        let (status, details, body) = match abort {
            Abort::Idle => (late, details::STREAM_IDLE_TIMEOUT, "stream timeout"),
            Abort::Request => {
                (StatusCode::REQUEST_TIMEOUT, details::REQUEST_OVERALL_TIMEOUT, "request timeout")
            }
            Abort::Duration => (late, details::MAX_DURATION_TIMEOUT, "downstream duration timeout"),
            Abort::Malformed => return local_reply::malformed(StatusCode::BAD_REQUEST, "http1.codec_error"),
        };
        let reply = LocalReply::new(status, details).body(body);
        if abort == Abort::Duration && self.grpc.get() {
            // DEADLINE_EXCEEDED: the client set the limit, or should have.
            return reply.header(GRPC_STATUS, HeaderValue::from_static("4"));
        }
        reply
    }

    /// Has the connection's timer wake the task of `cx` at `at`: no timer is armed for each request. True when that
    /// time has come.
    pub(crate) fn limit_reached(&self, at: Option<Instant>, cx: &Context<'_>) -> bool {
        if self.limit_due.take() && at.is_some_and(|at| at <= Instant::now()) {
            return true;
        }
        if self.limit.replace(at) != at
            && let Some(at) = at
        {
            self.conn.want(at);
        }
        self.register(cx);
        false
    }

    /// No limit of the router's runs.
    pub(crate) fn lift_limit(&self) {
        self.limit.set(None);
        self.limit_due.set(false);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let idle = self.idle_timeout.get().map(|timeout| self.last_active.get() + timeout);
        let request = if self.request_done.get() { None } else { self.request_end.get() };
        [idle, request, self.longest_end.get(), self.next_log.get(), self.limit.get()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ends the stream if its time is over; otherwise says when to look again.
    pub(crate) fn check_deadlines(&self, now: Instant) -> Option<Instant> {
        if self.abort.get().is_some() {
            return None;
        }
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let stats = &self.hcm.shared.stats;
        if passed(self.next_log.get()) {
            self.log("DownstreamPeriodic");
            self.next_log.set(self.hcm.shared.config.log_interval.map(|interval| now + interval));
        }
        if passed(self.limit.get()) {
            self.limit.set(None);
            self.limit_due.set(true);
            self.wake();
        }
        if passed(self.longest_end.get()) {
            stats.downstream_rq_max_duration_reached().inc();
            self.end_early(Abort::Duration, ResponseFlags::NONE, details::MAX_DURATION_TIMEOUT);
        } else if !self.request_done.get() && passed(self.request_end.get()) {
            stats.downstream_rq_timeout().inc();
            self.end_early(Abort::Request, ResponseFlags::NONE, details::REQUEST_OVERALL_TIMEOUT);
        } else if passed(self.idle_timeout.get().map(|timeout| self.last_active.get() + timeout)) {
            stats.downstream_rq_idle_timeout().inc();
            self.end_early(Abort::Idle, ResponseFlags::STREAM_IDLE_TIMEOUT, details::STREAM_IDLE_TIMEOUT);
        } else {
            return self.next_deadline();
        }
        None
    }

    /// The client went away in the middle of its request: there is nobody to answer.
    pub(crate) fn client_leaves(&self) {
        self.client_left.set(true);
        self.wake();
    }

    /// Wakes who waits for the end of the stream's time.
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The request's body cannot be read.
    pub(crate) fn malformed_body(&self) {
        if self.abort.get().is_none() {
            self.hcm.shared.stats.downstream_cx_protocol_error().inc();
            self.end_early(Abort::Malformed, ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error");
        }
    }

    fn end_early(&self, abort: Abort, flags: ResponseFlags, details: &'static str) {
        self.abort.set(Some(abort));
        {
            let mut info = self.info.borrow_mut();
            info.flags.insert(flags);
            info.details = Cow::Borrowed(details);
        }
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Seals the facts, counts, writes the access log.
    fn finish(&self) {
        self.conn.close(self);
        let stats = &self.hcm.shared.stats;
        let h2 = self.conn.is_h2();
        if h2 {
            self.count_h2_end();
        } else {
            self.conn.h1.request_cut.set(!self.request_done.get());
        }
        // Nobody holds it: a stream is finished from the outermost of its futures.
        let Ok(mut info) = self.info.try_borrow_mut() else { return };
        let duration = self.conn.now().saturating_duration_since(info.start);
        info.duration = Some(duration);
        match self.end.get() {
            End::Complete if self.request_done.get() => {}
            End::Complete => stats.downstream_rq_rx_reset().inc(),
            // Envoy counts the resets that it makes on both sides.
            End::Broken => {
                stats.downstream_rq_tx_reset().inc();
                stats.downstream_rq_rx_reset().inc();
            }
            End::Open if self.abort.get().is_some() => {
                stats.downstream_rq_tx_reset().inc();
                stats.downstream_rq_rx_reset().inc();
            }
            End::Open => {
                stats.downstream_rq_rx_reset().inc();
                if h2 && (!self.conn.gone.get() || self.tunnel.get()) {
                    info.flags.insert(ResponseFlags::DOWNSTREAM_REMOTE_RESET);
                    info.details = Cow::Borrowed("http2.remote_reset");
                } else {
                    info.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                    info.details = Cow::Borrowed(details::DOWNSTREAM_REMOTE_DISCONNECT);
                }
            }
        }
        stats.downstream_rq_active().dec();
        stats.downstream_rq_time().record(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        drop(info);
        self.log("DownstreamEnd");
        self.filters.finish();
    }

    /// What the codec would say of an HTTP/2 stream's end.
    fn count_h2_end(&self) {
        let codec = &self.hcm.shared.h2_stats;
        codec.streams_active().dec();
        match self.end.get() {
            End::Complete => {}
            End::Broken => codec.tx_reset().inc(),
            End::Open if self.abort.get().is_some() => codec.tx_reset().inc(),
            End::Open if self.conn.gone.get() => {}
            End::Open => codec.rx_reset().inc(),
        }
    }

    /// Writes the access log.
    pub(crate) fn log(&self, log_type: &'static str) {
        let logger = &self.hcm.shared.logger;
        if logger.is_empty() {
            return;
        }
        let info = self.info.borrow();
        let response = self.response.borrow();
        self.with_head(|request| {
            logger.log(&FormatContext {
                info: &info,
                request,
                response: response
                    .as_deref()
                    .map(|kept| HeadView { status: kept.status.as_str(), ..HeadView::of(&kept.headers) }),
                trailers: response.as_deref().and_then(|kept| kept.trailers.as_ref()),
                local_reply_body: "",
                log_type,
            });
        });
    }
}
