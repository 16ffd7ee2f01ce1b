use std::sync::Arc;

use outrider_config::model::{
    EndpointHealth, FailurePercentage, OutlierDetection, OutlierLimit, RuntimeInteger, SuccessRate,
};
use outrider_core::rng::FastRng;
use outrider_core::stats::Registry;
use outrider_core::stream::Address;
use proptest::prelude::*;

use super::*;
use crate::host::{Host, flags};

fn fixed(value: u64) -> RuntimeInteger {
    RuntimeInteger::fixed(value)
}

/// Envoy's defaults, but for the percentage of hosts that may be out.
fn config() -> OutlierDetection {
    let limit = |enforcing| OutlierLimit { limit: fixed(5), enforcing: fixed(enforcing) };
    OutlierDetection {
        interval_ms: fixed(10_000),
        base_ejection_time_ms: fixed(30_000),
        max_ejection_time_ms: fixed(300_000),
        max_ejection_time_jitter_ms: fixed(0),
        max_ejection_percent: fixed(100),
        always_eject_one_host: false,
        check_restores: true,
        split_local_origin: false,
        consecutive_5xx: limit(100),
        consecutive_gateway_failure: limit(0),
        consecutive_local_origin_failure: limit(100),
        success_rate: SuccessRate {
            minimum_hosts: fixed(5),
            request_volume: fixed(100),
            stdev_factor: fixed(1900),
            enforcing: fixed(100),
            enforcing_local_origin: fixed(100),
        },
        failure_percentage: FailurePercentage {
            threshold: fixed(85),
            minimum_hosts: fixed(5),
            request_volume: fixed(50),
            enforcing: fixed(0),
            enforcing_local_origin: fixed(0),
        },
    }
}

struct Bench {
    detector: Detector,
    hosts: Vec<Arc<Host>>,
    registry: Registry,
    now: Instant,
    rng: FastRng,
}

impl Bench {
    fn new(config: OutlierDetection, hosts: u16) -> Self {
        let registry = Registry::new();
        let host = |port| {
            let address = Address::Ip(([127, 0, 0, 1], port + 1).into());
            Arc::new(Host::new(address, "".into(), 1, 0, Arc::default(), EndpointHealth::Healthy))
        };
        Self {
            detector: Detector::new(config, &registry.scope("cluster.a.")),
            hosts: (0..hosts).map(host).collect(),
            registry,
            now: Instant::now(),
            rng: FastRng::seeded(1),
        }
    }

    fn report(&self, host: usize, event: Event, times: usize) {
        (0..times).for_each(|_| self.detector.report(&self.hosts[host], event));
    }

    fn judge(&self) -> bool {
        self.detector.judge(&self.hosts, self.now, &self.rng)
    }

    fn sweep(&mut self, after_s: u64) -> bool {
        self.now += Duration::from_secs(after_s);
        self.detector.sweep(&self.hosts, self.now, &self.rng)
    }

    fn out(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|i| self.hosts[*i].state.has(flags::FAILED_OUTLIER)).collect()
    }

    fn stat(&self, name: &str) -> u64 {
        self.registry.value(&format!("cluster.a.outlier_detection.{name}")).unwrap_or(0)
    }
}

#[test]
fn five_failures_in_a_row_eject_and_a_success_between_forgives() {
    let bench = Bench::new(config(), 2);
    bench.report(0, Event::Response(500), 4);
    bench.report(0, Event::Response(404), 1);
    bench.report(0, Event::Response(500), 4);
    assert!(!bench.judge());
    bench.report(0, Event::Response(500), 1);
    assert!(bench.judge());
    assert_eq!(bench.out(), [0]);
    assert_eq!(bench.stat("ejections_active"), 1);
    assert_eq!(bench.stat("ejections_enforced_consecutive_5xx"), 1);
    assert_eq!(bench.stat("ejections_detected_consecutive_gateway_failure"), 0);
}

#[test]
fn gateway_failures_are_detected_and_by_default_not_enforced() {
    let bench = Bench::new(OutlierDetection { max_ejection_percent: fixed(0), ..config() }, 1);
    bench.report(0, Event::ConnectFailed, 5);
    assert!(!bench.judge());
    assert_eq!(bench.stat("ejections_detected_consecutive_gateway_failure"), 1);
    assert_eq!(bench.stat("ejections_detected_consecutive_5xx"), 1);
    assert_eq!(bench.stat("ejections_overflow"), 2);
    // The counts begin anew: five more are noticed again.
    bench.report(0, Event::ConnectFailed, 5);
    bench.judge();
    assert_eq!(bench.stat("ejections_detected_consecutive_5xx"), 2);
}

#[test]
fn no_more_than_the_percentage_is_out_but_one_may_always_be() {
    let bench = Bench::new(OutlierDetection { max_ejection_percent: fixed(10), ..config() }, 2);
    bench.report(0, Event::Response(500), 5);
    assert!(!bench.judge());
    let always =
        OutlierDetection { always_eject_one_host: true, max_ejection_percent: fixed(10), ..config() };
    let bench = Bench::new(always, 2);
    for host in 0..2 {
        bench.report(host, Event::Response(500), 5);
    }
    assert!(bench.judge());
    assert_eq!(bench.out(), [0]);
    assert_eq!(bench.stat("ejections_overflow"), 1);
}

#[test]
fn each_ejection_is_longer_and_good_conduct_shortens_the_next() {
    let mut bench = Bench::new(config(), 1);
    let eject = |bench: &Bench| {
        bench.report(0, Event::Response(500), 5);
        assert!(bench.judge());
    };
    eject(&bench);
    assert!(!bench.sweep(29));
    assert!(bench.sweep(1), "30 s are over");
    assert_eq!(bench.out(), [0_usize; 0]);
    eject(&bench);
    assert!(!bench.sweep(59));
    assert!(bench.sweep(1), "60 s are over");
    // Two intervals without an ejection take two steps back.
    bench.sweep(10);
    bench.sweep(10);
    eject(&bench);
    assert!(bench.sweep(30));
}

#[test]
fn what_is_of_local_origin_is_told_apart() {
    let split = Bench::new(OutlierDetection { split_local_origin: true, ..config() }, 1);
    split.report(0, Event::ConnectFailed, 4);
    split.report(0, Event::TimedOut(504), 1);
    assert!(split.judge());
    assert_eq!(split.stat("ejections_enforced_consecutive_local_origin_failure"), 1);
    assert_eq!(split.stat("ejections_detected_consecutive_5xx"), 0);
    let split = Bench::new(OutlierDetection { split_local_origin: true, ..config() }, 1);
    split.report(0, Event::ConnectFailed, 4);
    split.report(0, Event::Connected, 1);
    split.report(0, Event::ConnectFailed, 4);
    assert!(!split.judge());
}

#[test]
fn an_outlier_by_success_rate_goes_and_its_rate_is_shown() {
    let mut bench = Bench::new(
        OutlierDetection {
            consecutive_5xx: OutlierLimit { limit: fixed(0), enforcing: fixed(0) },
            ..config()
        },
        5,
    );
    // Envoy's example: 50 and four times 100 give a threshold of 52.
    for host in 0..5 {
        bench.report(host, Event::Response(200), if host == 0 { 50 } else { 100 });
    }
    bench.report(0, Event::Response(500), 50);
    assert!(bench.sweep(10));
    assert_eq!(bench.out(), [0]);
    let rates = bench.hosts[0].state.conduct.get().map(|conduct| conduct.success_rates());
    assert_eq!(rates, Some((Some(50.0), None)));
    assert_eq!(bench.stat("ejections_enforced_success_rate"), 1);
    // An interval without requests shows no rate.
    bench.sweep(10);
    assert_eq!(bench.hosts[1].state.conduct.get().and_then(|conduct| conduct.success_rates().0), None);
}

#[test]
fn a_limit_that_comes_to_lie_below_the_count_is_reached_at_the_next_sweep() {
    let mut bench = Bench::new(config(), 2);
    bench.report(0, Event::Response(500), 4);
    // As an update of the cluster does: the hosts stay, and what is known of them.
    let mut lower = config();
    lower.consecutive_5xx.limit = fixed(3);
    bench.detector = Detector::new(lower, &bench.registry.scope("cluster.a."));
    bench.report(0, Event::Response(500), 1);
    assert!(!bench.judge() && bench.out().is_empty());
    assert!(bench.sweep(10));
    assert_eq!(bench.out(), [0]);
}

#[test]
fn a_failure_percentage_ejects_all_that_reach_it() {
    let mut settings = config();
    settings.failure_percentage.enforcing = fixed(100);
    settings.consecutive_5xx.limit = fixed(0);
    settings.success_rate.enforcing = fixed(0);
    let mut bench = Bench::new(settings, 5);
    for host in 0..5 {
        let bad = if host < 2 { 45 } else { 0 };
        bench.report(host, Event::Response(500), bad);
        bench.report(host, Event::Response(200), 50 - bad);
    }
    assert!(bench.sweep(10));
    assert_eq!(bench.out(), [0, 1]);
    assert_eq!(bench.stat("ejections_enforced_failure_percentage"), 2);
}

proptest! {
    /// Whatever happens: never more out than allowed, the gauge tells how many, and all come back in the end.
    #[test]
    fn ejections_stay_within_bounds(
        steps in prop::collection::vec((0_usize..6, 0_u8..5, 0_u64..40), 1..200),
        most in 0_u64..=100,
    ) {
        let mut bench = Bench::new(OutlierDetection { max_ejection_percent: fixed(most), ..config() }, 6);
        for (host, what, seconds) in steps {
            match what {
                0 => { bench.sweep(seconds); }
                1 => bench.report(host, Event::Response(200), 1),
                _ => bench.report(host, Event::ConnectFailed, 5),
            }
            bench.judge();
            let out = bench.out().len() as u64;
            prop_assert!(out * 100 <= most * 6, "{} of 6 with {} %", out, most);
            prop_assert_eq!(bench.stat("ejections_active"), out);
        }
        bench.sweep(331);
        prop_assert_eq!(bench.out(), Vec::<usize>::new());
    }
}
