use proptest::prelude::*;

use super::*;

fn level(total: u32, healthy: u32, degraded: u32) -> Counts {
    Counts { total, healthy, degraded }
}

/// Shares of the load by priority and source, out of 100.
fn shares(load: &PriorityLoad) -> Vec<((usize, Source), usize)> {
    let mut shares: Vec<((usize, Source), usize)> = Vec::new();
    for draw in 0..100 {
        let chosen = load.choose(|| draw).unwrap();
        match shares.iter_mut().find(|(known, _)| *known == chosen) {
            Some((_, n)) => *n += 1,
            None => shares.push((chosen, 1)),
        }
    }
    shares
}

// The examples are those of Envoy's "Priority levels" and "Degraded endpoints".
#[test]
fn load_spills_over_as_health_sinks() {
    let load = |healthy| PriorityLoad::new(&[level(100, healthy, 0), level(100, 100, 0)], 140, 50.0);
    assert_eq!(shares(&load(100)), [((0, Source::Healthy), 100)]);
    assert_eq!(shares(&load(72)), [((0, Source::Healthy), 100)]);
    assert_eq!(shares(&load(50)), [((0, Source::Healthy), 70), ((1, Source::Healthy), 30)]);
    assert_eq!(shares(&load(25)), [((0, Source::Healthy), 35), ((1, Source::Healthy), 65)]);
    assert_eq!(shares(&load(0)), [((1, Source::Healthy), 100)]);
}

#[test]
fn health_can_be_counted_in_weights() {
    // One host of two is healthy, with three quarters of the weight: 140 % of that is more than enough.
    let (counts, weights) = ([level(2, 1, 0), level(1, 1, 0)], [level(4, 3, 0), level(1, 1, 0)]);
    let load = PriorityLoad::with_health(&counts, &weights, 140, 50.0);
    assert_eq!(shares(&load), [((0, Source::Healthy), 100)]);
    let load = PriorityLoad::with_health(&counts, &counts, 140, 50.0);
    assert_eq!(shares(&load), [((0, Source::Healthy), 70), ((1, Source::Healthy), 30)]);
}

#[test]
fn degraded_hosts_get_what_healthy_ones_cannot_take() {
    let load = PriorityLoad::new(&[level(100, 25, 75)], 140, 50.0);
    assert_eq!(shares(&load), [((0, Source::Healthy), 35), ((0, Source::Degraded), 65)]);
}

#[test]
fn below_the_panic_threshold_all_hosts_are_used() {
    let load = PriorityLoad::new(&[level(10, 3, 0)], 140, 50.0);
    assert_eq!(shares(&load), [((0, Source::All), 100)]);
    let load = PriorityLoad::new(&[level(10, 0, 0)], 140, 50.0);
    assert_eq!(shares(&load), [((0, Source::All), 100)]);
    // Two levels that are enough together panic neither.
    let load = PriorityLoad::new(&[level(100, 20, 0), level(100, 60, 0)], 140, 50.0);
    assert!(shares(&load).iter().all(|((_, source), _)| *source == Source::Healthy));
    // In panic everywhere, load follows the number of hosts.
    let load = PriorityLoad::new(&[level(25, 0, 0), level(75, 0, 0)], 140, 50.0);
    assert_eq!(shares(&load), [((0, Source::All), 25), ((1, Source::All), 75)]);
    // Panic switched off: the healthy ones alone, though there be none.
    let load = PriorityLoad::new(&[level(10, 0, 0)], 140, 0.0);
    assert_eq!(shares(&load), [((0, Source::Healthy), 100)]);
}

fn any_level() -> impl Strategy<Value = Counts> {
    (0_u32..30).prop_flat_map(|total| {
        (Just(total), 0..=total).prop_flat_map(|(total, healthy)| {
            (0..=total - healthy).prop_map(move |degraded| level(total, healthy, degraded))
        })
    })
}

proptest! {
    #[test]
    fn every_draw_falls_on_a_level_that_can_take_it(
        levels in prop::collection::vec(any_level(), 1..5),
        factor in 100_u32..200,
        threshold in 0.0_f64..100.0,
    ) {
        let load = PriorityLoad::new(&levels, factor, threshold);
        let usable: u32 = levels.iter().map(|l| l.healthy + l.degraded).sum();
        let total: u32 = levels.iter().map(|l| l.total).sum();
        for ((priority, source), _) in shares(&load) {
            let count = levels[priority];
            let there = match source {
                Source::Healthy => count.healthy,
                Source::Degraded => count.degraded,
                Source::All => count.total,
            };
            prop_assert!(there > 0 || usable == 0 || (source == Source::All && total > 0), "{load:?}");
        }
    }
}
