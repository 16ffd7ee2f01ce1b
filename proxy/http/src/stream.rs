//! One request and its response, from the first to the last byte.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use outrider_core::StreamInfo;
use outrider_core::matcher::HeadView;

use crate::hcm::HcmWorker;

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
    /// Whom the request's end wakes.
    request_waker: RefCell<Option<Waker>>,
    head: RefCell<Option<Box<KeptHead>>>,
}

impl Stream {
    /// A stream of `hcm` with `info`.
    pub(crate) fn new(hcm: Rc<HcmWorker>, info: StreamInfo) -> Self {
        Self {
            info: RefCell::new(info),
            hcm,
            scheme: Cell::new(Scheme::Http),
            random: Cell::new(0),
            internal: Cell::new(false),
            grpc: Cell::new(false),
            head_request: Cell::new(false),
            request_done: Cell::new(false),
            upgrade: RefCell::new(None),
            request_waker: RefCell::new(None),
            head: RefCell::new(None),
        }
    }

    /// Whether something will read the request's head after it was forwarded. If so, the router calls
    /// [`Stream::keep_head`] once it has made its changes and before it returns, whatever it returns.
    pub fn wants_head(&self) -> bool {
        self.hcm.wants_head()
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
        self.info.borrow_mut().bytes_received += bytes as u64;
    }

    /// The request's last byte arrived.
    pub(crate) fn request_complete(&self) {
        if !self.request_done.replace(true) {
            let mut info = self.info.borrow_mut();
            let since = info.start.elapsed();
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
}
