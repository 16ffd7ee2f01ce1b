//! `Telemetry`: access logs.

use std::collections::{BTreeMap, HashMap};

use outrider_proto::pb::envoy::config::accesslog::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::extensions::access_loggers::file::v3 as file;
use outrider_proto::pb::envoy::extensions::access_loggers::stream::v3 as stream;
use outrider_proto::pb::google::protobuf as wkt;

use crate::model::Typed as _;
use crate::model::own::{AccessLog, AccessLogFilter, MESH_NAMESPACE, Telemetry};
use crate::translate::Context;
use crate::translate::wire::any_sorted;

/// The access logs of a connection manager or TCP proxy in a namespace. `labels`: of the workload, where it is one.
///
/// A policy for the workload goes before one for the namespace, and that before one for the mesh.
pub fn access_logs(
    context: &Context,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> Vec<pb::AccessLog> {
    let of = |namespace: &str| {
        let listed = context.policies.telemetry.get(namespace).map(Vec::as_slice).unwrap_or_default();
        listed
            .iter()
            .filter_map(|object| Telemetry::of(&object.body))
            .filter(|it| it.spec.access_log.is_some())
    };
    let selects = |it: &&Telemetry| it.spec.selector.as_ref().is_some_and(|it| !it.match_labels.is_empty());
    let mine = labels.and_then(|labels| {
        of(namespace)
            .filter(selects)
            .find(|it| it.spec.selector.as_ref().is_some_and(|it| it.matches(labels)))
    });
    let found = mine
        .or_else(|| of(namespace).find(|it| !selects(it)))
        .or_else(|| of(MESH_NAMESPACE).find(|it| !selects(it)));
    found.and_then(|it| it.spec.access_log.as_ref()).and_then(log).into_iter().collect()
}

fn log(it: &AccessLog) -> Option<pb::AccessLog> {
    if it.off == Some(true) {
        return None;
    }
    let format = format(it);
    let (name, config) = match &it.path {
        Some(path) => {
            let config = file::FileAccessLog {
                path: path.clone(),
                access_log_format: format.map(file::file_access_log::AccessLogFormat::LogFormat),
            };
            ("envoy.access_loggers.file", any_sorted(&config))
        }
        None => {
            let config = stream::StdoutAccessLog {
                access_log_format: format.map(stream::stdout_access_log::AccessLogFormat::LogFormat),
            };
            ("envoy.access_loggers.stdout", any_sorted(&config))
        }
    };
    Some(pb::AccessLog {
        name: name.to_owned(),
        filter: it.filter.as_ref().and_then(filter),
        config_type: Some(pb::access_log::ConfigType::TypedConfig(config)),
    })
}

/// `None`: Envoy's own.
fn format(it: &AccessLog) -> Option<core::SubstitutionFormatString> {
    use core::substitution_format_string::Format;
    let format = if let Some(text) = &it.text {
        let line = if text.ends_with('\n') { text.clone() } else { format!("{text}\n") };
        Format::TextFormatSource(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(line)),
            ..Default::default()
        })
    } else if let Some(fields) = &it.json {
        let text = |value: &String| wkt::Value { kind: Some(wkt::value::Kind::StringValue(value.clone())) };
        let fields: HashMap<String, wkt::Value> =
            fields.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        Format::JsonFormat(wkt::Struct { fields })
    } else {
        return None;
    };
    Some(core::SubstitutionFormatString { format: Some(format), ..Default::default() })
}

fn filter(it: &AccessLogFilter) -> Option<pb::AccessLogFilter> {
    use pb::access_log_filter::FilterSpecifier::{DurationFilter, OrFilter, StatusCodeFilter};
    // Envoy wants a key by which the runtime may overrule the value.
    let least = |value: u32, key: &str| pb::ComparisonFilter {
        op: pb::comparison_filter::Op::Ge as i32,
        value: Some(core::RuntimeUInt32 { default_value: value, runtime_key: key.to_owned() }),
    };
    let of = |specifier| pb::AccessLogFilter { filter_specifier: Some(specifier) };
    let mut all = Vec::new();
    if let Some(status) = it.min_status {
        let comparison = Some(least(u32::from(status), "outrider.access_log.min_status"));
        all.push(of(StatusCodeFilter(pb::StatusCodeFilter { comparison })));
    }
    if let Some(duration) = it.min_duration {
        let millis = u32::try_from(duration.std().as_millis()).unwrap_or(u32::MAX);
        let comparison = Some(least(millis, "outrider.access_log.min_duration"));
        all.push(of(DurationFilter(pb::DurationFilter { comparison })));
    }
    match all.len() {
        0 => None,
        1 => all.pop(),
        _ => Some(of(OrFilter(pb::OrFilter { filters: all }))),
    }
}
