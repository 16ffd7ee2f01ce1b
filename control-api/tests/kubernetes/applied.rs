//! A real API server takes every manifest that there is, those of the documentation, too; and helm installs the chart in it.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, ensure};
use outrider_control::model::documents;
use outrider_tests::binary;
use serde_json::{Value, json};

use super::chart::{deploy, one, pods, read, secrets};
use super::cluster::Cluster;
use super::{Result, helm};

/// The YAML in deploy/README.md: manifests, and values of the chart.
fn documented() -> Result<(Vec<Value>, Vec<String>)> {
    let text = fs::read_to_string(deploy().join("README.md"))?;
    let blocks =
        text.split("```yaml\n").skip(1).filter_map(|it| it.split_once("```").map(|(block, _)| block));
    let (mut manifests, mut values) = (Vec::new(), Vec::new());
    for block in blocks {
        if block.contains("apiVersion:") {
            manifests.extend(documents("README.md", block)?);
        } else {
            values.push(block.to_owned());
        }
    }
    ensure!(manifests.len() >= 4 && !values.is_empty(), "{manifests:?} {values:?}");
    Ok((manifests, values))
}

/// What helm makes with everything on, with nothing said, and with what the documentation says.
fn charts(values: &[String]) -> Result<Vec<(String, Vec<Value>)>> {
    let Some(helm) = helm::program()? else { return Ok(Vec::new()) };
    let dir = binary::scratch("values")?;
    let mut files = vec![deploy().join("chart/outrider/ci/full-values.yaml")];
    for (index, text) in values.iter().enumerate() {
        files.push(dir.join(format!("documented-{index}.yaml")));
        fs::write(dir.join(format!("documented-{index}.yaml")), text)?;
    }
    let mut out = vec![("the chart".to_owned(), helm::template(&helm, &[])?.map_err(anyhow::Error::msg)?)];
    for file in files {
        let name = file.display().to_string();
        let made = helm::template(&helm, &["--values", &name])?;
        out.push((name.clone(), made.map_err(anyhow::Error::msg).context(name)?));
    }
    Ok(out)
}

pub(crate) async fn every_manifest_is_taken_strictly(cluster: &mut Cluster) -> Result {
    for name in ["ingress", "shop"] {
        cluster.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}))
        .await?;
    let mut all = tokio::task::spawn_blocking(|| -> Result<Vec<(String, Vec<Value>)>> {
        let (manifests, values) = documented()?;
        let mut all = charts(&values)?;
        all.push(("README.md".to_owned(), manifests));
        all.extend(secrets()?.map(|it| ("secrets.sh".to_owned(), it)));
        Ok(all)
    })
    .await??;
    for name in ["outrider.yaml", "gateway.yaml", "control/outrider-control.yaml", "control/injector.yaml"] {
        all.push((name.to_owned(), read(name)?));
    }

    let (mut wrong, mut taken) = (Vec::new(), 0);
    for (place, values) in &all {
        for value in values {
            match cluster.judge(value).await {
                Ok(_) => taken += 1,
                Err(error) => {
                    wrong
                        .push(format!("{place}: {} {}: {error:#}", value["kind"], value["metadata"]["name"]));
                }
            }
        }
        for (name, template) in pods(values) {
            let outcome = cluster.judge(&restricted(template)).await;
            // Who writes to the node is not let in, which shows that somebody looks.
            if outcome.is_ok() == name.starts_with("\"DaemonSet") {
                wrong.push(format!("{place}: {name} in a restricted namespace: {:?}", outcome.map(drop)));
            }
        }
    }
    writeln!(std::io::stderr(), "manifests taken strictly: {taken}")?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What strictly means.
    let mut odd = one(&read("outrider.yaml")?, "Deployment", "outrider-control")?.clone();
    odd["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always".into();
    let refused = cluster.judge(&odd).await.err().context("an unknown field is taken")?;
    ensure!(format!("{refused:#}").contains("imagePullPolcy"), "{refused:#}");
    Ok(())
}

/// The last to be asked: the roles of the others go with it.
pub(crate) async fn helm_installs_and_keeps_what_it_made(cluster: &mut Cluster) -> Result {
    let config = cluster.administrator();
    let Some(helm) = tokio::task::spawn_blocking(helm::program).await?? else { return Ok(()) };
    let mut kept = Vec::new();
    let installed: [&[&str]; 3] =
        [&["install", "--take-ownership"], &["upgrade", "--set", "control.maxProxies=500"], &["uninstall"]];
    for args in installed {
        let (helm, config) = (helm.clone(), config.clone());
        tokio::task::spawn_blocking(move || helm::release(&helm, &config, args)).await??;
        for name in ["tls", "authority", "tokens"] {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
                "namespace": "outrider-system", "name": format!("outrider-control-{name}")}});
            kept.push(cluster.get(&secret).await?["data"].take());
        }
    }
    ensure!(kept.iter().all(Value::is_object), "the Secrets have something in them");
    ensure!(kept.chunks(3).all(|it| *it == kept[..3]), "the Secrets are those of the beginning");
    Ok(())
}

/// A pod of a template, where only those are let in that need no right.
fn restricted(template: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
        "metadata": {"namespace": "restricted", "name": "pod", "labels": template["metadata"]["labels"]}})
}
