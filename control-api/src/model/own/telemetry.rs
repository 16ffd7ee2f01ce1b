//! `Telemetry`.

use std::collections::BTreeMap;

use kube::CustomResource;
use outrider_core::format::Format;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::common::{ConditionsStatus, Duration, Selector};

/// The namespace whose policies are for all others that have none of their own.
pub const MESH_NAMESPACE: &str = "outrider-system";

/// What proxies write down. One with a selector goes before one for the whole namespace, and that before one in the namespace
/// `outrider-system`, which is for all. A selector is about what arrives at a workload; what it calls is logged as the namespace says.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "Telemetry",
    plural = "telemetries",
    shortname = "tel",
    category = "outrider",
    namespaced,
    status = "ConditionsStatus",
    doc = "What proxies write down."
)]
#[serde(rename_all = "camelCase")]
pub struct TelemetrySpec {
    /// The workloads that it is for. Default: all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The access log. Default: as the next less specific policy says, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

/// An access log: one entry for each request, or connection that is not HTTP. With neither `text` nor `json`: as Envoy writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// Nothing is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<bool>,
    /// The format of a line, with Envoy's operators (`%REQ(:PATH)%`). A line's end is added where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Fields of a JSON object, with Envoy's operators in their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<BTreeMap<String, String>>,
    /// The file, as an absolute path on the proxy's machine. Default: standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is logged. Default: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<AccessLogFilter>,
}

/// What is logged: whatever one of the fields is true of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLogFilter {
    /// Answers with this status or a higher one. Connections that are not HTTP have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub min_status: Option<u16>,
    /// Requests and connections that took as long or longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_duration: Option<Duration>,
}

/// What is wrong with a policy by itself.
pub(super) fn check(policy: &Telemetry) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (spec, mut at) = (&policy.spec, Check::spec(&mut out));
    at.selector(spec.selector.as_ref());
    match &spec.access_log {
        Some(log) => access_log(at.at("accessLog"), log),
        None => at.field("accessLog", "missing; the policy says nothing without it"),
    }
    out
}

fn access_log(mut at: Check<'_>, log: &AccessLog) {
    if log.off == Some(true)
        && (log.text.is_some() || log.json.is_some() || log.path.is_some() || log.filter.is_some())
    {
        at.field("off", "nothing is logged then; remove it or the other settings");
    }
    if log.text.is_some() && log.json.is_some() {
        at.field("json", "give one of text and json");
    }
    if let Some(text) = &log.text {
        format(&mut at, "text", text);
        if text.is_empty() {
            at.field("text", "it is empty; off: true logs nothing");
        }
    }
    if let Some(fields) = &log.json {
        if fields.is_empty() {
            at.field("json", "give at least one field");
        }
        for (name, value) in fields {
            format(&mut at, &format!("json.{name}"), value);
        }
    }
    if let Some(path) =
        log.path.as_ref().filter(|it| !it.starts_with('/') || it.ends_with('/') || it.contains('\0'))
    {
        at.field("path", format!("{path:?} is no absolute path of a file"));
    }
    if let Some(filter) = &log.filter {
        let mut at = at.at("filter");
        if filter.min_status.is_none() && filter.min_duration.is_none() {
            at.wrong("give minStatus, minDuration or both");
        }
        at.range("minStatus", filter.min_status, 100, 599);
        if filter.min_duration.is_some_and(|it| it.std().as_millis() > u128::from(u32::MAX)) {
            at.field("minDuration", "it is too long; give 49 days at most");
        }
    }
}

/// A proxy refuses a listener whose log has a format that it cannot read, so it must not get that far.
fn format(at: &mut Check<'_>, field: &str, text: &str) {
    if let Err(error) = Format::parse(text) {
        at.field(field, error.to_string());
    }
}
