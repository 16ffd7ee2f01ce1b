//! The form of a chained CNI plugin (specification 1.0.0, also 0.4.0 and 0.3.1): the node sets up capture, and pods need no privileges.
//!
//! It asks nobody but its input: whether a pod is captured is said by its annotations, which containerd (1.5) and CRI-O (1.28) hand over to
//! plugins that ask for the capability `io.kubernetes.cri.pod-annotations`. No API server, no token on the node, no race with a watch.
//!
//! ```json
//! { "type": "outrider-cni",
//!   "capabilities": { "io.kubernetes.cri.pod-annotations": true },
//!   "capture": { "options": { "exclude-outbound-ports": "22" }, "backend": "auto",
//!                "excludeNamespaces": ["kube-system"], "podsWithoutAnnotations": "refuse" } }
//! ```
//!
//! CNI runs a plugin by its name without arguments: `/opt/cni/bin/outrider-cni` is a link to (or copy of) the `outrider` binary, or a script
//! `exec outrider capture cni`. A pod is captured if `outrider.dev/capture` is `true` among its annotations (injection writes it), with the
//! options `outrider.dev/capture-NAME`, or Istio's `traffic.sidecar.istio.io/...`, over those of the node. What contradicts itself fails the
//! pod: it does not start without the capture that was asked for. A runtime that hands over no annotations at all is refused, unless
//! `podsWithoutAnnotations` says `skip` or `capture`: pods would start uncaptured, and nobody would notice.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::in_force;
use crate::netns;
use crate::options::Options;
use crate::plan::Plan;
use crate::system::{self, Choice};
use crate::tool::Error;

/// Versions of the specification, the oldest first.
pub const VERSIONS: [&str; 3] = ["0.3.1", "0.4.0", "1.0.0"];
/// The annotation that asks for capture.
pub const ANNOTATION: &str = "outrider.dev/capture";
const OPTION: &str = "outrider.dev/capture-";

/// Istio's annotations, and our options of the same meaning.
const ISTIO: [(&str, &str); 8] = [
    ("sidecar.istio.io/interceptionMode", "mode"),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", "include-outbound-cidrs"),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "exclude-outbound-cidrs"),
    ("traffic.sidecar.istio.io/includeOutboundPorts", "include-outbound-ports"),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", "exclude-outbound-ports"),
    ("traffic.sidecar.istio.io/includeInboundPorts", "include-inbound-ports"),
    ("traffic.sidecar.istio.io/excludeInboundPorts", "exclude-inbound-ports"),
    ("traffic.sidecar.istio.io/excludeInterfaces", "exclude-interfaces"),
];

/// What the runtime says in the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub namespace: PathBuf,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Call {
    /// Whether this process was run by a container runtime.
    pub fn is_ours() -> bool {
        std::env::var_os("CNI_COMMAND").is_some()
    }

    /// Reads the environment.
    pub fn from_env() -> Self {
        let var = |name| std::env::var(name).unwrap_or_default();
        Self {
            command: var("CNI_COMMAND"),
            container: var("CNI_CONTAINERID"),
            namespace: var("CNI_NETNS").into(),
            interface: var("CNI_IFNAME"),
            args: var("CNI_ARGS"),
        }
    }

    /// The pod's namespace in Kubernetes, from `CNI_ARGS`.
    fn pod_namespace(&self) -> Option<&str> {
        self.args.split(';').find_map(|it| it.strip_prefix("K8S_POD_NAMESPACE="))
    }
}

/// An error as the specification has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub struct Failure {
    /// The version in which it is told.
    version: String,
    /// The specification's code, or one of ours from 100 on.
    pub code: u32,
    /// What.
    pub message: String,
    /// More of it.
    pub details: String,
}

/// The version of the input is not known.
pub const INCOMPATIBLE: u32 = 1;
/// A variable in the environment is missing or wrong.
pub const BAD_ENVIRONMENT: u32 = 4;
/// The namespace could not be entered.
pub const NO_NAMESPACE: u32 = 5;
/// The input is no JSON, or not of this form.
pub const NOT_DECODED: u32 = 6;
/// The configuration, or a pod's annotations, do not work.
pub const BAD_CONFIG: u32 = 7;
/// The rules could not be set or taken away.
pub const RULES_FAILED: u32 = 100;
/// `CHECK`: the rules are not as they should be.
pub const NOT_IN_PLACE: u32 = 101;

impl Failure {
    /// What is written to standard output.
    pub fn to_json(&self) -> String {
        json!({ "cniVersion": self.version, "code": self.code, "msg": self.message, "details": self.details })
            .to_string()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    cni_version: String,
    prev_result: Option<Value>,
    runtime_config: Option<RuntimeConfig>,
    #[serde(default)]
    capture: Capture,
}

#[derive(Debug, Deserialize)]
struct RuntimeConfig {
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<BTreeMap<String, String>>,
}

/// Our part of the configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Capture {
    options: BTreeMap<String, String>,
    backend: Tool,
    exclude_namespaces: Vec<String>,
    pods_without_annotations: WithoutAnnotations,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            options: BTreeMap::new(),
            backend: Tool::Auto,
            exclude_namespaces: vec!["kube-system".to_owned()],
            pods_without_annotations: WithoutAnnotations::Refuse,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Tool {
    Auto,
    Nft,
    Iptables,
    IptablesLegacy,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WithoutAnnotations {
    Refuse,
    Skip,
    Capture,
}

/// Does what the runtime asks for, and gives what is to be written to standard output.
///
/// # Errors
/// With the specification's code.
pub fn run(call: &Call, input: &str) -> Result<String, Failure> {
    let newest = VERSIONS[VERSIONS.len() - 1];
    let fail = |version: &str, code, message: &str, details: String| Failure {
        version: version.to_owned(),
        code,
        message: message.to_owned(),
        details,
    };
    if call.command == "VERSION" {
        let asked = serde_json::from_str::<Value>(input).ok();
        let asked = asked.as_ref().and_then(|it| it.get("cniVersion")).and_then(Value::as_str);
        let version = asked.filter(|it| VERSIONS.contains(it)).unwrap_or(newest);
        return Ok(json!({ "cniVersion": version, "supportedVersions": VERSIONS }).to_string());
    }
    let config: Config = serde_json::from_str(input).map_err(|error| {
        fail(newest, NOT_DECODED, "the network configuration was not understood", error.to_string())
    })?;
    if !VERSIONS.contains(&config.cni_version.as_str()) {
        let details = format!("cniVersion {:?}; there are {}", config.cni_version, VERSIONS.join(", "));
        return Err(fail(newest, INCOMPATIBLE, "this version of CNI is not known", details));
    }
    let version = config.cni_version.clone();
    obey(call, config).map_err(|(code, message, details)| fail(&version, code, message, details))
}

type Why = (u32, &'static str, String);

fn obey(call: &Call, config: Config) -> Result<String, Why> {
    let nowhere = call.namespace.as_os_str().is_empty();
    if call.command == "DEL" && (nowhere || !call.namespace.exists()) {
        // What was in it went with it.
        return Ok(String::new());
    }
    if !matches!(call.command.as_str(), "ADD" | "CHECK" | "DEL") {
        let details = format!("CNI_COMMAND is {:?}: ADD, CHECK, DEL and VERSION are known", call.command);
        return Err((BAD_ENVIRONMENT, "the command is not known", details));
    }
    for (name, missing) in [
        ("CNI_NETNS", nowhere),
        ("CNI_CONTAINERID", call.container.is_empty()),
        ("CNI_IFNAME", call.interface.is_empty()),
    ] {
        if missing {
            return Err((BAD_ENVIRONMENT, "a variable is missing", format!("{name} is not set")));
        }
    }
    let own = netns::is_own(&call.namespace).map_err(|error| {
        (NO_NAMESPACE, "the namespace cannot be looked at", shown(&call.namespace, &error))
    })?;
    if own {
        let details =
            format!("{} is the node's own: all of its traffic would be captured", call.namespace.display());
        return Err((BAD_ENVIRONMENT, "CNI_NETNS is no pod's", details));
    }
    if call.command == "DEL" {
        inside(&call.namespace, system::remove)?;
        return Ok(String::new());
    }
    let Some(result) = config.prev_result.clone() else {
        let details =
            "prevResult is missing: put the plugin behind the one that makes the interface".to_owned();
        return Err((BAD_CONFIG, "this plugin stands in a chain", details));
    };
    let result =
        if call.command == "ADD" { with_version(result, &config.cni_version) } else { String::new() };
    let Some(options) = wanted(call, &config)? else { return Ok(result) };
    if call.command == "ADD" {
        let choice = match config.capture.backend {
            Tool::Auto => Choice::Auto,
            Tool::Nft => Choice::Nft,
            Tool::Iptables => Choice::Iptables,
            Tool::IptablesLegacy => Choice::IptablesLegacy,
        };
        inside(&call.namespace, || system::apply(&options, choice))?;
        return Ok(result);
    }
    let missing = inside(&call.namespace, || {
        let (families, _) = system::families(&options);
        in_force::missing(&Plan::new(&options, &families))
    })?;
    if missing.is_empty() {
        Ok(result)
    } else {
        Err((NOT_IN_PLACE, "capture is not in place", missing.join("; ")))
    }
}

fn shown(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Why> {
    netns::within(path, work)
        .map_err(|error| (NO_NAMESPACE, "the namespace cannot be entered", shown(path, &error)))?
        .map_err(|error| (RULES_FAILED, "capture was not set up", error.to_string()))
}

/// The options by which the pod is captured, if it is.
fn wanted(call: &Call, config: &Config) -> Result<Option<Options>, Why> {
    let capture = &config.capture;
    if call.pod_namespace().is_some_and(|it| capture.exclude_namespaces.iter().any(|other| other == it)) {
        return Ok(None);
    }
    let mut settings = capture.options.clone();
    let annotations = config.runtime_config.as_ref().and_then(|it| it.annotations.as_ref());
    match (annotations, capture.pods_without_annotations) {
        (None, WithoutAnnotations::Skip) => return Ok(None),
        (None, WithoutAnnotations::Capture) => {}
        (None, WithoutAnnotations::Refuse) => {
            let details = "the runtime handed over no annotations: the plugin's entry needs \"capabilities\": \
                           {\"io.kubernetes.cri.pod-annotations\": true} (containerd 1.5, CRI-O 1.28), or \
                           capture.podsWithoutAnnotations: \"skip\" or \"capture\"";
            return Err((BAD_CONFIG, "whether the pod is to be captured is not known", details.to_owned()));
        }
        (Some(annotations), _) => match annotations.get(ANNOTATION).map(String::as_str) {
            None | Some("false") => return Ok(None),
            Some("true") => settings.extend(annotated(annotations)),
            Some(other) => {
                let details = format!("{ANNOTATION}: {other:?} is neither \"true\" nor \"false\"");
                return Err((BAD_CONFIG, "an annotation was not understood", details));
            }
        },
    }
    let options = Options::parse(settings)
        .map_err(|problems| (BAD_CONFIG, "the options of capture do not work", problems.to_string()))?;
    Ok(Some(options))
}

/// Options among annotations; ours go before Istio's.
fn annotated(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for (annotation, name) in ISTIO {
        if let Some(value) = annotations.get(annotation) {
            settings.insert(name.to_owned(), value.clone());
        }
    }
    for (annotation, value) in annotations {
        if let Some(name) = annotation.strip_prefix(OPTION) {
            settings.insert(name.to_owned(), value.clone());
        }
    }
    settings
}

fn with_version(mut result: Value, version: &str) -> String {
    if let Some(fields) = result.as_object_mut() {
        fields.insert("cniVersion".to_owned(), Value::from(version));
    }
    result.to_string()
}
