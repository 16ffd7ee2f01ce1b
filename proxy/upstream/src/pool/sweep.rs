//! Closing what was idle for too long: one timer for each pool.

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
        let longest = self.longest()?;
        if self.connections.get() == 0 {
            return None;
        }
        let mut wait = longest;
        let mut due = |since: Instant| {
            let idle = now.saturating_duration_since(since);
            if idle < longest {
                wait = wait.min(longest - idle);
            }
            idle >= longest
        };
        let mut closed: Vec<_> = self.idle.borrow_mut().extract_if(.., |conn| due(conn.idle_since)).collect();
        let count = closed.len();
        closed.clear();
        let shared: Vec<_> = self
            .shared
            .borrow_mut()
            .extract_if(.., |conn| conn.is_idle() && due(conn.idle_since.get()))
            .collect();
        let cluster = self.cluster.borrow();
        cluster.stats().upstream_cx_idle_timeout().add((count + shared.len()) as u64);
        Some(wait.max(Duration::from_millis(1)))
    }

    fn longest(&self) -> Option<Duration> {
        self.cluster.borrow().config.http.idle_timeout.filter(|timeout| !timeout.is_zero())
    }
}
