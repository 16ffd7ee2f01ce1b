//! What is wrong with what sources found: a list that is logged once and can be asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Origin;
use crate::model::Problem;

/// How many problems of one origin are kept; of the others only the number is told.
const KEPT: usize = 1000;

/// The problems that there are now, of all sources. Cheap to share.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<BTreeMap<Origin, Vec<Problem>>>>);

impl Problems {
    /// All of them: of the store, then of the manifests, each in its order.
    pub fn all(&self) -> Vec<Problem> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().flatten().cloned().collect()
    }

    /// Those of one origin.
    pub fn of(&self, origin: Origin) -> Vec<Problem> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&origin).cloned().unwrap_or_default()
    }

    /// Says all that is wrong now. What is new is logged, and so is that nothing is wrong any more.
    pub(super) fn set(&self, origin: Origin, mut problems: Vec<Problem>) {
        if let Some(more) = problems.len().checked_sub(KEPT).filter(|more| *more > 0) {
            problems.truncate(KEPT);
            problems.push(Problem {
                source: "".into(),
                object: "and".into(),
                field: String::new(),
                reason: format!("{more} more problems, which are not listed"),
            });
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old = known.get(&origin).map_or(&[][..], Vec::as_slice);
        for problem in problems.iter().filter(|problem| !old.contains(problem)) {
            tracing::error!(?origin, "{problem}");
        }
        if problems.is_empty() && !old.is_empty() {
            tracing::info!(?origin, "all problems are solved");
        }
        known.insert(origin, problems);
    }
}
