//! Token buckets that fill all the time. Threads share them by one atomic each; time is what the caller says it is.
//!
//! A bucket remembers when it would have been empty, in seconds; what it holds now follows from that (Envoy:
//! `AtomicTokenBucket`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How much a bucket holds, and how fast it fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// As many tokens it holds at most.
    pub most: f64,
    /// So many come in a second; more than none.
    pub per_second: f64,
}

/// What a bucket holds.
#[derive(Debug)]
pub struct Level(AtomicU64);

impl Rate {
    /// A full bucket at `now`, in seconds since any moment.
    pub fn full(&self, now: f64) -> Level {
        Level(AtomicU64::new((now - self.most / self.per_second).to_bits()))
    }

    /// The tokens in `level` at `now`.
    pub fn tokens(&self, level: &Level, now: f64) -> f64 {
        self.tokens_since(f64::from_bits(level.0.load(Relaxed)), now)
    }

    fn tokens_since(&self, empty: f64, now: f64) -> f64 {
        ((now - empty) * self.per_second).clamp(0.0, self.most)
    }

    /// Takes a token at `now`, if there is one.
    pub fn take(&self, level: &Level, now: f64) -> bool {
        let taken = level.0.fetch_update(Relaxed, Relaxed, |empty| {
            let tokens = self.tokens_since(f64::from_bits(empty), now);
            (tokens >= 1.0).then(|| (now - (tokens - 1.0) / self.per_second).to_bits())
        });
        taken.is_ok()
    }

    /// Fills `level` at `now`.
    fn refill(&self, level: &Level, now: f64) {
        level.0.store((now - self.most / self.per_second).to_bits(), Relaxed);
    }
}

/// As many slots a value may be in.
const WAYS: usize = 8;

/// Buckets by values that requests bring: a fixed number of them. Where there is no room, the one that was not asked for the
/// longest among those that share its slots begins anew, full.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    sets: Box<[[Slot; WAYS]]>,
}

#[derive(Debug)]
struct Slot {
    /// The hash of its value; 0 for none.
    value: AtomicU64,
    level: Level,
    /// When it was asked for, in seconds.
    used: AtomicU64,
}

impl Buckets {
    /// Room for `count` values or a few more.
    pub fn new(rate: Rate, count: usize) -> Self {
        let slot = || Slot {
            value: AtomicU64::new(0),
            level: Level(AtomicU64::new(0)),
            used: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
        };
        let set = || std::array::from_fn(|_| slot());
        Self { rate, sets: (0..count.div_ceil(WAYS).max(1)).map(|_| set()).collect() }
    }

    /// How much each holds, and how fast it fills.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// The bucket of the value with this hash, which must not be for others to foresee.
    pub fn get(&self, hash: u64, now: f64) -> Option<&Level> {
        let hash = hash.max(1);
        let set = self.sets.get(usize::try_from(hash % self.sets.len() as u64).ok()?)?;
        let found = set.iter().find(|slot| slot.value.load(Relaxed) == hash);
        let slot = match found {
            Some(slot) => slot,
            None => {
                let used = |slot: &&Slot| f64::from_bits(slot.used.load(Relaxed));
                let oldest = set.iter().min_by(|a, b| used(a).total_cmp(&used(b)))?;
                // Two values that come at the same moment may share it once.
                oldest.value.store(hash, Relaxed);
                self.rate.refill(&oldest.level, now);
                oldest
            }
        };
        slot.used.store(now.to_bits(), Relaxed);
        Some(&slot.level)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_passes_than_was_there_and_came(
            most in 1_u32..20, per_second in 0.1_f64..50.0, steps in prop::collection::vec(0.0_f64..2.0, 1..200)
        ) {
            let rate = Rate { most: f64::from(most), per_second };
            let level = rate.full(0.0);
            let (mut now, mut passed) = (0.0, 0);
            for step in steps {
                now += step;
                let before = rate.tokens(&level, now);
                let took = rate.take(&level, now);
                prop_assert_eq!(took, before >= 1.0);
                passed += u32::from(took);
                prop_assert!(f64::from(passed) <= rate.most + now * per_second + 1e-6);
                prop_assert!(rate.tokens(&level, now) <= rate.most);
            }
        }

        #[test]
        fn each_value_has_a_bucket_and_they_do_not_grow(values in prop::collection::vec(1_u64..1_000_000, 1..100)) {
            let rate = Rate { most: 1.0, per_second: 1e-6 };
            let buckets = Buckets::new(rate, 16);
            for value in values {
                let level = buckets.get(value, 0.0).unwrap();
                // Whoever comes twice in a row finds what is left of his own.
                rate.take(level, 0.0);
                prop_assert!(!rate.take(buckets.get(value, 0.0).unwrap(), 0.0));
            }
            prop_assert_eq!(buckets.sets.len(), 2);
        }
    }
}
