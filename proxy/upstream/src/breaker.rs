//! Circuit breakers: counts shared by all workers, and the permits that hold them.
//!
//! A count changes by one atomic operation; the worker whose operation crosses the limit is the one that
//! moves the `*_open` gauge, so gauges need no lock either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use outrider_config::model::{CircuitBreaker, RetryBudget, Runtime, RuntimeKey, RuntimeValues};
use outrider_core::stats::{Gauge, Scope};

use crate::cluster::ClusterShared;

outrider_core::stat_struct! {
    /// Gauges of one priority (`cluster.<name>.circuit_breakers.<priority>.`).
    pub struct BreakerStats {
        counters {}
        gauges {
            cx_open, cx_pool_open, rq_pending_open, rq_open, rq_retry_open,
            remaining_cx, remaining_cx_pools, remaining_pending, remaining_rq, remaining_retries,
        }
        histograms {}
    }
}

/// A circuit breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("circuit breaker open")]
pub struct Overflow;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests.
    Requests,
    /// Retries.
    Retries,
}

/// The breakers of a cluster: one set for each priority.
#[derive(Debug)]
pub struct Breakers {
    /// `DEFAULT`
    pub default: PriorityBreakers,
    /// `HIGH`
    pub high: PriorityBreakers,
    /// `upstream.maintenance_mode.<cluster>`: the percentage of requests that are answered 503 instead of being sent.
    maintenance: Option<RuntimeKey>,
}

/// The breakers of one priority.
#[derive(Debug)]
pub struct PriorityBreakers {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    limits: Limits,
    stats: BreakerStats,
}

/// Limits that the runtime may move under way.
#[derive(Debug)]
struct Limits {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    /// The share above, the floor below; [`NO_BUDGET`] for none.
    budget: AtomicU64,
    track_remaining: bool,
    connection_pools: u32,
}

/// No share is that large.
const NO_BUDGET: u64 = u64::MAX;

impl Limits {
    fn new(config: CircuitBreaker) -> Self {
        Self {
            connections: AtomicU32::new(config.max_connections),
            pending: AtomicU32::new(config.max_pending_requests),
            requests: AtomicU32::new(config.max_requests),
            retries: AtomicU32::new(config.max_retries),
            budget: AtomicU64::new(packed(config.retry_budget)),
            track_remaining: config.track_remaining,
            connection_pools: config.max_connection_pools,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    fn budget(&self) -> Option<RetryBudget> {
        let word = self.budget.load(Relaxed);
        (word != NO_BUDGET)
            .then_some(RetryBudget { budget_centipercent: (word >> 32) as u32, min_concurrency: word as u32 })
    }
}

fn packed(budget: Option<RetryBudget>) -> u64 {
    budget.map_or(NO_BUDGET, |budget| {
        u64::from(budget.budget_centipercent) << 32 | u64::from(budget.min_concurrency)
    })
}

/// A retry that is under way; gives its place back when dropped.
#[derive(Debug)]
pub struct RetryPermit {
    cluster: Arc<ClusterShared>,
    high: bool,
}

impl Breakers {
    /// Breakers with the limits of `default` and `high`; stats under `scope` (`cluster.<name>.`).
    pub fn new(default: CircuitBreaker, high: CircuitBreaker, scope: &Scope) -> Self {
        Self {
            default: PriorityBreakers::new(default, scope.child("circuit_breakers.default.")),
            high: PriorityBreakers::new(high, scope.child("circuit_breakers.high.")),
            maintenance: None,
        }
    }

    /// The same, for the cluster of this name in `runtime`.
    #[must_use]
    pub fn following(self, runtime: &Runtime, cluster: &str) -> Self {
        Self { maintenance: runtime.follow(&format!("upstream.maintenance_mode.{cluster}")), ..self }
    }

    /// The percentage of requests that the runtime takes out.
    #[inline]
    pub fn maintenance(&self) -> u64 {
        self.maintenance.as_ref().and_then(RuntimeKey::integer).unwrap_or(0)
    }

    /// Those of a priority.
    #[inline]
    pub const fn of(&self, high: bool) -> &PriorityBreakers {
        if high { &self.high } else { &self.default }
    }
}

impl PriorityBreakers {
    /// Breakers with these limits.
    pub fn new(limits: CircuitBreaker, scope: Scope) -> Self {
        let stats = BreakerStats::new(scope);
        if limits.track_remaining {
            stats.remaining_cx().set(limits.max_connections.into());
            stats.remaining_pending().set(limits.max_pending_requests.into());
            stats.remaining_rq().set(limits.max_requests.into());
            stats.remaining_retries().set(limits.max_retries.into());
            stats.remaining_cx_pools().set(limits.max_connection_pools.into());
        }
        let zero = || AtomicU32::new(0);
        Self {
            connections: zero(),
            pending: zero(),
            requests: zero(),
            retries: zero(),
            limits: Limits::new(limits),
            stats,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> CircuitBreaker {
        CircuitBreaker {
            max_connections: self.limits.connections.load(Relaxed),
            max_pending_requests: self.limits.pending.load(Relaxed),
            max_requests: self.limits.requests.load(Relaxed),
            max_retries: self.limits.retries.load(Relaxed),
            retry_budget: self.limits.budget(),
            track_remaining: self.limits.track_remaining,
            max_connection_pools: self.limits.connection_pools,
        }
    }

    /// Moves the limits. What is taken stays taken. A worker that crosses a limit at the very same moment may leave its
    /// gauge one off until the limit moves again.
    pub fn set_limits(&self, limits: CircuitBreaker) {
        use Resource::{Connections, Pending, Requests, Retries};
        if limits == self.limits() {
            return;
        }
        let all = [Connections, Pending, Requests, Retries];
        let before = all.map(|resource| self.max(resource));
        self.limits.connections.store(limits.max_connections, Relaxed);
        self.limits.pending.store(limits.max_pending_requests, Relaxed);
        self.limits.requests.store(limits.max_requests, Relaxed);
        self.limits.retries.store(limits.max_retries, Relaxed);
        self.limits.budget.store(packed(limits.retry_budget), Relaxed);
        for (resource, before) in all.into_iter().zip(before) {
            let (taken, max) = (self.taken(resource), self.max(resource));
            let is_open = |max: u32| taken >= max && max > 0;
            if is_open(before) != is_open(max) {
                self.crossed(resource, is_open(max));
            }
            if self.limits.track_remaining && !(resource == Retries && limits.retry_budget.is_some()) {
                self.remaining_gauge(resource).set(max.saturating_sub(taken).into());
            }
        }
    }

    /// How many of `resource` are taken.
    pub fn taken(&self, resource: Resource) -> u32 {
        self.count(resource).load(Relaxed)
    }

    /// Takes one of `resource`.
    ///
    /// # Errors
    /// The limit is reached.
    #[inline]
    pub fn take(&self, resource: Resource) -> Result<(), Overflow> {
        let max = self.max(resource);
        let step = |taken: u32| (taken < max).then(|| taken + 1);
        let before = self.count(resource).fetch_update(Relaxed, Relaxed, step).map_err(|_| Overflow)?;
        self.grown(resource, before, max);
        Ok(())
    }

    /// Takes one of `resource` whether or not the limit is reached.
    pub fn take_anyway(&self, resource: Resource) {
        let before = self.count(resource).fetch_add(1, Relaxed);
        self.grown(resource, before, self.max(resource));
    }

    /// Gives one of `resource` back. To be called once for each that was taken.
    #[inline]
    pub fn give(&self, resource: Resource) {
        let before = self.count(resource).fetch_sub(1, Relaxed);
        let max = self.max(resource);
        // A retry budget's limit moves: its gauge is kept by level, below.
        if before == max {
            self.crossed(resource, false);
        }
        if self.limits.track_remaining && before <= max {
            self.remaining(resource, true);
        }
    }

    fn grown(&self, resource: Resource, before: u32, max: u32) {
        if before.wrapping_add(1) == max {
            self.crossed(resource, true);
        }
        if self.limits.track_remaining && before < max {
            self.remaining(resource, false);
        }
    }

    const fn count(&self, resource: Resource) -> &AtomicU32 {
        match resource {
            Resource::Connections => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
        }
    }

    fn max(&self, resource: Resource) -> u32 {
        match resource {
            Resource::Connections => self.limits.connections.load(Relaxed),
            Resource::Pending => self.limits.pending.load(Relaxed),
            Resource::Requests => self.limits.requests.load(Relaxed),
            Resource::Retries => match self.limits.budget() {
                None => self.limits.retries.load(Relaxed),
                Some(budget) => {
                    let active = self.taken(Resource::Requests).saturating_add(self.taken(Resource::Pending));
                    retries_allowed(budget, active)
                }
            },
        }
    }

    #[cold]
    fn crossed(&self, resource: Resource, open: bool) {
        // The limit of a budget moves with the load, so that crossings do not pair up: no gauge for it.
        if resource == Resource::Retries && self.limits.budget().is_some() {
            return;
        }
        let gauge = match resource {
            Resource::Connections => self.stats.cx_open(),
            Resource::Pending => self.stats.rq_pending_open(),
            Resource::Requests => self.stats.rq_open(),
            Resource::Retries => self.stats.rq_retry_open(),
        };
        if open { gauge.inc() } else { gauge.dec() }
    }

    fn remaining(&self, resource: Resource, more: bool) {
        if resource == Resource::Retries && self.limits.budget().is_some() {
            return;
        }
        let gauge = self.remaining_gauge(resource);
        if more { gauge.inc() } else { gauge.dec() }
    }

    fn remaining_gauge(&self, resource: Resource) -> Gauge<'_> {
        match resource {
            Resource::Connections => self.stats.remaining_cx(),
            Resource::Pending => self.stats.remaining_pending(),
            Resource::Requests => self.stats.remaining_rq(),
            Resource::Retries => self.stats.remaining_retries(),
        }
    }
}

impl RetryPermit {
    /// Takes a retry.
    ///
    /// # Errors
    /// `max_retries` or the budget is used up; counted as `upstream_rq_retry_overflow`.
    pub fn take(cluster: &Arc<ClusterShared>, high: bool) -> Result<Self, Overflow> {
        match cluster.breakers().of(high).take(Resource::Retries) {
            Ok(()) => Ok(Self { cluster: cluster.clone(), high }),
            Err(overflow) => {
                cluster.stats().upstream_rq_retry_overflow().inc();
                Err(overflow)
            }
        }
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.cluster.breakers().of(self.high).give(Resource::Retries);
    }
}

/// `limits` with what the runtime says of them (`circuit_breakers.<cluster>.<priority>.max_connections`, ..., and
/// `retry_budget.budget_percent`, `retry_budget.min_retry_concurrency` below it).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage, clamped")]
pub(crate) fn overridden(
    limits: CircuitBreaker,
    cluster: &str,
    high: bool,
    values: &RuntimeValues,
) -> CircuitBreaker {
    const KEYS: &str = "circuit_breakers.";
    // Nearly always there is none, and no name need be made.
    if values.range(KEYS.to_owned()..).next().is_none_or(|(key, _)| !key.starts_with(KEYS)) {
        return limits;
    }
    let prefix = format!("{KEYS}{cluster}.{}.", if high { "high" } else { "default" });
    let value = |name: &str| values.get(&format!("{prefix}{name}"));
    let limit = |name: &str, default: u32| {
        let integer = value(name).and_then(outrider_config::model::RuntimeValue::integer);
        integer.map_or(default, |limit| u32::try_from(limit).unwrap_or(u32::MAX))
    };
    let percent = value("retry_budget.budget_percent").and_then(|value| value.double());
    let floor = value("retry_budget.min_retry_concurrency").and_then(|value| value.integer());
    let mut retry_budget = limits.retry_budget;
    if percent.is_some() || floor.is_some() {
        let budget =
            retry_budget.get_or_insert(RetryBudget { budget_centipercent: 2_000, min_concurrency: 3 });
        if let Some(percent) = percent {
            budget.budget_centipercent = (percent.clamp(0.0, 10_000.0) * 100.0).round() as u32;
        }
        if floor.is_some() {
            budget.min_concurrency = limit("retry_budget.min_retry_concurrency", budget.min_concurrency);
        }
    }
    CircuitBreaker {
        max_connections: limit("max_connections", limits.max_connections),
        max_pending_requests: limit("max_pending_requests", limits.max_pending_requests),
        max_requests: limit("max_requests", limits.max_requests),
        max_retries: limit("max_retries", limits.max_retries),
        retry_budget,
        ..limits
    }
}

/// How many retries `budget` allows beside `active` requests.
pub fn retries_allowed(budget: RetryBudget, active: u32) -> u32 {
    let share = u64::from(budget.budget_centipercent) * u64::from(active) / 10_000;
    u32::try_from(share).unwrap_or(u32::MAX).max(budget.min_concurrency)
}

#[cfg(test)]
mod tests {
    use outrider_core::stats::Registry;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_runtime_has_the_last_word_on_limits() {
        use outrider_config::model::RuntimeValue;

        let limits = CircuitBreaker { max_requests: 5, ..Default::default() };
        let values = |pairs: &[(&str, f64)]| -> RuntimeValues {
            let value = |(key, number): &(&str, f64)| ((*key).to_owned(), RuntimeValue::Number(*number));
            pairs.iter().map(value).collect()
        };
        let key = "circuit_breakers.a.default.max_requests";
        assert_eq!(overridden(limits, "a", false, &values(&[(key, 7.0)])).max_requests, 7);
        for (cluster, high) in [("a", true), ("b", false)] {
            assert_eq!(overridden(limits, cluster, high, &values(&[(key, 7.0)])), limits, "another's key");
        }
        assert_eq!(overridden(limits, "a", false, &values(&[(key, 1.5)])).max_requests, 1, "its floor");
        assert_eq!(overridden(limits, "a", false, &values(&[(key, -1.0)])), limits, "no limit");
        let budget = values(&[("circuit_breakers.a.high.retry_budget.budget_percent", 12.5)]);
        let budget = overridden(limits, "a", true, &budget).retry_budget;
        assert_eq!(budget, Some(RetryBudget { budget_centipercent: 1_250, min_concurrency: 3 }));
    }

    fn breakers(limits: CircuitBreaker) -> (Registry, PriorityBreakers) {
        let registry = Registry::new();
        let breakers = PriorityBreakers::new(limits, registry.scope("cb."));
        (registry, breakers)
    }

    #[test]
    fn a_budget_is_a_share_with_a_floor() {
        let budget = RetryBudget { budget_centipercent: 2_000, min_concurrency: 3 };
        assert_eq!(retries_allowed(budget, 0), 3);
        assert_eq!(retries_allowed(budget, 15), 3);
        assert_eq!(retries_allowed(budget, 100), 20);
    }

    proptest! {
        #[test]
        fn gauges_tell_the_state_after_any_sequence(first in 0_u32..4, steps in prop::collection::vec(0_u8..7, 0..40)) {
            let mut max = first;
            let limits = CircuitBreaker { max_requests: max, track_remaining: true, ..Default::default() };
            let (registry, breakers) = breakers(limits);
            let mut taken = 0;
            for step in steps {
                match step {
                    0 => {
                        let got = breakers.take(Resource::Requests).is_ok();
                        prop_assert_eq!(got, taken < max);
                        taken += u32::from(got);
                    }
                    1 => {
                        breakers.take_anyway(Resource::Requests);
                        taken += 1;
                    }
                    // The runtime moves the limit.
                    3..=5 => {
                        max = u32::from(step - 3);
                        breakers.set_limits(CircuitBreaker { max_requests: max, ..limits });
                    }
                    _ if taken > 0 => {
                        breakers.give(Resource::Requests);
                        taken -= 1;
                    }
                    _ => {}
                }
                prop_assert_eq!(breakers.taken(Resource::Requests), taken);
                let open = registry.value("cb.rq_open").unwrap_or(0);
                prop_assert_eq!(open == 1, taken >= max && max > 0, "open {} taken {}", open, taken);
                let remaining = registry.value("cb.remaining_rq");
                prop_assert_eq!(remaining, Some(u64::from(max.saturating_sub(taken))));
            }
        }
    }
}
