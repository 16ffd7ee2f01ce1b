//! Conformance: Outrider against the real Envoy, same bootstrap, same bytes.
//!
//! `cargo test -p outrider-tests --test conformance [-- FILTER.. [--show] [--list]]`: filters are parts of
//! `group/case`; `--show` prints what the oracle showed. With `OUTRIDER_BIN` set to an Envoy binary the suite
//! checks itself.

mod driver;
mod groups;

use std::{collections::BTreeMap, io::Write, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use outrider_tests::{binary, ca::Papers, oracle};

use crate::driver::{
    Group, known, report,
    run::{self, Outcome, Verdict},
};

fn main() -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    // Groups stay on this thread; the upstreams have the others.
    tokio::task::LocalSet::new().block_on(&runtime, suite())
}

async fn suite() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    let mut groups = groups::all();
    for group in &mut groups {
        let name = group.name;
        group.cases.retain(|case| {
            let full = format!("{name}/{}", case.name);
            filters.is_empty() || filters.iter().any(|f| full.contains(f.as_str()))
        });
    }
    groups.retain(|group| !group.cases.is_empty());
    check_names(&groups)?;
    let mut out = std::io::stdout().lock();
    if flag("--list") {
        for (group, case) in groups.iter().flat_map(|g| g.cases.iter().map(move |c| (g, c))) {
            writeln!(out, "{}/{}: test", group.name, case.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let ours = binary::outrider()?;
    let outcomes = match oracle::envoy() {
        Ok(_) => {
            let papers = Arc::new(Papers::new(&binary::scratch("papers")?)?);
            // An oracle against itself has no differences, so none may be expected.
            let is_envoy = std::env::var_os("OUTRIDER_BIN").is_some_and(|_| ours.ends_with("envoy"));
            let known =
                if is_envoy { BTreeMap::new() } else { known::parse(include_str!("known-differences.txt"))? };
            run::all(groups, papers, known).await
        }
        Err(why) if oracle::required() => return Err(why).context("the oracle is required"),
        Err(why) => skipped(&groups, &format!("no oracle: {why:#}")),
    };
    let (text, total) = report::text(&outcomes, flag("--show"));
    out.write_all(text.as_bytes())?;
    let file = binary::target_dir()?.join("conformance.json");
    std::fs::write(&file, serde_json::to_string_pretty(&report::json(&outcomes))?)?;
    Ok(if total.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_names(groups: &[Group]) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for (group, case) in groups.iter().flat_map(|g| g.cases.iter().map(move |c| (g, c))) {
        anyhow::ensure!(seen.insert((group.name, &case.name)), "two cases {}/{}", group.name, case.name);
    }
    Ok(())
}

fn skipped(groups: &[Group], why: &str) -> Vec<Outcome> {
    let cases = groups.iter().flat_map(|group| group.cases.iter().map(move |case| (group, case)));
    cases
        .map(|(group, case)| Outcome {
            group: group.name.to_owned(),
            case: case.name.clone(),
            verdict: Verdict::Skipped(why.to_owned()),
            took: Duration::ZERO,
            oracle: Vec::new(),
        })
        .collect()
}
