//! When to try again, and which control plane.

use std::time::Duration;

use outrider_core::rng::Rng;

use crate::config::Backoff;

/// How many attempts in a row one control plane has before the next one in the list is tried (Envoy's number).
const ATTEMPTS: u32 = 2;

/// Decides after each end of a stream how long to wait and where to go.
#[derive(Debug)]
pub struct Schedule {
    backoff: Backoff,
    services: usize,
    service: usize,
    /// The bound of the next wait.
    bound: Duration,
    /// Attempts in a row without an answer, at this service.
    failed_here: u32,
    /// The same, at whichever service.
    failed: u32,
    /// Whose versions we hold: the service that answered last.
    answered: Option<usize>,
    /// The present stream had an answer.
    alive: bool,
}

impl Schedule {
    /// A schedule over `services` control planes (at least one), beginning with the first.
    pub fn new(backoff: Backoff, services: usize) -> Self {
        let base = backoff.base.max(Duration::from_millis(1));
        let backoff = Backoff { base, max: backoff.max.max(base) };
        Self {
            backoff,
            services: services.max(1),
            service: 0,
            bound: base,
            failed_here: 0,
            failed: 0,
            answered: None,
            alive: false,
        }
    }

    /// Where to connect to now.
    pub fn service(&self) -> usize {
        self.service
    }

    /// Whether the versions that we hold are those of [`Schedule::service`]; true also when we hold none.
    pub fn same_server(&self) -> bool {
        self.answered.is_none_or(|answered| answered == self.service)
    }

    /// How many attempts in a row had no answer.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// The control plane answered: the next wait is short again.
    pub fn answered(&mut self) {
        self.alive = true;
        self.bound = self.backoff.base;
        self.failed = 0;
        self.failed_here = 0;
        self.answered = Some(self.service);
    }

    /// The stream ended, or did not begin. Returns how long to wait before the next attempt, which is at
    /// [`Schedule::service`].
    ///
    /// After two attempts without an answer the next service is tried, after the last the first again. When a later
    /// service had answered and is lost, the first one is tried: so we come back.
    pub fn ended(&mut self, rng: &impl Rng) -> Duration {
        if std::mem::take(&mut self.alive) {
            self.service = 0;
        } else {
            self.failed = self.failed.saturating_add(1);
            self.failed_here = self.failed_here.saturating_add(1);
            if self.failed_here >= ATTEMPTS {
                self.service = (self.service + 1) % self.services;
                self.failed_here = 0;
            }
        }
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.backoff.max);
        Duration::from_millis(rng.below(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The first service is back: go there, and do not count the stream that is given up for it.
    pub fn come_back(&mut self) {
        self.service = 0;
        self.alive = false;
        self.failed_here = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Draws the largest number.
    struct Most(Cell<u32>);

    impl Rng for Most {
        fn next_u64(&self) -> u64 {
            self.0.set(self.0.get() + 1);
            u64::MAX
        }
    }

    #[test]
    fn waits_double_up_to_the_maximum_and_begin_anew_after_an_answer() {
        let rng = Most(Cell::new(0));
        let mut schedule = Schedule::new(Backoff::default(), 1);
        let waits: Vec<_> = (0..8).map(|_| schedule.ended(&rng).as_millis()).collect();
        assert_eq!(waits, [499, 999, 1999, 3999, 7999, 15999, 29999, 29999]);
        assert_eq!(schedule.failed(), 8);
        schedule.answered();
        assert_eq!(schedule.ended(&rng).as_millis(), 499);
        assert_eq!(schedule.failed(), 0);
    }

    #[test]
    fn a_wait_is_anywhere_below_its_bound() {
        let rng = outrider_core::rng::FastRng::seeded(3);
        let wait = |_| Schedule::new(Backoff::default(), 1).ended(&rng).as_millis();
        let waits: Vec<_> = (0..200).map(wait).collect();
        assert!(waits.iter().any(|wait| *wait < 100) && waits.iter().any(|wait| *wait > 400));
        assert!(waits.iter().all(|wait| *wait < 500));
    }

    #[test]
    fn the_next_control_plane_has_its_turn_after_two_attempts_and_the_first_is_tried_again_after_it() {
        let rng = outrider_core::rng::FastRng::seeded(3);
        let mut schedule = Schedule::new(Backoff::default(), 2);
        let mut tried = vec![schedule.service()];
        for _ in 0..5 {
            schedule.ended(&rng);
            tried.push(schedule.service());
        }
        assert_eq!(tried, [0, 0, 1, 1, 0, 0]);
        // The second answers, and is lost: back to the first, whose versions we do not hold.
        schedule.ended(&rng);
        assert_eq!(schedule.service(), 1);
        assert!(schedule.same_server());
        schedule.answered();
        assert!(schedule.same_server());
        schedule.ended(&rng);
        assert_eq!(schedule.service(), 0);
        assert!(!schedule.same_server());
    }
}
