//! The sidecar in one pod, or in the template of one.

use serde_json::{Map, Value, json};

use crate::annotations;
use crate::container::{self, Pieces};
use crate::kinds::Place;
use crate::names::{
    CAPTURE, CAPTURED, DEFAULT_CONTAINER, INJECT, MUTUAL, PORTS, PROXY, STATUS, TLS_MODE, UID, VOLUMES,
};
use crate::settings::{Capture, Settings};
use crate::value::{list, list_in, map_in, named, text};
use crate::{Skip, Wrong};

/// How long a pod has to end when it does not say, in seconds.
const GRACE: i64 = 30;
/// What the kubelet puts on pods that it made from files.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Sidecars of other meshes.
const OTHERS: [&str; 4] = ["istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"];

/// What a pod's sidecar depends on besides the pod.
pub(crate) struct Context<'c> {
    pub(crate) place: &'c Place,
    pub(crate) settings: &'c Settings,
    pub(crate) namespace: Option<&'c str>,
}

/// What became of a pod.
pub(crate) enum Patched {
    Skipped(Skip),
    Done { template: Value, warnings: Vec<String> },
}

/// A pod with the sidecar in it.
pub(crate) fn patched(template: &Value, context: &Context<'_>) -> Result<Patched, Wrong> {
    shape(template).map_err(|wrong| placed(wrong, context.place))?;
    let none = Map::new();
    let meta = |field: &str| template.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
    let wanted = annotations::wanted(meta("labels"), meta("annotations")).map_err(|reason| {
        placed(vec![(format!("metadata.labels or annotations[{INJECT}]"), reason)], context.place)
    })?;
    let annotated = meta("annotations").unwrap_or(&none);
    let spec = template.get("spec").unwrap_or(&Value::Null);
    if !wanted {
        return Ok(Patched::Skipped(Skip::OptedOut));
    }
    if let Some(skip) = skip(spec, annotated, context) {
        return Ok(Patched::Skipped(skip));
    }
    let mut problems = Vec::new();
    let settings = annotations::apply(context.settings, annotated).unwrap_or_else(|wrong| {
        problems.extend(
            wrong.into_iter().map(|(name, reason)| (format!("metadata.annotations[{name}]"), reason)),
        );
        context.settings.clone()
    });
    let status = annotated.contains_key(STATUS);
    conflicts(spec, status, &mut problems);
    let captured = captured(&settings);
    if let Some(said) = annotated.get(CAPTURED).filter(|said| !status && said.as_str() != captured) {
        problems.push((
            format!("metadata.annotations[{CAPTURED}]"),
            format!("{said} is not so; injection writes this one itself: leave it out, and say outrider.dev/interception: init, cni or none"),
        ));
    }
    if !problems.is_empty() {
        return Err(placed(problems, context.place));
    }
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(GRACE);
    let pieces = container::pieces(&settings, grace);
    let warnings = warnings(spec, meta("labels"), &settings, &pieces, context.place);
    let hash = pieces.hash();
    let mut new = template.clone();
    if !is_there(spec, annotated, &pieces, &hash, captured)
        && put(&mut new, pieces, &hash, &settings).is_none()
    {
        // Its shape was looked at before.
        return Err(vec![(context.place.path(""), "has another form than a pod".to_owned())]);
    }
    Ok(Patched::Done { template: new, warnings })
}

fn placed(wrong: Wrong, place: &Place) -> Wrong {
    wrong.into_iter().map(|(field, reason)| (place.path(&field), reason)).collect()
}

fn objects(value: &Value) -> bool {
    value.as_array().is_some_and(|all| all.iter().all(Value::is_object))
}

/// What `outrider capture cni` is told: nothing, where it is not to capture.
fn captured(settings: &Settings) -> Option<&'static str> {
    (settings.capture == Capture::Cni).then_some("true")
}

/// Whether it has the form of a pod, as far as it is read here.
fn shape(template: &Value) -> Result<(), Wrong> {
    let mut wrong = Wrong::new();
    let mut want = |path: &str, needed: bool, good: fn(&Value) -> bool, what: &str| {
        let pointer = format!("/{}", path.replace('.', "/"));
        match template.pointer(&pointer) {
            None | Some(Value::Null) if !needed => {}
            Some(value) if good(value) => {}
            None | Some(Value::Null) => wrong.push((path.to_owned(), format!("missing; want {what}"))),
            Some(_) => wrong.push((path.to_owned(), format!("want {what}"))),
        }
    };
    want("metadata", false, Value::is_object, "an object");
    want("metadata.labels", false, Value::is_object, "labels by their names");
    want("metadata.annotations", false, Value::is_object, "annotations by their names");
    want("spec", true, Value::is_object, "an object");
    let some = |value: &Value| objects(value) && value.as_array().is_some_and(|all| !all.is_empty());
    want("spec.containers", true, some, "a list of one container at least");
    want("spec.initContainers", false, objects, "a list of containers");
    want("spec.volumes", false, objects, "a list of volumes");
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

fn skip(spec: &Value, annotations: &Map<String, Value>, context: &Context<'_>) -> Option<Skip> {
    let truth = |field: &str| spec.get(field).and_then(Value::as_bool) == Some(true);
    let windows = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str) == Some("windows");
    if annotations.contains_key(MIRROR) {
        return Some(Skip::Static);
    }
    if context
        .namespace
        .is_some_and(|it| context.settings.skip_namespaces.iter().any(|skipped| skipped == it))
    {
        return Some(Skip::Namespace);
    }
    if truth("hostNetwork") {
        return Some(Skip::HostNetwork);
    }
    if windows("/os/name") || windows("/nodeSelector/kubernetes.io~1os") {
        return Some(Skip::Windows);
    }
    let other = all_containers(spec).any(|(_, _, it)| OTHERS.iter().any(|name| named(it, name)));
    other.then_some(Skip::OtherMesh)
}

/// All containers, by the list that they are in and their place in it.
fn all_containers(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| list(spec, field).iter().enumerate().map(move |(index, it)| (field, index, it)))
}

fn is_own(element: &Value) -> bool {
    named(element, PROXY) || named(element, CAPTURE)
}

fn is_own_volume(element: &Value) -> bool {
    VOLUMES.iter().any(|name| named(element, name))
}

/// What could not work beside the sidecar. `status`: what has our names was put there by us.
fn conflicts(spec: &Value, status: bool, problems: &mut Wrong) {
    const RUNS: [&str; 2] = ["runAsUser", "runAsGroup"];
    let as_own = |of: &Value, field: &str| {
        let number = of.pointer(&format!("/securityContext/{field}")).and_then(Value::as_u64);
        number.map(|it| it == UID)
    };
    let mut inherits = [false; 2];
    for (field, index, container) in all_containers(spec) {
        let path = |more: &str| format!("spec.{field}[{index}].{more}");
        if is_own(container) {
            if !status {
                problems.push((path("name"), format!(
                    "{} is what injection calls its own container, and this one comes from elsewhere; rename it, or remove it",
                    text(container, "name")
                )));
            }
            continue;
        }
        for (field, inherits) in RUNS.into_iter().zip(&mut inherits) {
            match as_own(container, field) {
                Some(true) => problems.push((path(&format!("securityContext.{field}")), uid())),
                Some(false) => {}
                None => *inherits |= as_own(spec, field) == Some(true),
            }
        }
        for (place, port) in list(container, "ports").iter().enumerate() {
            let number = port.get("containerPort").and_then(Value::as_u64);
            let protocol = text(port, "protocol");
            let taken = PORTS.iter().find(|(taken, _)| number == Some(u64::from(*taken)));
            if let Some((number, what)) = taken.filter(|_| protocol.is_empty() || protocol == "TCP") {
                problems.push((path(&format!("ports[{place}].containerPort")), format!(
                    "{number} is the sidecar's port for {what}; have the application listen on another one"
                )));
            }
        }
    }
    for (field, _) in RUNS.into_iter().zip(inherits).filter(|(_, inherits)| *inherits) {
        problems.push((format!("spec.securityContext.{field}"), uid()));
    }
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        if is_own_volume(volume) && !status {
            problems.push((
                format!("spec.volumes[{index}].name"),
                format!("{} is what injection calls its own volume; rename it", text(volume, "name")),
            ));
        }
    }
}

fn uid() -> String {
    format!(
        "{UID} is the sidecar's user and group, whose traffic is not captured: the container would go around the mesh and its policies; have \
         it run as another one, or leave the pod out by the label {INJECT}: disabled"
    )
}

/// What its owner should know.
fn warnings(
    spec: &Value,
    labels: Option<&Map<String, Value>>,
    settings: &Settings,
    pieces: &Pieces,
    place: &Place,
) -> Vec<String> {
    let mut out = Vec::new();
    let captured = settings.capture != Capture::None;
    if spec.get("shareProcessNamespace").and_then(Value::as_bool) == Some(true) {
        out.push(
            "shareProcessNamespace: a container that runs as root can read the sidecar's private key and token".to_owned(),
        );
    }
    if place.ends && !pieces.native {
        out.push(
            "it ends by itself, and a sidecar that is not native does not: Kubernetes would wait for it for ever; end it by POST \
             http://127.0.0.1:15000/quitquitquit when the work is done, or use native sidecars (Kubernetes 1.29)"
                .to_owned(),
        );
    }
    let before = list(spec, "initContainers").iter().any(|it| !is_own(it));
    if before && !pieces.native && settings.capture == Capture::Cni {
        out.push(
            "init containers run before the sidecar, and their traffic is captured by CNI already: it goes nowhere; use native sidecars, \
             or capture by init container"
                .to_owned(),
        );
    }
    if captured {
        probes(spec, &mut out);
        let rules = &settings.rules;
        if !rules.exclude_inbound_ports.is_empty()
            || !["", "*"].contains(&rules.include_inbound_ports.as_str())
        {
            out.push(
                "ports that are not captured get mutual TLS from other sidecars nonetheless, which the application does not speak: say \
                 Disabled for them in a PeerPolicy, if other sidecars speak to them"
                    .to_owned(),
            );
        }
        if let Some(said) = labels.and_then(|it| it.get(TLS_MODE)).filter(|it| it.as_str() != Some(MUTUAL)) {
            out.push(format!("the label {TLS_MODE} is {said} and stays: others speak to it in clear"));
        }
    }
    if matches!(text(spec, "dnsPolicy").as_str(), "Default" | "None") {
        out.push(format!(
            "dnsPolicy: the sidecar has to find {} by this pod's DNS servers, which are not the cluster's",
            settings.control_plane
        ));
    }
    out
}

fn probes(spec: &Value, out: &mut Vec<String>) {
    for (_, _, container) in all_containers(spec).filter(|(_, _, it)| !is_own(it)) {
        for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let Some(probe) = container.get(name) else { continue };
            let of = format!("{name} of {}", text(container, "name"));
            if probe.get("tcpSocket").is_some_and(Value::is_object) {
                out.push(format!(
                    "{of}: a TCP probe finds the sidecar's port open, whatever the application does; probe by httpGet, grpc or exec"
                ));
            } else if probe.pointer("/httpGet/scheme").and_then(Value::as_str) == Some("HTTPS") {
                out.push(format!(
                    "{of}: a probe by HTTPS is let through unless a PeerPolicy is Strict; probe by HTTP, grpc or exec there"
                ));
            }
        }
    }
}

/// Whether these very pieces are in a pod.
fn is_there(
    spec: &Value,
    annotations: &Map<String, Value>,
    pieces: &Pieces,
    hash: &str,
    captured: Option<&str>,
) -> bool {
    let status = annotations.get(STATUS).and_then(Value::as_str).unwrap_or_default();
    let status: Value = serde_json::from_str(status).unwrap_or_default();
    let has = |field: &str, name: &str| list(spec, field).iter().any(|it| named(it, name));
    status.get("hash").and_then(Value::as_str) == Some(hash)
        && annotations.get(CAPTURED).and_then(Value::as_str) == captured
        && has(if pieces.native { "initContainers" } else { "containers" }, PROXY)
        && pieces.capture.is_some() == has("initContainers", CAPTURE)
        && VOLUMES.iter().all(|name| has("volumes", name))
}

/// Puts the pieces into a pod, in place of those that are there. `None`: it has not the form of a pod.
fn put(template: &mut Value, pieces: Pieces, hash: &str, settings: &Settings) -> Option<()> {
    let template = template.as_object_mut()?;
    let spec = map_in(template, "spec")?;
    for (field, own) in
        [("containers", is_own as fn(&Value) -> bool), ("initContainers", is_own), ("volumes", is_own_volume)]
    {
        let Some(Value::Array(all)) = spec.get_mut(field) else { continue };
        let before = all.len();
        all.retain(|it| !own(it));
        if all.is_empty() && before > 0 {
            spec.remove(field);
        }
    }
    list_in(spec, "volumes")?.extend(pieces.volumes);
    let mut default = None;
    if pieces.native {
        // In front of all: what the other init containers send needs the sidecar already.
        let front = pieces.capture.into_iter().chain([pieces.proxy]);
        list_in(spec, "initContainers")?.splice(0..0, front);
    } else {
        // Behind all: what the others send must not be captured before the sidecar runs.
        if let Some(capture) = pieces.capture {
            list_in(spec, "initContainers")?.push(capture);
        }
        let containers = list_in(spec, "containers")?;
        default = containers.first().map(|it| text(it, "name"));
        let at = if pieces.first { 0 } else { containers.len() };
        containers.insert(at, pieces.proxy);
    }
    let meta = map_in(template, "metadata")?;
    if settings.capture != Capture::None {
        map_in(meta, "labels")?.entry(TLS_MODE).or_insert_with(|| MUTUAL.into());
    }
    let annotations = map_in(meta, "annotations")?;
    match captured(settings) {
        Some(said) => drop(annotations.insert(CAPTURED.to_owned(), said.into())),
        None => drop(annotations.remove(CAPTURED)),
    }
    let status = json!({ "hash": hash, "version": env!("CARGO_PKG_VERSION") });
    annotations.insert(STATUS.to_owned(), status.to_string().into());
    if let Some(name) = default.filter(|name| !name.is_empty()) {
        annotations.entry(DEFAULT_CONTAINER).or_insert_with(|| name.into());
    }
    Some(())
}
