use super::*;

crate::stat_struct! {
    struct Demo {
        counters { rq_total }
        gauges { rq_active }
        histograms { rq_time }
    }
}

#[test]
fn a_stat_exists_from_its_first_use_on() {
    let registry = Registry::new();
    let stats = Demo::new(registry.scope("demo."));
    assert_eq!(registry.value("demo.rq_total"), None);
    stats.rq_total().inc();
    stats.rq_total().add(4);
    assert_eq!(registry.value("demo.rq_total"), Some(5));
    assert_eq!(registry.samples().len(), 1);
}

#[test]
fn shards_of_all_threads_are_summed_and_gauges_may_cross_threads() {
    let registry = Registry::new();
    let stats = Demo::new(registry.scope("demo."));
    stats.rq_active().inc();
    stats.rq_active().inc();
    std::thread::scope(|s| {
        s.spawn(|| {
            stats.rq_active().dec();
            stats.rq_total().inc();
        });
    });
    stats.rq_total().inc();
    assert_eq!(registry.value("demo.rq_active"), Some(1));
    assert_eq!(registry.value("demo.rq_total"), Some(2));
    stats.rq_active().set(7);
    assert_eq!(registry.value("demo.rq_active"), Some(7));
    registry.reset_counters();
    assert_eq!(registry.value("demo.rq_total"), Some(0));
    assert_eq!(registry.value("demo.rq_active"), Some(7));
}

#[test]
fn a_histogram_keeps_two_digits_and_gives_quantiles() {
    let registry = Registry::new();
    let stats = Demo::new(registry.scope("demo."));
    for value in 1..=1000 {
        stats.rq_time().record(value);
    }
    let Value::Histogram(buckets) = registry.samples().remove(0).value else { panic!("not a histogram") };
    assert_eq!(buckets.count(), 1000);
    assert_eq!(buckets.sum, 500_500);
    let median = buckets.quantile(0.5).unwrap();
    assert!((490.0..=510.0).contains(&median), "{median}");
    assert_eq!(buckets.at_or_below(99.0), 99);
}

#[test]
fn codes_count_under_their_number() {
    let registry = Registry::new();
    let scope = registry.scope("cluster.a.");
    let codes = CodeCounters::new("upstream_rq_");
    codes.inc(&scope, 503);
    codes.inc(&scope, 503);
    codes.inc(&scope, 7);
    assert_eq!(registry.value("cluster.a.upstream_rq_503"), Some(2));
    assert_eq!(registry.samples().len(), 1);
}

#[test]
fn counters_go_on_in_another_registry_and_nothing_else_does() {
    let (before, after) = (Registry::new(), Registry::new());
    let stats = Demo::new(before.scope("demo."));
    stats.rq_total().add(3);
    stats.rq_active().inc();
    before.add_source(Box::new(|samples| {
        samples.push(Sample { name: "kept.elsewhere".into(), kind: Kind::Counter, value: Value::Number(1) });
    }));
    after.add("demo.rq_total", 1);
    for (name, value) in before.counters() {
        after.add(&name, value);
    }
    assert_eq!(after.value("demo.rq_total"), Some(4));
    assert_eq!(after.samples().len(), 1);
}
