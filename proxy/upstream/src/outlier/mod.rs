//! Outlier detection: what requests tell of their host, and who takes it out for that (Envoy's "Outlier detection").
//!
//! Workers count on the host itself, by relaxed atomics, and wake the control thread when a count reaches its limit. All
//! that is decided is decided there: whether a host is ejected, for how long, and when it comes back. What requests draw
//! from is then published as for any other change of hosts.

mod detector;
mod watch;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub(crate) use detector::Detector;
pub(crate) use watch::watch;

/// What happened to a host's request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A request got its connection.
    Connected,
    /// A TCP session has its connection: there is nothing more to learn of it.
    SessionOpened,
    /// No connection, or one that broke before its response was whole.
    ConnectFailed,
    /// No response in time; the status that the client gets for it.
    TimedOut(u16),
    /// A response's status.
    Response(u16),
}

outrider_core::stat_struct! {
    /// `cluster.<name>.outlier_detection.`
    pub(crate) struct OutlierStats {
        counters {
            ejections_total, ejections_overflow, ejections_success_rate, ejections_consecutive_5xx,
            ejections_enforced_total,
            ejections_enforced_consecutive_5xx, ejections_detected_consecutive_5xx,
            ejections_enforced_success_rate, ejections_detected_success_rate,
            ejections_enforced_consecutive_gateway_failure, ejections_detected_consecutive_gateway_failure,
            ejections_enforced_consecutive_local_origin_failure,
            ejections_detected_consecutive_local_origin_failure,
            ejections_enforced_local_origin_success_rate, ejections_detected_local_origin_success_rate,
            ejections_enforced_failure_percentage, ejections_detected_failure_percentage,
            ejections_enforced_local_origin_failure_percentage,
            ejections_detected_local_origin_failure_percentage,
        }
        gauges { ejections_active }
        histograms {}
    }
}

/// What a host did of late: written by workers, read and reset on the control thread.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    /// Failures in a row, by [`Streak`].
    streaks: [AtomicU32; 3],
    /// One bit for each streak that reached its limit.
    noticed: AtomicU8,
    /// Responses of this interval.
    external: Volume,
    /// Connects of this interval, where they are told apart.
    local: Volume,
    /// Only the control thread takes it.
    term: Mutex<Term>,
}

/// What failures are counted in a row. The order is that in which limits reached at once are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streak {
    Gateway,
    Server,
    Local,
}

impl Streak {
    const ALL: [Self; 3] = [Self::Gateway, Self::Server, Self::Local];

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Requests of an interval, and how many went well.
#[derive(Debug, Default)]
struct Volume {
    total: AtomicU64,
    success: AtomicU64,
}

impl Volume {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Relaxed);
        if success {
            self.success.fetch_add(1, Relaxed);
        }
    }

    /// Both numbers of the interval that ends.
    fn take(&self) -> (u64, u64) {
        // The successes first: what is counted in between makes the rate lower than it is for one request, and never
        // more than all.
        let success = self.success.swap(0, Relaxed);
        let total = self.total.swap(0, Relaxed);
        (total, success.min(total))
    }
}

/// How a host's ejections went.
#[derive(Debug, Default)]
struct Term {
    /// When it was ejected last.
    ejected: Option<Instant>,
    /// When it came back last.
    returned: Option<Instant>,
    /// How many base times the next ejection takes, less one.
    backoff: u32,
    jitter: Duration,
    /// Percent of the last interval; `None` for too few requests.
    success_rate: Option<f64>,
    local_success_rate: Option<f64>,
}

impl Conduct {
    fn streak(&self, streak: Streak) -> &AtomicU32 {
        let [gateway, server, local] = &self.streaks;
        match streak {
            Streak::Gateway => gateway,
            Streak::Server => server,
            Streak::Local => local,
        }
    }

    /// Ends a streak. Hosts that do well are not written to.
    fn end(&self, streak: Streak) {
        let count = self.streak(streak);
        if count.load(Relaxed) != 0 {
            count.store(0, Relaxed);
        }
    }

    fn term(&self) -> std::sync::MutexGuard<'_, Term> {
        self.term.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The success rates of the last interval, in percent: of responses, of what is of local origin.
    pub(crate) fn success_rates(&self) -> (Option<f64>, Option<f64>) {
        let term = self.term();
        (term.success_rate, term.local_success_rate)
    }
}

#[cfg(test)]
mod tests;
