use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use outrider_config::model::{EndpointHealth, MetadataValue, RingHashFunction, RuntimeDouble};
use outrider_core::Metadata;
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

/// The hosts `a` to `d`, by the keys `key-a` to `key-d`, that 24 requests with `x-key: user-0`, .. reach.
fn hashed(policy: &LbPolicy, weights: [u32; 4]) -> String {
    let hosts: Vec<_> = hosts(&weights)
        .iter()
        .zip(["key-a", "key-b", "key-c", "key-d"])
        .map(|(host, key)| {
            let members = [("hash_key".into(), MetadataValue::Text(key.into()))].into();
            let metadata = Metadata { namespaces: [("envoy.lb".into(), members)].into() };
            let plain = Host::new(
                host.address.clone(),
                "".into(),
                host.weight,
                0,
                Arc::default(),
                EndpointHealth::Healthy,
            );
            Arc::new(Host { metadata: Some(Arc::new(metadata)), ..plain })
        })
        .collect();
    let table = HashTable::build(policy, &hosts).expect("a policy that hashes");
    let pick = |i| table.pick(hash::xx_hash(format!("user-{i}").as_bytes(), 0), 0).expect("a host");
    (0..24).map(|i| ["a", "b", "c", "d"][pick(i)]).collect()
}

// What Envoy 1.40 chose.
#[test]
fn hashes_lead_where_envoys_lead() {
    let ring = |function, min_size, max_size| LbPolicy::RingHash {
        function,
        min_size,
        max_size,
        by_hostname: false,
    };
    let maglev = |table_size| LbPolicy::Maglev { table_size, by_hostname: false };
    let (xx, most) = (RingHashFunction::XxHash, 8_388_608);
    assert_eq!(hashed(&ring(xx, 1024, most), [1; 4]), "dccadcbbadcbcbbccdadddcd");
    assert_eq!(hashed(&ring(xx, 3, 6), [1; 4]), "bcbcbbbacdccbbcbbdcdddbb");
    assert_eq!(hashed(&ring(xx, 1024, most), [1, 2, 5, 7]), "dcdddcbcddcbcdcccdcdddcd");
    assert_eq!(hashed(&ring(RingHashFunction::Murmur2, 64, most), [1; 4]), "cddcbcdcbbddbbbbcdcadbcc");
    assert_eq!(hashed(&maglev(65_537), [1; 4]), "cddbacbdbaccdabbcbaccdaa");
    assert_eq!(hashed(&maglev(11), [3, 1, 2, 1]), "acbcaccaaabacddddabaaaca");
}

proptest! {
    #[test]
    fn a_host_that_leaves_a_ring_takes_only_its_own_share_along(n in 2_u32..8, gone in 0_usize..8, seed: u64) {
        let hosts = hosts(&vec![1; n as usize]);
        let policy = LbPolicy::RingHash { function: RingHashFunction::XxHash, min_size: 100 * u64::from(n), max_size: 8_388_608, by_hostname: false };
        let gone = gone % hosts.len();
        let fewer: Vec<_> = hosts.iter().enumerate().filter(|(i, _)| *i != gone).map(|(_, host)| host.clone()).collect();
        let scaled = LbPolicy::RingHash { function: RingHashFunction::XxHash, min_size: 100 * (u64::from(n) - 1), max_size: 8_388_608, by_hostname: false };
        let (all, rest) = (HashTable::build(&policy, &hosts).unwrap(), HashTable::build(&scaled, &fewer).unwrap());
        for i in 0..50_u64 {
            let hash = hash::xx_hash(&(seed ^ i).to_le_bytes(), 0);
            let before = &hosts[all.pick(hash, 0).unwrap()];
            let after = &fewer[rest.pick(hash, 0).unwrap()];
            prop_assert!(before.id == hosts[gone].id || before.id == after.id);
        }
    }

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
