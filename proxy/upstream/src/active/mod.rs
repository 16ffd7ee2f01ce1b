//! Active health checks: hosts are asked, on the control thread, whether they are well (Envoy's "Health checking").
//!
//! [`Verdicts`] is what follows from the answers, without I/O or clock; [`keeper`] runs a task for each host, [`probe`] asks.
//! Workers learn of it as of any other change of hosts: by the set that is published.

mod grpc;
mod http;
mod keeper;
mod probe;
mod tcp;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use outrider_config::model::{ActiveCheck, CheckIntervals};
use outrider_core::rng::Rng;
use outrider_core::stats::Scope;
use tokio::sync::Notify;

use crate::host::Host;
use crate::host::flags::{self, Flags};

pub(crate) use keeper::keep;

outrider_core::stat_struct! {
    /// `cluster.<name>.health_check.`
    pub(crate) struct CheckStats {
        counters { attempt, success, failure, network_failure, passive_failure, verify_cluster }
        gauges { healthy, degraded }
        histograms {}
    }
}

/// The health checks of a cluster.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) config: Box<ActiveCheck>,
    pub(crate) stats: CheckStats,
    /// Wakes the keeper: hosts came or went, one was checked for the first time, changed, or told that it is not well.
    pub(crate) news: Notify,
    /// What was found is yet to be published: the keeper does it, for all that was found meanwhile.
    changed: AtomicBool,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The host is well; `degraded`: it asks for less.
    Well {
        /// It sent `x-envoy-degraded`.
        degraded: bool,
    },
    /// It said that it is not. `retriable`: such an answer is to be repeated before it counts.
    Ill {
        /// Its status is one of `retriable_statuses`.
        retriable: bool,
    },
    /// No connection, or one that broke.
    Broken,
    /// No answer in time.
    Late,
    /// A request's response said so (`x-envoy-immediate-health-check-fail`).
    Told,
}

/// What a finding changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// Nothing yet: more like it would.
    Pending,
    /// Whether the host is used, or how.
    Done,
}

/// What the checks of a host came to so far.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// It was checked at least once.
    checked: bool,
    well: u32,
    ill: u32,
}

impl Checks {
    pub(crate) fn new(config: ActiveCheck, cluster: &Scope) -> Self {
        let stats = CheckStats::new(cluster.child("health_check."));
        Self { config: Box::new(config), stats, news: Notify::new(), changed: AtomicBool::new(false) }
    }
}

impl Checks {
    /// Publishes how many of `hosts` are well, and how many ask for less.
    pub(crate) fn count(&self, hosts: &[Arc<Host>]) {
        let count = |is: &dyn Fn(&Flags) -> bool| {
            hosts.iter().filter(|host| host.is_checked() && is(&host.checks)).count() as u64
        };
        self.stats.healthy().set(count(&|state| !state.has(flags::FAILED_ACTIVE)));
        self.stats.degraded().set(count(&|state| state.has(flags::DEGRADED_ACTIVE)));
    }
}

impl Verdicts {
    /// Takes a finding in: sets the host's flags and counts it.
    pub(crate) fn take(&mut self, checks: &Checks, state: &Flags, finding: Finding) -> Change {
        let change = match finding {
            Finding::Well { degraded } => self.well(checks, state, degraded),
            _ => self.ill(checks, state, finding),
        };
        self.checked = true;
        // Even one that changed nothing else is no longer left out.
        if state.set(flags::PENDING_ACTIVE, false) { Change::Done } else { change }
    }

    fn well(&mut self, checks: &Checks, state: &Flags, degraded: bool) -> Change {
        self.ill = 0;
        let mut change = Change::None;
        if state.has(flags::FAILED_ACTIVE) {
            self.well = self.well.saturating_add(1);
            // The first check of all decides at once, so that a start is quick.
            if !self.checked || self.well == checks.config.healthy_threshold {
                state.set(flags::FAILED_ACTIVE | flags::ACTIVE_TIMEOUT | flags::EXCLUDED, false);
                change = Change::Done;
            } else {
                change = Change::Pending;
            }
        }
        if state.set(flags::DEGRADED_ACTIVE, degraded) && change == Change::None {
            change = Change::Done;
        }
        checks.stats.success().inc();
        change
    }

    fn ill(&mut self, checks: &Checks, state: &Flags, finding: Finding) -> Change {
        self.well = 0;
        let mut change = Change::None;
        if !state.has(flags::FAILED_ACTIVE) {
            let at_once = matches!(finding, Finding::Ill { retriable: false } | Finding::Told);
            if !at_once {
                self.ill = self.ill.saturating_add(1);
            }
            if at_once || self.ill == checks.config.unhealthy_threshold {
                state.set(flags::FAILED_ACTIVE, true);
                change = Change::Done;
            } else {
                change = Change::Pending;
            }
        }
        state.set(flags::ACTIVE_TIMEOUT, finding == Finding::Late && state.has(flags::FAILED_ACTIVE));
        checks.stats.failure().inc();
        match finding {
            Finding::Broken | Finding::Late => checks.stats.network_failure().inc(),
            Finding::Told => checks.stats.passive_failure().inc(),
            _ => {}
        }
        change
    }
}

/// The time to the next check, after a finding that was good or not and changed what it did. `traffic`: the cluster ever
/// had any.
pub(crate) fn wait(
    intervals: &CheckIntervals,
    well: bool,
    change: Change,
    traffic: bool,
    rng: &impl Rng,
) -> Duration {
    let pending = change == Change::Pending;
    let base = match (traffic, well) {
        (true, true) if pending => intervals.healthy_edge,
        (true, true) => intervals.healthy,
        (true, false) if pending => intervals.unhealthy_edge,
        (true, false) => intervals.unhealthy,
        (false, true) if !pending => intervals.no_traffic_healthy,
        (false, _) => intervals.no_traffic,
    };
    jittered(intervals, base, intervals.jitter, rng)
}

/// `base` with `jitter` and the share of it that the configuration adds, within the runtime's limits.
pub(crate) fn jittered(
    intervals: &CheckIntervals,
    base: Duration,
    jitter: Duration,
    rng: &impl Rng,
) -> Duration {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let base = ms(base);
    let share = base.saturating_mul(u64::from(intervals.jitter_percent)) / 100;
    let time = base.saturating_add(rng.below(share)).saturating_add(rng.below(ms(jitter)));
    // Never at once, or a host that fails at once would keep us busy.
    Duration::from_millis(time.min(intervals.max_ms.get()).max(intervals.min_ms.get()).max(1))
}

#[cfg(test)]
mod tests;
