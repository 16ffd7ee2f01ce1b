//! A real API server takes every manifest that there is, those of the documentation, too; and helm installs the chart in it.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrider_control::model::documents;
use outrider_tests::binary;
use outrider_tests::client::Conn;
use outrider_tests::ports::Lease;
use outrider_tests::proxy::Proxy;
use serde_json::{Value, json};

use super::chart::{bootstrap, deploy, mounted, one, pods, read, secrets};
use super::cluster::{Cluster, eventually};
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

/// The control plane with the arguments, Secrets and roles of the chart, and a proxy with its gateway's bootstrap and account.
pub(crate) async fn a_gateway_of_the_chart_serves(cluster: &mut Cluster) -> Result {
    let edge = Lease::new()?;
    let set = format!(
        "gateways[0].name=edge,gateways[0].namespace=ingress,gateways[0].gateway.create=true,\
         gateways[0].ports[0].name=http,gateways[0].ports[0].port={}",
        edge.port()
    );
    let values = tokio::task::spawn_blocking(move || -> Result<Option<Vec<Value>>> {
        let Some(helm) = helm::program()? else { return Ok(None) };
        helm::template(&helm, &["--set", &set])?.map(Some).map_err(anyhow::Error::msg)
    });
    let Some(values) = values.await?? else { return Ok(()) };
    for kind in ["ServiceAccount", "Gateway"] {
        cluster.apply(one(&values, kind, "edge")?.clone()).await?;
    }
    cluster.apply(one(&values, "GatewayClass", "outrider")?.clone()).await?;
    cluster
        .apply(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"namespace": "shop", "name": "moved"},
            "spec": {"parentRefs": [{"name": "edge", "namespace": "ingress"}], "hostnames": ["shop.example.com"],
                "rules": [{"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "there.example"}}]}]}}))
        .await?;

    let (xds, api) = (Lease::new()?, Lease::new()?);
    let mut args = mounted(one(&values, "Deployment", "outrider-control")?, &values)?.split_off(1);
    args.retain(|it| !it.starts_with("--webhook") && !it.starts_with("--inject"));
    for arg in &mut args {
        match arg.split_once('=').map(|(name, _)| name) {
            Some("--xds") => *arg = format!("--xds=127.0.0.1:{}", xds.port()),
            Some("--api") => *arg = format!("--api=127.0.0.1:{}", api.port()),
            Some("--store") => *arg = format!("--store={}", cluster.argument()),
            _ => {}
        }
    }
    let control = Proxy::command(&binary::control()?, &args, 0, binary::scratch("control")?)?;
    let (proxy, _ports) = gateway(cluster, &values, xds.port()).await?;
    let serves = eventually("the gateway serves its route", async || {
        let Ok(mut conn) = Conn::plain(edge.port()).await else { return Ok(None) };
        let request = "GET /x HTTP/1.1\r\nhost: shop.example.com\r\nconnection: close\r\n\r\n";
        if conn.send(request).await.is_err() {
            return Ok(None);
        }
        let status = conn.response("GET").await.map(|it| it.status).unwrap_or_default();
        Ok((status == 302).then_some(()))
    });
    serves.await.with_context(|| format!("{}\n{}", proxy.output(), control.output()))
}

/// A proxy with the bootstrap of the chart's gateway, and a token of its account as the pod has it.
async fn gateway(cluster: &Cluster, values: &[Value], xds: u16) -> Result<(Proxy, [Lease; 3])> {
    let deployment = one(values, "Deployment", "edge")?;
    let dir = binary::scratch("gateway")?;
    let mut text = bootstrap(deployment)?;
    let leases = [Lease::new()?, Lease::new()?, Lease::new()?];
    for (port, lease) in ["15000", "15021", "15090"].into_iter().zip(&leases) {
        text = text.replace(port, &lease.port().to_string());
    }
    for volume in deployment["spec"]["template"]["spec"]["volumes"].as_array().context("volumes")? {
        let source = &volume["projected"]["sources"][0]["serviceAccountToken"];
        if let Some(audience) = source["audience"].as_str() {
            let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                "spec": {"audiences": [audience], "expirationSeconds": 3600}});
            let request = http::Request::post("/api/v1/namespaces/ingress/serviceaccounts/edge/token");
            let answer: Value = cluster.admin.request(request.body(serde_json::to_vec(&asked)?)?).await?;
            fs::write(dir.join("token"), answer["status"]["token"].as_str().context("a token")?)?;
        }
    }
    let ca = one(values, "Secret", "outrider-control-tls")?["data"]["ca.crt"].as_str().context("a CA")?;
    fs::write(dir.join("ca.pem"), STANDARD.decode(ca)?)?;
    let xds = xds.to_string();
    let here = dir.to_str().context("a path in UTF-8")?;
    let host = "outrider-control.outrider-system.svc.cluster.local";
    if !text.contains(&format!("{host}:15010")) {
        bail!("the gateway looks for the control plane elsewhere: {text}");
    }
    for (there, instead) in [
        ("/etc/outrider/ca", here),
        ("/var/run/secrets/outrider", here),
        ("/run/outrider", here),
        (host, "127.0.0.1"),
        ("15010", xds.as_str()),
    ] {
        text = text.replace(there, instead);
    }
    let args = ["--config-yaml".to_owned(), text, "--concurrency".to_owned(), "1".to_owned()];
    let proxy = Proxy::command(&binary::outrider()?, &args, leases[0].port(), dir)?;
    Ok((proxy, leases))
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
