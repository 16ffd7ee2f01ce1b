use outrider_config::model::{Probe, RuntimeInteger, TcpProbe};
use outrider_core::rng::FastRng;
use outrider_core::stats::Registry;
use proptest::prelude::*;

use super::probe::{Search, holds};
use super::*;

const WELL: Finding = Finding::Well { degraded: false };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn intervals() -> CheckIntervals {
    CheckIntervals {
        healthy: seconds(10),
        healthy_edge: seconds(11),
        unhealthy: seconds(20),
        unhealthy_edge: seconds(21),
        no_traffic: seconds(60),
        no_traffic_healthy: seconds(61),
        initial_jitter: Duration::ZERO,
        jitter: Duration::ZERO,
        jitter_percent: 0,
        min_ms: RuntimeInteger::fixed(0),
        max_ms: RuntimeInteger::fixed(u64::MAX),
    }
}

struct Bench {
    checks: Checks,
    state: Flags,
    verdicts: Verdicts,
    registry: Registry,
}

impl Bench {
    /// Three bad checks make a host unhealthy, two good ones healthy; a new one is not yet.
    fn new() -> Self {
        let registry = Registry::new();
        let config = ActiveCheck {
            timeout: seconds(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            intervals: intervals(),
            reuse_connection: true,
            probe: Probe::Tcp(TcpProbe { send: bytes::Bytes::new(), receive: Vec::new() }),
        };
        let state = Flags::default();
        state.set(flags::FAILED_ACTIVE, true);
        Self {
            checks: Checks::new(config, &registry.scope("cluster.a.")),
            state,
            verdicts: Verdicts::default(),
            registry,
        }
    }

    fn take(&mut self, finding: Finding) -> Change {
        self.verdicts.take(&self.checks, &self.state, finding)
    }

    fn failed(&self) -> bool {
        self.state.has(flags::FAILED_ACTIVE)
    }

    fn stat(&self, name: &str) -> u64 {
        self.registry.value(&format!("cluster.a.health_check.{name}")).unwrap_or(0)
    }
}

#[test]
fn the_first_good_check_is_enough_and_later_it_takes_the_threshold() {
    let mut bench = Bench::new();
    assert_eq!(bench.take(WELL), Change::Done);
    assert!(!bench.failed());
    assert_eq!(
        [Finding::Broken; 3].map(|it| bench.take(it)),
        [Change::Pending, Change::Pending, Change::Done]
    );
    assert!(bench.failed());
    assert_eq!(
        [WELL, Finding::Broken, WELL, WELL].map(|it| bench.take(it)),
        [Change::Pending, Change::None, Change::Pending, Change::Done]
    );
    assert!(!bench.failed());
    assert_eq!((bench.stat("success"), bench.stat("failure"), bench.stat("network_failure")), (4, 4, 4));
}

#[test]
fn a_bad_answer_counts_at_once_unless_it_is_retriable() {
    let mut bench = Bench::new();
    bench.take(WELL);
    assert_eq!(bench.take(Finding::Ill { retriable: true }), Change::Pending);
    assert_eq!(bench.take(Finding::Ill { retriable: false }), Change::Done);
    assert!(bench.failed());
    assert_eq!(bench.stat("network_failure"), 0);
}

#[test]
fn a_late_answer_is_shown_as_long_as_it_is_the_reason() {
    let mut bench = Bench::new();
    bench.take(Finding::Late);
    assert!(bench.state.has(flags::ACTIVE_TIMEOUT));
    bench.take(Finding::Broken);
    assert!(!bench.state.has(flags::ACTIVE_TIMEOUT));
}

#[test]
fn what_a_response_told_holds_until_a_check_is_good() {
    let mut bench = Bench::new();
    bench.take(WELL);
    bench.state.set(flags::EXCLUDED, true);
    assert_eq!(bench.take(Finding::Told), Change::Done);
    assert_eq!(bench.stat("passive_failure"), 1);
    bench.take(WELL);
    assert!(bench.state.has(flags::EXCLUDED));
    bench.take(WELL);
    assert!(!bench.state.has(flags::EXCLUDED) && !bench.failed());
}

#[test]
fn degraded_comes_and_goes_with_the_header() {
    let mut bench = Bench::new();
    bench.take(WELL);
    assert_eq!(bench.take(Finding::Well { degraded: true }), Change::Done);
    assert_eq!(bench.take(Finding::Well { degraded: true }), Change::None);
    assert_eq!(bench.take(WELL), Change::Done);
}

#[test]
fn each_state_has_its_interval() {
    let rng = FastRng::seeded(1);
    let wait = |well, change, traffic| wait(&intervals(), well, change, traffic, &rng).as_secs();
    assert_eq!(wait(true, Change::None, true), 10);
    assert_eq!(wait(true, Change::Pending, true), 11);
    assert_eq!(wait(false, Change::Done, true), 20);
    assert_eq!(wait(false, Change::Pending, true), 21);
    assert_eq!(wait(true, Change::Done, false), 61);
    assert_eq!(wait(true, Change::Pending, false), 60);
    assert_eq!(wait(false, Change::None, false), 60);
}

#[test]
fn payloads_are_found_in_order_with_anything_between() {
    let parts =
        |parts: &[&'static str]| parts.iter().map(|part| bytes::Bytes::from(*part)).collect::<Vec<_>>();
    assert!(holds(b"a pong b ok", &parts(&["pong", "ok"])));
    assert!(!holds(b"ok pong", &parts(&["pong", "ok"])));
    assert!(!holds(b"aa", &parts(&["a", "a", "a"])));
    assert!(holds(b"", &parts(&[])));
}

proptest! {
    #[test]
    fn what_comes_bit_by_bit_is_found_as_in_one_piece(
        text in "[ab]{0,24}", parts in prop::collection::vec("[ab]{0,4}", 0..4), steps in prop::collection::vec(1_usize..6, 24)
    ) {
        let parts: Vec<bytes::Bytes> = parts.into_iter().map(bytes::Bytes::from).collect();
        let mut search = Search::new(&parts);
        let (mut found, mut end) = (search.go_on(b""), 0);
        for step in steps {
            end = text.len().min(end + step);
            found = search.go_on(&text.as_bytes()[..end]);
        }
        prop_assert_eq!(found, holds(text.as_bytes(), &parts));
        let mut rest = Some(text.as_str());
        for part in &parts {
            let part = std::str::from_utf8(part).unwrap();
            rest = rest.and_then(|rest| rest.split_once(part)).map(|(_, behind)| behind);
        }
        prop_assert_eq!(found, rest.is_some());
    }

    #[test]
    fn jitter_only_adds_and_limits_hold(base in 0_u64..100_000, jitter in 0_u64..1000, percent in 0_u32..200, min in 0_u64..2000, max in 1_u64..200_000) {
        let rng = FastRng::seeded(base);
        let intervals = CheckIntervals {
            jitter_percent: percent,
            min_ms: RuntimeInteger::fixed(min),
            max_ms: RuntimeInteger::fixed(max),
            ..intervals()
        };
        let got = jittered(&intervals, Duration::from_millis(base), Duration::from_millis(jitter), &rng).as_millis() as u64;
        let most = base + base * u64::from(percent) / 100 + jitter;
        prop_assert!(got >= base.min(max).max(min).max(1), "{}", got);
        prop_assert!(got <= most.min(max).max(min).max(1), "{}", got);
    }
}
