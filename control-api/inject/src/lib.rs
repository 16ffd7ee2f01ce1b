//! Puts the sidecar into manifests: pods, and what makes pods.
//!
//! [`inject`] is one pure function from a manifest and [`Settings`] to the manifest with the sidecar in it. The admission webhook
//! ([`review`]) and `outriderctl inject` ([`manifest`]) are what it looks like from outside; [`patch::between`] makes a JSON patch of
//! what it did.
//!
//! What is added to a pod:
//! - `outrider-capture`, an init container that has the pod's traffic redirected (none with CNI);
//! - `outrider-proxy`: a native sidecar (an init container with `restartPolicy: Always`) where Kubernetes has them, the first
//!   container elsewhere. Its bootstrap is an argument, in which Kubernetes itself puts the pod's name and address;
//! - volumes: a service-account token for the control plane alone, the authorities that the control plane's certificate is verified
//!   with, and a place in memory for its socket, its certificate and the last good configuration;
//! - the label `security.istio.io/tlsMode: istio`, by which others speak mutual TLS to it, and annotations.
//!
//! Nothing that was in the manifest goes away. Done twice it is done once; a sidecar that other settings made is replaced.

mod annotations;
mod bootstrap;
mod container;
mod kinds;
pub mod manifest;
mod names;
pub mod patch;
mod pod;
mod quantity;
pub mod review;
pub mod settings;
mod value;

pub use names::{CAPTURE, PROXY, STATUS};
pub use settings::Settings;

use std::fmt;

use serde_json::Value;

use kinds::Place;

/// What became of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// The manifest as it is to be.
    pub object: Value,
    /// What became of each object in it: one, or those of a list.
    pub reports: Vec<Report>,
}

impl Injection {
    /// Whether anything is different from what it was.
    pub fn changed(&self) -> bool {
        self.reports.iter().any(|it| it.outcome == Outcome::Injected)
    }
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Kind and name.
    pub object: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sidecar is in it now.
    Injected,
    /// This very sidecar was in it before.
    Unchanged,
    /// It gets none.
    Skipped(Skip),
}

/// Why an object gets no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// Another kind.
    #[error("it makes no pods")]
    Kind,
    /// Its owner does not want one.
    #[error("it says {}: disabled", names::INJECT)]
    OptedOut,
    /// The network is not its own, and redirecting would be for the whole node.
    #[error("it is in its node's network (hostNetwork)")]
    HostNetwork,
    /// What runs the cluster itself.
    #[error("its namespace belongs to the system")]
    Namespace,
    /// The kubelet made it from a file on the node; the API server cannot change it.
    #[error("it is a static pod of its node")]
    Static,
    /// There is no sidecar for Windows.
    #[error("it runs on Windows")]
    Windows,
    /// Two meshes would redirect to each other.
    #[error("it has another mesh's sidecar")]
    OtherMesh,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Kind and name.
    pub object: String,
    /// The path of the field.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.reason)
    }
}

/// All that keeps a manifest from getting a sidecar. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Refused(pub Vec<Problem>);

/// Puts the sidecar into a manifest. `namespace`: where it will be, when the manifest does not say.
///
/// # Errors
/// Everything in it that is wrong: annotations that are not understood, what could not work beside the sidecar.
pub fn inject(object: &Value, settings: &Settings, namespace: Option<&str>) -> Result<Injection, Refused> {
    let mut problems = Vec::new();
    let mut reports = Vec::new();
    let mut out = object.clone();
    whole(&mut out, settings, namespace, &mut reports, &mut problems);
    if problems.is_empty() { Ok(Injection { object: out, reports }) } else { Err(Refused(problems)) }
}

/// One object, or those in a list.
fn whole(
    object: &mut Value,
    settings: &Settings,
    namespace: Option<&str>,
    reports: &mut Vec<Report>,
    problems: &mut Vec<Problem>,
) {
    if kinds::is_list(object) {
        // The items of `DeploymentList` may leave out what they are.
        let (version, kind) = kinds::of_items(object);
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            // A list in a list is nothing that Kubernetes has.
            if kinds::is_list(item) {
                reports.push(Report {
                    object: value::title(item, ""),
                    outcome: Outcome::Skipped(Skip::Kind),
                    warnings: Vec::new(),
                });
            } else {
                one(item, (&version, &kind), settings, namespace, reports, problems);
            }
        }
        return;
    }
    let (version, kind) = (value::text(object, "apiVersion"), value::text(object, "kind"));
    one(object, (&version, &kind), settings, namespace, reports, problems);
}

fn one(
    object: &mut Value,
    (version, kind): (&str, &str),
    settings: &Settings,
    namespace: Option<&str>,
    reports: &mut Vec<Report>,
    problems: &mut Vec<Problem>,
) {
    let own = |name: &str, otherwise: &str| {
        let own = value::text(object, name);
        if own.is_empty() { otherwise.to_owned() } else { own }
    };
    let (version, kind) = (own("apiVersion", version), own("kind", kind));
    let title = value::title(object, &kind);
    let done = match kinds::place(&version, &kind) {
        None => Ok((Outcome::Skipped(Skip::Kind), Vec::new())),
        Some(place) => {
            let stated = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
            workload(object, &place, settings, stated.as_deref().or(namespace))
        }
    };
    match done {
        Ok((outcome, warnings)) => reports.push(Report { object: title, outcome, warnings }),
        Err(found) => problems.extend(found.into_iter().map(|(field, reason)| Problem {
            object: title.clone(),
            field,
            reason,
        })),
    }
}

/// What is wrong with which field.
type Wrong = Vec<(String, String)>;

fn workload(
    object: &mut Value,
    place: &Place,
    settings: &Settings,
    namespace: Option<&str>,
) -> Result<(Outcome, Vec<String>), Wrong> {
    let Some(template) = object.pointer_mut(place.pointer) else {
        return Err(vec![(place.path(""), "missing; it is what pods are made of".to_owned())]);
    };
    let context = pod::Context { place, settings, namespace };
    match pod::patched(template, &context)? {
        pod::Patched::Skipped(skip) => Ok((Outcome::Skipped(skip), Vec::new())),
        pod::Patched::Done { template: new, warnings } => {
            let outcome = if *template == new { Outcome::Unchanged } else { Outcome::Injected };
            *template = new;
            Ok((outcome, warnings))
        }
    }
}
