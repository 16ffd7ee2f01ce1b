//! Runs the fuzz targets, each in a process of its own.
//!
//! `OUTRIDER_FUZZ_SECONDS=60 cargo test -p outrider-fuzz --test fuzz -- cluster listener` for these alone;
//! `... -- --input FILE cluster` for one input.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrider_fuzz::run;
use outrider_fuzz::targets::{self, Target, What};

/// How long each type of resource is fuzzed where nobody says how long, seconds.
const SECONDS: f64 = 1.0;

/// Others are simpler.
const SHARE: f64 = 6.0;

fn say(line: &str) {
    // Nothing is to be done about an output that is gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args().skip(1).filter(|arg| arg != "--nocapture" && arg != "-q").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--list", ..] => ExitCode::SUCCESS,
        ["--child", name, seconds, seed] => child(name, seconds, seed),
        ["--input", file, name] => match (What::of_name(name), std::fs::read(file)) {
            (Some(what), Ok(input)) => {
                say(&format!("{} outcomes", Target::new(what).run(&input).len()));
                ExitCode::SUCCESS
            }
            _ => {
                say("usage: --input FILE TARGET");
                ExitCode::FAILURE
            }
        },
        _ => all(&words),
    }
}

fn scratch() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let _ = std::fs::create_dir_all(&dir);
    dir
}

/// One target, in this process.
fn child(name: &str, seconds: &str, seed: &str) -> ExitCode {
    let (Some(what), Ok(seconds), Ok(seed)) = (What::of_name(name), seconds.parse(), seed.parse()) else {
        return ExitCode::FAILURE;
    };
    let last = scratch().join(format!("{name}.last"));
    let report = run::run(what, Duration::from_secs_f64(seconds), seed, &last);
    say(&format!("{name}: {} inputs, {} outcomes, {} kept", report.tried, report.outcomes, report.kept));
    let Some((fault, _)) = report.fault else { return ExitCode::SUCCESS };
    say(&format!("{name}: {fault}"));
    ExitCode::FAILURE
}

/// All targets whose names are among `names` (all, when there are none), as many at once as there are cores.
fn all(names: &[&str]) -> ExitCode {
    let seconds = std::env::var("OUTRIDER_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: f64 = seconds.unwrap_or(SECONDS);
    let mut whats = targets::all();
    whats.retain(|what| names.is_empty() || names.contains(&what.name().as_str()));
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(what) = whats.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(fault) = one(*what, seconds) {
                        faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(fault);
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for fault in &faults {
        say(fault);
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(what: What, seconds: f64) -> Result<(), String> {
    let name = what.name();
    let seconds = if matches!(what, What::Resource(_)) { seconds } else { seconds / SHARE };
    // Other inputs on other days; the day tells which.
    let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = std::env::var("OUTRIDER_FUZZ_SEED").unwrap_or_else(|_| (day.as_secs() / 86_400).to_string());
    let fail = |why: &dyn std::fmt::Display| format!("{name} (seed {seed}): {why}");
    let program = std::env::current_exe().map_err(|error| fail(&error))?;
    let output = Command::new(program)
        .args(["--child", &name, &seconds.to_string(), &seed])
        .output()
        .map_err(|error| fail(&error))?;
    say(String::from_utf8_lossy(&output.stdout).trim_end());
    if output.status.success() {
        return Ok(());
    }
    let last = scratch().join(format!("{name}.last"));
    let found = scratch().join(format!("{name}.fault"));
    let input = run::last_input(&last).unwrap_or_default();
    let _ = std::fs::write(&found, input);
    Err(fail(&format!(
        "{}; the input is in {}\n{}",
        output.status,
        found.display(),
        String::from_utf8_lossy(&output.stderr)
    )))
}
