//! Running a target for a while.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::mutate::mutate;
use crate::rng::Rng;
use crate::targets::{Target, What};

/// An input that takes longer is a fault: whoever sends such can keep the control thread busy. (The tests' build is slow
/// itself.)
pub const SLOW: Duration = Duration::from_secs(4);

/// At most so many inputs are kept.
const KEPT: usize = 4000;

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Inputs tried.
    pub tried: u64,
    /// Inputs kept, seeds with them.
    pub kept: usize,
    /// Different outcomes.
    pub outcomes: usize,
    /// What went wrong, with the input.
    pub fault: Option<(String, Vec<u8>)>,
}

/// Tries inputs for `time`, after the seeds. Before each, it is written to `last`, which tells what was tried by a process
/// that is no more.
pub fn run(what: What, time: Duration, seed: u64, last: &Path) -> Report {
    let mut target = Target::new(what);
    let mut rng = Rng::new(seed);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut seen = HashSet::new();
    let mut report = Report { tried: 0, kept: 0, outcomes: 0, fault: None };
    let mut seeds = what.seeds();
    let end = Instant::now() + time;
    let file = File::create(last);
    loop {
        let input = match seeds.pop() {
            Some(seed) => seed,
            None if Instant::now() >= end => break,
            None => {
                let (Some(input), Some(other)) = (rng.pick(&kept).cloned(), rng.pick(&kept)) else { break };
                mutate(what.shape(), &input, other, &mut rng)
            }
        };
        if let Ok(file) = &file {
            // In place, behind its length: a file made anew for each input takes longer than most targets. Should it
            // fail, only the report of an abort is the poorer.
            let length = (input.len() as u64).to_le_bytes();
            let _ = file.write_all_at(&[&length, &input[..]].concat(), 0);
        }
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target.run(&input)));
        report.tried += 1;
        let outcome = match outcome {
            Err(_) => {
                report.fault = Some(("it panicked".into(), input));
                break;
            }
            Ok(_) if begin.elapsed() > SLOW => {
                report.fault = Some((format!("it took {:?}", begin.elapsed()), input));
                break;
            }
            Ok(outcome) => outcome,
        };
        let before = seen.len();
        seen.extend(outcome);
        if kept.is_empty() || seen.len() > before && kept.len() < KEPT {
            kept.push(input);
        }
    }
    (report.kept, report.outcomes) = (kept.len(), seen.len());
    report
}

/// The input that a process tried last.
pub fn last_input(last: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(last).ok()?;
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?).map(<[u8]>::to_vec)
}
