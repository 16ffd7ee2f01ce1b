//! The binaries under test.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};

/// The `outrider` binary of this build's profile, built on first use.
///
/// `OUTRIDER_BIN` names another binary.
///
/// # Errors
/// When the build fails; the message is the compiler's.
pub fn outrider() -> Result<PathBuf> {
    // A build that failed fails again: all tests of a process share one verdict.
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    program(&BUILT, "OUTRIDER_BIN", "outrider", "outrider")
}

/// The `outrider-control` binary, likewise; `OUTRIDER_CONTROL_BIN` names another one.
///
/// # Errors
/// As [`outrider`].
pub fn control() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    program(&BUILT, "OUTRIDER_CONTROL_BIN", "outrider-control", "outrider-control")
}

/// The `outriderctl` binary, likewise; `OUTRIDERCTL_BIN` names another one.
///
/// # Errors
/// As [`outrider`].
pub fn outriderctl() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    program(&BUILT, "OUTRIDERCTL_BIN", "outrider-control", "outriderctl")
}

fn program(
    built: &OnceLock<Result<PathBuf, String>>,
    variable: &str,
    package: &str,
    name: &str,
) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let build = || build(package, name).map_err(|error| format!("{error:#}"));
    built.get_or_init(build).clone().map_err(anyhow::Error::msg)
}

fn build(package: &str, name: &str) -> Result<PathBuf> {
    let profile = profile_dir()?;
    let file = File::create(target_dir()?.join("outrider-tests.lock"))?;
    file.lock()?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", package, "--bin", name]);
    command.arg("--target-dir").arg(target_dir()?);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    match profile.file_name().and_then(|n| n.to_str()) {
        Some("debug") => {}
        Some(name) => _ = command.args(["--profile", name]),
        None => bail!("a profile directory without a name: {}", profile.display()),
    }
    let output = command.output().context("running cargo")?;
    ensure!(output.status.success(), "building {name}: {}", String::from_utf8_lossy(&output.stderr));
    let path = profile.join(name);
    ensure!(path.is_file(), "cargo built no {}", path.display());
    Ok(path)
}

/// The `target` directory that this test was built in.
///
/// # Errors
/// When the test does not run from one.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("a profile directory has a parent")?.to_owned())
}

/// `target/debug`, `target/release`: where a program is, and above `deps`, where a test is.
fn profile_dir() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let deps = program.parent().context("a program is in a directory")?;
    if deps.file_name().is_none_or(|name| name != "deps") {
        return Ok(deps.to_owned());
    }
    Ok(deps.parent().context("deps is in a profile directory")?.to_owned())
}

/// A fresh directory for one test's files, under `target/tests`. It stays, to be looked at; the first one that a later
/// test process makes removes those of processes that are gone.
///
/// # Errors
/// When it cannot be made.
pub fn scratch(label: &str) -> Result<PathBuf> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ordinal = NEXT.fetch_add(1, Ordering::Relaxed);
    let home = target_dir()?.join("tests");
    if ordinal == 0 {
        sweep(&home);
    }
    let safe: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let dir = home.join(format!("{}-{ordinal}-{safe}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn sweep(home: &Path) {
    let Ok(entries) = std::fs::read_dir(home) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.split('-').next()).and_then(|n| n.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another process may sweep at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
