//! Histograms with two significant decimal digits, as Envoy's circllhist has.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// 0..=99 are exact; each further decade has 90 bins of two digits.
const DECADES: usize = 17;
const BINS: usize = 100;

/// One thread's part of a histogram; a decade's bins exist from its first value on.
#[derive(Debug, Default)]
pub struct HistogramShard {
    decades: [OnceLock<Box<[AtomicU64; BINS]>>; DECADES],
    sum: AtomicU64,
}

impl HistogramShard {
    /// Records `value`. Only the owning thread calls this.
    pub fn record(&self, value: u64) {
        let (decade, bin) = locate(value);
        let Some(bins) = self.decades.get(decade) else { return };
        let bins = bins.get_or_init(|| Box::new([const { AtomicU64::new(0) }; BINS]));
        let cell = &bins[bin];
        cell.store(cell.load(Relaxed) + 1, Relaxed);
        self.sum.store(self.sum.load(Relaxed).wrapping_add(value), Relaxed);
    }

    /// Adds this shard's bins to `buckets`.
    pub fn merge_into(&self, buckets: &mut Buckets) {
        buckets.sum = buckets.sum.wrapping_add(self.sum.load(Relaxed));
        for (decade, bins) in self.decades.iter().enumerate() {
            let Some(bins) = bins.get() else { continue };
            for (bin, cell) in bins.iter().enumerate() {
                let count = cell.load(Relaxed);
                if count != 0 {
                    buckets.add(decade, bin, count);
                }
            }
        }
    }
}

/// The decade and the bin of `value`: decade 0 holds 0..=99, decade d the two leading digits of values
/// with d + 2 digits.
fn locate(value: u64) -> (usize, usize) {
    let mut decade = 0;
    let mut rest = value;
    while rest >= 100 {
        rest /= 10;
        decade += 1;
    }
    (decade.min(DECADES - 1), rest as usize)
}

/// A histogram read as a whole: bins by their lower bound, ascending.
#[derive(Debug, Clone, Default)]
pub struct Buckets {
    /// (lower bound, width, count), ascending and without empty bins.
    pub bins: Vec<(u64, u64, u64)>,
    /// The exact sum of all recorded values.
    pub sum: u64,
}

impl Buckets {
    fn add(&mut self, decade: usize, bin: usize, count: u64) {
        let width = 10_u64.pow(u32::try_from(decade).unwrap_or(0));
        let low = bin as u64 * width;
        match self.bins.binary_search_by_key(&low, |(low, _, _)| *low) {
            Ok(i) => self.bins[i].2 += count,
            Err(i) => self.bins.insert(i, (low, width, count)),
        }
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.bins.iter().map(|(_, _, count)| count).sum()
    }

    /// How many values are at or below `bound`.
    pub fn at_or_below(&self, bound: f64) -> u64 {
        self.bins.iter().filter(|(low, _, _)| *low as f64 <= bound).map(|(_, _, count)| count).sum()
    }

    /// The value below which the share `q` (0 to 1) of the values lies, interpolated inside its bin;
    /// `None` when nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let mut before = 0_u64;
        for (low, width, count) in &self.bins {
            if (before + count) as f64 >= rank {
                let inside = (rank - before as f64) / *count as f64;
                return Some(*low as f64 + *width as f64 * inside.max(0.0));
            }
            before += count;
        }
        self.bins.last().map(|(low, width, _)| (low + width) as f64)
    }
}
