//! `load`: the rounds, and what is done with their figures.

use std::fs;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};

use crate::cli::LoadArgs;
use crate::proxies::{Kind, Proxy};
use crate::report::{Report, Run};
use crate::say;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::tools::Tools;

/// Seconds per measured load with `--quick`.
const QUICK_SECONDS: u64 = 2;

/// Runs the benchmark and prints the table; fails when a lane that was to run did not finish.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    let scenarios = scenarios(&args.only)?;
    let tools = Tools::prepare(&args.common, &kinds(&args.proxies)?)?;
    let (rounds, seconds) =
        if args.quick { (1, QUICK_SECONDS) } else { (args.rounds.max(1), args.seconds.max(1)) };
    if tools.proxies.is_empty() {
        bail!("no proxy to run");
    }
    for proxy in &tools.proxies {
        say!("{:<9} {} ({})", proxy.kind, proxy.version, proxy.program.display());
    }
    say!("proxies on CPU {}, load and upstreams on {}", tools.proxy_cpu, tools.load_cpus);
    let clock = Instant::now();
    let stage = Stage::new(&tools, seconds)?;
    let mut report = Report::new(&tools, rounds, seconds);
    for round in 0..rounds {
        for &scenario in &scenarios {
            for proxy in rotated(&tools.proxies, round).filter(|proxy| scenario.runs_on(proxy.kind)) {
                let outcome = stage.run(scenario, proxy);
                progress(round, scenario, proxy.kind, &outcome);
                let metrics = outcome.map_err(|error| format!("{error:#}"));
                report.runs.push(Run { scenario, proxy: proxy.kind, round, metrics });
            }
        }
    }
    let table = report.table();
    say!("\n{table}");
    say!("{}", report.goals());
    fs::write(tools.out.join("table.txt"), format!("{table}\n{}", report.goals()))?;
    fs::write(tools.out.join("results.json"), serde_json::to_vec_pretty(&report.json())?)?;
    for (name, svg) in report.plots() {
        fs::write(tools.out.join(name), svg)?;
    }
    say!(
        "{:.0} s; table, results.json and plots are in {}",
        clock.elapsed().as_secs_f64(),
        tools.out.display()
    );
    let failed = report.runs.iter().filter(|run| run.metrics.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} runs failed", report.runs.len());
    }
    Ok(())
}

/// The scenarios named on the command line, or all.
fn scenarios(only: &[String]) -> Result<Vec<Scenario>> {
    if only.is_empty() {
        return Ok(Scenario::ALL.to_vec());
    }
    only.iter().map(|name| Scenario::parse(name).ok_or_else(|| anyhow!("no scenario {name}"))).collect()
}

/// The proxies named on the command line, or all.
fn kinds(names: &[String]) -> Result<Vec<Kind>> {
    if names.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    names.iter().map(|name| Kind::parse(name).ok_or_else(|| anyhow!("no proxy {name}"))).collect()
}

/// The proxies, beginning with another one in each round, so that none always runs first.
fn rotated(proxies: &[Proxy], round: usize) -> impl Iterator<Item = &Proxy> {
    proxies.iter().cycle().skip(round % proxies.len().max(1)).take(proxies.len())
}

fn progress(round: usize, scenario: Scenario, kind: Kind, outcome: &Result<crate::scenario::Metrics>) {
    let figure = scenario.figure();
    match outcome {
        Ok(metrics) => {
            let value = metrics.get(figure.key).copied().unwrap_or(f64::NAN);
            say!("round {} {:<17} {:<8} {value:>10.2} {}", round + 1, scenario.name(), kind, figure.unit);
        }
        Err(error) => say!("round {} {:<17} {:<8} FAILED: {error:#}", round + 1, scenario.name(), kind),
    }
}
