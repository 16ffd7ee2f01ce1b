//! A `tcp_proxy` behind its seam: clusters, stats and the log.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_config::model::{
    CircuitBreaker, Cluster, Discovery, Endpoint, EndpointHealth, Endpoints, HeaderMutations, LbPolicy,
    LocalityEndpoints, RuntimeInteger, SocketAddress, TcpProxy, UpstreamHttp, WeightedCluster,
};
use outrider_core::ResponseFlags;
use outrider_core::stats::Registry;
use outrider_core::stream::{Address, ConnInfo, StreamInfo};
use outrider_net::drain::DrainController;
use outrider_net::handler::{ConnectionHandler, Downstream};
use outrider_net::io::IoStream;
use outrider_tcp::{TcpProxyShared, TcpProxyWorker};
use outrider_telemetry::access_log::LogFiles;
use outrider_upstream::{ClusterManager, WorkerClusters};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Proxy {
    registry: Registry,
    worker: Rc<TcpProxyWorker>,
    drain: DrainController,
}

fn cluster(name: &str, hosts: &[SocketAddr]) -> Arc<Cluster> {
    let endpoint = |host: &SocketAddr| Endpoint {
        address: SocketAddress::Ip(*host),
        hostname: "".into(),
        weight: 1,
        health: EndpointHealth::Healthy,
        metadata: None,
        check: None,
    };
    let locality =
        LocalityEndpoints { endpoints: hosts.iter().map(endpoint).collect(), ..LocalityEndpoints::default() };
    Arc::new(Cluster {
        name: name.into(),
        stat_name: name.into(),
        alt_stat_name: None,
        metadata: None,
        discovery: Discovery::Static(Endpoints { localities: vec![locality], policy: Default::default() }),
        lb: LbPolicy::RoundRobin,
        hash_policy: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        per_connection_buffer_limit: 1 << 20,
        tls: None,
        tls_matches: Vec::new(),
        http: UpstreamHttp::default(),
        breaker_default: CircuitBreaker::default(),
        breaker_high: CircuitBreaker::default(),
        per_host_max_connections: None,
        bind: None,
        bind_other: None,
        socket_options: Vec::new(),
        keepalive: None,
        close_connections_on_host_health_failure: false,
        panic_threshold: RuntimeInteger::fixed(50),
        fail_traffic_on_panic: false,
        outlier: None,
        checks: None,
        ignore_new_until_checked: false,
        ignore_health_on_removal: false,
    })
}

impl Proxy {
    fn new(clusters: Vec<Arc<Cluster>>, routes: &[(&str, u32)], attempts: u32) -> Self {
        let registry = Registry::new();
        let manager = ClusterManager::new(registry.clone());
        for cluster in clusters {
            manager.add(cluster).expect("a cluster");
        }
        let route = |(name, weight): &(&str, u32)| WeightedCluster {
            name: (*name).into(),
            weight: RuntimeInteger::fixed(u64::from(*weight)),
            headers: HeaderMutations::default(),
            host_rewrite: None,
            filters: Vec::new(),
        };
        let config = TcpProxy {
            stat_prefix: "t".into(),
            clusters: routes.iter().map(route).collect(),
            idle_timeout: Some(Duration::from_secs(3600)),
            max_duration: None,
            max_connect_attempts: attempts,
            hash_source_ip: false,
            access_logs: Vec::new(),
            log_on_connected: false,
            log_interval: None,
        };
        let shared = TcpProxyShared::build(&Arc::new(config), &manager, &registry, &LogFiles::default());
        let worker = TcpProxyWorker::new(shared.expect("a filter"), WorkerClusters::new(manager));
        Self { registry, worker, drain: DrainController::new() }
    }

    /// A client of the proxy, and what the session says of itself in the end.
    async fn connect(&self) -> (TcpStream, tokio::task::JoinHandle<Box<StreamInfo>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let local = listener.local_addr().expect("an address");
        let (accepted, client) = tokio::join!(listener.accept(), TcpStream::connect(local));
        let (accepted, remote) = accepted.expect("a connection");
        let (local, remote) = (Address::Ip(local), Address::Ip(remote));
        let info = ConnInfo {
            id: 1,
            remote: remote.clone(),
            direct_remote: remote,
            local: local.clone(),
            direct_local: local,
            local_restored: false,
            source: None,
            sni: None,
            tls: None,
            filter_chain: "".into(),
            origin: Default::default(),
            handshake: None,
            reset: Default::default(),
            accepted: Instant::now(),
            termination_details: OnceCell::new(),
            transport_failure: OnceCell::new(),
        };
        let session = Rc::new(RefCell::new(None));
        let downstream = Downstream {
            stream: IoStream::from_tcp(accepted),
            info: Rc::new(info),
            drain: self.drain.watch(),
            buffer_limit: 1 << 20,
            session: Some(session.clone()),
            metadata: None,
        };
        let serve = self.worker.clone().handle(downstream);
        let ended = tokio::task::spawn_local(async move {
            serve.await;
            session.take().expect("a session's facts")
        });
        (client.expect("a connection"), ended)
    }

    fn count(&self, name: &str) -> u64 {
        self.registry.value(name).unwrap_or(0)
    }
}

fn local(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

async fn upstream() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[test]
fn a_server_that_speaks_first_is_heard_and_bytes_are_counted() {
    local(async {
        let (listener, address) = upstream().await;
        let proxy = Proxy::new(vec![cluster("c", &[address])], &[("c", 1)], 1);
        let (mut client, ended) = proxy.connect().await;
        let (mut server, _) = listener.accept().await.expect("a connection");
        server.write_all(b"220 hello").await.expect("written");
        let mut greeting = [0; 9];
        client.read_exact(&mut greeting).await.expect("read");
        client.write_all(b"QUIT").await.expect("written");
        server.read_exact(&mut [0; 4]).await.expect("read");
        drop((client, server));
        let info = ended.await.expect("ended");
        assert_eq!((info.bytes_received, info.bytes_sent, info.flags), (4, 9, ResponseFlags::NONE));
        assert_eq!(info.upstream.host, Some(Address::Ip(address)));
        assert_eq!(info.upstream.cluster.as_deref(), Some("c"));
        let counts = ["tcp.t.downstream_cx_total", "tcp.t.downstream_cx_rx_bytes_total"];
        assert_eq!(counts.map(|name| proxy.count(name)), [1, 4]);
        assert_eq!(proxy.count("tcp.t.downstream_cx_tx_bytes_total"), 9);
        assert_eq!(proxy.count("cluster.c.upstream_cx_rx_bytes_total"), 9);
        assert_eq!(proxy.count("cluster.c.upstream_cx_tx_bytes_total"), 4);
        assert_eq!(proxy.count("cluster.c.upstream_cx_active"), 0);
    });
}

#[test]
fn sessions_without_an_upstream_say_why() {
    local(async {
        let (listener, closed) = upstream().await;
        drop(listener);
        let clusters = vec![cluster("empty", &[]), cluster("dead", &[closed])];
        let cases = [
            ("missing", ResponseFlags::NO_CLUSTER_FOUND),
            ("empty", ResponseFlags::NO_HEALTHY_UPSTREAM),
            (
                "dead",
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE.union(ResponseFlags::CONNECT_ATTEMPTS_EXCEEDED),
            ),
        ];
        for (name, flags) in cases {
            let proxy = Proxy::new(clusters.clone(), &[(name, 1)], 3);
            let (mut client, ended) = proxy.connect().await;
            assert!(!matches!(client.read(&mut [0; 8]).await, Ok(1..)), "{name}");
            let info = ended.await.expect("ended");
            assert_eq!(info.flags, flags, "{name}");
            assert_eq!(info.attempts, if name == "dead" { 3 } else { 0 });
        }
        let proxy = Proxy::new(Vec::new(), &[("missing", 1)], 1);
        proxy.connect().await.1.await.expect("ended");
        assert_eq!(proxy.count("tcp.t.downstream_cx_no_route"), 1);
    });
}

#[test]
fn another_attempt_goes_to_another_host() {
    local(async {
        let (listener, closed) = upstream().await;
        drop(listener);
        let (listener, open) = upstream().await;
        let proxy = Proxy::new(vec![cluster("c", &[closed, open])], &[("c", 1)], 2);
        for _ in 0..4 {
            let (client, ended) = proxy.connect().await;
            let (server, _) = listener.accept().await.expect("a connection");
            drop((client, server));
            let info = ended.await.expect("ended");
            assert_eq!(info.upstream.host, Some(Address::Ip(open)));
        }
    });
}

#[test]
fn weights_share_sessions_out() {
    local(async {
        let (one, a) = upstream().await;
        let (other, b) = upstream().await;
        let clusters = vec![cluster("a", &[a]), cluster("b", &[b])];
        let proxy = Proxy::new(clusters, &[("a", 3), ("b", 1), ("missing", 0)], 1);
        for _ in 0..200 {
            let (client, ended) = proxy.connect().await;
            let server = tokio::select! {
                server = one.accept() => server,
                server = other.accept() => server,
            };
            drop((client, server));
            ended.await.expect("ended");
        }
        let counts = ["a", "b"].map(|name| proxy.count(&format!("cluster.{name}.upstream_cx_total")));
        assert_eq!(counts[0] + counts[1], 200);
        assert!((100..190).contains(&counts[0]), "{counts:?}");
    });
}

#[test]
fn an_upstream_reset_is_flagged_and_passed_on() {
    local(async {
        let (listener, address) = upstream().await;
        let proxy = Proxy::new(vec![cluster("c", &[address])], &[("c", 1)], 1);
        let (mut client, ended) = proxy.connect().await;
        let (mut server, _) = listener.accept().await.expect("a connection");
        server.write_all(b"x").await.expect("written");
        client.read_exact(&mut [0]).await.expect("read");
        socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(server);
        let error = client.read(&mut [0; 8]).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(ended.await.expect("ended").flags, ResponseFlags::UPSTREAM_REMOTE_RESET);
    });
}
