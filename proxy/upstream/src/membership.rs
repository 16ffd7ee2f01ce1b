//! Which hosts a cluster has, and which of them are used: what discovery finds and what is found out about their health
//! meet here, and are published for the workers.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use outrider_config::model::{self, EndpointPolicy};
use outrider_core::stats::{Counter, Gauge, Scope, StatSlot};

use crate::cluster::{ClusterShared, scope_of};
use crate::host::{Availability, Host, HostSet, PriorityHosts, flags};
use crate::outlier::Event;

impl ClusterShared {
    /// Lets it be used without its hosts: their time is over. Those that are there are checked first.
    pub fn give_up_waiting(&self) {
        self.hosts_found();
    }

    /// Its hosts are there: it is warm, or will be when they were checked. Returns whether it is warm only now.
    pub(crate) fn hosts_found(&self) -> bool {
        self.found.store(true, Relaxed);
        if let Some(checks) = &self.checks {
            checks.news.notify_one();
            return false;
        }
        !self.warm.swap(true, Relaxed)
    }

    /// Whether its hosts are there, checked or not.
    pub(crate) fn has_found_hosts(&self) -> bool {
        self.found.load(Relaxed)
    }

    /// Whether it ever had a connection. Takes a lock: not for every request.
    pub(crate) fn had_traffic(&self) -> bool {
        self.registry.counter(&format!("{}upstream_cx_total", scope_of(&self.config))) > 0
    }

    /// Tells its health checks, where there are any, that `host` said in a response that it is not well.
    pub fn told_unwell(&self, host: &Host) {
        if let Some(checks) = &self.checks
            && host.is_checked()
        {
            host.checks.set(flags::EXCLUDED | flags::TOLD, true);
            checks.news.notify_one();
        }
    }

    /// Whether responses are looked at for [`Self::told_unwell`].
    pub const fn listens(&self) -> bool {
        self.checks.is_some()
    }

    /// A health check of `host` was good: where outlier detection took it out, that may bring it back. Returns whether.
    pub(crate) fn recovered(&self, host: &Host) -> bool {
        let well = !host.checks.has(flags::FAILED_ACTIVE);
        self.outlier
            .as_ref()
            .is_some_and(|outlier| well && outlier.checked_well(host, std::time::Instant::now()))
    }

    /// Publishes `hosts` in place of those there are; hosts with the same address and hostname keep their
    /// identity. Returns whether anything changed.
    pub fn publish(&self, hosts: Vec<Host>, policy: EndpointPolicy) -> bool {
        let before = self.hosts.load_full();
        let mut hosts = before.adopt(hosts);
        hosts.extend(self.kept_by_health(&before, &hosts));
        let unchanged = policy == before.policy
            && hosts.len() == before.len()
            && hosts.iter().zip(before.iter()).all(|(new, old)| Arc::ptr_eq(new, old));
        if unchanged {
            return false;
        }
        self.publish_set(hosts, policy);
        true
    }

    /// Tells outlier detection, where there is one, what happened to `host`.
    #[inline]
    pub fn report(&self, host: &Host, event: Event) {
        if let Some(outlier) = &self.outlier {
            outlier.report(host, event);
        }
    }

    /// Publishes its hosts anew: what is known of their health changed.
    pub(crate) fn renew_health(&self) {
        let Some(known) = &self.original_dst else {
            let set = self.hosts.load_full();
            let gone = flags::PENDING_REMOVAL | flags::FAILED_ACTIVE;
            let stays = |host: &&Arc<Host>| self.checks.is_none() || !host.checks.has_all(gone);
            self.publish_set(set.iter().filter(stays).cloned().collect(), set.policy);
            return;
        };
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish_set(known.values().cloned().collect(), EndpointPolicy::default());
    }

    /// What of [`flags`] it goes by: what it finds out itself. Hosts may know more, from an earlier cluster of its name.
    pub(crate) fn heeds(&self) -> u32 {
        let outlier = if self.outlier.is_some() { flags::FAILED_OUTLIER } else { 0 };
        let active = if self.checks.is_some() { flags::ACTIVE } else { 0 };
        outlier | active
    }

    /// Whether `host` is used, from all that is known of it.
    pub fn availability(&self, host: &Host) -> Availability {
        host.availability(self.heeds())
    }

    /// Begins with the hosts of the cluster of its name that is in force.
    pub(crate) fn inherit(&self, earlier: &Self) {
        let set = earlier.hosts.load_full();
        let hosts: Vec<_> = match (&self.checks, &earlier.checks) {
            (None, _) => set.iter().cloned().collect(),
            // What its own checks find out is nothing to the cluster in force; they begin with what that one knows.
            (Some(_), Some(_)) => set.iter().map(|host| Arc::new(host.for_checks(flags::CHECKED))).collect(),
            (Some(_), None) => {
                let hosts: Vec<_> = set.iter().map(|host| Arc::new(host.for_checks(0))).collect();
                // Nobody knows how they are.
                hosts.iter().for_each(|host| self.expect_check(host));
                hosts
            }
        };
        self.hosts.store(set.clone());
        if self.original_dst.is_none() {
            // The same hosts, but it may draw from them in another way.
            self.publish_set(hosts, set.policy);
        }
    }

    /// Has `host` count as unhealthy until its first check.
    fn expect_check(&self, host: &Host) {
        if host.is_checked() {
            host.checks.set(flags::FAILED_ACTIVE, true);
            host.checks.set(flags::PENDING_ACTIVE, self.config.ignore_new_until_checked);
        }
    }

    /// Hosts that discovery took away and whose checks are good: they stay until those fail.
    fn kept_by_health(&self, before: &HostSet, hosts: &[Arc<Host>]) -> Vec<Arc<Host>> {
        if self.checks.is_none() || self.config.ignore_health_on_removal {
            return Vec::new();
        }
        let stays: HashSet<u64> = hosts.iter().map(|host| host.id).collect();
        let places: HashSet<_> = hosts.iter().map(|host| &host.address).collect();
        for host in hosts {
            host.checks.set(flags::PENDING_REMOVAL, false);
            host.checks.set(flags::LISTED, true);
        }
        let well = |host: &&Arc<Host>| {
            !stays.contains(&host.id)
                && !places.contains(&host.address)
                && host.is_checked()
                // Those of the cluster before it, which its own discovery does not know, are none that were taken away.
                && host.checks.has(flags::LISTED)
                && !host.checks.has(flags::FAILED_ACTIVE)
                && !matches!(host.health, model::EndpointHealth::Unhealthy | model::EndpointHealth::Draining)
        };
        let kept: Vec<_> = before.iter().filter(well).cloned().collect();
        kept.iter().for_each(|host| _ = host.checks.set(flags::PENDING_REMOVAL, true));
        kept
    }

    pub(crate) fn publish_set(&self, hosts: Vec<Arc<Host>>, policy: EndpointPolicy) {
        if let Some(outlier) = &self.outlier {
            outlier.count_active(&hosts);
        }
        if let Some(checks) = &self.checks {
            let known: HashSet<u64> = self.hosts.load().iter().map(|host| host.id).collect();
            hosts.iter().filter(|host| !known.contains(&host.id)).for_each(|host| self.expect_check(host));
            checks.count(&hosts);
            checks.news.notify_one();
        }
        let ids = |hosts: &[Arc<Host>]| hosts.iter().map(|host| host.id).collect::<Vec<_>>();
        let new = ids(&hosts);
        self.drop_overload.store(policy.drop_overload.to_bits(), Relaxed);
        let panic_threshold = self.config.panic_threshold.get().min(100) as f64;
        let set = Arc::new(HostSet::new(hosts, policy, panic_threshold, self.heeds(), &self.config.lb));
        let scope = self.registry.scope(scope_of(&self.config));
        set.tables.iter().for_each(|table| table.publish(&scope, &self.config.lb));
        let set_now = set.clone();
        let earlier = self.hosts.swap(set);
        if ids(&earlier.iter().cloned().collect::<Vec<_>>()) != new {
            Counter::new(&scope, &StatSlot::new(), "membership_change").inc();
        }
        let had_degraded = earlier.priorities.iter().any(|level| !level.degraded.is_empty());
        let excluded =
            |set: &HostSet| set.priorities.iter().map(|level| u64::from(level.excluded.0)).sum::<u64>();
        if excluded(&set_now) > 0 || excluded(&earlier) > 0 {
            Gauge::new(&scope, &StatSlot::new(), "membership_excluded").set(excluded(&set_now));
        }
        membership(&scope, &set_now, had_degraded);
    }

    /// Counts again how its hosts are: another cluster of its name wrote the same stats, and is no more.
    pub(crate) fn count_again(&self) {
        let set = self.hosts.load_full();
        let hosts: Vec<_> = set.iter().cloned().collect();
        if let Some(outlier) = &self.outlier {
            outlier.count_active(&hosts);
        }
        if let Some(checks) = &self.checks {
            checks.count(&hosts);
        }
        let scope = scope_of(&self.config);
        let had_degraded = self.registry.value(&format!("{scope}membership_degraded")).is_some();
        membership(&self.registry.scope(scope), &set, had_degraded);
    }
}

/// Counts membership without making the whole of a cold cluster's stats. `had_degraded`: there were degraded hosts before.
fn membership(scope: &Scope, set: &HostSet, had_degraded: bool) {
    let sum = |of: fn(&PriorityHosts) -> usize| set.priorities.iter().map(of).sum::<usize>() as u64;
    let count = |name, value| Gauge::new(scope, &StatSlot::new(), name).set(value);
    count("membership_total", set.len() as u64);
    count("membership_healthy", sum(|level| level.healthy().len()));
    let degraded = sum(|level| level.degraded.len());
    if degraded > 0 || had_degraded {
        count("membership_degraded", degraded);
    }
}
