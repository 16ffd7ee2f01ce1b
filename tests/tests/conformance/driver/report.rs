//! The table, the details of failures, and the JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::run::{Outcome, Verdict};

/// How many cases went which way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    cases: usize,
    same: usize,
    known: usize,
    different: usize,
    broken: usize,
    skipped: usize,
}

impl Tally {
    fn add(&mut self, verdict: &Verdict) {
        self.cases += 1;
        *match verdict {
            Verdict::Same => &mut self.same,
            Verdict::Known(_) => &mut self.known,
            Verdict::Different(_) => &mut self.different,
            Verdict::Broken(_) => &mut self.broken,
            Verdict::Skipped(_) => &mut self.skipped,
        } += 1;
    }

    /// Whether the suite passes.
    pub(crate) const fn passes(self) -> bool {
        self.different == 0 && self.broken == 0
    }

    fn row(self, name: &str) -> String {
        format!(
            "{name:<18} {:>6} {:>6} {:>6} {:>10} {:>7} {:>8}\n",
            self.cases, self.same, self.known, self.different, self.broken, self.skipped
        )
    }

    fn json(self) -> Value {
        json!({ "cases": self.cases, "same": self.same, "known": self.known,
            "different": self.different, "broken": self.broken, "skipped": self.skipped })
    }
}

/// Details of every failure, then the table.
pub(crate) fn text(outcomes: &[Outcome], show: bool) -> (String, Tally) {
    let mut out = String::new();
    for outcome in outcomes {
        if outcome.verdict.is_echo() {
            continue;
        }
        let name = format!("{}/{}", outcome.group, outcome.case);
        match &outcome.verdict {
            Verdict::Different(diff) => {
                let _ = writeln!(out, "DIFFERENT [{name}]\n{}\n", diff.join("\n"));
            }
            Verdict::Broken(why) => {
                let _ = writeln!(out, "BROKEN [{name}]\n{why}\n");
            }
            _ => {}
        }
        if show && !outcome.oracle.is_empty() {
            let _ =
                writeln!(out, "ORACLE [{name}] {:?}\n    {}\n", outcome.took, outcome.oracle.join("\n    "));
        }
    }
    let (groups, total) = tallies(outcomes);
    out.push_str("group               cases   same  known  different  broken  skipped\n");
    for (name, tally) in groups {
        out.push_str(&tally.row(&name));
    }
    out.push_str(&total.row("all"));
    for reason in reasons(outcomes) {
        let _ = writeln!(out, "skipped: {reason}");
    }
    (out, total)
}

/// The same as JSON.
pub(crate) fn json(outcomes: &[Outcome]) -> Value {
    let (groups, total) = tallies(outcomes);
    let cases: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let (verdict, why) = match &outcome.verdict {
                Verdict::Same => ("same", Value::Null),
                Verdict::Known(reason) => ("known", json!(reason)),
                Verdict::Different(diff) => ("different", json!(diff)),
                Verdict::Broken(why) => ("broken", json!(why)),
                Verdict::Skipped(why) => ("skipped", json!(why)),
            };
            json!({ "group": outcome.group, "case": outcome.case, "verdict": verdict, "why": why,
                "millis": u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX) })
        })
        .collect();
    let groups: BTreeMap<String, Value> = groups.into_iter().map(|(n, t)| (n, t.json())).collect();
    json!({ "oracle": outrider_tests::oracle::VERSION, "total": total.json(), "groups": groups, "cases": cases })
}

fn tallies(outcomes: &[Outcome]) -> (Vec<(String, Tally)>, Tally) {
    let (mut groups, mut total): (Vec<(String, Tally)>, Tally) = Default::default();
    for outcome in outcomes {
        total.add(&outcome.verdict);
        let at = groups.iter().position(|(name, _)| *name == outcome.group).unwrap_or_else(|| {
            groups.push((outcome.group.clone(), Tally::default()));
            groups.len() - 1
        });
        groups[at].1.add(&outcome.verdict);
    }
    (groups, total)
}

fn reasons(outcomes: &[Outcome]) -> Vec<String> {
    let mut reasons: Vec<String> = outcomes
        .iter()
        .filter_map(|o| match &o.verdict {
            Verdict::Skipped(why) => Some(why.clone()),
            _ => None,
        })
        .collect();
    reasons.sort();
    reasons.dedup();
    reasons
}
