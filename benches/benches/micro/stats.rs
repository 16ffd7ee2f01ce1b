//! Stats: what one increment costs a worker, on the first of its stats and among ten thousand.

use std::hint::black_box;

use criterion::Criterion;
use outrider_core::stats::{CodeCounters, Registry};

outrider_core::stat_struct! {
    struct BenchStats {
        counters { upstream_rq_total }
        gauges { upstream_rq_active }
        histograms { upstream_rq_time }
    }
}

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let registry = Registry::new();
    let stats = BenchStats::new(registry.scope("cluster.bench."));
    let codes = CodeCounters::new("upstream_rq_");
    stats.upstream_rq_total().inc();
    assert_eq!(registry.value("cluster.bench.upstream_rq_total"), Some(1), "increments are counted");
    let mut group = criterion.benchmark_group("stats");
    group.bench_function("counter", |bencher| bencher.iter(|| black_box(&stats).upstream_rq_total().inc()));
    group.bench_function("gauge_up_and_down", |bencher| {
        bencher.iter(|| {
            black_box(&stats).upstream_rq_active().inc();
            black_box(&stats).upstream_rq_active().dec();
        });
    });
    let mut value = 0_u64;
    group.bench_function("histogram", |bencher| {
        bencher.iter(|| {
            value = (value + 7) % 10_000;
            black_box(&stats).upstream_rq_time().record(black_box(value));
        });
    });
    group.bench_function("status_code", |bencher| {
        bencher.iter(|| black_box(&codes).inc(stats.scope(), black_box(200)));
    });
    // Counters of many clusters, each used in turn: what remains when none is in the nearest cache.
    let many: Vec<BenchStats> =
        (0..10_000).map(|i| BenchStats::new(registry.scope(format!("cluster.c{i}.")))).collect();
    let mut at = 0;
    group.bench_function("counter_of_10000_in_turn", |bencher| {
        bencher.iter(|| {
            at = (at + 4_001) % many.len();
            if let Some(stats) = many.get(at) {
                stats.upstream_rq_total().inc();
            }
        });
    });
    group.finish();
}
