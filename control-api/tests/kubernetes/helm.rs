//! Helm, for the chart.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use outrider_control::model::documents;
use outrider_tests::binary;
use serde_json::Value;

use super::Result;

/// Which release: that of tests/interop/helm/go.mod.
const VERSION: &str = "v3.18.6";

/// The program, of an earlier run, or built where it is required (`OUTRIDER_REQUIRE_HELM=1`). `None`: left out.
pub(crate) fn program() -> Result<Option<PathBuf>> {
    let dir = binary::target_dir()?.join("go");
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("helm.lock"))?;
    lock.lock()?;
    let program = dir.join(format!("helm-{VERSION}"));
    if program.is_file() {
        return Ok(Some(program));
    }
    if std::env::var_os("OUTRIDER_REQUIRE_HELM").is_none_or(|it| it != "1") {
        writeln!(
            std::io::stderr(),
            "LEFT OUT: there is no helm; OUTRIDER_REQUIRE_HELM=1 builds one (needs Go)"
        )?;
        return Ok(None);
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop/helm");
    let mut command = Command::new("go");
    command.args(["build", "-trimpath", "-o"]).arg(&program).arg("helm.sh/helm/v3/cmd/helm");
    let output = command.current_dir(source).output().context("go cannot be run")?;
    ensure!(output.status.success(), "go build of helm: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(program))
}

/// Runs it on the chart; gives what it printed, and whether it was content.
fn run(helm: &Path, command: &[&str], args: &[&str]) -> Result<(bool, String, String)> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/outrider");
    let mut process = Command::new(helm);
    process.args(command).arg(chart).args(["--namespace", "outrider-system"]).args(args);
    let output = process.output().context("helm cannot be run")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
}

/// What the chart makes with these further arguments, or why it makes nothing.
pub(crate) fn template(helm: &Path, args: &[&str]) -> Result<std::result::Result<Vec<Value>, String>> {
    // What it takes for the cluster's version depends on how it was built.
    let args = [&["--kube-version", "1.34.0"][..], args].concat();
    let (good, made, said) = run(helm, &["template", "outrider"], &args)?;
    if good { Ok(Ok(documents("chart", &made)?)) } else { Ok(Err(said)) }
}

/// Has helm look at the chart with a file of values.
pub(crate) fn lint(helm: &Path, values: &Path) -> Result {
    let values = values.to_str().context("a path in UTF-8")?;
    let (good, told, said) = run(helm, &["lint", "--strict"], &["--values", values])?;
    ensure!(good, "{values}: {told}{said}");
    Ok(())
}

/// Does something with the release, in a cluster.
pub(crate) fn release(helm: &Path, kubeconfig: &Path, args: &[&str]) -> Result {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/outrider");
    let mut process = Command::new(helm);
    process.args(args).arg("outrider").args(["--namespace", "outrider-system"]).env("KUBECONFIG", kubeconfig);
    if args.first() != Some(&"uninstall") {
        process.arg(chart);
    }
    let output = process.output().context("helm cannot be run")?;
    ensure!(output.status.success(), "helm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
