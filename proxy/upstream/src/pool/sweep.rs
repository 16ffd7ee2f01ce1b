//! Closing what was idle for too long, or is too old: one timer for each pool.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Pool;

impl Pool {
    /// Sees to it that a timer runs while there are connections.
    pub(super) fn keep_swept(self: &Rc<Self>) {
        if self.sweeping.get() || self.longest().is_none() {
            return;
        }
        self.sweeping.set(true);
        let weak = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                let Some(pool) = weak.upgrade() else { return };
                let Some(wait) = pool.sweep(Instant::now()) else {
                    pool.sweeping.set(false);
                    return;
                };
                drop(pool);
                tokio::time::sleep(wait).await;
            }
        });
    }

    /// Closes what is due; how long until something else may be. `None`: no connection is left.
    fn sweep(&self, now: Instant) -> Option<Duration> {
        let mut wait = self.longest()?;
        if self.connections.get() == 0 {
            return None;
        }
        let version = self.cluster.borrow().clone();
        let (http, stats) = (&version.config.http, version.stats());
        let mut due = |since: Instant, longest: Option<Duration>| {
            let Some(longest) = longest.filter(|longest| !longest.is_zero()) else { return false };
            let age = now.saturating_duration_since(since);
            if age < longest {
                wait = wait.min(longest - age);
            }
            age >= longest
        };
        let mut ends = |born: Instant, idle_since: Option<Instant>| {
            if due(born, http.max_connection_duration) {
                stats.upstream_cx_max_duration_reached().inc();
                return true;
            }
            let idle = idle_since.is_some_and(|since| due(since, http.idle_timeout));
            if idle {
                stats.upstream_cx_idle_timeout().inc();
            }
            idle
        };
        // Collected first: a connection's end must not find the lists borrowed. A shared one that is too old
        // but not idle ends with its last stream.
        let idle: Vec<_> = self
            .idle
            .borrow_mut()
            .extract_if(.., |conn| ends(conn.meta.since, Some(conn.idle_since)))
            .collect();
        let shared: Vec<_> = self
            .shared
            .borrow_mut()
            .extract_if(.., |conn| ends(conn.meta.since, conn.is_idle().then(|| conn.idle_since.get())))
            .collect();
        drop((idle, shared));
        Some(wait.max(Duration::from_millis(1)))
    }

    /// The longest time until something may be due; `None` when nothing ever is.
    fn longest(&self) -> Option<Duration> {
        let version = self.cluster.borrow();
        let http = &version.config.http;
        [http.idle_timeout, http.max_connection_duration]
            .into_iter()
            .flatten()
            .filter(|timeout| !timeout.is_zero())
            .min()
    }
}
