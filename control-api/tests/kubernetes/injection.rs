//! The admission webhook, asked by a real API server; and `deploy/control/injector.yaml`.

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use outrider_control::model::documents;
use outrider_inject::{CAPTURE, PROXY, Settings, inject};
use outrider_tests::control::Control;
use outrider_tests::ports::Lease;
use serde_json::{Value, json};

use super::Result;
use super::cluster::{Cluster, eventually};
use super::deploy::strict;

const MANIFESTS: &str = include_str!("../../../deploy/control/injector.yaml");

fn manifests() -> Result<Vec<Value>> {
    Ok(documents("injector.yaml", MANIFESTS)?)
}

#[test]
fn the_injectors_manifests_are_what_kubernetes_knows() -> Result {
    for value in manifests()? {
        let kind = value["kind"].as_str().context("a kind")?;
        let read = match kind {
            "ClusterRole" => strict::<ClusterRole>(&value).map(drop),
            "ClusterRoleBinding" => strict::<ClusterRoleBinding>(&value).map(drop),
            "MutatingWebhookConfiguration" => strict::<MutatingWebhookConfiguration>(&value).map(drop),
            "Service" => strict::<Service>(&value).map(drop),
            kind => bail!("{kind} is not expected here"),
        };
        read.with_context(|| kind.to_owned())?;
    }
    Ok(())
}

fn pod(name: &str, annotations: &Value) -> Value {
    // There is no admission of service accounts in this cluster, which would fill in the account.
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "injected", "name": name, "annotations": annotations},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "web", "image": "web"}]}})
}

pub(crate) async fn new_pods_get_sidecars_and_wrong_ones_are_refused(cluster: &mut Cluster) -> Result {
    let port = Lease::new()?;
    for mut value in manifests()? {
        for webhook in value["webhooks"].as_array_mut().into_iter().flatten() {
            // There is no network of services here.
            webhook["clientConfig"] = json!({"url": format!("https://localhost:{}/inject", port.port())});
        }
        cluster.apply(value).await?;
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "injected", "name": "default"}});
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "injected", "labels": {"outrider.dev/inject": "enabled"}}}))
        .await?;
    cluster.apply(account).await?;
    // Nobody answers yet: fail closed.
    ensure!(cluster.apply(pod("early", &json!({}))).await.is_err(), "a pod without its sidecar was let in");

    let (store, at) = (cluster.argument(), format!("127.0.0.1:{}", port.port()));
    let more = ["--store", &store, "--webhook", &at, "--webhook-name", "localhost"];
    let control = Control::secure("127.0.0.1", &more).await?;
    let outcome = injects(cluster).await;
    let output = control.process().output();
    drop(control);
    // Who comes after this is not to be kept from making pods.
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "outrider-injector"}});
    cluster.delete(&configuration).await?;
    outcome.context(output)
}

async fn injects(cluster: &Cluster) -> Result {
    let web = pod("web", &json!({}));
    let made =
        eventually("the API server knows the webhook", async || Ok(cluster.apply(web.clone()).await.ok()))
            .await?;
    let names = |list: &str| -> Vec<String> {
        let all = made["spec"][list].as_array().into_iter().flatten();
        all.filter_map(|it| it["name"].as_str().map(str::to_owned)).collect()
    };
    ensure!(names("initContainers") == [CAPTURE, PROXY], "{made}");
    ensure!(names("containers") == ["web"], "{made}");
    // What the API server made of it is what injection makes: nothing differs the next time.
    ensure!(!inject(&made, &Settings::default(), None)?.changed(), "{made}");

    let wrong = cluster.apply(pod("wrong", &json!({"outrider.dev/concurency": "2"}))).await;
    let said = format!("{:#}", wrong.err().context("a wrong annotation is refused")?);
    ensure!(said.contains("did you mean outrider.dev/concurrency?"), "{said}");
    let out = cluster.apply(pod("out", &json!({"outrider.dev/inject": "disabled"}))).await?;
    ensure!(out["spec"].get("initContainers").is_none(), "{out}");

    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "injected", "name": "outrider-ca"}});
    eventually("sidecars can verify the control plane", async || {
        let found = cluster.get(&map).await.unwrap_or_default();
        let pem = found["data"]["ca.pem"].as_str().unwrap_or_default();
        Ok(pem.starts_with("-----BEGIN CERTIFICATE-----").then_some(()))
    })
    .await
}
