//! The connection manager: what all workers share of it, and what each has for itself.

pub(crate) mod conn;
pub(crate) mod review;
pub(crate) mod routing;
pub(crate) mod serve;
pub(crate) mod timer;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use memchr::memmem::Finder;
use outrider_config::model::{self, HeaderCase};
use outrider_core::matcher::HeadView;
use outrider_core::stats::{Registry, Scope};
use outrider_net::handler::{ConnectionHandler, Downstream, LocalFuture};
use outrider_telemetry::access_log::{AccessLogger, LogFileError, LogFiles};
use outrider_upstream::WorkerClusters;

use crate::codec;
use crate::codec::h2::LocalExec;
use crate::filter::{Chain, FilterError, PinnedChain};
use crate::headers::path::PathPolicy;
use crate::headers::xff;
use crate::on_demand::Asker;
use crate::reply_mapper::ReplyMapper;
use crate::routing::{DirectBodyError, RoutePlace, RouteSlot, ScopeTable, TableHandle};
use crate::stats::{CodecStats, HcmStats, ListenerHttpStats};

/// Bytes that a worker reads at once to find out what a connection speaks.
const SCRATCH: usize = 16 * 1024;
/// Envoy's default of `max_headers_count`, and hyper's.
const DEFAULT_HEADERS: u32 = 100;
/// Envoy's defaults for HTTP/2 (`Http2ProtocolOptions`).
const H2_MAX_STREAMS: u32 = 1024;
const H2_STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;

/// What all workers share of one connection manager.
#[derive(Debug)]
pub struct HcmShared {
    /// Its configuration.
    pub config: Arc<model::HttpConnectionManager>,
    /// `http.<stat_prefix>.`
    pub stats: HcmStats,
    /// `listener.<address>.http.<stat_prefix>.`
    pub listener_stats: ListenerHttpStats,
    /// `http1.`
    pub h1_stats: CodecStats,
    /// `http2.`
    pub h2_stats: CodecStats,
    /// The place of its routes.
    pub routes: RoutePlace,
    /// Asks for what comes on demand; empty where nobody answers.
    pub asker: OnceLock<Asker>,
    /// Its access logs.
    pub logger: AccessLogger,
    pub(crate) path_policy: PathPolicy,
    pub(crate) local_address: IpAddr,
    /// The HTTP filters. Others are another connection manager: an update of a filter builds the listener again.
    filters: Arc<Chain>,
    /// Whether there are any.
    pub(crate) has_filters: bool,
    /// Changes local replies.
    pub(crate) reply_mapper: Option<Box<ReplyMapper>>,
    /// The node's cluster, as `x-envoy-upstream-healthchecked-cluster` says it.
    pub(crate) node_cluster: Option<HeaderValue>,
    /// What `add_user_agent` adds: the node's cluster, and its id.
    pub(crate) user_agent: Option<(HeaderValue, Option<HeaderValue>)>,
}

/// A connection manager cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum HcmError {
    /// An access log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogFileError),
    /// A body of `local_reply_config` cannot be read.
    #[error(transparent)]
    Body(#[from] DirectBodyError),
    /// A filter lacks what it needs.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

impl HcmShared {
    /// Builds what can fail, on the control thread. `listener` is the scope of the listener that it belongs to
    /// (`listener.0.0.0.0_80.`), `routes` the place of its route table.
    ///
    /// # Errors
    /// An access log cannot be opened, or a file with a body read.
    pub fn build(
        config: &Arc<model::HttpConnectionManager>,
        registry: &Registry,
        files: &LogFiles,
        listener: &Scope,
        routes: impl Into<RoutePlace>,
        node: &model::Node,
    ) -> Result<Arc<Self>, HcmError> {
        let prefix = &config.stat_prefix;
        Ok(Arc::new(Self {
            filters: Arc::new(Chain::build(&config.filters, &registry.scope(format!("http.{prefix}.")))?),
            has_filters: !config.filters.is_empty(),
            logger: AccessLogger::new(&config.access_logs, files)?,
            stats: HcmStats::new(registry.scope(format!("http.{prefix}."))),
            listener_stats: ListenerHttpStats::new(listener.child(&format!("http.{prefix}."))),
            h1_stats: CodecStats::new(registry.scope("http1.")),
            h2_stats: CodecStats::new(registry.scope("http2.")),
            routes: routes.into(),
            asker: OnceLock::new(),
            path_policy: PathPolicy {
                normalize: config.normalize_path,
                merge_slashes: config.merge_slashes,
                escaped_slashes: config.escaped_slashes,
            },
            local_address: xff::local_address(),
            reply_mapper: ReplyMapper::build(&config.local_replies)?,
            node_cluster: HeaderValue::from_str(&node.cluster).ok(),
            user_agent: config.add_user_agent.then(|| user_agent(node)).flatten(),
            config: config.clone(),
        }))
    }

    /// What is fetched for its filters: each wants to be [run](crate::fetch::Fetcher::run).
    pub fn fetchers(&self) -> impl Iterator<Item = crate::fetch::Fetcher> {
        self.filters.fetchers()
    }

    /// The places of secrets that its filters need: those that [want](crate::secrets::SecretSlot::wanted) one are to be
    /// filled, and filled again when it changes.
    pub fn secret_slots(&self) -> impl Iterator<Item = &Arc<crate::secrets::SecretSlot>> {
        self.filters.secret_slots()
    }

    /// Whether one of its filters has policies, at work or not.
    pub fn has_policies(&self) -> bool {
        self.filters.has_policies()
    }

    /// The longest request head, bytes.
    pub(crate) fn max_head_bytes(&self) -> usize {
        self.config.max_request_headers_kb as usize * 1024
    }
}

fn user_agent(node: &model::Node) -> Option<(HeaderValue, Option<HeaderValue>)> {
    let value = |text: &str| HeaderValue::from_str(text).ok();
    Some((value(&node.cluster)?, value(&node.id).filter(|id| !id.is_empty())))
}

/// A connection manager on one worker.
pub struct HcmWorker {
    /// What all workers share.
    pub shared: Arc<HcmShared>,
    /// The worker's clusters.
    pub clusters: Rc<WorkerClusters>,
    /// The routes as they were last looked at.
    routes: RefCell<TableHandle>,
    /// The filters: streams pin them without an atomic.
    filters: Rc<PinnedChain>,
    /// The same for scopes, by their numbers.
    scopes: RefCell<(Arc<ScopeTable>, Vec<TableHandle>)>,
    /// What an update put in its place.
    successor: RefCell<Option<Rc<Self>>>,
    pub(crate) h1: http1::Builder,
    pub(crate) h2: http2::Builder<LocalExec>,
    coding: Finder<'static>,
    length: Finder<'static>,
    scratch: RefCell<Box<[u8]>>,
    /// `date` as it is now, and the wall clock and the monotonic one when they were last compared.
    date: RefCell<HeaderValue>,
    clocks: Cell<(SystemTime, Instant)>,
}

impl std::fmt::Debug for HcmWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HcmWorker")
            .field("stat_prefix", &self.shared.config.stat_prefix)
            .finish_non_exhaustive()
    }
}

impl HcmWorker {
    /// The worker's part of `shared`.
    pub fn new(shared: Arc<HcmShared>, clusters: Rc<WorkerClusters>) -> Rc<Self> {
        let now = (SystemTime::now(), Instant::now());
        Rc::new(Self {
            clusters,
            filters: Rc::new(PinnedChain::new(shared.filters.clone())),
            routes: RefCell::default(),
            scopes: RefCell::default(),
            successor: RefCell::default(),
            h1: http1_builder(&shared),
            h2: http2_builder(&shared),
            coding: Finder::new(b"ransfer-"),
            length: Finder::new(b"ength:"),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            date: RefCell::new(date_value(now.0)),
            clocks: Cell::new(now),
            shared,
        })
    }

    /// The routes in force for a request; `None` when it is in no scope.
    pub(crate) fn routes(&self, head: &HeadView<'_>) -> Option<TableHandle> {
        match &self.shared.routes {
            RoutePlace::One(slot) => Some(latest(slot, &mut self.routes.borrow_mut())),
            RoutePlace::Scoped(slot) => {
                let current = slot.load();
                let number = current.find(head)? as usize;
                let mut known = self.scopes.borrow_mut();
                if !Arc::ptr_eq(&known.0, &current) {
                    *known = (current.clone(), vec![TableHandle::default(); current.scopes().len()]);
                }
                Some(latest(&current.scopes().get(number)?.routes, known.1.get_mut(number)?))
            }
        }
    }

    /// The filters.
    pub(crate) fn filters(&self) -> Rc<PinnedChain> {
        self.filters.clone()
    }

    /// The connection manager that serves the next request of a connection that began with `self`.
    pub(crate) fn latest(self: &Rc<Self>) -> Rc<Self> {
        let mut latest = self.clone();
        loop {
            let Some(next) = latest.successor.borrow().clone() else { return latest };
            latest = next;
        }
    }

    /// Whether something reads request heads after they were forwarded.
    pub fn wants_head(&self) -> bool {
        let mapper = self.shared.reply_mapper.as_ref();
        self.shared.logger.reads_request() || mapper.is_some_and(|mapper| mapper.reads_request)
    }

    /// The wall clock at `now`. It is read once a second and at each of its seconds' ends; in between the monotonic
    /// clock is followed.
    pub(crate) fn wall_clock(&self, now: Instant) -> SystemTime {
        let (wall, read) = self.clocks.get();
        let since = now.saturating_duration_since(read);
        let into_second = wall.duration_since(UNIX_EPOCH).map_or(0, |wall| wall.subsec_nanos());
        if u128::from(into_second) + since.as_nanos() < 1_000_000_000 {
            return wall + since;
        }
        let wall = SystemTime::now();
        self.clocks.set((wall, now));
        *self.date.borrow_mut() = date_value(wall);
        wall
    }

    /// The value of `date` at `now`; made once a second.
    pub(crate) fn date(&self, now: Instant) -> HeaderValue {
        self.wall_clock(now);
        self.date.borrow().clone()
    }

    /// Lends the worker's read buffer for a moment: connections without a codec have none of their own.
    pub(crate) fn read_scratch<T>(&self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        f(&mut self.scratch.borrow_mut())
    }

    /// A cheap look at the framing headers in `bytes`: whether a Transfer-Encoding may be there, and how many
    /// Content-Lengths (up to two) at most.
    pub(crate) fn framing(&self, bytes: &[u8]) -> (bool, usize) {
        (self.coding.find(bytes).is_some(), self.length.find_iter(bytes).take(2).count())
    }
}

impl ConnectionHandler for HcmWorker {
    fn handle(self: Rc<Self>, downstream: Downstream) -> LocalFuture<()> {
        Box::pin(codec::serve(self, downstream))
    }

    fn succeeded_by(&self, next: &Rc<dyn ConnectionHandler>) {
        if let Ok(next) = next.clone().as_any().downcast::<Self>() {
            *self.successor.borrow_mut() = Some(next);
        }
    }

    fn as_any(self: Rc<Self>) -> Rc<dyn Any> {
        self
    }
}

/// The table in `slot`; `known` is what it was at the last look.
fn latest(slot: &RouteSlot, known: &mut TableHandle) -> TableHandle {
    let current = slot.load();
    if !Arc::ptr_eq(known, &current) {
        *known = Rc::new(current.clone());
    }
    known.clone()
}

fn date_value(now: SystemTime) -> HeaderValue {
    HeaderValue::from_str(&httpdate::fmt_http_date(now)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn http1_builder(shared: &HcmShared) -> http1::Builder {
    let config = &shared.config;
    let mut builder = http1::Builder::new();
    builder
        .auto_date_header(false)
        .header_read_timeout(None)
        .allow_multiple_spaces_in_request_line_delimiters(true)
        .max_header_size(shared.max_head_bytes())
        // Bodies are read and written in pieces up to this.
        .max_buf_size(shared.max_head_bytes().max(64 * 1024))
        .title_case_headers(config.http1.header_case == HeaderCase::ProperWords)
        .preserve_header_case(config.http1.header_case == HeaderCase::Preserve);
    if config.max_headers_count != DEFAULT_HEADERS {
        builder.max_headers(config.max_headers_count as usize);
    }
    builder
}

fn http2_builder(shared: &HcmShared) -> http2::Builder<LocalExec> {
    let config = &shared.config;
    let options = &config.http2;
    let mut builder = http2::Builder::new(LocalExec);
    builder
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_concurrent_streams.unwrap_or(H2_MAX_STREAMS))
        .initial_stream_window_size(options.initial_stream_window_size.unwrap_or(H2_STREAM_WINDOW))
        .initial_connection_window_size(
            options.initial_connection_window_size.unwrap_or(H2_CONNECTION_WINDOW),
        )
        .max_header_list_size(config.max_request_headers_kb.saturating_mul(1024))
        .header_table_size(options.hpack_table_size);
    if options.allow_connect || config.upgrades.iter().any(|upgrade| upgrade.enabled) {
        builder.enable_connect_protocol();
    }
    builder
}
