//! `load --perf SCENARIO`: where one proxy's CPU time goes during a scenario.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::LoadArgs;
use crate::process::{Process, Spawn, tail};
use crate::proxies::Kind;
use crate::say;
use crate::scenario::Scenario;
use crate::stage::{Running, Stage};
use crate::tools::Tools;

/// Lines of each report.
const TOP: usize = 45;

/// Profiles the scenario named by `--perf` on one proxy (Outrider unless `--proxies` names another).
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    let name = args.perf.as_deref().unwrap_or_default();
    let scenario = Scenario::parse(name).ok_or_else(|| anyhow!("no scenario {name}"))?;
    let kind = match args.proxies.first() {
        Some(name) => Kind::parse(name).ok_or_else(|| anyhow!("no proxy {name}"))?,
        None => Kind::Outrider,
    };
    let tools = Tools::prepare(&args.common, &[kind])?;
    let proxy = tools.proxies.first().ok_or_else(|| anyhow!("no {kind} to profile"))?;
    let stage = Stage::new(&tools, args.seconds.max(2))?;
    let running = stage.set_up(scenario, proxy)?;
    stage.drive(scenario, running.port, 1)?;

    let data = stage.dir().join(format!("perf-{}-{kind}.data", scenario.name()));
    record(args, &tools, &stage, scenario, &running, &data)?;
    for (title, options) in [
        ("by library", vec!["--no-children", "--sort", "dso"]),
        ("self time by symbol", vec!["--no-children", "--sort", "dso,symbol"]),
        ("with callees, by symbol", vec!["--children", "--sort", "symbol"]),
    ] {
        // Without call graphs there are no callees to add.
        if args.call_graph == "none" && options.contains(&"--children") {
            continue;
        }
        say!("\n== {title} ==");
        report(&data, &options)?;
    }
    system_calls(&tools, &stage, scenario, &running)?;
    say!("\nmore: perf report -i {}", data.display());
    Ok(())
}

fn pids(running: &Running) -> String {
    let pids: Vec<String> = running.processes.iter().map(|p| p.pid().to_string()).collect();
    pids.join(",")
}

fn cpu(running: &Running) -> Result<Duration> {
    running.processes.iter().map(Process::cpu).sum()
}

/// Runs the load with perf attached; samples by the CPU clock, because virtual machines lack hardware counters.
fn record(
    args: &LoadArgs,
    tools: &Tools,
    stage: &Stage<'_>,
    scenario: Scenario,
    running: &Running,
    data: &Path,
) -> Result<()> {
    let seconds = stage.seconds();
    let log = stage.dir().join("perf.log");
    let mut options: Vec<String> =
        ["record", "-e", "cpu-clock", "-F", "1999", "-o"].iter().map(|&o| o.to_owned()).collect();
    options.push(data.display().to_string());
    if args.call_graph != "none" {
        options.extend(["--call-graph".to_owned(), args.call_graph.clone()]);
    }
    options.extend([
        "-p".to_owned(),
        pids(running),
        "--".to_owned(),
        "sleep".to_owned(),
        seconds.to_string(),
    ]);
    let perf = Process::spawn(Spawn {
        name: "perf",
        program: &find("perf").ok_or_else(|| anyhow!("perf is not installed (Debian: linux-perf)"))?,
        args: options,
        cpus: &tools.load_cpus,
        log: log.clone(),
        piped: false,
    })?;
    let (before, clock) = (cpu(running)?, Instant::now());
    let load = stage.drive(scenario, running.port, seconds)?;
    let (used, wall) = (cpu(running)? - before, clock.elapsed());
    let (status, _) = perf.finish(Duration::from_secs(seconds + 60))?;
    if !status.success() {
        bail!("perf record failed:\n{}", tail(&log));
    }
    let share = used.as_secs_f64() / wall.as_secs_f64() * 100.0;
    if scenario == Scenario::TcpBulk {
        let gigabytes = load.bytes as f64 / 1e9;
        say!(
            "{:.1} ms CPU per GB while profiled, {share:.0} % of a CPU",
            used.as_secs_f64() * 1e3 / gigabytes
        );
    } else {
        let each = used.as_secs_f64() * 1e6 / load.requests as f64;
        say!("{each:.2} us CPU per request while profiled, {share:.0} % of a CPU");
    }
    Ok(())
}

fn report(data: &Path, options: &[&str]) -> Result<()> {
    let output = Command::new("perf")
        .args(["report", "--stdio", "-g", "none", "--percent-limit", "0.3", "-i"])
        .arg(data)
        .args(options)
        .output()
        .context("run perf report")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    for line in lines.take(TOP) {
        // Trailing dashes are columns that need hardware counters.
        say!("{}", line.trim_end_matches([' ', '-']));
    }
    Ok(())
}

/// Counts system calls per request with strace, where it is installed. strace slows the proxy down, so more
/// requests wait for it at a time and calls that serve several requests at once weigh less than in earnest.
fn system_calls(tools: &Tools, stage: &Stage<'_>, scenario: Scenario, running: &Running) -> Result<()> {
    let Some(strace) = find("strace") else {
        say!("\n(no strace installed: system calls are not counted)");
        return Ok(());
    };
    let counts = stage.dir().join("strace.txt");
    let mut args: Vec<String> =
        ["-f", "-c", "-U", "calls,name", "-S", "calls", "-o"].map(String::from).to_vec();
    args.push(counts.display().to_string());
    for process in &running.processes {
        args.extend(["-p".to_owned(), process.pid().to_string()]);
    }
    let log = stage.dir().join("strace.log");
    let tracer = Process::spawn(Spawn {
        name: "strace",
        program: &strace,
        args,
        cpus: &tools.load_cpus,
        log,
        piped: false,
    })?;
    thread::sleep(Duration::from_millis(500));
    let load = stage.drive(scenario, running.port, 2)?;
    interrupt(tracer)?;
    let text = fs::read_to_string(&counts).unwrap_or_default();
    say!("\n== system calls per {} ==", if load.requests > 0 { "request" } else { "MB" });
    let units = if load.requests > 0 { load.requests as f64 } else { load.bytes as f64 / 1e6 };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(count), Some(name)) = (words.next().and_then(|w| w.parse::<f64>().ok()), words.next())
        else {
            continue;
        };
        if name != "total" && count / units > 0.005 {
            say!("{:>8.3}  {name}", count / units);
        }
    }
    Ok(())
}

/// Ends strace so that it writes its counts.
fn interrupt(tracer: Process) -> Result<()> {
    let pid = i32::try_from(tracer.pid()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    }
    tracer.finish(Duration::from_secs(10))?;
    Ok(())
}

/// A program in PATH.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
