//! Running groups.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use outrider_tests::{ca::Papers, proxy::Kind};
use tokio::sync::Semaphore;

use super::{
    case::{Case, Group},
    known::{Known, diff},
    world::World,
};

/// How long two observations may take to become equal.
const SETTLE: Duration = Duration::from_millis(1500);

/// For how long a case that awaits no log line must show nothing new: a line that comes late is a difference too.
const QUIET: Duration = Duration::from_millis(250);

/// Pairs of proxies that run at once.
const AT_ONCE: usize = 4;

/// What the other cases of a group say when its first has told why nothing could run.
const NOT_STARTED: &str = "+ did not start, see above";

/// How a case went.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Both proxies showed the same.
    Same,
    /// They differ exactly as the list says, for this reason.
    Known(String),
    /// They differ.
    Different(Vec<String>),
    /// The oracle's side did not work, so nothing is known.
    Broken(String),
    /// Not run, and why.
    Skipped(String),
}

impl Verdict {
    /// Whether another case tells the reason.
    pub(crate) fn is_echo(&self) -> bool {
        match self {
            Self::Different(diff) => diff.iter().any(|line| line == NOT_STARTED),
            Self::Broken(why) => why == NOT_STARTED,
            _ => false,
        }
    }
}

/// The outcome of a case.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Its group.
    pub(crate) group: String,
    /// Its name.
    pub(crate) case: String,
    /// How it went.
    pub(crate) verdict: Verdict,
    /// How long it took.
    pub(crate) took: Duration,
    /// What the oracle showed.
    pub(crate) oracle: Vec<String>,
}

/// Runs all groups, several at once, and returns the outcomes in their order.
pub(crate) async fn all(
    groups: Vec<Group>,
    papers: Arc<Papers>,
    known: BTreeMap<String, Known>,
) -> Vec<Outcome> {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let known = Arc::new(known);
    let running: Vec<_> = groups
        .into_iter()
        .map(|group| {
            let (gate, papers, known) = (Arc::clone(&gate), Arc::clone(&papers), Arc::clone(&known));
            tokio::task::spawn_local(async move {
                let _permit = gate.acquire_owned().await;
                run_group(&group, &papers, &known).await
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in running {
        match task.await {
            Ok(more) => outcomes.extend(more),
            Err(error) => outcomes.push(Outcome {
                group: "driver".into(),
                case: "panic".into(),
                verdict: Verdict::Broken(error.to_string()),
                took: Duration::ZERO,
                oracle: Vec::new(),
            }),
        }
    }
    outcomes
}

async fn run_group(group: &Group, papers: &Arc<Papers>, known: &BTreeMap<String, Known>) -> Vec<Outcome> {
    let outcome = |case: &Case, verdict, took, oracle| Outcome {
        group: group.name.to_owned(),
        case: case.name.clone(),
        verdict,
        took,
        oracle,
    };
    let (envoy, outrider) =
        tokio::join!(World::start(Kind::Envoy, group, papers), World::start(Kind::Outrider, group, papers));
    let started = envoy.map_err(|e| Verdict::Broken(format!("{e:#}"))).and_then(|envoy| {
        let outrider = outrider.map_err(|e| {
            let text = format!("{e:#}");
            match known.get(&format!("{}/*", group.name)) {
                Some(known) if known.refused.as_ref().is_some_and(|words| text.contains(words)) => {
                    Verdict::Known(known.reason.clone())
                }
                _ => Verdict::Different(text.lines().map(|l| format!("+ {l}")).collect()),
            }
        });
        Ok((envoy, outrider?))
    });
    let (envoy, outrider) = match started {
        Ok(worlds) => worlds,
        Err(verdict) => {
            // One cause: the first case tells it whole, the others that they share it.
            let rest = match &verdict {
                Verdict::Known(_) => verdict.clone(),
                Verdict::Different(_) => Verdict::Different(vec![NOT_STARTED.into()]),
                _ => Verdict::Broken(NOT_STARTED.into()),
            };
            let verdicts = std::iter::once(verdict).chain(std::iter::repeat(rest));
            return group
                .cases
                .iter()
                .zip(verdicts)
                .map(|(case, verdict)| outcome(case, verdict, Duration::ZERO, Vec::new()))
                .collect();
        }
    };
    let mut outcomes = Vec::new();
    for case in &group.cases {
        let start = Instant::now();
        let (verdict, oracle) = match compare(case, &envoy, &outrider).await {
            Err(error) => (Verdict::Broken(format!("{error:#}")), Vec::new()),
            Ok((diff, oracle)) => (judge(diff, known.get(&format!("{}/{}", group.name, case.name))), oracle),
        };
        outcomes.push(outcome(case, verdict, start.elapsed(), oracle));
    }
    outcomes
}

fn judge(diff: Vec<String>, known: Option<&Known>) -> Verdict {
    match known {
        None if diff.is_empty() => Verdict::Same,
        Some(known) if known.diff == diff => Verdict::Known(known.reason.clone()),
        Some(_) if diff.is_empty() => {
            Verdict::Different(vec!["listed as a known difference, but there is none any more".into()])
        }
        _ => Verdict::Different(diff),
    }
}

/// Runs a case in both worlds; the difference, and what the oracle showed.
async fn compare(case: &Case, envoy: &World, outrider: &World) -> Result<(Vec<String>, Vec<String>)> {
    let (envoy_marks, our_marks) = (envoy.begin(case).await?, outrider.begin(case).await);
    let (theirs, ours) = tokio::join!(envoy.act(&case.act), outrider.act(&case.act));
    let theirs = theirs.context("with the oracle")?;
    let (our_marks, ours) = match our_marks.and_then(|marks| Ok((marks, ours?))) {
        Ok(pair) => pair,
        Err(error) => {
            let (oracle, _) = envoy.observe(case, &envoy_marks, &theirs).await?;
            let mut lines = vec![format!("+ error: {error:#}")];
            lines.extend(last_words(outrider));
            return Ok((lines, oracle));
        }
    };
    let end = Instant::now() + SETTLE;
    // An oracle that logs without an answer does so a moment later.
    let quiet = if theirs.responses == 0 && case.logs.is_none() { QUIET } else { Duration::ZERO };
    let quiet_from = Instant::now() + quiet;
    loop {
        let (a, a_settled) = envoy.observe(case, &envoy_marks, &theirs).await?;
        let (b, b_settled) = match outrider.observe(case, &our_marks, &ours).await {
            Ok(observed) => observed,
            Err(error) => (vec![format!("error: {error:#}")], true),
        };
        let difference = diff(&a, &b);
        if difference.is_empty() && a_settled && b_settled && Instant::now() >= quiet_from {
            return Ok((difference, a));
        }
        if Instant::now() >= end {
            if difference.is_empty() {
                // Equal, but the oracle never logged what it answered: the case asks for the wrong count.
                anyhow::bail!("the access log lines that the case awaits never came: {a:#?}");
            }
            return Ok((difference, a));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The end of what a proxy printed, for a failure that looks like its death.
fn last_words(world: &World) -> Vec<String> {
    world.proxy.last_words(8).lines().map(|l| format!("+ {:?} said: {l}", world.kind)).collect()
}
