//! A worker with listeners whose handler tells what it got.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::model::{
    FilterChain, FilterChainMatch, Listener, ListenerAddress, ListenerFilter, ListenerFilterKind, NO_LIMIT,
    NetworkFilter, RuntimeInteger, SocketAddress, TcpProxy, TrafficDirection,
};
use outrider_core::stats::Registry;
use outrider_core::stream::ConnInfo;
use outrider_net::drain::{DrainController, DrainWatch};
use outrider_net::handler::{ConnectionHandler, Downstream, HandlerFactory, LocalFuture};
use outrider_net::listener::{
    GlobalConnections, Inherited, ListenerShared, Sockets, WorkerListener, WorkerListeners,
};
use outrider_telemetry::access_log::LogFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers with its chain's name, what it knows of the connection, and what the client has sent so far.
pub struct Teller(Rc<RefCell<Vec<Rc<ConnInfo>>>>);

impl ConnectionHandler for Teller {
    fn as_any(self: Rc<Self>) -> Rc<dyn std::any::Any> {
        self
    }

    fn handle(self: Rc<Self>, mut downstream: Downstream) -> LocalFuture<()> {
        Box::pin(async move {
            let info = downstream.info.clone();
            self.0.borrow_mut().push(info.clone());
            let hello = format!("chain={} ", info.filter_chain);
            let _ = downstream.stream.write_all(hello.as_bytes()).await;
            let mut bytes = [0; 64];
            while let Ok(n) = downstream.stream.read(&mut bytes).await {
                if n == 0 || downstream.stream.write_all(&bytes[..n]).await.is_err() {
                    break;
                }
            }
        })
    }
}

pub struct Factory(Rc<Teller>, DrainController);

impl HandlerFactory for Factory {
    fn drain(&self, _chain: &FilterChain) -> DrainWatch {
        self.1.watch()
    }

    fn handler(&self, _chain: &FilterChain) -> Rc<dyn ConnectionHandler> {
        self.0.clone()
    }
}

/// One worker with its listeners.
pub struct Worker {
    pub registry: Registry,
    pub global: GlobalConnections,
    pub siblings: Rc<WorkerListeners>,
    pub drain: DrainController,
    pub factory: Factory,
    pub seen: Rc<RefCell<Vec<Rc<ConnInfo>>>>,
}

impl Worker {
    pub fn new(limit: Option<u64>) -> Self {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let drain = DrainController::new();
        Self {
            registry: Registry::new(),
            global: GlobalConnections::new(limit.map_or(NO_LIMIT, RuntimeInteger::fixed)),
            siblings: WorkerListeners::new(0),
            factory: Factory(Rc::new(Teller(seen.clone())), drain.clone()),
            drain,
            seen,
        }
    }

    pub fn start(&self, listener: Listener) -> (WorkerListener, Option<SocketAddr>) {
        self.start_after(listener, &Inherited::default())
    }

    /// The same, with sockets that were opened before.
    pub fn start_after(
        &self,
        listener: Listener,
        inherited: &Inherited,
    ) -> (WorkerListener, Option<SocketAddr>) {
        let shared = ListenerShared::build(
            Arc::new(listener),
            &self.registry,
            &LogFiles::default(),
            &self.global,
            &|_| None,
            None,
        )
        .expect("a listener");
        let sockets = Sockets::bind(&shared, 1, inherited).expect("sockets").pop().expect("one set");
        let address = sockets.local_addrs().first().copied();
        let started = WorkerListener::start(shared, sockets, &self.factory, &self.siblings);
        (started, address)
    }

    pub async fn wait_for(&self, stat: &str, value: u64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.registry.value(stat).unwrap_or(0) != value {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{stat} is not {value}: {:?}",
                self.registry.value(stat)
            );
            tokio::task::yield_now().await;
        }
    }
}

pub fn chain(name: &str, matches: FilterChainMatch) -> Arc<FilterChain> {
    let tcp = TcpProxy {
        stat_prefix: "t".into(),
        clusters: Vec::new(),
        idle_timeout: None,
        max_duration: None,
        max_connect_attempts: 1,
        hash_source_ip: false,
        access_logs: Vec::new(),
        log_on_connected: false,
        log_interval: None,
    };
    Arc::new(FilterChain {
        name: name.into(),
        metadata: None,
        matches,
        tls: None,
        transport_connect_timeout: None,
        gates: Vec::new(),
        filter: NetworkFilter::TcpProxy(Arc::new(tcp)),
        hash: 0,
        entry_hash: 0,
        match_hash: 0,
        gates_hash: 0,
    })
}

pub fn address(text: &str) -> ListenerAddress {
    ListenerAddress {
        address: SocketAddress::Ip(text.parse().expect("an address")),
        ipv4_compat: false,
        socket_options: None,
        keepalive: None,
    }
}

pub fn listener(chains: Vec<Arc<FilterChain>>, filters: Vec<ListenerFilterKind>) -> Listener {
    let filter = |kind| ListenerFilter { name: "f".into(), disabled: None, kind };
    Listener {
        name: "test".into(),
        metadata: None,
        stat_prefix: "test".into(),
        addresses: vec![address("127.0.0.1:0")],
        bind_to_port: true,
        use_original_dst: false,
        listener_filters: filters.into_iter().map(filter).collect(),
        listener_filters_timeout: Some(Duration::from_secs(15)),
        continue_on_listener_filters_timeout: false,
        filter_chains: chains,
        default_filter_chain: None,
        per_connection_buffer_limit: 1 << 20,
        reuse_port: true,
        backlog: 128,
        transparent: None,
        freebind: None,
        tcp_fast_open: None,
        keepalive: None,
        socket_options: Vec::new(),
        max_accepts_per_event: 0,
        access_logs: Vec::new(),
        ignore_global_conn_limit: false,
        direction: TrafficDirection::Unspecified,
        drain_modify_only: false,
        connection_limit: NO_LIMIT,
    }
}

pub fn named(name: &str) -> Vec<Arc<FilterChain>> {
    vec![chain(name, FilterChainMatch::default())]
}

/// Sends `bytes` (in the given pieces), ends, and reads all of the answer.
pub async fn talk(to: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    stream.set_nodelay(true).expect("nodelay");
    for piece in pieces {
        stream.write_all(piece).await.expect("written");
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.expect("an end");
    let mut answer = String::new();
    match stream.read_to_string(&mut answer).await {
        Ok(_) => answer,
        Err(_) => "reset".into(),
    }
}

pub fn local(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}
