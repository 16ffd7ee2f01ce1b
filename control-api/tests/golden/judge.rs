//! Those who judge bootstraps: the real Envoy, and Outrider.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use outrider_tests::{left_out, oracle};

/// The real Envoy. `None` when it cannot be had, unless it is required.
pub(crate) fn envoy() -> Option<PathBuf> {
    match oracle::envoy() {
        Ok(path) => Some(path),
        Err(error) if oracle::required() => panic!("no Envoy: {error:#}"),
        Err(error) => {
            left_out(format_args!("no Envoy: {error:#}"));
            None
        }
    }
}

/// Runs a judge; what it says when it refuses.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    // Envoy tells of its start at length; the end says what is wrong.
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains("[info]")).collect();
    Err(lines[lines.len().saturating_sub(12)..].join("\n"))
}

/// A file for one bootstrap.
pub(crate) fn scratch(name: &str, text: &str) -> PathBuf {
    let who = std::thread::current().name().unwrap_or("test").replace(':', "_");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{name}-{who}.json"));
    fs::write(&path, text).unwrap();
    path
}
