//! How many certificates are signed: for one identity, for all together, and how many may try from one address. No clock of its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::identity::Workload;

/// What refills evenly, and is full after a rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// In one second.
    pub per_second: f64,
    /// At once, after a rest.
    pub burst: f64,
}

/// One identity: many pods may have it, and all start at once.
pub const IDENTITY: Rate = Rate { per_second: 20.0, burst: 1000.0 };
/// All identities together.
pub const ALL: Rate = Rate { per_second: 500.0, burst: 5000.0 };
/// Attempts from one address, whatever comes of them.
pub const ADDRESS: Rate = Rate { per_second: 50.0, burst: 1000.0 };
/// How many identities and addresses are remembered at a time.
const MOST: usize = 65_536;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.per_second).min(rate.burst);
        self.at = self.at.max(now);
    }

    /// Takes one. When there is none: how long until there is.
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.refill(rate, now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / rate.per_second))
    }
}

/// Buckets by key, not more than [`MOST`].
#[derive(Debug)]
struct Table<K> {
    rate: Rate,
    buckets: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Table<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new() }
    }

    fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        if self.buckets.len() >= MOST && !self.buckets.contains_key(&key) {
            // Those that are full again say nothing that a new one would not.
            self.buckets.retain(|_, bucket| {
                bucket.refill(rate, now);
                bucket.left < rate.burst
            });
            if self.buckets.len() >= MOST {
                return Err(Duration::from_secs_f64(rate.burst / rate.per_second));
            }
        }
        self.buckets.entry(key).or_insert(Bucket { left: rate.burst, at: now }).take(rate, now)
    }
}

/// All limits.
#[derive(Debug)]
pub struct Limits {
    addresses: Mutex<Table<IpAddr>>,
    issues: Mutex<(Bucket, Rate, Table<Workload>)>,
}

impl Limits {
    /// New ones, that are full.
    pub fn new(identity: Rate, all: Rate, address: Rate, now: Instant) -> Self {
        let bucket = Bucket { left: all.burst, at: now };
        Self {
            addresses: Mutex::new(Table::new(address)),
            issues: Mutex::new((bucket, all, Table::new(identity))),
        }
    }

    /// Whether somebody at an address may try. Addresses of IPv6 count by their network (/64).
    ///
    /// # Errors
    /// How long to wait.
    pub fn attempt(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let address = match address.to_canonical() {
            IpAddr::V6(it) => {
                let [a, b, c, d, ..] = it.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            v4 => v4,
        };
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).take(address, now)
    }

    /// Whether a certificate may be signed for a workload.
    ///
    /// # Errors
    /// How long to wait.
    pub fn issue(&self, workload: &Workload, now: Instant) -> Result<(), Duration> {
        let mut issues = self.issues.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, rate, identities) = &mut *issues;
        // The identity's first: who exceeds its own takes nothing from the others.
        identities.take(workload.clone(), now)?;
        all.take(*rate, now)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(IDENTITY, ALL, ADDRESS, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn workload(name: &str) -> Workload {
        Workload::new("shop", name).unwrap()
    }

    #[test]
    fn one_identity_leaves_room_for_the_others() {
        let start = Instant::now();
        let rate = |per_second, burst| Rate { per_second, burst };
        let limits = Limits::new(rate(1.0, 3.0), rate(10.0, 10.0), ADDRESS, start);
        let got = |name: &str, now| (0..20).filter(|_| limits.issue(&workload(name), now).is_ok()).count();
        assert_eq!(got("web", start), 3);
        assert_eq!(limits.issue(&workload("web"), start), Err(Duration::from_secs(1)));
        assert_eq!(got("pay", start), 3);
        assert_eq!(got("web", start + Duration::from_secs(2)), 2);
    }

    #[test]
    fn neighbours_in_a_network_count_together() {
        let start = Instant::now();
        let limits = Limits::new(IDENTITY, ALL, Rate { per_second: 1.0, burst: 2.0 }, start);
        let from = |text: &str| limits.attempt(text.parse().unwrap(), start).is_ok();
        assert!(from("2001:db8::1") && from("2001:db8::2") && !from("2001:db8::3"));
        assert!(from("2001:db8:0:1::3") && from("10.0.0.1") && from("::ffff:10.0.0.1") && !from("10.0.0.1"));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_came_since(steps in proptest::collection::vec(0_u64..3000, 1..200)) {
            let start = Instant::now();
            let rate = Rate { per_second: 2.0, burst: 5.0 };
            let mut table = Table::new(rate);
            let (mut passed, mut taken) = (0, 0.0);
            for step in steps {
                passed += step;
                let now = start + Duration::from_millis(passed);
                if table.take("a", now).is_ok() {
                    taken += 1.0;
                }
                let most = rate.burst + rate.per_second * Duration::from_millis(passed).as_secs_f64();
                prop_assert!(taken <= most + 1e-6);
            }
        }
    }
}
