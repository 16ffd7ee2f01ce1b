//! The Gateway API as its project publishes it: the CRDs with all their rules, by which the API server judges, and examples.
//!
//! They come from the Go module proxy, verified by `tests/interop/gateway-api/go.sum`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use outrider_control::model::{Kind, documents, read_json};
use serde_json::Value;

use super::Result;
use super::cluster::{Cluster, path};

/// Manifests on which the two differ, each with why.
const DIFFERENCES: &[(&str, &str)] = &[];

/// Where the module is. `None` when it cannot be had; an error when it must be there (`OUTRIDER_REQUIRE_KUBE`).
fn module() -> Result<Option<PathBuf>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop/gateway-api");
    let fetch = || -> Result<PathBuf> {
        let mut command = Command::new("go");
        command.args(["mod", "download", "-json", "sigs.k8s.io/gateway-api"]).current_dir(source);
        let output = command.output().context("go cannot be run")?;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "go mod download: {} {errors}", told["Error"]);
        Ok(told["Dir"].as_str().context("a folder")?.into())
    };
    match fetch() {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if std::env::var_os("OUTRIDER_REQUIRE_KUBE").is_some() => Err(error),
        Err(error) => {
            writeln!(std::io::stderr(), "LEFT OUT: the published CRDs of the Gateway API: {error:#}")?;
            Ok(None)
        }
    }
}

/// The CRDs of the kinds that we know: of the standard channel, else of the experimental one.
pub(crate) fn crds() -> Result<Option<Vec<Value>>> {
    let Some(module) = module()? else { return Ok(None) };
    let mut out = Vec::new();
    for kind in Kind::ALL.iter().filter(|kind| kind.group() == "gateway.networking.k8s.io") {
        let name = format!("{}_{}.yaml", kind.group(), kind.plural());
        let at = |channel: &str| module.join("config/crd").join(channel).join(&name);
        let file = Some(at("standard")).filter(|file| file.is_file()).unwrap_or_else(|| at("experimental"));
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        out.extend(documents(&name, &text)?);
    }
    Ok(Some(out))
}

/// All manifests under a folder, by file.
fn manifests(dir: &Path, out: &mut Vec<(PathBuf, String)>) -> Result {
    let mut entries = fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            manifests(&path, out)?;
        } else if path.extension().is_some_and(|it| it == "yaml") {
            let text = fs::read_to_string(&path)?;
            out.push((path, text));
        }
    }
    Ok(())
}

/// What the API server says to a manifest.
async fn server(cluster: &Cluster, value: &Value) -> Result<std::result::Result<(), String>> {
    let uri = format!("{}?dryRun=All&fieldValidation=Strict", path(value)?);
    let request = http::Request::post(uri).header("content-type", "application/json");
    match cluster.admin.request::<Value>(request.body(serde_json::to_vec(value)?)?).await {
        Ok(_) => Ok(Ok(())),
        Err(kube::Error::Api(status)) => {
            ensure!(status.code != 404, "{}: {}", value["kind"], status.message);
            Ok(Err(status.message.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The API server with the project's rules and we take the same manifests: all examples of the project, the good and the bad ones.
pub(crate) async fn manifests_of_the_project_are_judged_alike(cluster: &mut Cluster) -> Result {
    let Some(module) = tokio::task::spawn_blocking(module).await?? else { return Ok(()) };
    let mut files = Vec::new();
    for dir in ["examples/standard", "hack/invalid-examples/standard"] {
        manifests(&module.join(dir), &mut files)?;
    }
    let (mut taken, mut refused, mut differences) = (0, 0, Vec::new());
    let mut known: BTreeSet<&str> = DIFFERENCES.iter().map(|(file, _)| *file).collect();
    for (file, text) in files {
        let name = file.strip_prefix(&module)?.display().to_string();
        for mut value in documents(&name, &text)? {
            let kind = Kind::ALL.iter().find(|kind| value["kind"] == kind.name());
            let Some(kind) = kind.filter(|kind| kind.group() == "gateway.networking.k8s.io") else {
                continue;
            };
            // Of the examples' own namespaces there are none here.
            if kind.namespaced() {
                value["metadata"]["namespace"] = "default".into();
            }
            let theirs = server(cluster, &value).await?;
            let ours = read_json(&name, value.to_string().as_bytes(), "default");
            match (&theirs, &ours) {
                (Ok(()), Ok(Some(_))) => taken += 1,
                (Err(_), Err(_)) => refused += 1,
                _ if known.remove(&*name) => {}
                _ => differences.push(format!(
                    "{name} {} {}: the server: {theirs:?}; we: {:?}",
                    value["kind"],
                    value["metadata"]["name"],
                    ours.map(drop)
                )),
            }
        }
    }
    writeln!(
        std::io::stderr(),
        "manifests of the Gateway API judged alike: {taken} taken, {refused} refused; known differences: {}",
        DIFFERENCES.len()
    )?;
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    ensure!(known.is_empty(), "differences that are gone: {known:?}");
    ensure!(taken > 50 && refused > 20, "too few to show anything: {taken} taken, {refused} refused");
    Ok(())
}
