//! What is kept of an object that the server sends.

use bytes::Bytes;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::api::DynamicObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use xxhash_rust::xxh64::xxh64;

use super::status::CONTROLLER;
use crate::model::{Key, Kind};

/// An object without what nobody here reads.
#[derive(Debug)]
pub(super) struct Cleaned {
    pub(super) key: Key,
    pub(super) revision: u64,
    pub(super) json: Bytes,
    /// The hash of its `status`; 0 when it has none.
    pub(super) status: u64,
    /// Its status has an entry of this controller.
    pub(super) ours: bool,
}

/// Where `kubectl apply` repeats the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Cleans an object. `None`: it is of no use here. With `prune`, pods are cut down to what translation reads.
///
/// # Errors
/// When it has no name, or a resource version that is no number.
pub(super) fn clean(kind: Kind, mut object: DynamicObject, prune: bool) -> Result<Option<Cleaned>, String> {
    let meta = &mut object.metadata;
    let name = meta.name.clone().ok_or("it has no name")?;
    let key = Key::new(kind, meta.namespace.as_deref().unwrap_or_default(), &name);
    let revision = revision(meta.resource_version.take().as_deref())?;
    meta.managed_fields = None;
    meta.self_link = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
    let Value::Object(mut map) = object.data else { return Err("it is no map".into()) };
    let status = if kind == Kind::Pod { None } else { map.remove("status") };
    map.insert("metadata".into(), serde_json::to_value(&object.metadata).map_err(|error| error.to_string())?);
    map.insert("apiVersion".into(), kind.api_version().into());
    map.insert("kind".into(), kind.name().into());
    // Of core kinds a newer server may have fields that are not known here. It has judged them; they are left out.
    let value = Value::Object(map);
    let value = match kind {
        Kind::Namespace => known::<core::Namespace>(value)?,
        Kind::Secret => known::<core::Secret>(value)?,
        Kind::ConfigMap if prune && value.pointer("/data/ca.crt").is_none() => return Ok(None),
        Kind::ConfigMap => known::<core::ConfigMap>(value)?,
        Kind::Service => known::<core::Service>(value)?,
        Kind::EndpointSlice => known::<discovery::EndpointSlice>(value)?,
        Kind::Pod if prune => known::<core::Pod>(pod(value))?,
        Kind::Pod => known::<core::Pod>(value)?,
        _ => value,
    };
    let json = serde_json::to_vec(&value).map_err(|error| error.to_string())?.into();
    let ours = status.as_ref().is_some_and(ours);
    Ok(Some(Cleaned { key, revision, json, status: status.as_ref().map_or(0, hash), ours }))
}

/// A resource version as a number.
pub(super) fn revision(version: Option<&str>) -> Result<u64, String> {
    let version = version.unwrap_or_default();
    version.parse().map_err(|_| {
        format!("resourceVersion {version:?} is no number: this server does not keep its state in etcd")
    })
}

/// The hash of a status: of JSON with sorted keys.
pub(super) fn hash(status: &Value) -> u64 {
    xxh64(status.to_string().as_bytes(), 0).max(1)
}

/// Whether a status has an entry that this controller wrote.
fn ours(status: &Value) -> bool {
    ["parents", "ancestors"]
        .iter()
        .filter_map(|list| status.get(list)?.as_array())
        .flatten()
        .any(|entry| entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER))
}

fn known<T: DeserializeOwned + Serialize>(value: Value) -> Result<Value, String> {
    // As manifests are read: no other instance of the type's code.
    let mut value = <dyn erased_serde::Deserializer<'_>>::erase(value);
    let typed: T = erased_serde::deserialize(&mut value).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// A pod's name, labels, ports, node, account, phase, addresses and readiness: the rest is much, and changes often.
fn pod(mut value: Value) -> Value {
    let keep =
        |map: &mut Map<String, Value>, names: &[&str]| map.retain(|name, _| names.contains(&name.as_str()));
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        keep(spec, &["containers", "initContainers", "nodeName", "hostNetwork", "serviceAccountName"]);
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
            let wanted = ["name", "ports", "livenessProbe", "readinessProbe", "startupProbe"];
            containers.filter_map(Value::as_object_mut).for_each(|it| keep(it, &wanted));
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        keep(status, &["phase", "podIP", "podIPs", "conditions"]);
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|it| it.get("type").and_then(Value::as_str) == Some("Ready"));
            conditions
                .iter_mut()
                .filter_map(Value::as_object_mut)
                .for_each(|it| keep(it, &["type", "status"]));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cleaned(kind: Kind, value: Value) -> Option<(Cleaned, Value)> {
        let cleaned = clean(kind, serde_json::from_value(value).unwrap(), true).unwrap()?;
        let value = serde_json::from_slice(&cleaned.json).unwrap();
        Some((cleaned, value))
    }

    #[test]
    fn a_pod_keeps_what_translation_reads_and_fields_of_a_newer_server_do_not_hurt() {
        let (it, value) = cleaned(
            Kind::Pod,
            json!({"metadata": {"name": "web-0", "namespace": "shop", "resourceVersion": "7", "labels": {"app": "web"},
                "managedFields": [{"manager": "kubelet"}], "annotations": {LAST_APPLIED: "{}"}},
                "spec": {"containers": [{"name": "web", "image": "web:1", "env": [{"name": "A", "value": "b"}],
                    "ports": [{"containerPort": 80}], "fromTheFuture": 1, "livenessProbe": {"httpGet": {"port": 80}}}],
                    "initContainers": [{"name": "aid", "readinessProbe": {"grpc": {"port": 9}}}], "nodeName": "n1", "volumes": []},
                "status": {"podIP": "10.0.0.1", "phase": "Running", "fromTheFuture": {}, "conditions": [
                    {"type": "Ready", "status": "True", "lastProbeTime": null}, {"type": "Initialized", "status": "True"}]}}),
        )
        .unwrap();
        assert_eq!((it.key, it.revision), (Key::new(Kind::Pod, "shop", "web-0"), 7));
        assert_eq!(
            value,
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"}, "annotations": {}},
                "spec": {"containers": [{"name": "web", "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}}}],
                    "initContainers": [{"name": "aid", "readinessProbe": {"grpc": {"port": 9}}}], "nodeName": "n1"},
                "status": {"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
        );
    }

    #[test]
    fn config_maps_without_authorities_are_not_kept() {
        let map = |data: Value| json!({"metadata": {"name": "c", "namespace": "n", "resourceVersion": "1"}, "data": data});
        assert!(cleaned(Kind::ConfigMap, map(json!({"big": "x"}))).is_none());
        assert!(cleaned(Kind::ConfigMap, map(json!({"ca.crt": "PEM"}))).is_some());
    }

    #[test]
    fn a_status_is_left_out_but_known_by_hash_and_owner() {
        let route = |controller: &str| {
            json!({"metadata": {"name": "r", "namespace": "n", "resourceVersion": "3"}, "spec": {},
                "status": {"parents": [{"controllerName": controller, "parentRef": {"name": "g"}, "conditions": []}]}})
        };
        let (mine, value) = cleaned(Kind::HttpRoute, route(CONTROLLER)).unwrap();
        let (other, _) = cleaned(Kind::HttpRoute, route("example.com/other")).unwrap();
        assert!(mine.ours && !other.ours && mine.status != other.status);
        assert!(value.get("status").is_none());
    }

    #[test]
    fn a_resource_version_that_is_no_number_is_told() {
        let object = json!({"metadata": {"name": "a", "resourceVersion": "x1"}});
        let error = clean(Kind::Namespace, serde_json::from_value(object).unwrap(), true).unwrap_err();
        assert!(error.contains("\"x1\""), "{error}");
    }
}
