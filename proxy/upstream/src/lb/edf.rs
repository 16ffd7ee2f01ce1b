//! Earliest deadline first: picks in proportion to weights, evenly spread.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A queue of indices by deadline; each pick puts its index back one weighted step later.
#[derive(Debug, Default)]
pub struct Edf {
    queue: BinaryHeap<Entry>,
    now: f64,
    order: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    // Equal deadlines go in order of entry.
    order: u64,
    index: usize,
}

impl Edf {
    /// A queue over `weights`, all above 0, by index.
    pub fn new(weights: &[f64]) -> Self {
        let mut edf = Self::default();
        for (index, weight) in weights.iter().enumerate() {
            edf.add(index, *weight);
        }
        edf
    }

    /// The next index, put back with the weight that `weight` gives for it; `None` when there is none.
    pub fn pick(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let Entry { deadline, index, .. } = self.queue.pop()?;
        self.now = deadline;
        self.add(index, weight(index));
        Some(index)
    }

    fn add(&mut self, index: usize, weight: f64) {
        // A weight that many active requests lowered to nothing must still come round.
        let deadline = self.now + 1.0 / weight.max(f64::MIN_POSITIVE * 1e16);
        self.order += 1;
        self.queue.push(Entry { deadline, order: self.order, index });
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap's greatest is the earliest.
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
