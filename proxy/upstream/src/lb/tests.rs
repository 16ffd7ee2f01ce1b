use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use outrider_config::model::{EndpointHealth, RuntimeDouble};
use outrider_core::rng::FastRng;
use outrider_core::stream::Address;
use proptest::prelude::*;

use super::*;

fn hosts(weights: &[u32]) -> Vec<Arc<Host>> {
    let host = |(index, weight): (usize, &u32)| {
        let address = Address::Ip(([127, 0, 0, 1], index as u16 + 1).into());
        Arc::new(Host::new(address, "".into(), *weight, 0, Arc::default(), EndpointHealth::Healthy))
    };
    weights.iter().enumerate().map(host).collect()
}

fn draws(balancer: &Balancer, hosts: &[Arc<Host>], n: usize) -> Vec<u64> {
    let rng = FastRng::seeded(3);
    (0..n).filter_map(|_| balancer.pick(hosts, &rng).map(|host| host.id)).collect()
}

fn policies() -> [LbPolicy; 4] {
    [
        LbPolicy::RoundRobin,
        LbPolicy::LeastRequest { choices: 2, active_request_bias: RuntimeDouble::fixed(1.0) },
        LbPolicy::Random,
        LbPolicy::ClusterProvided,
    ]
}

#[test]
fn turns_go_round_in_order_from_the_given_position() {
    let hosts = hosts(&[1, 1, 1]);
    let balancer = Balancer::new(&LbPolicy::RoundRobin, &hosts, 1);
    let ids: Vec<_> = [1, 2, 0, 1].iter().map(|i: &usize| hosts[*i].id).collect();
    assert_eq!(draws(&balancer, &hosts, 4), ids);
}

#[test]
fn least_request_leaves_a_busy_host_alone() {
    let hosts = hosts(&[1, 1]);
    hosts[0].state.rq_active.store(5, Relaxed);
    let balancer = Balancer::new(&policies()[1], &hosts, 0);
    let busy = draws(&balancer, &hosts, 400).iter().filter(|id| **id == hosts[0].id).count();
    // Only when both draws fall on it: one in four.
    assert!((50..150).contains(&busy), "{busy}");
}

#[test]
fn least_request_with_weights_counts_active_requests_against_the_weight() {
    let hosts = hosts(&[9, 1]);
    let balancer = Balancer::new(&policies()[1], &hosts, 0);
    hosts[0].state.rq_active.store(17, Relaxed);
    let heavy = draws(&balancer, &hosts, 300).iter().filter(|id| **id == hosts[0].id).count();
    // 9 / 18 against 1: a third.
    assert!((90..=112).contains(&heavy), "{heavy}");
}

proptest! {
    #[test]
    fn weights_are_respected_exactly_over_a_cycle(weights in prop::collection::vec(1_u32..12, 1..8), cycles in 1_usize..4) {
        let hosts = hosts(&weights);
        let balancer = Balancer::new(&LbPolicy::RoundRobin, &hosts, 0);
        let sum: u32 = weights.iter().sum();
        let equal = weights.iter().all(|w| *w == weights[0]);
        let per_cycle = if equal { hosts.len() } else { sum as usize };
        let mut counts: HashMap<u64, u32> = HashMap::new();
        for id in draws(&balancer, &hosts, per_cycle * cycles) {
            *counts.entry(id).or_default() += 1;
        }
        for host in &hosts {
            let expected = if equal { 1 } else { host.weight } * cycles as u32;
            // Deadlines are floating point: one pick may fall to the next cycle.
            let got = counts.get(&host.id).copied().unwrap_or(0);
            prop_assert!(got.abs_diff(expected) <= 1, "{} of {}", got, expected);
        }
    }

    #[test]
    fn every_host_is_reached_and_none_outside(weights in prop::collection::vec(1_u32..6, 0..6), policy in 0_usize..4, position: usize) {
        let hosts = hosts(&weights);
        let balancer = Balancer::new(&policies()[policy], &hosts, position);
        let drawn = draws(&balancer, &hosts, 600);
        prop_assert_eq!(drawn.len(), if hosts.is_empty() { 0 } else { 600 });
        for host in &hosts {
            prop_assert!(drawn.contains(&host.id));
        }
    }
}
