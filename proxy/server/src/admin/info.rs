//! What the process is and how it fares.

use outrider_proto::load::{self, Loaded, ParseOptions};
use outrider_proto::prost::Message as _;
use outrider_proto::redact::REDACTED;
use outrider_proto::{Descriptors, holds_secrets, redact, to_json};
use serde_json::{Value, json};

use crate::control::Control;
use crate::keep;
use crate::options::Mode;
use crate::version;

use super::config_dump::timestamp;
use super::query::Query;
use super::reply::Reply;

pub(super) fn ready(control: &Control, _: &Query) -> Reply {
    let state = control.state.name();
    let mut body = format!("{state}\n");
    if let (Some(at), Some(dir)) = (control.keep.restored(), &control.options.state_dir) {
        // After the line that is Envoy's.
        let (at, file) = (timestamp(at), keep::label(dir));
        body.push_str(&format!(
            "no control plane has answered since the start: the configuration of {at} from {file} is in force\n"
        ));
    }
    Reply::text(body).status(if state == "LIVE" { 200 } else { 503 })
}

pub(super) fn hot_restart_version(_: &Control, _: &Query) -> Reply {
    Reply::text("disabled")
}

pub(super) fn server_info(control: &Control, _: &Query) -> Reply {
    let (options, node) = (&control.options, &control.model.node);
    let uptime = format!("{}s", control.state.started.elapsed().as_secs());
    let metadata: Value = serde_json::from_str(&node.metadata_json).unwrap_or(Value::Null);
    Reply::json(&json!({
        "version": version::long(),
        "state": control.state.name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": {
            "base_id": "0",
            "concurrency": control.workers,
            "config_path": options.config_path.as_ref().map(|path| path.display().to_string()),
            "config_yaml": options.config_yaml.as_deref().map(config_yaml),
            "allow_unknown_static_fields": options.allow_unknown_static_fields,
            "reject_unknown_dynamic_fields": options.reject_unknown_dynamic_fields,
            "ignore_unknown_dynamic_fields": options.ignore_unknown_dynamic_fields,
            "skip_deprecated_logs": options.skip_deprecated_logs,
            "admin_address_path": options.admin_address_path.as_ref().map(|path| path.display().to_string()),
            "local_address_ip_version": options.local_address_ip_version,
            "log_level": options.log.level,
            "component_log_level": options.log.component_levels,
            "log_format": options.log.format,
            "log_path": options.log.path.as_ref().map(|path| path.display().to_string()),
            "service_cluster": node.cluster,
            "service_node": node.id,
            "service_zone": node.zone,
            "drain_strategy": if options.drain_gradually { "Gradual" } else { "Immediate" },
            "drain_time": format!("{}s", options.drain_time.as_secs()),
            "file_flush_interval": format!("{}s", options.file_flush_interval.as_secs_f64()),
            "file_flush_min_size_kb": options.file_flush_min_size / 1024,
            "mode": match options.mode { Mode::Serve => "Serve", Mode::Validate => "Validate", Mode::InitOnly => "InitOnly" },
            "disable_hot_restart": true,
            "restart_epoch": 0,
        },
        "node": {
            "id": node.id,
            "cluster": node.cluster,
            "locality": { "region": node.region, "zone": node.zone, "sub_zone": node.sub_zone },
            "metadata": metadata,
            "user_agent_name": "outrider",
        },
    }))
}

/// The text of `--config-yaml`: as it was given if there is no secret in it, or as JSON with its secrets redacted.
fn config_yaml(text: &str) -> String {
    const MESSAGE: &str = "envoy.config.bootstrap.v3.Bootstrap";
    let descriptors = Descriptors::load();
    // Unknown fields were judged at the start; here they are what cannot be read.
    let loaded = load::parse(&descriptors, text, "--config-yaml", MESSAGE, ParseOptions::default());
    let Ok(Loaded { mut message, .. }) = loaded else { return REDACTED.to_owned() };
    if !holds_secrets(&descriptors, MESSAGE, &message.encode_to_vec()) {
        return text.to_owned();
    }
    redact(&descriptors, &mut message);
    to_json(&descriptors, &message).to_string()
}

/// Memory in bytes, as strings (proto3 JSON of `envoy.admin.v3.Memory`).
pub(super) fn memory(_: &Control, _: &Query) -> Reply {
    let usage = Memory::read();
    Reply::json(&json!({
        // The allocator keeps no count that is free to read: anonymous resident memory is what it holds.
        "allocated": usage.anonymous.to_string(),
        "heap_size": usage.data.to_string(),
        "pageheap_unmapped": usage.data.saturating_sub(usage.anonymous).to_string(),
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": usage.resident.to_string(),
    }))
}

/// The process's memory as the kernel counts it, bytes.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) data: u64,
}

impl Memory {
    pub(crate) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
        };
        let kib = |name: &str| field(name).unwrap_or(0) * 1024;
        Self { resident: kib("VmRSS"), anonymous: kib("RssAnon"), data: kib("VmData") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_the_command_line_is_shown_without_its_secrets() {
        let plain = "node: {id: a} # with a comment";
        assert_eq!(config_yaml(plain), plain);
        let shown = config_yaml(
            "{node: {id: a}, static_resources: {secrets: [{name: s, generic_secret: {secret: {inline_string: hush}}}]}}",
        );
        assert!(
            shown.contains("\"id\":\"a\"") && shown.contains(REDACTED) && !shown.contains("hush"),
            "{shown}"
        );
        let shown = config_yaml("{nodes: {id: hush}}");
        assert_eq!(shown, REDACTED, "what cannot be read is not shown");
    }
}
