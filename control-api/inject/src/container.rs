//! What is put into a pod: containers and volumes.

use serde_json::{Map, Value, json};

use crate::bootstrap;
use crate::names::{CA, CAPTURE, INBOUND, OUTBOUND, PROXY, READY, RUN, STATS, TOKEN, UID};
use crate::settings::{Capture, Settings};

/// The program in the image.
const PROGRAM: &str = "/usr/local/bin/outrider";
/// What is left of a pod's grace period when the sidecar has drained, in seconds.
const SPARE: i64 = 5;
/// How long a token is good for; the kubelet renews it before.
const TOKEN_SECONDS: u32 = 43_200;

/// What is put into a pod.
pub(crate) struct Pieces {
    /// What captures traffic.
    pub(crate) capture: Option<Value>,
    /// The sidecar.
    pub(crate) proxy: Value,
    /// What they need.
    pub(crate) volumes: Vec<Value>,
    /// The sidecar is an init container.
    pub(crate) native: bool,
    /// The sidecar is before the containers of the application.
    pub(crate) first: bool,
}

/// The pieces for a pod that has so many seconds to end.
pub(crate) fn pieces(settings: &Settings, grace: i64) -> Pieces {
    let native = settings.native();
    Pieces {
        capture: (settings.capture == Capture::Init).then(|| capture(settings)),
        proxy: proxy(settings, native, grace),
        volumes: volumes(settings),
        native,
        first: settings.hold_application,
    }
}

impl Pieces {
    /// What tells these pieces from others.
    pub(crate) fn hash(&self) -> String {
        let all = json!([self.capture, self.proxy, self.volumes, self.native, self.first]);
        format!("{:016x}", xxhash_rust::xxh64::xxh64(all.to_string().as_bytes(), 0))
    }
}

fn proxy(settings: &Settings, native: bool, grace: i64) -> Value {
    let mut proxy = base(PROXY, settings);
    proxy.insert(
        "args".to_owned(),
        json!([
            "--config-yaml",
            bootstrap::text(settings),
            "--concurrency",
            settings.concurrency.to_string(),
            "--log-level",
            settings.log_level.word(),
            "--outlive-application",
            "--drain-strategy",
            "immediate",
            "--drain-time-s",
            (grace - SPARE).max(1).to_string(),
            "--state-dir",
            format!("{}/state", bootstrap::RUN),
        ]),
    );
    let variable = |(name, path): (&str, &str)| {
        // As the API server writes it: then nothing differs when the manifest is compared.
        json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } })
    };
    proxy.insert("env".to_owned(), bootstrap::VARIABLES.into_iter().map(variable).collect());
    proxy.insert(
        "ports".to_owned(),
        json!([
            { "name": "outrider-ready", "containerPort": READY, "protocol": "TCP" },
            { "name": "outrider-stats", "containerPort": STATS, "protocol": "TCP" },
        ]),
    );
    let ready = json!({ "path": "/healthz/ready", "port": READY, "scheme": "HTTP" });
    proxy.insert(
        "readinessProbe".to_owned(),
        json!({
            "httpGet": ready, "periodSeconds": 10, "timeoutSeconds": 3, "failureThreshold": 3,
        }),
    );
    if native {
        proxy.insert("restartPolicy".to_owned(), "Always".into());
    }
    if settings.hold_application {
        if native {
            // The containers behind an init container that stays are started when it has started, which is what this says.
            proxy.insert(
                "startupProbe".to_owned(),
                json!({
                    "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600,
                }),
            );
        } else {
            // The next container is started when this has ended.
            proxy.insert(
                "lifecycle".to_owned(),
                json!({ "postStart": { "exec": { "command": [PROGRAM, "wait", "--timeout-s", "600"] } } }),
            );
        }
    }
    proxy.insert("resources".to_owned(), resources(settings));
    proxy.insert(
        "securityContext".to_owned(),
        security(json!({
            "runAsNonRoot": true, "runAsUser": UID, "runAsGroup": UID, "capabilities": { "drop": ["ALL"] },
        })),
    );
    proxy.insert(
        "volumeMounts".to_owned(),
        json!([
            { "name": RUN, "mountPath": bootstrap::RUN },
            { "name": TOKEN, "mountPath": bootstrap::TOKEN, "readOnly": true },
            { "name": CA, "mountPath": bootstrap::CA, "readOnly": true },
        ]),
    );
    Value::Object(proxy)
}

/// What captures a pod's traffic, and ends. It has the rights for that, and nothing else: no token, and a file system that it only
/// reads, but for the lock of iptables.
fn capture(settings: &Settings) -> Value {
    let mut capture = base(CAPTURE, settings);
    let mut args: Vec<String> = [
        "capture",
        "apply",
        "--mode",
        "redirect",
        "--proxy-uid",
        &UID.to_string(),
        "--outbound-port",
        &OUTBOUND.to_string(),
        "--inbound-port",
        &INBOUND.to_string(),
    ]
    .map(str::to_owned)
    .to_vec();
    // What is asked of the sidecar itself (its readiness, its stats) is never captured.
    for (_, flag, list, _) in settings.rules.all().into_iter().filter(|(_, _, list, _)| !list.is_empty()) {
        args.extend([format!("--{flag}"), list.to_owned()]);
    }
    capture.insert("args".to_owned(), args.into());
    capture.insert("resources".to_owned(), resources(settings));
    capture.insert(
        "securityContext".to_owned(),
        security(json!({
            "runAsNonRoot": false, "runAsUser": 0, "runAsGroup": 0,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
        })),
    );
    capture.insert("volumeMounts".to_owned(), json!([{ "name": RUN, "mountPath": "/run" }]));
    Value::Object(capture)
}

/// What both have.
fn base(name: &str, settings: &Settings) -> Map<String, Value> {
    let mut container = Map::new();
    container.insert("name".to_owned(), name.into());
    container.insert("image".to_owned(), settings.image.clone().into());
    if let Some(policy) = settings.image_pull_policy {
        container.insert("imagePullPolicy".to_owned(), format!("{policy:?}").into());
    }
    container.insert("command".to_owned(), json!([PROGRAM]));
    container
}

/// A security context with what is the same for both.
fn security(mut context: Value) -> Value {
    if let Some(fields) = context.as_object_mut() {
        fields.insert("privileged".to_owned(), false.into());
        fields.insert("allowPrivilegeEscalation".to_owned(), false.into());
        fields.insert("readOnlyRootFilesystem".to_owned(), true.into());
        fields.insert("seccompProfile".to_owned(), json!({ "type": "RuntimeDefault" }));
    }
    context
}

fn resources(settings: &Settings) -> Value {
    let it = &settings.resources;
    let mut out = Map::new();
    for (name, cpu, memory) in
        [("requests", &it.cpu, &it.memory), ("limits", &it.cpu_limit, &it.memory_limit)]
    {
        let amounts: Map<String, Value> = [("cpu", cpu), ("memory", memory)]
            .into_iter()
            .filter_map(|(name, amount)| Some((name.to_owned(), amount.clone()?.into())))
            .collect();
        if !amounts.is_empty() {
            out.insert(name.to_owned(), amounts.into());
        }
    }
    out.into()
}

fn volumes(settings: &Settings) -> Vec<Value> {
    let token =
        json!({ "audience": settings.token_audience, "expirationSeconds": TOKEN_SECONDS, "path": "token" });
    let key = &settings.trust_key;
    vec![
        // In memory: there is a private key in it.
        json!({ "name": RUN, "emptyDir": { "medium": "Memory", "sizeLimit": "32Mi" } }),
        json!({ "name": TOKEN, "projected": { "sources": [{ "serviceAccountToken": token }] } }),
        json!({ "name": CA, "configMap": { "name": settings.trust_config_map, "items": [{ "key": key, "path": key }] } }),
    ]
}
