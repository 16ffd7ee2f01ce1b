//! What sidecars are like in a mesh, unless a pod's annotations say otherwise.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::annotations;
use crate::quantity;

/// The first version of Kubernetes whose native sidecars are on by themselves (KEP-753, beta in 1.29).
const NATIVE: Version = Version { major: 1, minor: 29 };

/// What sidecars are like. As YAML or JSON the fields are in camelCase; what is left out is as in [`Settings::default`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The image of the sidecar and of what captures traffic: one with `/usr/local/bin/outrider` in it.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; nothing: what Kubernetes does by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// The control plane's xDS port, `HOST:PORT`.
    pub control_plane: String,
    /// The name in the control plane's certificate.
    pub server_name: String,
    /// The domain of the cluster's services.
    pub cluster_domain: String,
    /// For whom the token is by which the sidecar shows who it is: one of the control plane's `--token-audience`.
    pub token_audience: String,
    /// The config map, in the pod's own namespace, with the authorities that the control plane's certificate is verified with.
    pub trust_config_map: String,
    /// Which of its keys.
    pub trust_key: String,
    /// Kubernetes' version: from 1.29 on sidecars are native. Nothing: it is newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<Version>,
    /// Whether sidecars are native, whatever the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native_sidecar: Option<bool>,
    /// Who has traffic redirected.
    pub capture: Capture,
    /// The application begins when the sidecar is ready.
    pub hold_application: bool,
    /// Worker threads; 0: one for each CPU of the node.
    pub concurrency: u16,
    /// The sidecar's log.
    pub log_level: LogLevel,
    /// What the sidecar gets.
    pub resources: Resources,
    /// Which traffic is captured.
    pub rules: Rules,
    /// Namespaces in which nothing is injected.
    pub skip_namespaces: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: concat!("outrider:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: None,
            control_plane: "outrider-control.outrider-system.svc.cluster.local:15010".to_owned(),
            server_name: "outrider-control.outrider-system.svc".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            token_audience: "outrider".to_owned(),
            trust_config_map: "outrider-ca".to_owned(),
            trust_key: "ca.pem".to_owned(),
            kubernetes_version: None,
            native_sidecar: None,
            capture: Capture::Init,
            hold_application: true,
            concurrency: 2,
            log_level: LogLevel::Info,
            resources: Resources::default(),
            rules: Rules::default(),
            skip_namespaces: ["kube-system", "kube-public", "kube-node-lease", "outrider-system"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// Why settings are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct SettingsError {
    /// Which of them.
    pub field: String,
    /// What is wrong, and what is wanted.
    pub reason: String,
}

impl Settings {
    /// Reads settings from YAML or JSON, and judges them.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(text: &str) -> Result<Self, SettingsError> {
        let wrong = |reason: String| SettingsError { field: "settings".to_owned(), reason };
        let read: Self = serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
        read.check()?;
        Ok(read)
    }

    /// Judges them. [`crate::inject`] takes for granted that somebody did: none of their texts has a `$`, which Kubernetes would
    /// look for a variable behind.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SettingsError> {
        let wrong = |field: &str, reason: &str| {
            Err(SettingsError { field: field.to_owned(), reason: reason.to_owned() })
        };
        let graphic =
            |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_graphic() && it != b'$');
        if !graphic(&self.image) {
            return wrong("image", "want the name of an image, as in registry.example.com/outrider:1.0");
        }
        let (host, port) = self.control_plane.rsplit_once(':').unwrap_or_default();
        if !is_name(host) || port.parse::<u16>().map_or(true, |it| it == 0) {
            return wrong("controlPlane", "want HOST:PORT, as in outrider-control.outrider-system.svc:15010");
        }
        for (field, name) in [
            ("serverName", &self.server_name),
            ("clusterDomain", &self.cluster_domain),
            ("trustConfigMap", &self.trust_config_map),
        ] {
            if !is_name(name) {
                return wrong(field, "want a DNS name: small letters, digits, `-` and `.`");
            }
        }
        if !graphic(&self.token_audience) {
            return wrong(
                "tokenAudience",
                "want one of the control plane's --token-audience, as in outrider",
            );
        }
        let good = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
        if self.trust_key.is_empty() || self.trust_key.starts_with('.') || !self.trust_key.bytes().all(good) {
            return wrong("trustKey", "want a key of the config map, as in ca.pem");
        }
        self.resources
            .check()
            .map_err(|(field, reason)| SettingsError { field: format!("resources.{field}"), reason })?;
        self.rules
            .check()
            .map_err(|(field, reason)| SettingsError { field: format!("rules.{field}"), reason })
    }

    /// Whether sidecars are native.
    pub(crate) fn native(&self) -> bool {
        self.native_sidecar.unwrap_or_else(|| self.kubernetes_version.is_none_or(|it| it >= NATIVE))
    }
}

/// A DNS name of small letters (RFC 1123), as Kubernetes has them.
fn is_name(text: &str) -> bool {
    let label = |it: &str| {
        (1..=63).contains(&it.len())
            && it.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-')
            && !it.starts_with('-')
            && !it.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// When the image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// The node has it.
    Never,
}

/// A version of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// 1.
    pub major: u32,
    /// What is counted up.
    pub minor: u32,
}

impl FromStr for Version {
    type Err = String;

    /// Reads `1.29`, `v1.29.3-gke.100`, `1.29+`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
        let mut number = || {
            let part = parts.next()?;
            let digits = part.find(|it: char| !it.is_ascii_digit()).unwrap_or(part.len());
            part.get(..digits)?.parse().ok()
        };
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(format!(
                "{text:?} is no version of Kubernetes; want one as in 1.33 (in YAML, as a text: \"1.33\")"
            )),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(it: Version) -> Self {
        it.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Who has a pod's traffic redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Capture {
    /// An init container, which needs `NET_ADMIN` and `NET_RAW` for it.
    Init,
    /// `outrider capture cni` on the node: pods need no rights.
    Cni,
    /// Nobody: applications speak to the sidecar's own port.
    None,
}

impl FromStr for Capture {
    type Err = String;

    /// Reads `init`, `cni` or `none`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "init" => Ok(Self::Init),
            "cni" => Ok(Self::Cni),
            "none" => Ok(Self::None),
            _ => Err(format!("{text:?} is not understood; want init, cni or none")),
        }
    }
}

/// How much the sidecar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are the words of --log-level")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl LogLevel {
    /// As the flag has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }
}

/// What the sidecar gets, as Kubernetes writes amounts. Nothing: no request, or no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// `requests.cpu`
    pub cpu: Option<String>,
    /// `requests.memory`
    pub memory: Option<String>,
    /// `limits.cpu`
    pub cpu_limit: Option<String>,
    /// `limits.memory`
    pub memory_limit: Option<String>,
}

impl Default for Resources {
    fn default() -> Self {
        let some = |text: &str| Some(text.to_owned());
        // Both limits, as there are namespaces whose quota takes no pod without.
        Self { cpu: some("50m"), memory: some("48Mi"), cpu_limit: some("2"), memory_limit: some("512Mi") }
    }
}

impl Resources {
    /// What is wrong with them: field and reason.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        for (request, limit, names) in [
            (&self.cpu, &self.cpu_limit, ["cpu", "cpuLimit"]),
            (&self.memory, &self.memory_limit, ["memory", "memoryLimit"]),
        ] {
            let mut amounts = [None, None];
            for ((text, name), amount) in [request, limit].into_iter().zip(names).zip(&mut amounts) {
                let Some(text) = text else { continue };
                *amount = Some(quantity::read(text).ok_or_else(|| {
                    (
                        name,
                        format!(
                            "{text:?} is no amount; want one as in 100m or 0.5 (CPUs), 64Mi or 1Gi (memory)"
                        ),
                    )
                })?);
            }
            if let [Some(request), Some(limit)] = amounts
                && request > limit
            {
                let [name, of] = names;
                return Err((name, format!("more is asked for than {of} gives; lower it, or raise {of}")));
            }
        }
        Ok(())
    }
}

/// Which traffic is captured. Lists are texts with commas, as annotations have them; empty: there is no such rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rules {
    /// Ports that alone are captured of what comes in; `*`: all.
    pub include_inbound_ports: String,
    /// Ports that are not, of what comes in.
    pub exclude_inbound_ports: String,
    /// Ports that are captured of what goes out, also outside of `include_outbound_cidrs`.
    pub include_outbound_ports: String,
    /// Ports that are not, of what goes out.
    pub exclude_outbound_ports: String,
    /// Networks that alone are captured of what goes out; `*`: all.
    pub include_outbound_cidrs: String,
    /// Networks that are not, of what goes out.
    pub exclude_outbound_cidrs: String,
}

impl Rules {
    /// All of them by their names and flags, with whether they are lists of networks.
    pub(crate) fn all(&self) -> [(&'static str, &'static str, &str, bool); 6] {
        [
            ("includeInboundPorts", "include-inbound-ports", &self.include_inbound_ports, false),
            ("excludeInboundPorts", "exclude-inbound-ports", &self.exclude_inbound_ports, false),
            ("includeOutboundPorts", "include-outbound-ports", &self.include_outbound_ports, false),
            ("excludeOutboundPorts", "exclude-outbound-ports", &self.exclude_outbound_ports, false),
            ("includeOutboundCidrs", "include-outbound-cidrs", &self.include_outbound_cidrs, true),
            ("excludeOutboundCidrs", "exclude-outbound-cidrs", &self.exclude_outbound_cidrs, true),
        ]
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        for (name, _, text, networks) in self.all().into_iter().filter(|(_, _, text, _)| !text.is_empty()) {
            let all = ["includeInboundPorts", "includeOutboundCidrs"].contains(&name);
            annotations::list_of(text, networks, all).map_err(|reason| (name, reason))?;
        }
        Ok(())
    }
}
