//! A small random source for load balancing, sampling and jitter. Not for secrets.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// The source of randomness that decisions draw from; tests give a scripted one.
pub trait Rng {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;

    /// A number in `0..bound`; 0 when `bound` is 0.
    fn below(&self, bound: u64) -> u64 {
        // Multiply-shift: the bias is below 2^-32 for the bounds in use here.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// xorshift64*: one multiplication a draw, seeded by the operating system.
#[derive(Debug)]
pub struct FastRng(Cell<u64>);

impl FastRng {
    /// A generator seeded from the process's random hasher keys.
    pub fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0x9e37_79b9_7f4a_7c15_u64))
    }

    /// A generator that repeats: for tests.
    pub fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }
}

impl Default for FastRng {
    fn default() -> Self {
        Self::new()
    }
}

impl Rng for FastRng {
    fn next_u64(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

thread_local! {
    static RNG: FastRng = FastRng::new();
}

/// The calling thread's own generator.
pub fn with<T>(f: impl FnOnce(&FastRng) -> T) -> T {
    RNG.with(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_stays_in_range_and_reaches_both_ends() {
        let rng = FastRng::seeded(7);
        let mut seen = [false; 3];
        for _ in 0..200 {
            seen[rng.below(3) as usize] = true;
        }
        assert_eq!(seen, [true; 3]);
        assert_eq!(rng.below(0), 0);
    }
}
