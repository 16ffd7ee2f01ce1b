//! Those who judge bootstraps: the real Envoy, and Outrider.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The real Envoy: `OUTRIDER_ORACLE`, else where the conformance tests install it. `None` when it is not there, unless
/// `OUTRIDER_REQUIRE_ORACLE=1`.
pub(crate) fn envoy() -> Option<PathBuf> {
    let venv = target().join("oracle/venv-1.40.0/lib");
    let installed = || {
        let versions = fs::read_dir(&venv).ok()?;
        let paths = versions.flatten().map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"));
        paths.into_iter().find(|path| path.is_file())
    };
    let found = given("OUTRIDER_ORACLE").or_else(installed);
    if found.is_none() {
        let required = env::var_os("OUTRIDER_REQUIRE_ORACLE").is_some_and(|value| value == "1");
        assert!(!required, "no Envoy under {}; the conformance tests install it", venv.display());
        eprintln!("left out: no Envoy under {}", venv.display());
    }
    found
}

/// The proxy: `OUTRIDER_BIN`, else that of this build's profile, where it was built.
pub(crate) fn outrider() -> Option<PathBuf> {
    let built = || env::current_exe().ok()?.parent()?.parent().map(|it| it.join("outrider"));
    let found = given("OUTRIDER_BIN").or_else(|| built().filter(|path| path.is_file()));
    if found.is_none() {
        eprintln!("left out: outrider is not built");
    }
    found
}

fn given(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|path| !path.is_empty()).map(Into::into)
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
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
