//! How load is spread over priorities, as Envoy's "Priority levels", "Degraded endpoints" and "Panic threshold" say.

use std::sync::Arc;

use outrider_config::model::EndpointPolicy;

use crate::host::{Host, PriorityHosts};

/// What a priority's hosts are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Its healthy hosts.
    Healthy,
    /// Its degraded hosts.
    Degraded,
    /// All of its hosts: it is in panic.
    All,
}

/// Numbers of hosts of a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All that count.
    pub total: u32,
    /// Healthy.
    pub healthy: u32,
    /// Degraded.
    pub degraded: u32,
}

/// Percentages of the load by priority. They sum to 100, unless there is nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriorityLoad {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    panic: Vec<bool>,
}

impl PriorityLoad {
    /// The load over `priorities`.
    pub fn of(priorities: &[PriorityHosts], policy: EndpointPolicy, panic_threshold: f64) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let weight =
            |hosts: &[Arc<Host>]| hosts.iter().fold(0, |sum: u32, host| sum.saturating_add(host.weight));
        let weights = |level: &PriorityHosts| Counts {
            total: weight(&level.hosts).saturating_sub(level.excluded.1),
            healthy: weight(level.healthy()),
            degraded: weight(&level.degraded),
        };
        let counts: Vec<_> = priorities
            .iter()
            .map(|level| Counts {
                total: count(level.hosts.len()).saturating_sub(level.excluded.0),
                healthy: count(level.healthy().len()),
                degraded: count(level.degraded.len()),
            })
            .collect();
        let weights: Option<Vec<_>> =
            policy.weighted_priority_health.then(|| priorities.iter().map(weights).collect());
        let health = weights.as_deref().unwrap_or(&counts);
        Self::with_health(&counts, health, policy.overprovisioning_factor, panic_threshold)
    }

    /// The load over priorities with these numbers of hosts. `overprovisioning` in percent (140);
    /// `panic_threshold` in percent (50).
    pub fn new(counts: &[Counts], overprovisioning: u32, panic_threshold: f64) -> Self {
        Self::with_health(counts, counts, overprovisioning, panic_threshold)
    }

    /// As [`Self::new`], but how healthy a priority is comes from `health`, which may count weights.
    fn with_health(
        counts: &[Counts],
        health: &[Counts],
        overprovisioning: u32,
        panic_threshold: f64,
    ) -> Self {
        let availability = |some: u32, total: u32| -> u32 {
            let percent = (u64::from(overprovisioning) * u64::from(some)).checked_div(u64::from(total));
            percent.map_or(0, |percent| percent.min(100) as u32)
        };
        let healthy: Vec<_> = health.iter().map(|c| availability(c.healthy, c.total)).collect();
        let degraded: Vec<_> = health.iter().map(|c| availability(c.degraded, c.total)).collect();
        let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
        let mut load = Self::spread(&healthy, &degraded, available);
        load.panic = counts.iter().map(|c| available < 100 && in_panic(*c, panic_threshold)).collect();
        if !counts.is_empty() && load.panic.iter().all(|panic| *panic) {
            load.spread_by_size(counts);
        }
        load
    }

    fn spread(healthy: &[u32], degraded: &[u32], available: u32) -> Self {
        let mut load =
            Self { healthy: vec![0; healthy.len()], degraded: vec![0; healthy.len()], panic: Vec::new() };
        if available == 0 {
            // Nothing is usable: all goes to the first, whose panic decides.
            if let Some(first) = load.healthy.first_mut() {
                *first = 100;
            }
            return load;
        }
        let mut left = 100;
        for (availability, loads) in [(healthy, &mut load.healthy), (degraded, &mut load.degraded)] {
            for (available_here, load) in availability.iter().zip(loads.iter_mut()) {
                *load = left.min(available_here * 100 / available);
                left -= *load;
            }
        }
        // What rounding left over goes to the first that has any, healthy before degraded.
        let first = |availability: &[u32]| availability.iter().position(|a| *a > 0);
        let taker = match first(healthy) {
            Some(index) => load.healthy.get_mut(index),
            None => first(degraded).and_then(|index| load.degraded.get_mut(index)),
        };
        if let Some(taker) = taker {
            *taker += left;
        }
        load
    }

    /// When every priority is in panic, each gets load by its number of hosts.
    fn spread_by_size(&mut self, counts: &[Counts]) {
        let total: u64 = counts.iter().map(|c| u64::from(c.total)).sum();
        self.degraded.fill(0);
        if total == 0 {
            return;
        }
        let mut left = 100;
        for (load, count) in self.healthy.iter_mut().zip(counts) {
            *load = (100 * u64::from(count.total) / total) as u32;
            left -= *load;
        }
        let first = counts.iter().position(|c| c.total > 0);
        if let Some(load) = first.and_then(|index| self.healthy.get_mut(index)) {
            *load += left;
        }
    }

    /// The priority and source that a draw from 0 to 99 falls on; `None` when there are no priorities.
    pub fn choose(&self, draw: impl FnOnce() -> u64) -> Option<(usize, Source)> {
        if self.healthy.len() == 1 && self.degraded.first() == Some(&0) {
            return Some((0, self.source(0, Source::Healthy)));
        }
        let draw = (draw() % 100) as u32;
        let mut sum = 0;
        for (loads, source) in [(&self.healthy, Source::Healthy), (&self.degraded, Source::Degraded)] {
            for (priority, load) in loads.iter().enumerate() {
                sum += load;
                if draw < sum {
                    return Some((priority, self.source(priority, source)));
                }
            }
        }
        None
    }

    /// Whether a priority is in panic.
    pub fn in_panic(&self, priority: usize) -> bool {
        self.panic.get(priority).copied().unwrap_or(false)
    }

    fn source(&self, priority: usize, source: Source) -> Source {
        if self.in_panic(priority) { Source::All } else { source }
    }
}

fn in_panic(count: Counts, threshold: f64) -> bool {
    let usable = f64::from(count.healthy) + f64::from(count.degraded);
    let percent = if count.total == 0 { 0.0 } else { 100.0 * usable / f64::from(count.total) };
    percent < threshold.min(100.0)
}

#[cfg(test)]
mod tests;
