//! Active health checks and outlier detection, with hosts that fall ill and recover.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::patient::{Patient, by_http, checked, shown, watch};
use common::{Bench, endpoint, on_worker, until};
use outrider_config::model::{
    Discovery, EndpointCheck, Endpoints, GrpcProbe, LocalityEndpoints, Probe, SocketAddress, TcpProbe,
};
use outrider_upstream::{Event, PickContext, PickError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

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
