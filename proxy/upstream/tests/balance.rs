//! Picks as the router makes them.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use common::{Bench, endpoint, on_worker};
use outrider_config::model::{
    CircuitBreaker, Discovery, EndpointHealth, Endpoints, LocalityEndpoints, RetryBudget,
};
use outrider_upstream::{PickContext, PickError};

fn level(priority: u32, healths: &[EndpointHealth]) -> LocalityEndpoints {
    let endpoints = healths.iter().enumerate().map(|(index, health)| {
        let port = priority as u16 * 100 + index as u16 + 1;
        outrider_config::model::Endpoint { health: *health, ..endpoint(([127, 0, 0, 1], port).into()) }
    });
    LocalityEndpoints { priority, endpoints: endpoints.collect(), ..Default::default() }
}

fn bench(localities: Vec<LocalityEndpoints>, fail_on_panic: bool) -> Bench {
    let mut config =
        common::config("c", Discovery::Static(Endpoints { localities, policy: Default::default() }));
    config.fail_traffic_on_panic = fail_on_panic;
    Bench::new(config)
}

fn ports(bench: &Bench, n: usize) -> Vec<u16> {
    let pick = || bench.cluster().pick(&PickContext::default()).unwrap().address.ip().unwrap().port();
    (0..n).map(|_| pick()).collect()
}

use EndpointHealth::{Degraded, Draining, Healthy, Unhealthy};

#[test]
fn only_healthy_hosts_are_picked_and_lower_priorities_wait() {
    on_worker(async {
        let localities = vec![level(0, &[Healthy, Unhealthy, Healthy, Healthy]), level(1, &[Healthy])];
        let bench = bench(localities, false);
        let picked = ports(&bench, 30);
        assert!(picked.iter().all(|port| [1, 3, 4].contains(port)), "{picked:?}");
        assert_eq!(bench.stat("membership_total"), 5);
        assert_eq!(bench.stat("membership_healthy"), 4);
        assert_eq!(bench.stat("lb_healthy_panic"), 0);
    });
}

#[test]
fn load_spills_to_the_next_priority() {
    on_worker(async {
        let bench = bench(vec![level(0, &[Healthy, Unhealthy]), level(1, &[Healthy])], false);
        let picked = ports(&bench, 1000);
        let spilt = picked.iter().filter(|port| **port == 101).count();
        assert!((220..380).contains(&spilt), "{spilt}");
    });
}

#[test]
fn in_panic_all_hosts_are_picked_or_none() {
    on_worker(async {
        let localities = || vec![level(0, &[Unhealthy, Draining, Unhealthy])];
        let panicking = bench(localities(), false);
        let mut picked = ports(&panicking, 3);
        picked.sort_unstable();
        assert_eq!(picked, [1, 2, 3]);
        assert_eq!(panicking.stat("lb_healthy_panic"), 3);
        let failing = bench(localities(), true);
        let error = failing.cluster().pick(&PickContext::default()).unwrap_err();
        assert_eq!(error, PickError::NoHealthyHost);
        let empty = bench(Vec::new(), false);
        assert_eq!(empty.cluster().pick(&PickContext::default()).unwrap_err(), PickError::NoHealthyHost);
    });
}

#[test]
fn degraded_hosts_come_after_healthy_ones() {
    on_worker(async {
        let bench = bench(vec![level(0, &[Degraded, Degraded])], false);
        assert_eq!(ports(&bench, 2).len(), 2);
        assert_eq!(bench.stat("lb_healthy_panic"), 0);
        assert_eq!(bench.stat("membership_degraded"), 2);
    });
}

#[test]
fn a_retry_avoids_the_hosts_that_were_tried_while_it_may_draw_again() {
    on_worker(async {
        let bench = bench(vec![level(0, &[Healthy, Healthy])], false);
        let cluster = bench.cluster();
        let tried = cluster.pick(&PickContext::default()).unwrap().id;
        for _ in 0..10 {
            let again = PickContext { tried: &[tried], attempts: 5, ..Default::default() };
            assert_ne!(cluster.pick(&again).unwrap().id, tried);
        }
        // All were tried: one of them it is.
        let all: Vec<_> = cluster.shared.hosts.load().iter().map(|host| host.id).collect();
        let again = PickContext { tried: &all, attempts: 5, ..Default::default() };
        assert!(cluster.pick(&again).is_ok());
    });
}

#[test]
fn retries_are_limited_by_number_or_by_budget() {
    on_worker(async {
        let limit = |breaker: CircuitBreaker| {
            Bench::fixed(&["127.0.0.1:1".parse().unwrap()], |c| c.breaker_default = breaker)
        };
        let by_number = limit(CircuitBreaker { max_retries: 1, ..Default::default() });
        let cluster = by_number.cluster();
        let permit = cluster.retry_permit(false).unwrap();
        assert_eq!(by_number.stat("circuit_breakers.default.rq_retry_open"), 1);
        assert!(cluster.retry_permit(false).is_err());
        assert!(cluster.retry_permit(true).is_ok(), "the other priority has its own");
        assert_eq!(by_number.stat("upstream_rq_retry_overflow"), 1);
        drop(permit);
        assert_eq!(by_number.stat("circuit_breakers.default.rq_retry_open"), 0);
        assert!(cluster.retry_permit(false).is_ok());
        let budget = RetryBudget { budget_centipercent: 2000, min_concurrency: 2 };
        let by_budget = limit(CircuitBreaker { retry_budget: Some(budget), ..Default::default() });
        let cluster = by_budget.cluster();
        let held = [cluster.retry_permit(false), cluster.retry_permit(false)];
        assert!(held.iter().all(Result::is_ok));
        assert!(cluster.retry_permit(false).is_err());
    });
}

#[test]
fn clusters_are_listed_as_envoy_lists_them() {
    on_worker(async {
        let bench = bench(vec![level(0, &[Healthy, Degraded])], false);
        let text = bench.manager.snapshot().text();
        for line in [
            "c::observability_name::c",
            "c::default_priority::max_connections::1024",
            "c::high_priority::max_retries::3",
            "c::added_via_api::false",
            "c::127.0.0.1:1::cx_active::0",
            "c::127.0.0.1:1::health_flags::healthy",
            "c::127.0.0.1:2::health_flags::/degraded_eds_health",
            "c::127.0.0.1:2::success_rate::-1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let json = bench.manager.snapshot().json();
        let host = &json["cluster_statuses"][0]["host_statuses"][1];
        assert_eq!(host["address"]["socket_address"]["port_value"], 2);
        assert_eq!(host["health_status"]["eds_health_status"], "DEGRADED");
    });
}
