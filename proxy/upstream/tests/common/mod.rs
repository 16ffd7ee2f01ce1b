//! Clusters in a few words, upstreams that misbehave to order, and waiting for what should become true.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses a part of it; what fails here fails the test"
)]

pub(crate) mod patient;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outrider_config::model::{self, Discovery, Endpoint, EndpointHealth, Endpoints, LocalityEndpoints};
use outrider_core::stats::Registry;
use outrider_upstream::{
    AcquireContext, ClusterManager, Lease, PickContext, PoolError, SendError, UpstreamBody, WorkerCluster,
    WorkerClusters,
};
use tokio::net::TcpListener;

/// Runs `test` as a worker would: one thread, local tasks.
pub(crate) fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs");
    });
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address: model::SocketAddress::Ip(address),
        hostname: "".into(),
        weight: 1,
        health: EndpointHealth::Healthy,
        metadata: None,
        check: None,
    }
}

pub(crate) fn endpoints(addresses: &[SocketAddr]) -> Endpoints {
    let endpoints = addresses.iter().copied().map(endpoint).collect();
    let locality = LocalityEndpoints { endpoints, ..Default::default() };
    Endpoints { localities: vec![locality], policy: Default::default() }
}

pub(crate) fn config(name: &str, discovery: Discovery) -> model::Cluster {
    model::Cluster {
        name: name.into(),
        stat_name: name.into(),
        alt_stat_name: None,
        metadata: None,
        discovery,
        lb: model::LbPolicy::RoundRobin,
        hash_policy: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        per_connection_buffer_limit: 1 << 20,
        tls: None,
        tls_matches: Vec::new(),
        http: model::UpstreamHttp::default(),
        breaker_default: model::CircuitBreaker::default(),
        breaker_high: model::CircuitBreaker::default(),
        per_host_max_connections: None,
        bind: None,
        bind_other: None,
        socket_options: Vec::new(),
        keepalive: None,
        close_connections_on_host_health_failure: false,
        panic_threshold: model::RuntimeInteger::fixed(50),
        fail_traffic_on_panic: false,
        outlier: None,
        checks: None,
        ignore_new_until_checked: false,
        ignore_health_on_removal: false,
    }
}

/// A worker with one cluster, `c`.
pub(crate) struct Bench {
    pub(crate) registry: Registry,
    pub(crate) manager: ClusterManager,
    pub(crate) workers: Rc<WorkerClusters>,
}

impl Bench {
    pub(crate) fn new(config: model::Cluster) -> Self {
        let registry = Registry::new();
        let manager = ClusterManager::new(registry.clone());
        let workers = WorkerClusters::new(manager.clone());
        manager.add(Arc::new(config)).unwrap();
        Self { registry, manager, workers }
    }

    /// STATIC with these hosts, changed by `change`.
    pub(crate) fn fixed(addresses: &[SocketAddr], change: impl FnOnce(&mut model::Cluster)) -> Self {
        let mut config = config("c", Discovery::Static(endpoints(addresses)));
        change(&mut config);
        Self::new(config)
    }

    pub(crate) fn update(&self, addresses: &[SocketAddr], change: impl FnOnce(&mut model::Cluster)) {
        let mut config = config("c", Discovery::Static(endpoints(addresses)));
        change(&mut config);
        self.manager.add(Arc::new(config)).unwrap();
    }

    pub(crate) fn cluster(&self) -> Rc<WorkerCluster> {
        self.workers.by_name("c").unwrap()
    }

    pub(crate) async fn lease(&self) -> Result<Lease, PoolError> {
        let cluster = self.cluster();
        let host = cluster.pick(&PickContext::default()).unwrap();
        cluster.acquire(&host, &AcquireContext::default()).await
    }

    /// One GET; the body as text.
    pub(crate) async fn get(&self, path: &str) -> Result<String, SendError> {
        let mut lease = self.lease().await.unwrap();
        let response = lease.send(get(path)).await?;
        let mut guard = lease.into_guard();
        let body = response.into_body().collect().await.map_err(SendError::sent)?.to_bytes();
        guard.finished();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    /// The value of a stat of the cluster.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        self.registry.value(&format!("cluster.c.{name}")).unwrap_or(0)
    }

    pub(crate) async fn until_stat(&self, name: &str, value: u64) {
        until(&format!("{name} is {value}, it is {}", self.stat(name)), || self.stat(name) == value).await;
    }
}

/// The permits that are out, over both priorities, connections left aside.
pub(crate) fn permits(cluster: &WorkerCluster) -> u32 {
    use outrider_upstream::breaker::Resource::{Pending, Requests, Retries};

    let breakers = cluster.shared.breakers();
    let taken =
        |high| [Pending, Requests, Retries].map(|r| breakers.of(high).taken(r)).into_iter().sum::<u32>();
    taken(false) + taken(true)
}

pub(crate) fn get(path: &str) -> http::Request<UpstreamBody> {
    http::Request::builder().uri(path).header("host", "a.example").body(UpstreamBody::Empty).unwrap()
}

/// An upstream that answers `/hold` when it is told to, and everything else with its connection's number.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Rc<Cell<u64>>,
    pub(crate) requests: Rc<Cell<u64>>,
    pub(crate) release: Rc<tokio::sync::Notify>,
    tasks: Rc<RefCell<Vec<tokio::task::AbortHandle>>>,
    goaway: Rc<tokio::sync::Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2 { streams: u32 },
}

#[derive(Clone, Copy)]
pub(crate) struct LocalExec;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Upstream {
    pub(crate) async fn start(speaks: Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            connections: Rc::default(),
            requests: Rc::default(),
            release: Rc::default(),
            tasks: Rc::default(),
            goaway: Rc::default(),
        };
        let this = upstream.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                this.connections.set(this.connections.get() + 1);
                let (number, state) = (this.connections.get(), this.clone());
                let service = service_fn(move |request| {
                    let state = state.clone();
                    async move { state.answer(number, request).await }
                });
                let goaway = this.goaway.clone();
                let io = TokioIo::new(stream);
                let task = tokio::task::spawn_local(async move {
                    let _ = match speaks {
                        Speaks::Http1 => {
                            hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                        }
                        Speaks::Http2 { streams } => {
                            let connection = hyper::server::conn::http2::Builder::new(LocalExec)
                                .max_concurrent_streams(streams)
                                .serve_connection(io, service);
                            tokio::pin!(connection);
                            tokio::select! {
                                ended = &mut connection => ended,
                                () = goaway.notified() => {
                                    connection.as_mut().graceful_shutdown();
                                    connection.await
                                }
                            }
                        }
                    };
                });
                this.tasks.borrow_mut().push(task.abort_handle());
            }
        });
        upstream
    }

    /// Says GOAWAY on all HTTP/2 connections, which finish what runs.
    pub(crate) fn go_away(&self) {
        self.goaway.notify_waiters();
    }

    /// Closes all connections at once.
    pub(crate) fn hang_up(&self) {
        for task in self.tasks.borrow_mut().drain(..) {
            task.abort();
        }
    }

    async fn answer(
        &self,
        number: u64,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
        self.requests.set(self.requests.get() + 1);
        if request.uri().path() == "/hold" {
            self.release.notified().await;
        }
        let text = match request.uri().path() {
            "/host" => request
                .uri()
                .authority()
                .map(ToString::to_string)
                .or_else(|| request.headers().get("host").map(|h| h.to_str().unwrap().to_owned()))
                .unwrap_or_default(),
            "/big" => "x".repeat(300_000),
            _ => number.to_string(),
        };
        let mut response = http::Response::new(Full::new(Bytes::from(text)));
        if request.uri().path() == "/last" {
            response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Endpoints that a control plane says.
pub(crate) fn eds() -> Discovery {
    Discovery::Eds { source: model::ConfigSource::default(), service_name: "c".into() }
}

/// Hosts are ejected for so many failures in a row, all of them if need be.
pub(crate) fn outlier(limit: u64) -> model::OutlierDetection {
    let fixed = model::RuntimeInteger::fixed;
    let streak = |limit, enforcing| model::OutlierLimit { limit: fixed(limit), enforcing: fixed(enforcing) };
    model::OutlierDetection {
        interval_ms: fixed(10_000),
        base_ejection_time_ms: fixed(30_000),
        max_ejection_time_ms: fixed(300_000),
        max_ejection_time_jitter_ms: fixed(0),
        max_ejection_percent: fixed(100),
        always_eject_one_host: false,
        check_restores: true,
        split_local_origin: false,
        consecutive_5xx: streak(limit, 100),
        consecutive_gateway_failure: streak(0, 0),
        consecutive_local_origin_failure: streak(0, 0),
        success_rate: model::SuccessRate {
            minimum_hosts: fixed(5),
            request_volume: fixed(100),
            stdev_factor: fixed(1900),
            enforcing: fixed(100),
            enforcing_local_origin: fixed(100),
        },
        failure_percentage: model::FailurePercentage {
            threshold: fixed(85),
            minimum_hosts: fixed(5),
            request_volume: fixed(50),
            enforcing: fixed(0),
            enforcing_local_origin: fixed(0),
        },
    }
}
