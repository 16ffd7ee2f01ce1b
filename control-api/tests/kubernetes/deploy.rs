//! `deploy/control`: the manifests are what Kubernetes knows, and give what is needed and no more.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use outrider_control::model::{Kind, documents};
use outrider_control::server::Options;
use outrider_control::store::kubernetes::status;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Result;
use super::cluster::Cluster;

const MANIFESTS: &str = include_str!("../../../deploy/control/outrider-control.yaml");

fn manifests() -> Result<Vec<Value>> {
    Ok(documents("outrider-control.yaml", MANIFESTS)?)
}

/// Reads a value as a type that knows all its fields.
pub(crate) fn strict<T: DeserializeOwned>(value: &Value) -> Result<T> {
    let mut unknown = Vec::new();
    let typed = serde_ignored::deserialize(value.clone(), |path| unknown.push(path.to_string()))?;
    ensure!(unknown.iter().all(|it| it == "apiVersion" || it == "kind"), "unknown fields: {unknown:?}");
    Ok(typed)
}

fn all<T: DeserializeOwned>(kind: &str) -> Result<Vec<T>> {
    manifests()?.iter().filter(|value| value["kind"] == kind).map(strict).collect()
}

#[test]
fn every_manifest_is_what_kubernetes_knows() -> Result {
    for value in manifests()? {
        let context = || format!("{} {}", value["kind"], value["metadata"]["name"]);
        let kind = value["kind"].as_str().context("a kind")?;
        let read = match kind {
            "Namespace" => strict::<Namespace>(&value).map(drop),
            "ServiceAccount" => strict::<ServiceAccount>(&value).map(drop),
            "ClusterRole" => strict::<ClusterRole>(&value).map(drop),
            "ClusterRoleBinding" => strict::<ClusterRoleBinding>(&value).map(drop),
            "Deployment" => strict::<Deployment>(&value).map(drop),
            "Service" => strict::<Service>(&value).map(drop),
            "PodDisruptionBudget" => strict::<PodDisruptionBudget>(&value).map(drop),
            kind => bail!("{kind} is not expected here"),
        };
        read.with_context(context)?;
    }
    Ok(())
}

#[test]
fn the_container_starts_with_options_that_there_are_and_its_ports_are_the_services() -> Result {
    let deployment = all::<Deployment>("Deployment")?.remove(0).spec.context("a spec")?;
    let pod = deployment.template.spec.context("a pod")?;
    let container = pod.containers.first().context("a container")?;
    let args =
        std::iter::once("outrider-control".to_owned()).chain(container.args.clone().unwrap_or_default());
    let options = Options::try_parse_from(args)?;
    let ports: Vec<_> =
        container.ports.iter().flatten().map(|port| (port.name.clone(), port.container_port)).collect();
    let want = [("grpc-xds", options.xds.port()), ("grpc-api", options.api.port())];
    assert_eq!(ports, want.map(|(name, port)| (Some(name.to_owned()), i32::from(port))));
    let service = all::<Service>("Service")?.remove(0).spec.context("a spec")?;
    let exposed: Vec<_> = service.ports.iter().flatten().map(|port| (port.name.clone(), port.port)).collect();
    assert_eq!(exposed, ports);
    assert_eq!(service.selector, deployment.selector.match_labels);
    assert!(
        container.startup_probe.is_some()
            && container.readiness_probe.is_some()
            && container.liveness_probe.is_some()
    );
    Ok(())
}

/// Group, resource and verb.
type Right = (String, String, String);

fn rights() -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for rule in all::<ClusterRole>("ClusterRole")?.into_iter().flat_map(|role| role.rules.unwrap_or_default())
    {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
            }
        }
    }
    Ok(rights)
}

#[test]
fn the_roles_are_exactly_what_the_store_does() -> Result {
    let mut needed = BTreeSet::new();
    let mut need = |kind: Kind, resource: &str, verbs: &[&str]| {
        needed.extend(
            verbs.iter().map(|verb| (kind.group().to_owned(), resource.to_owned(), (*verb).to_owned())),
        );
    };
    for &kind in Kind::ALL {
        need(kind, kind.plural(), &["get", "list", "watch"]);
        if !matches!(kind.group(), "" | "discovery.k8s.io") {
            need(kind, kind.plural(), &["create", "update", "delete"]);
        }
    }
    for &kind in status::KINDS {
        need(kind, &format!("{}/status", kind.plural()), &["update"]);
    }
    needed.insert(("authentication.k8s.io".into(), "tokenreviews".into(), "create".into()));
    assert_eq!(rights()?, needed);
    Ok(())
}

/// Everything after this runs with these rights.
pub(crate) async fn the_manifests_apply_and_give_no_more_than_is_needed(cluster: &mut Cluster) -> Result {
    for value in manifests()? {
        cluster.apply(value).await?;
    }
    for (verb, group, resource, allowed) in [
        ("list", "", "secrets", true),
        ("create", "", "secrets", false),
        ("delete", "", "pods", false),
        ("update", "", "services", false),
        ("update", "gateway.networking.k8s.io", "httproutes", true),
        ("create", "authentication.k8s.io", "tokenreviews", true),
        ("create", "rbac.authorization.k8s.io", "clusterroles", false),
        ("create", "apiextensions.k8s.io", "customresourcedefinitions", false),
    ] {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": "system:serviceaccount:outrider-system:outrider-control",
            "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": "default"}}});
        let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews");
        let answer: Value = cluster.admin.request(request.body(serde_json::to_vec(&review)?)?).await?;
        ensure!(
            answer["status"]["allowed"].as_bool() == Some(allowed),
            "{verb} {resource}: {}",
            answer["status"]
        );
    }
    Ok(())
}
