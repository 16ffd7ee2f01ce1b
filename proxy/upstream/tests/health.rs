//! Active health checks and outlier detection, with hosts that fall ill and recover.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Bench, LocalExec, endpoint, endpoints, on_worker, until};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outrider_config::model::{
    ActiveCheck, CheckIntervals, Cluster, Discovery, EndpointCheck, Endpoints, GrpcProbe, HttpProbe,
    LocalityEndpoints, Probe, RuntimeInteger, SocketAddress, TcpProbe,
};
use outrider_upstream::{Event, PickContext, PickError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn check(probe: Probe) -> ActiveCheck {
    let soon = Duration::from_millis(5);
    ActiveCheck {
        timeout: Duration::from_secs(5),
        unhealthy_threshold: 2,
        healthy_threshold: 2,
        intervals: CheckIntervals {
            healthy: soon,
            healthy_edge: soon,
            unhealthy: soon,
            unhealthy_edge: soon,
            no_traffic: soon,
            no_traffic_healthy: soon,
            initial_jitter: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_percent: 0,
            min_ms: RuntimeInteger::fixed(0),
            max_ms: RuntimeInteger::fixed(u64::MAX),
        },
        reuse_connection: true,
        probe,
    }
}

fn by_http() -> HttpProbe {
    HttpProbe {
        host: "".into(),
        path: "/healthz".into(),
        method: http::Method::GET,
        send: Bytes::new(),
        receive: Vec::new(),
        response_buffer: 1024,
        add: Vec::new(),
        remove: Vec::new(),
        expected: vec![std::ops::Range { start: 200, end: 201 }],
        retriable: Vec::new(),
        http2: false,
        service_name: None,
        verify_cluster: RuntimeInteger::fixed(100),
    }
}

fn checked(cluster: &mut Cluster, probe: Probe) {
    cluster.checks = Some(Box::new(check(probe)));
    cluster.panic_threshold = RuntimeInteger::fixed(0);
}

/// A server whose answer can be changed.
#[derive(Clone)]
struct Patient {
    address: SocketAddr,
    status: Rc<Cell<u16>>,
    headers: Rc<RefCell<HeaderMap>>,
    /// The body, and a gRPC status in its trailers.
    answer: Rc<RefCell<(Bytes, Option<&'static str>)>>,
    asked: Rc<RefCell<Vec<(String, HeaderMap)>>>,
    connections: Rc<Cell<u64>>,
}

impl Patient {
    async fn start(http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let patient = Self {
            address: listener.local_addr().unwrap(),
            status: Rc::new(Cell::new(200)),
            headers: Rc::default(),
            answer: Rc::default(),
            asked: Rc::default(),
            connections: Rc::default(),
        };
        let this = patient.clone();
        tokio::task::spawn_local(async move {
            loop {
                let io = TokioIo::new(listener.accept().await.unwrap().0);
                let this = this.clone();
                this.connections.set(this.connections.get() + 1);
                let service = service_fn(move |request| {
                    let answer = this.answer(&request);
                    async move { Ok::<_, hyper::Error>(answer) }
                });
                tokio::task::spawn_local(async move {
                    let _ = if http2 {
                        hyper::server::conn::http2::Builder::new(LocalExec)
                            .serve_connection(io, service)
                            .await
                    } else {
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                    };
                });
            }
        });
        patient
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<BoxBody<Bytes, std::convert::Infallible>> {
        let mut asked = self.asked.borrow_mut();
        asked.push((request.uri().to_string(), request.headers().clone()));
        let (body, status) = self.answer.borrow().clone();
        let trailers = status.map(|status| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(status));
            Ok(trailers)
        });
        let body = Full::new(body).with_trailers(async move { trailers });
        let mut response = Response::new(BodyExt::boxed(body));
        *response.status_mut() = http::StatusCode::from_u16(self.status.get()).unwrap();
        *response.headers_mut() = self.headers.borrow().clone();
        response
    }

    fn says(&self, name: &'static str, value: &'static str) {
        self.headers.borrow_mut().insert(name, http::HeaderValue::from_static(value));
    }
}

fn watch(bench: &Bench) {
    let manager = bench.manager.clone();
    tokio::task::spawn_local(async move { manager.run_discovery().await });
}

fn shown(bench: &Bench, flag: &str) -> bool {
    bench.manager.snapshot().text().contains(&format!("::health_flags::{flag}\n"))
}

#[test]
fn the_start_waits_for_the_first_checks_and_hosts_come_and_go_with_their_health() {
    on_worker(async {
        let (well, ill) = (Patient::start(false).await, Patient::start(false).await);
        ill.status.set(500);
        let bench = Bench::fixed(&[well.address, ill.address], |cluster| {
            checked(cluster, Probe::Http(Box::new(by_http())));
        });
        assert!(shown(&bench, "/failed_active_hc"));
        assert_eq!(bench.cluster().pick(&PickContext::default()).unwrap_err(), PickError::NoHealthyHost);
        watch(&bench);
        bench.manager.wait_warm().await;
        let cluster = bench.cluster();
        let mut picks = (0..4).map(|_| cluster.pick(&PickContext::default()).unwrap().address.to_string());
        assert!(picks.all(|address| address == well.address.to_string()));
        assert_eq!((bench.stat("membership_healthy"), bench.stat("health_check.healthy")), (1, 1));
        assert_eq!(bench.stat("health_check.network_failure"), 0);
        ill.status.set(200);
        bench.until_stat("membership_healthy", 2).await;
        well.status.set(503);
        bench.until_stat("membership_healthy", 1).await;
        let (uri, headers) = well.asked.borrow().first().cloned().unwrap();
        assert_eq!(
            (&*uri, &headers["host"], &headers["user-agent"]),
            ("/healthz", &"c".parse().unwrap(), &"Envoy/HC".parse().unwrap())
        );
    });
}

#[test]
fn a_host_that_nobody_reaches_is_unhealthy_and_shown_so() {
    on_worker(async {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let bench = Bench::fixed(&[closed], |cluster| {
            checked(cluster, Probe::Tcp(TcpProbe { send: Bytes::new(), receive: Vec::new() }));
        });
        watch(&bench);
        bench.manager.wait_warm().await;
        assert!(shown(&bench, "/failed_active_hc"));
        until("failures are of the network", || bench.stat("health_check.network_failure") > 2).await;
        let listener = TcpListener::bind(closed).await.unwrap();
        bench.until_stat("membership_healthy", 1).await;
        drop(listener);
        bench.until_stat("membership_healthy", 0).await;
    });
}

#[test]
fn tcp_payloads_are_sent_and_expected_on_one_connection() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Rc::new(Cell::new(0));
        let (counted, pongs) = (connections.clone(), Rc::new(Cell::new(0)));
        let answered = pongs.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (mut io, _) = listener.accept().await.unwrap();
                counted.set(counted.get() + 1);
                let answered = answered.clone();
                tokio::task::spawn_local(async move {
                    let mut bytes = [0; 4];
                    while io.read_exact(&mut bytes).await.is_ok() && &bytes == b"PING" {
                        answered.set(answered.get() + 1);
                        io.write_all(b"..PO").await.unwrap();
                        io.write_all(b"NG..").await.unwrap();
                    }
                });
            }
        });
        let probe = TcpProbe { send: Bytes::from("PING"), receive: vec!["PO".into(), "NG".into()] };
        let bench = Bench::fixed(&[address], |cluster| checked(cluster, Probe::Tcp(probe)));
        watch(&bench);
        bench.until_stat("membership_healthy", 1).await;
        until("more checks", || pongs.get() > 3).await;
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn grpcs_health_service_is_asked_for_its_service() {
    on_worker(async {
        let patient = Patient::start(true).await;
        patient.says("content-type", "application/grpc");
        *patient.answer.borrow_mut() = (Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), Some("0"));
        let probe = GrpcProbe { service: "shop".into(), authority: "a.example".into(), add: Vec::new() };
        let bench = Bench::fixed(&[patient.address], |cluster| checked(cluster, Probe::Grpc(probe)));
        watch(&bench);
        bench.until_stat("membership_healthy", 1).await;
        let (uri, headers) = patient.asked.borrow().first().cloned().unwrap();
        assert_eq!(uri, "http://a.example/grpc.health.v1.Health/Check");
        assert_eq!(headers["content-type"], "application/grpc");
        // NOT_SERVING.
        patient.answer.borrow_mut().0 = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 2]);
        bench.until_stat("membership_healthy", 0).await;
        *patient.answer.borrow_mut() = (Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), Some("0"));
        bench.until_stat("membership_healthy", 1).await;
        patient.answer.borrow_mut().1 = Some("14");
        bench.until_stat("membership_healthy", 0).await;
        *patient.answer.borrow_mut() = (Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), Some("0"));
        bench.until_stat("membership_healthy", 1).await;
        // A message without trailers is no whole answer, whatever the head says.
        patient.says("grpc-status", "0");
        patient.answer.borrow_mut().1 = None;
        bench.until_stat("membership_healthy", 0).await;
    });
}

#[test]
fn a_host_can_ask_for_less_and_be_told_from_its_service_name() {
    on_worker(async {
        let patient = Patient::start(false).await;
        let mut probe = by_http();
        probe.service_name = Some(outrider_core::matcher::StringMatcher::exact("mine"));
        probe.receive = vec!["ok".into()];
        let bench =
            Bench::fixed(&[patient.address], |cluster| checked(cluster, Probe::Http(Box::new(probe))));
        watch(&bench);
        bench.manager.wait_warm().await;
        assert_eq!(bench.stat("membership_healthy"), 0);
        patient.answer.borrow_mut().0 = Bytes::from("all ok");
        patient.says("x-envoy-upstream-healthchecked-cluster", "mine");
        bench.until_stat("membership_healthy", 1).await;
        patient.says("x-envoy-degraded", "");
        bench.until_stat("membership_degraded", 1).await;
        assert!(shown(&bench, "/degraded_active_hc"));
        patient.headers.borrow_mut().remove("x-envoy-degraded");
        bench.until_stat("membership_healthy", 1).await;
        patient.says("x-envoy-upstream-healthchecked-cluster", "yours");
        bench.until_stat("membership_healthy", 0).await;
    });
}

#[test]
fn what_a_response_tells_counts_at_once_and_until_a_check_is_good() {
    on_worker(async {
        let (a, b) = (Patient::start(false).await, Patient::start(false).await);
        let bench = Bench::fixed(&[a.address, b.address], |cluster| {
            checked(cluster, Probe::Http(Box::new(by_http())));
            // The next check is far away.
            if let Some(checks) = &mut cluster.checks {
                checks.intervals.no_traffic_healthy = Duration::from_secs(600);
            }
        });
        watch(&bench);
        bench.until_stat("membership_healthy", 2).await;
        let shared = bench.cluster().shared.clone();
        let host = shared.hosts.load().iter().next().unwrap().clone();
        shared.told_unwell(&host);
        bench.until_stat("membership_healthy", 1).await;
        assert_eq!((bench.stat("health_check.passive_failure"), bench.stat("membership_excluded")), (1, 1));
        assert!(shown(&bench, "/failed_active_hc/excluded_via_immediate_hc_fail"));
    });
}

#[test]
fn checks_go_where_the_endpoint_says_and_not_to_those_that_are_left_out() {
    on_worker(async {
        let patient = Patient::start(false).await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let with = |check: EndpointCheck| {
            let mut endpoint = endpoint(closed);
            endpoint.check = Some(Arc::new(check));
            endpoint
        };
        let elsewhere = EndpointCheck {
            port: patient.address.port(),
            hostname: "own.example".into(),
            ..EndpointCheck::default()
        };
        let off = EndpointCheck { disabled: true, ..EndpointCheck::default() };
        let other = EndpointCheck { address: Some(SocketAddress::Ip(closed)), ..EndpointCheck::default() };
        let locality = LocalityEndpoints {
            endpoints: vec![with(elsewhere), with(off), with(other)],
            ..Default::default()
        };
        let endpoints = Endpoints { localities: vec![locality], policy: Default::default() };
        let mut config = common::config("c", Discovery::Static(endpoints));
        checked(&mut config, Probe::Http(Box::new(by_http())));
        let bench = Bench::new(config);
        watch(&bench);
        bench.manager.wait_warm().await;
        assert_eq!(bench.stat("membership_healthy"), 2);
        assert_eq!(patient.asked.borrow().first().unwrap().1["host"], "own.example");
    });
}

#[test]
fn a_host_that_discovery_takes_away_stays_while_it_is_well() {
    on_worker(async {
        let (stays, leaves) = (Patient::start(false).await, Patient::start(false).await);
        let both = endpoints(&[stays.address, leaves.address]);
        let mut config = common::config("c", common::eds());
        checked(&mut config, Probe::Http(Box::new(by_http())));
        let bench = Bench::new(config);
        watch(&bench);
        let shared = bench.cluster().shared.clone();
        bench.manager.set_endpoints(&shared, &both);
        bench.until_stat("membership_healthy", 2).await;
        assert!(shared.is_warm());
        bench.manager.set_endpoints(&shared, &endpoints(&[stays.address]));
        assert_eq!(bench.stat("membership_total"), 2);
        assert!(shown(&bench, "/pending_dynamic_removal"));
        leaves.status.set(500);
        bench.until_stat("membership_total", 1).await;
        assert_eq!(bench.stat("membership_healthy"), 1);
    });
}

#[test]
fn a_good_check_brings_an_outlier_back() {
    on_worker(async {
        let patient = Patient::start(false).await;
        let bench = Bench::fixed(&[patient.address], |cluster| {
            checked(cluster, Probe::Http(Box::new(by_http())));
            cluster.outlier = Some(Box::new(common::outlier(2)));
        });
        watch(&bench);
        bench.until_stat("membership_healthy", 1).await;
        let shared = bench.cluster().shared.clone();
        let host = shared.hosts.load().iter().next().unwrap().clone();
        for _ in 0..2 {
            shared.report(&host, Event::Response(500));
        }
        bench.until_stat("outlier_detection.ejections_enforced_total", 1).await;
        bench.until_stat("outlier_detection.ejections_active", 0).await;
        bench.until_stat("membership_healthy", 1).await;
    });
}

#[test]
fn an_update_without_outlier_detection_forgets_who_was_out() {
    on_worker(async {
        let address: SocketAddr = ([127, 0, 0, 1], 9).into();
        let out = |cluster: &mut Cluster| cluster.outlier = Some(Box::new(common::outlier(1)));
        let bench = Bench::fixed(&[address], out);
        watch(&bench);
        let shared = bench.cluster().shared.clone();
        let host = shared.hosts.load().iter().next().unwrap().clone();
        shared.report(&host, Event::ConnectFailed);
        bench.until_stat("membership_healthy", 0).await;
        assert!(shown(&bench, "/failed_outlier_check"));
        bench.update(&[address], |_| {});
        assert_eq!(bench.stat("membership_healthy"), 1);
        assert_eq!(bench.stat("outlier_detection.ejections_active"), 0);
        assert!(shown(&bench, "healthy"));
    });
}

#[test]
fn what_the_checks_of_a_warming_cluster_find_is_nothing_to_the_one_in_force() {
    on_worker(async {
        let patient = Patient::start(false).await;
        let bench = Bench::fixed(&[patient.address], |cluster| {
            checked(cluster, Probe::Http(Box::new(by_http())));
        });
        watch(&bench);
        bench.until_stat("membership_healthy", 1).await;
        // The next one wants another status, and finds the host ill.
        let mut config = common::config("c", Discovery::Static(endpoints(&[patient.address])));
        let mut probe = by_http();
        probe.expected = vec![std::ops::Range { start: 204, end: 205 }];
        checked(&mut config, Probe::Http(Box::new(probe)));
        let warming = bench.manager.prepare(Arc::new(config), &|_| None).unwrap();
        until("its first check", || warming.is_warm()).await;
        // Both go on asking.
        let asked = patient.asked.borrow().len();
        until("more checks", || patient.asked.borrow().len() > asked + 10).await;
        assert!(shown(&bench, "healthy"));
        assert!(bench.cluster().pick(&PickContext::default()).is_ok());
        bench.manager.promote(&warming);
        assert!(shown(&bench, "/failed_active_hc"));
    });
}

#[test]
fn a_cluster_that_takes_the_place_of_another_has_the_hosts_of_its_own_configuration_alone() {
    on_worker(async {
        let (stays, leaves) = (Patient::start(false).await, Patient::start(false).await);
        let with_checks = |cluster: &mut Cluster| checked(cluster, Probe::Http(Box::new(by_http())));
        let bench = Bench::fixed(&[stays.address, leaves.address], with_checks);
        watch(&bench);
        bench.until_stat("membership_healthy", 2).await;
        // Both are well, and the update names one.
        bench.update(&[stays.address], with_checks);
        assert_eq!(bench.stat("membership_total"), 1);
        let picked = bench.cluster().pick(&PickContext::default()).unwrap().address.to_string();
        assert_eq!(picked, stays.address.to_string());
        // The same where discovery names them.
        let mut config = common::config("c", common::eds());
        with_checks(&mut config);
        let next = bench.manager.prepare(Arc::new(config), &|_| None).unwrap();
        bench.manager.set_endpoints(&next, &endpoints(&[leaves.address]));
        until("its first checks", || next.is_warm()).await;
        bench.manager.promote(&next);
        let hosts: Vec<_> = next.hosts.load().iter().map(|host| host.address.to_string()).collect();
        assert_eq!(hosts, [leaves.address.to_string()]);
    });
}

#[test]
fn what_is_counted_of_the_hosts_in_force_outlives_updates_and_what_was_given_up() {
    on_worker(async {
        let patient = Patient::start(false).await;
        let with_checks = |cluster: &mut Cluster| checked(cluster, Probe::Http(Box::new(by_http())));
        let bench = Bench::fixed(&[patient.address], with_checks);
        watch(&bench);
        bench.until_stat("health_check.healthy", 1).await;
        bench.update(&[patient.address], with_checks);
        assert_eq!((bench.stat("health_check.healthy"), bench.stat("membership_total")), (1, 1));
        let mut config = common::config("c", Discovery::Static(endpoints(&[])));
        with_checks(&mut config);
        let next = bench.manager.prepare(Arc::new(config), &|_| None).unwrap();
        bench.manager.abandon(&next);
        assert_eq!((bench.stat("health_check.healthy"), bench.stat("membership_total")), (1, 1));
    });
    on_worker(async {
        let address: SocketAddr = ([127, 0, 0, 1], 9).into();
        let out = |cluster: &mut Cluster| cluster.outlier = Some(Box::new(common::outlier(1)));
        let bench = Bench::fixed(&[address], out);
        watch(&bench);
        let shared = bench.cluster().shared.clone();
        let host = shared.hosts.load().iter().next().unwrap().clone();
        shared.report(&host, Event::ConnectFailed);
        bench.until_stat("outlier_detection.ejections_active", 1).await;
        bench.update(&[address], out);
        assert_eq!(bench.stat("outlier_detection.ejections_active"), 1);
    });
}

#[test]
fn what_is_found_of_many_hosts_at_once_is_published_once() {
    on_worker(async {
        let mut patients = Vec::new();
        for _ in 0..20 {
            patients.push(Patient::start(false).await.address);
        }
        let bench = Bench::fixed(&patients, |cluster| {
            checked(cluster, Probe::Http(Box::new(by_http())));
            // The next check is far away.
            if let Some(checks) = &mut cluster.checks {
                checks.intervals.no_traffic_healthy = Duration::from_secs(600);
            }
        });
        watch(&bench);
        bench.until_stat("membership_healthy", 20).await;
        let published = || *bench.manager.changes().borrow();
        let before = published();
        let shared = bench.cluster().shared.clone();
        shared.hosts.load().iter().for_each(|host| shared.told_unwell(host));
        bench.until_stat("membership_healthy", 0).await;
        assert!(published() - before < 5, "{}", published() - before);
    });
}

#[test]
fn a_bad_answer_does_not_cost_the_connection() {
    on_worker(async {
        for (http2, probe) in [
            (false, Probe::Http(Box::new(by_http()))),
            (true, Probe::Grpc(GrpcProbe { service: "".into(), authority: "".into(), add: Vec::new() })),
        ] {
            let patient = Patient::start(http2).await;
            patient.status.set(503);
            let bench = Bench::fixed(&[patient.address], |cluster| checked(cluster, probe));
            watch(&bench);
            until("some checks", || patient.asked.borrow().len() > 5).await;
            assert_eq!(patient.connections.get(), 1);
            assert_eq!(bench.stat("membership_healthy"), 0);
        }
    });
}

#[test]
fn hosts_that_come_while_a_cluster_warms_do_not_hold_it_up() {
    on_worker(async {
        let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (first, second) = (slow.local_addr().unwrap(), silent.local_addr().unwrap());
        let mut config = common::config("c", common::eds());
        checked(&mut config, Probe::Tcp(TcpProbe { send: Bytes::new(), receive: vec!["PONG".into()] }));
        if let Some(checks) = &mut config.checks {
            checks.timeout = Duration::from_secs(600);
        }
        let bench = Bench::new(config);
        watch(&bench);
        let shared = bench.cluster().shared.clone();
        bench.manager.set_endpoints(&shared, &endpoints(&[first]));
        let (mut asked, _) = slow.accept().await.unwrap();
        bench.manager.set_endpoints(&shared, &endpoints(&[first, second]));
        let _asked_too = silent.accept().await.unwrap();
        assert!(!shared.is_warm());
        asked.write_all(b"PONG").await.unwrap();
        until("the cluster is warm", || shared.is_warm()).await;
    });
}
