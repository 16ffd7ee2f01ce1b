//! Circuit breakers: counts shared by all workers, and the permits that hold them.
//!
//! A count changes by one atomic operation; the worker whose operation crosses the limit is the one that
//! moves the `*_open` gauge, so gauges need no lock either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use outrider_config::model::{CircuitBreaker, RetryBudget};
use outrider_core::stats::Scope;

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
}

/// The breakers of one priority.
#[derive(Debug)]
pub struct PriorityBreakers {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    limits: CircuitBreaker,
    stats: BreakerStats,
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
        }
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
        Self { connections: zero(), pending: zero(), requests: zero(), retries: zero(), limits, stats }
    }

    /// The limits as configured.
    pub const fn limits(&self) -> &CircuitBreaker {
        &self.limits
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
        match (resource, self.limits.retry_budget) {
            (Resource::Connections, _) => self.limits.max_connections,
            (Resource::Pending, _) => self.limits.max_pending_requests,
            (Resource::Requests, _) => self.limits.max_requests,
            (Resource::Retries, None) => self.limits.max_retries,
            (Resource::Retries, Some(budget)) => {
                let active = self.taken(Resource::Requests).saturating_add(self.taken(Resource::Pending));
                retries_allowed(budget, active)
            }
        }
    }

    #[cold]
    fn crossed(&self, resource: Resource, open: bool) {
        // The limit of a budget moves with the load, so that crossings do not pair up: no gauge for it.
        if resource == Resource::Retries && self.limits.retry_budget.is_some() {
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
        if resource == Resource::Retries && self.limits.retry_budget.is_some() {
            return;
        }
        let gauge = match resource {
            Resource::Connections => self.stats.remaining_cx(),
            Resource::Pending => self.stats.remaining_pending(),
            Resource::Requests => self.stats.remaining_rq(),
            Resource::Retries => self.stats.remaining_retries(),
        };
        if more { gauge.inc() } else { gauge.dec() }
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
        fn gauges_tell_the_state_after_any_sequence(max in 0_u32..4, steps in prop::collection::vec(0_u8..3, 0..40)) {
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
