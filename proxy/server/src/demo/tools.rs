//! The programs that the demo needs beside its own: the control plane and its command line, and those of the system.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::transcript::print;

/// The control plane and `outriderctl`.
#[derive(Debug)]
pub(super) struct Programs {
    /// The control plane.
    pub(super) control: PathBuf,
    /// Its command line.
    pub(super) ctl: PathBuf,
}

impl Programs {
    /// Those that the environment names (`OUTRIDER_CONTROL_BIN`, `OUTRIDERCTL_BIN`), else those beside this binary. Under `cargo run`
    /// they are built, which takes a moment where nothing changed.
    pub(super) fn find() -> anyhow::Result<Self> {
        let named = |name: &str| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
        if let (Some(control), Some(ctl)) = (named("OUTRIDER_CONTROL_BIN"), named("OUTRIDERCTL_BIN")) {
            return Ok(Self { control, ctl });
        }
        let own = std::env::current_exe()?;
        let folder = own.parent().context("this program is in no folder")?;
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        if let Some(package) = package.filter(|it| it.join("../control-api/Cargo.toml").is_file()) {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            build(&cargo, &package, folder)?;
        }
        let (control, ctl) = (folder.join("outrider-control"), folder.join("outriderctl"));
        for program in [&control, &ctl] {
            ensure!(
                program.is_file(),
                "the demo needs {}: `cargo build --release -p outrider-control` makes it, or use `cargo run --release -- demo`, \
                 which does that by itself (or `outrider demo --simple`, which needs no control plane)",
                program.display()
            );
        }
        Ok(Self { control, ctl })
    }
}

/// Builds them where this binary was built.
fn build(cargo: &OsStr, package: &Path, folder: &Path) -> anyhow::Result<()> {
    let profile = match folder.file_name().and_then(|it| it.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let missing = !folder.join("outrider-control").is_file();
    let shown = format!("cargo build --profile {profile} -p outrider-control");
    if missing {
        print(&format!("The demo needs the control plane: {shown} (some minutes, once)\n"))?;
    }
    let mut command = Command::new(cargo);
    command.args(["build", "--profile", profile, "-p", "outrider-control", "--bins"]).current_dir(package);
    if !missing {
        command.arg("--quiet");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command.status().with_context(|| format!("running {shown}"))?;
    ensure!(status.success(), "{shown} failed");
    Ok(())
}

/// Why there can be no pods as network namespaces here.
pub(super) fn no_namespaces() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let there = |tool: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
    };
    for tool in ["ip", "unshare"] {
        if !there(tool) {
            return Some(format!("there is no program {tool}"));
        }
    }
    if !there("nft") && !there("iptables-restore") {
        return Some("there is neither nft nor iptables".to_owned());
    }
    let tried = Command::new("unshare")
        .args(["--net", "--mount", "--", "ip", "link", "add", "probe", "type", "bridge"])
        .output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
            Some(format!("namespaces do not work here: {said}"))
        }
        Err(error) => Some(format!("unshare cannot be run: {error}")),
    }
}
