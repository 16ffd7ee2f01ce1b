//! Hosts whose health is watched, when clusters and their hosts come, change and go.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::patient::{Patient, by_http, checked, shown, watch};
use common::{Bench, endpoints, on_worker, until};
use outrider_config::model::{Cluster, Discovery, Probe, TcpProbe};
use outrider_upstream::{Event, PickContext};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

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
