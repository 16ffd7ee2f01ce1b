//! `rate_limit_settings`: a bucket of tokens.

use std::time::{Duration, Instant};

use crate::config::RateLimit;

/// Envoy's slowest rate: a token a year.
const SLOWEST: f64 = 1.0 / (365.0 * 24.0 * 3600.0);

/// Tokens for requests.
#[derive(Debug)]
pub(crate) struct Bucket {
    limit: RateLimit,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        let fill_rate = if limit.fill_rate.is_finite() { limit.fill_rate.max(SLOWEST) } else { f64::MAX };
        let limit = RateLimit { max_tokens: limit.max_tokens.max(1), fill_rate };
        Self { limit, tokens: f64::from(limit.max_tokens), filled: now }
    }

    /// Takes a token, or says when there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + passed * self.limit.fill_rate).min(f64::from(self.limit.max_tokens));
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.tokens) / self.limit.fill_rate;
        // A millisecond more, so that rounding does not wake us too early.
        let wait = Duration::try_from_secs_f64(wait + 0.001).unwrap_or(Duration::MAX);
        Err(now.checked_add(wait).unwrap_or(now + Duration::from_secs(3600)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RateLimit { max_tokens: 3, fill_rate: 10.0 }, start);
        assert!((0..3).all(|_| bucket.take(start).is_ok()));
        let at = bucket.take(start).unwrap_err();
        let wait = at - start;
        assert!(wait >= Duration::from_millis(100) && wait < Duration::from_millis(110), "{wait:?}");
        assert!(bucket.take(at).is_ok());
        assert!(bucket.take(at).is_err());
        // Never more than the bucket holds.
        let later = at + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| bucket.take(later).is_ok()).count(), 3);
    }

    #[test]
    fn rates_that_make_no_sense_do_not_panic() {
        let start = Instant::now();
        for fill_rate in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE] {
            let mut bucket = Bucket::new(RateLimit { max_tokens: 0, fill_rate }, start);
            assert!(bucket.take(start).is_ok());
            let _ = bucket.take(start);
        }
    }
}
