//! Load balancing: one pick among ten and among a thousand hosts, with equal and with different weights.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion};
use outrider_config::model::{EndpointHealth, LbPolicy, RuntimeDouble};
use outrider_core::rng::FastRng;
use outrider_core::stream::Address;
use outrider_upstream::Host;
use outrider_upstream::lb::Balancer;

fn hosts(count: u16, weighted: bool) -> Vec<Arc<Host>> {
    let host = |index: u16| {
        let address = Address::Ip(([127, 0, 0, 1], index + 1).into());
        let weight = if weighted { u32::from(index % 7) + 1 } else { 1 };
        Arc::new(Host::new(address, "".into(), weight, 0, Arc::default(), EndpointHealth::Healthy))
    };
    (0..count).map(host).collect()
}

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let least = || LbPolicy::LeastRequest { choices: 2, active_request_bias: RuntimeDouble::fixed(1.0) };
    let cases = [
        ("round_robin", LbPolicy::RoundRobin, false),
        ("least_request", least(), false),
        ("random", LbPolicy::Random, false),
        ("weighted_round_robin", LbPolicy::RoundRobin, true),
        ("weighted_least_request", least(), true),
    ];
    let rng = FastRng::seeded(3);
    let mut group = criterion.benchmark_group("lb_pick");
    for (name, policy, weighted) in &cases {
        for count in [10, 1_000] {
            let hosts = hosts(count, *weighted);
            let balancer = Balancer::new(policy, &hosts, 0);
            group.bench_function(BenchmarkId::new(*name, count), |bencher| {
                bencher.iter(|| balancer.pick(black_box(&hosts), &rng).map(|host| host.id));
            });
        }
    }
    group.finish();
}
