//! The tasks that check a cluster's hosts, on the control thread.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use outrider_config::model::EndpointCheck;
use outrider_core::rng;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::probe::{self, Kept};
use super::{Change, Checks, Finding, Verdicts, tcp};
use crate::cluster::ClusterShared;
use crate::host::{Host, flags};
use crate::manager::ClusterManager;

/// The task that checks one host.
struct Session {
    check: Option<Arc<EndpointCheck>>,
    /// A response told that the host is not well.
    told: Rc<Notify>,
    task: AbortHandle,
}

/// What that task has.
struct Run {
    cluster: Weak<ClusterShared>,
    checks: Arc<Checks>,
    host: Arc<Host>,
    checked: Checked,
    told: Rc<Notify>,
}

/// Hosts that were checked at least once, by id.
type Checked = Rc<RefCell<HashSet<u64>>>;

/// Checks each host of the cluster, until it is gone. `warm` is called once, when the hosts that were
/// found first were checked.
pub(crate) async fn keep(cluster: Weak<ClusterShared>, manager: ClusterManager, warm: impl FnOnce()) {
    let Some(checks) = cluster.upgrade().and_then(|cluster| cluster.checks.clone()) else { return warm() };
    let mut warm = Some(warm);
    let mut sessions: HashMap<u64, Session> = HashMap::new();
    let mut tasks = JoinSet::new();
    let checked = Checked::default();
    // The hosts whose first checks it waits for, once they are known.
    let mut awaited: Option<HashSet<u64>> = None;
    loop {
        let Some(alive) = cluster.upgrade().filter(|cluster| !cluster.retired.load(Relaxed)) else { break };
        if checks.changed.swap(false, Relaxed) {
            alive.renew_health();
            manager.changed(&alive);
        }
        let hosts = alive.hosts.load_full();
        let present: HashMap<u64, &Arc<Host>> =
            hosts.iter().filter(|host| host.is_checked()).map(|host| (host.id, host)).collect();
        sessions.retain(|id, session| {
            let stays = present.get(id).is_some_and(|host| host.check == session.check);
            if !stays {
                session.task.abort();
            }
            stays
        });
        checked.borrow_mut().retain(|id| present.contains_key(id));
        for (id, host) in &present {
            sessions.entry(*id).or_insert_with(|| {
                let told = Rc::new(Notify::new());
                let run = Run {
                    cluster: cluster.clone(),
                    checks: checks.clone(),
                    host: (*host).clone(),
                    checked: checked.clone(),
                    told: told.clone(),
                };
                Session { check: host.check.clone(), told, task: tasks.spawn_local(check(run)) }
            });
            if host.checks.set(flags::TOLD, false) {
                sessions.get(id).into_iter().for_each(|session| session.told.notify_one());
            }
        }
        if warm.is_some() && alive.has_found_hosts() {
            // Hosts that come later do not hold it up.
            awaited.get_or_insert_with(|| present.keys().copied().collect());
        }
        let waits = |id: &u64| present.contains_key(id) && !checked.borrow().contains(id);
        if warm.is_some() && awaited.as_ref().is_some_and(|awaited| !awaited.iter().any(waits)) {
            alive.warm.store(true, Relaxed);
            manager.changed(&alive);
            warm.take().into_iter().for_each(|warm| warm());
        }
        drop(present);
        drop((hosts, alive));
        tokio::select! {
            () = checks.news.notified() => {}
            Some(_) = tasks.join_next() => {}
        }
        // To publish costs a look at all hosts, and more where they are hashed: what is found in this turn is published once.
        tokio::task::yield_now().await;
    }
    warm.take().into_iter().for_each(|warm| warm());
}

/// Checks one host again and again.
async fn check(run: Run) {
    let config = &run.checks.config;
    let mut verdicts = Verdicts::default();
    let mut kept = Kept::default();
    let first = config.intervals.initial_jitter;
    if !first.is_zero() {
        let wait = rng::with(|rng| super::jittered(&config.intervals, Duration::ZERO, first, rng));
        tokio::time::sleep(wait).await;
    }
    loop {
        let Some(cluster) = run.cluster.upgrade() else { return };
        run.checks.stats.attempt().inc();
        let asked = timeout(config.timeout, probe::ask(&cluster, &run.checks, &run.host, &mut kept)).await;
        // It must not be held while we wait.
        drop(cluster);
        let Some(mut next) = run.settle(asked.unwrap_or(Finding::Late), &mut verdicts, &mut kept) else {
            return;
        };
        while let Some(finding) = run.between(&mut kept, next).await {
            let Some(at) = run.settle(finding, &mut verdicts, &mut kept) else { return };
            // What a response told does not put the next check off.
            if finding != Finding::Told {
                next = at;
            }
        }
    }
}

impl Run {
    /// Draws the conclusions of a finding; when the next check is due. `None`: the cluster is gone.
    fn settle(&self, finding: Finding, verdicts: &mut Verdicts, kept: &mut Kept) -> Option<Instant> {
        // What it would publish is counted under the name of the one that took its place.
        let cluster = self.cluster.upgrade().filter(|cluster| !cluster.retired.load(Relaxed))?;
        let well = matches!(finding, Finding::Well { .. });
        if matches!(finding, Finding::Broken | Finding::Late) {
            *kept = Kept::Nothing;
        }
        if !well {
            let (name, host) = (&cluster.config.name, &self.host.address);
            tracing::debug!(cluster = %name, %host, ?finding, "a health check failed");
        }
        let change = verdicts.take(&self.checks, &self.host.checks, finding);
        if (well && cluster.recovered(&self.host)) || change == Change::Done {
            self.checks.changed.store(true, Relaxed);
            self.checks.news.notify_one();
        }
        if self.checked.borrow_mut().insert(self.host.id) {
            self.checks.news.notify_one();
        }
        let traffic = cluster.had_traffic();
        let intervals = &self.checks.config.intervals;
        Some(Instant::now() + rng::with(|rng| super::wait(intervals, well, change, traffic, rng)))
    }

    /// Waits for the next check. What is learned before is a finding of its own: a connection that was kept ended, or a
    /// response told that the host is not well.
    async fn between(&self, kept: &mut Kept, next: Instant) -> Option<Finding> {
        tokio::select! {
            () = sleep_until(next) => None,
            () = tcp::ended(kept) => Some(Finding::Broken),
            () = self.told.notified() => Some(Finding::Told),
        }
    }
}
