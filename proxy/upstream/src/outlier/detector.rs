//! Who is ejected, and for how long. No I/O, no clock: `now` and the random source are handed in.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outrider_config::model::{OutlierDetection, RuntimeInteger};
use outrider_core::rng::Rng;
use outrider_core::stats::Scope;
use tokio::sync::Notify;

use super::{Conduct, Event, OutlierStats, Streak, Term, Volume};
use crate::host::{Host, flags};

/// What a host did in an interval: the part that succeeded, and of how many requests; `None`: too few.
type Conducted<'h> = (&'h Arc<Host>, Option<(f64, u64)>);

/// The outlier detection of a cluster.
#[derive(Debug)]
pub(crate) struct Detector {
    config: Box<OutlierDetection>,
    stats: OutlierStats,
    /// Wakes the control thread: a streak reached its limit.
    wake: Notify,
    /// What the last sweep compared success rates with: of responses, of what is of local origin.
    norms: Mutex<[Option<Norm>; 2]>,
}

/// What success rates are compared with, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    /// Their mean.
    pub(crate) average: f64,
    /// Those below are outliers.
    pub(crate) threshold: f64,
}

/// Why a host is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Streak(Streak),
    SuccessRate { local: bool },
    FailurePercentage { local: bool },
}

impl Detector {
    /// The detection of `config`, counted under `cluster.<name>.`.
    pub(crate) fn new(config: OutlierDetection, cluster: &Scope) -> Self {
        let stats = OutlierStats::new(cluster.child("outlier_detection."));
        Self { config: Box::new(config), stats, wake: Notify::new(), norms: Mutex::default() }
    }

    /// Takes notice of what happened to `host`. On workers.
    pub(crate) fn report(&self, host: &Host, event: Event) {
        let conduct = host.state.conduct.get_or_init(Box::default);
        if self.config.split_local_origin {
            match event {
                Event::Connected | Event::SessionOpened => self.local(conduct, true),
                Event::ConnectFailed | Event::TimedOut(_) => self.local(conduct, false),
                Event::Response(status) => self.response(conduct, status),
            }
            return;
        }
        match event {
            Event::Connected => {}
            Event::SessionOpened => self.response(conduct, 200),
            Event::ConnectFailed => self.response(conduct, 503),
            Event::TimedOut(status) | Event::Response(status) => self.response(conduct, status),
        }
    }

    fn response(&self, conduct: &Conduct, status: u16) {
        let failed = (500..600).contains(&status);
        conduct.external.count(!failed);
        if !failed {
            conduct.end(Streak::Server);
            conduct.end(Streak::Gateway);
            return;
        }
        if matches!(status, 502..=504) {
            self.fail(conduct, Streak::Gateway);
        } else {
            conduct.end(Streak::Gateway);
        }
        self.fail(conduct, Streak::Server);
    }

    fn local(&self, conduct: &Conduct, success: bool) {
        conduct.local.count(success);
        if success {
            conduct.end(Streak::Local);
        } else {
            self.fail(conduct, Streak::Local);
        }
    }

    fn fail(&self, conduct: &Conduct, streak: Streak) {
        let count = conduct.streak(streak).fetch_add(1, Relaxed).saturating_add(1);
        // Equal, not more: the limit is reached once, until the control thread has judged it. Of a limit that came to lie below
        // the count, the next sweep takes notice.
        if u64::from(count) == self.limit_of(streak).limit.get() {
            conduct.noticed.fetch_or(streak.bit(), Relaxed);
            self.wake.notify_one();
        }
    }

    /// Takes notice of streaks that are as long as their limit, or longer: the runtime may have lowered it, and what is known of
    /// a host outlives updates of its cluster.
    fn notice(&self, conduct: &Conduct) {
        for streak in Streak::ALL {
            let limit = self.limit_of(streak).limit.get();
            if limit > 0 && u64::from(conduct.streak(streak).load(Relaxed)) >= limit {
                conduct.noticed.fetch_or(streak.bit(), Relaxed);
            }
        }
    }

    fn limit_of(&self, streak: Streak) -> &outrider_config::model::OutlierLimit {
        match streak {
            Streak::Gateway => &self.config.consecutive_gateway_failure,
            Streak::Server => &self.config.consecutive_5xx,
            Streak::Local => &self.config.consecutive_local_origin_failure,
        }
    }

    /// What the last sweep compared success rates with: of responses, of what is of local origin.
    pub(crate) fn norms(&self) -> [Option<Norm>; 2] {
        *self.norms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a limit was reached, or [`Self::rouse`].
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Has the control thread look.
    pub(crate) fn rouse(&self) {
        self.wake.notify_one();
    }

    /// The time between two sweeps.
    pub(super) fn interval(&self) -> Duration {
        time(&self.config.interval_ms).max(Duration::from_millis(1))
    }

    /// Publishes how many of `hosts` are out.
    pub(crate) fn count_active(&self, hosts: &[Arc<Host>]) {
        self.stats.ejections_active().set(ejected(hosts) as u64);
    }

    /// Publishes that none is out: the cluster is gone.
    pub(crate) fn count_none(&self) {
        self.stats.ejections_active().set(0);
    }

    /// Judges the hosts whose streaks reached a limit. Returns whether any was ejected.
    pub(super) fn judge(&self, hosts: &[Arc<Host>], now: Instant, rng: &impl Rng) -> bool {
        let mut changed = false;
        for host in hosts {
            let Some(conduct) = host.state.conduct.get() else { continue };
            let noticed = conduct.noticed.swap(0, Relaxed);
            for streak in Streak::ALL.into_iter().filter(|streak| noticed & streak.bit() != 0) {
                if host.state.has(flags::FAILED_OUTLIER) {
                    continue;
                }
                changed |= self.eject(hosts, host, Cause::Streak(streak), now, rng);
                if streak == Streak::Server {
                    self.stats.ejections_consecutive_5xx().inc();
                }
                // So that the next run of failures is noticed even if no success comes between.
                conduct.end(streak);
            }
        }
        changed
    }

    /// The end of an interval: hosts whose time is over come back, and outliers by rate go, and those by streaks that nobody
    /// took notice of. Returns whether any was so.
    pub(super) fn sweep(&self, hosts: &[Arc<Host>], now: Instant, rng: &impl Rng) -> bool {
        hosts.iter().filter_map(|host| host.state.conduct.get()).for_each(|conduct| self.notice(conduct));
        let mut changed = self.judge(hosts, now, rng);
        let (mut external, mut local) = (Vec::new(), Vec::new());
        for host in hosts {
            let Some(conduct) = host.state.conduct.get() else { continue };
            let mut term = conduct.term();
            if host.state.has(flags::FAILED_OUTLIER) && self.is_over(&term, now) {
                self.restore(host, conduct, &mut term, now);
                changed = true;
            }
            term.success_rate = None;
            term.local_success_rate = None;
            external.push((host, taken(&conduct.external)));
            local.push((host, taken(&conduct.local)));
        }
        changed |= self.sweep_rates(hosts, &external, false, now, rng);
        changed |= self.sweep_rates(hosts, &local, true, now, rng);
        for host in hosts.iter().filter(|host| !host.state.has(flags::FAILED_OUTLIER)) {
            let Some(conduct) = host.state.conduct.get() else { continue };
            let mut term = conduct.term();
            if term.returned.is_some_and(|at| now.saturating_duration_since(at) >= self.interval()) {
                term.backoff = term.backoff.saturating_sub(1);
            }
        }
        if changed {
            self.count_active(hosts);
        }
        changed
    }

    /// Looks for outliers by rate: `volumes` are what hosts did in the interval.
    fn sweep_rates(
        &self,
        hosts: &[Arc<Host>],
        volumes: &[Conducted<'_>],
        local: bool,
        now: Instant,
        rng: &impl Rng,
    ) -> bool {
        let (rate, failures) = (&self.config.success_rate, &self.config.failure_percentage);
        self.set_norm(local, None);
        let enough_hosts = |minimum: &RuntimeInteger| hosts.len() as u64 >= minimum.get();
        if !enough_hosts(&rate.minimum_hosts) && !enough_hosts(&failures.minimum_hosts) {
            return false;
        }
        let least = rate.request_volume.get().min(failures.request_volume.get());
        let mut known: Vec<(&Arc<Host>, f64, u64)> = Vec::new();
        for (host, volume) in volumes {
            let Some((rate, total)) = *volume else { continue };
            if host.state.has(flags::FAILED_OUTLIER) || total < least {
                continue;
            }
            if let Some(conduct) = host.state.conduct.get() {
                let mut term = conduct.term();
                let place = if local { &mut term.local_success_rate } else { &mut term.success_rate };
                *place = Some(rate);
            }
            known.push((host, rate, total));
        }
        let with = |volume: u64| known.iter().filter(move |(_, _, total)| *total >= volume);
        let mut changed = false;
        let rates: Vec<_> = with(rate.request_volume.get()).map(|(host, rate, _)| (*host, *rate)).collect();
        if !rates.is_empty() && rates.len() as u64 >= rate.minimum_hosts.get() {
            let norm = Norm::of(&rates, rate.stdev_factor.get() as f64 / 1000.0);
            self.set_norm(local, Some(norm));
            for (host, _) in rates.iter().filter(|(_, rate)| *rate < norm.threshold) {
                self.stats.ejections_success_rate().inc();
                changed |= self.eject(hosts, host, Cause::SuccessRate { local }, now, rng);
            }
        }
        let rates: Vec<_> =
            with(failures.request_volume.get()).map(|(host, rate, _)| (*host, *rate)).collect();
        if !rates.is_empty() && rates.len() as u64 >= failures.minimum_hosts.get() {
            let threshold = failures.threshold.get() as f64;
            for (host, _) in rates.iter().filter(|(_, rate)| 100.0 - rate >= threshold) {
                changed |= self.eject(hosts, host, Cause::FailurePercentage { local }, now, rng);
            }
        }
        changed
    }

    fn set_norm(&self, local: bool, norm: Option<Norm>) {
        let mut norms = self.norms.lock().unwrap_or_else(PoisonError::into_inner);
        let [external, own] = &mut *norms;
        *(if local { own } else { external }) = norm;
    }

    /// Ejects `host`, if that is allowed and drawn. Returns whether.
    fn eject(
        &self,
        hosts: &[Arc<Host>],
        host: &Arc<Host>,
        cause: Cause,
        now: Instant,
        rng: &impl Rng,
    ) -> bool {
        self.count_detected(cause);
        if host.state.has(flags::FAILED_OUTLIER) {
            return false;
        }
        let active = ejected(hosts);
        let share = 100.0 * (active + 1) as f64 / hosts.len() as f64;
        let most = self.config.max_ejection_percent.get().min(100);
        let one = self.config.always_eject_one_host && active == 0;
        if share > most as f64 && !one {
            self.stats.ejections_overflow().inc();
            return false;
        }
        if matches!(cause, Cause::Streak(Streak::Server) | Cause::SuccessRate { local: false }) {
            self.stats.ejections_total().inc();
        }
        let enforcing = self.enforcing(cause).get();
        if enforcing < 100 && rng.below(100) >= enforcing {
            return false;
        }
        let conduct = host.state.conduct.get_or_init(Box::default);
        let mut term = conduct.term();
        let (base, longest) =
            (time(&self.config.base_ejection_time_ms), time(&self.config.max_ejection_time_ms));
        let jitter = self.config.max_ejection_time_jitter_ms.get().saturating_add(1);
        host.state.set(flags::FAILED_OUTLIER, true);
        term.ejected = Some(now);
        term.jitter = Duration::from_millis(rng.below(jitter));
        if base.saturating_mul(term.backoff) < longest.saturating_add(base) {
            term.backoff = term.backoff.saturating_add(1);
        }
        drop(term);
        self.count_enforced(cause);
        self.count_active(hosts);
        tracing::info!(host = %host.address, ?cause, "an outlier is ejected");
        true
    }

    fn is_over(&self, term: &Term, now: Instant) -> bool {
        let (base, longest) =
            (time(&self.config.base_ejection_time_ms), time(&self.config.max_ejection_time_ms));
        let time = base.saturating_mul(term.backoff).min(longest).saturating_add(term.jitter);
        term.ejected.is_none_or(|at| now.saturating_duration_since(at) >= time)
    }

    /// Lets `host` be used again.
    fn restore(&self, host: &Host, conduct: &Conduct, term: &mut Term, now: Instant) {
        host.state.set(flags::FAILED_OUTLIER, false);
        for streak in Streak::ALL {
            conduct.end(streak);
        }
        term.returned = Some(now);
        tracing::info!(host = %host.address, "an ejected host is back");
    }

    /// A health check of `host` was good: it comes back, where the configuration says so. Returns whether.
    pub(crate) fn checked_well(&self, host: &Host, now: Instant) -> bool {
        let Some(conduct) = host.state.conduct.get() else { return false };
        if !self.config.check_restores || !host.state.has(flags::FAILED_OUTLIER) {
            return false;
        }
        self.restore(host, conduct, &mut conduct.term(), now);
        true
    }

    fn enforcing(&self, cause: Cause) -> &RuntimeInteger {
        let config = &self.config;
        match cause {
            Cause::Streak(streak) => &self.limit_of(streak).enforcing,
            Cause::SuccessRate { local: false } => &config.success_rate.enforcing,
            Cause::SuccessRate { local: true } => &config.success_rate.enforcing_local_origin,
            Cause::FailurePercentage { local: false } => &config.failure_percentage.enforcing,
            Cause::FailurePercentage { local: true } => &config.failure_percentage.enforcing_local_origin,
        }
    }

    fn count_detected(&self, cause: Cause) {
        let stats = &self.stats;
        match cause {
            Cause::Streak(Streak::Server) => stats.ejections_detected_consecutive_5xx(),
            Cause::Streak(Streak::Gateway) => stats.ejections_detected_consecutive_gateway_failure(),
            Cause::Streak(Streak::Local) => stats.ejections_detected_consecutive_local_origin_failure(),
            Cause::SuccessRate { local: false } => stats.ejections_detected_success_rate(),
            Cause::SuccessRate { local: true } => stats.ejections_detected_local_origin_success_rate(),
            Cause::FailurePercentage { local: false } => stats.ejections_detected_failure_percentage(),
            Cause::FailurePercentage { local: true } => {
                stats.ejections_detected_local_origin_failure_percentage()
            }
        }
        .inc();
    }

    fn count_enforced(&self, cause: Cause) {
        let stats = &self.stats;
        stats.ejections_enforced_total().inc();
        match cause {
            Cause::Streak(Streak::Server) => stats.ejections_enforced_consecutive_5xx(),
            Cause::Streak(Streak::Gateway) => stats.ejections_enforced_consecutive_gateway_failure(),
            Cause::Streak(Streak::Local) => stats.ejections_enforced_consecutive_local_origin_failure(),
            Cause::SuccessRate { local: false } => stats.ejections_enforced_success_rate(),
            Cause::SuccessRate { local: true } => stats.ejections_enforced_local_origin_success_rate(),
            Cause::FailurePercentage { local: false } => stats.ejections_enforced_failure_percentage(),
            Cause::FailurePercentage { local: true } => {
                stats.ejections_enforced_local_origin_failure_percentage()
            }
        }
        .inc();
    }
}

fn time(ms: &RuntimeInteger) -> Duration {
    Duration::from_millis(ms.get())
}

fn ejected(hosts: &[Arc<Host>]) -> usize {
    hosts.iter().filter(|host| host.state.has(flags::FAILED_OUTLIER)).count()
}

/// The success rate in percent and the number of requests of the interval that ends; `None` for no request.
fn taken(volume: &Volume) -> Option<(f64, u64)> {
    let (total, success) = volume.take();
    (total > 0).then(|| (success as f64 * 100.0 / total as f64, total))
}

impl Norm {
    /// An outlier is `factor` standard deviations below the mean.
    fn of(rates: &[(&Arc<Host>, f64)], factor: f64) -> Self {
        let n = rates.len() as f64;
        let average = rates.iter().map(|(_, rate)| rate).sum::<f64>() / n;
        let variance = rates.iter().map(|(_, rate)| (rate - average).powi(2)).sum::<f64>() / n;
        Self { average, threshold: average - factor * variance.sqrt() }
    }
}
