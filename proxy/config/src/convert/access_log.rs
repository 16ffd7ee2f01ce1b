//! Access logs and their formats.

use std::sync::Arc;

use outrider_core::format::Format;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::accesslog::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::access_loggers::file::v3 as file_pb;
use outrider_proto::pb::envoy::extensions::access_loggers::stream::v3 as stream_pb;
use outrider_proto::pb::envoy::extensions::formatter::metadata::v3::Metadata;
use outrider_proto::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use outrider_proto::pb::google::protobuf as google;

use super::cx::{Cx, inert};
use super::header::format;
use super::log_filter;
use super::scalar::{data_source, type_of, unpack};
use crate::model::{AccessLog, DataSourceKind, JsonNode, LogFormat, LogSink};

/// Envoy's default format ("Access logging", default format string).
pub(crate) const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
%PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Streams.
    Http,
    /// Connections.
    Tcp,
}

/// The access logs at `path`.
pub(crate) fn logs(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[pb::AccessLog],
    protocol: Protocol,
) -> Vec<AccessLog> {
    messages
        .iter()
        .enumerate()
        .filter_map(|(i, message)| log(cx, &path.index(i), message, protocol))
        .collect()
}

fn log(cx: &Cx, path: &Path<'_>, message: &pb::AccessLog, protocol: Protocol) -> Option<AccessLog> {
    let pb::AccessLog { name, filter, config_type } = message;
    let filter = match filter {
        Some(message) => Some(log_filter::filter(cx, &path.field("filter"), message, protocol)?),
        None => None,
    };
    let Some(pb::access_log::ConfigType::TypedConfig(any)) = config_type else {
        cx.error(path, format!("the access log {name:?} needs a typed_config with its @type"));
        return None;
    };
    let (sink, format) = sink(cx, &path.field("typed_config"), any)?;
    Some(AccessLog { sink, format, filter })
}

fn sink(cx: &Cx, path: &Path<'_>, any: &google::Any) -> Option<(LogSink, LogFormat)> {
    use stream_pb::{StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log};
    if outrider_proto::any::is::<file_pb::FileAccessLog>(any) {
        return file(cx, path, &unpack(cx, path, any)?);
    }
    let (sink, message) = if outrider_proto::any::is::<StdoutAccessLog>(any) {
        let StdoutAccessLog { access_log_format } = unpack(cx, path, any)?;
        let message = access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(message)| message);
        (LogSink::Stdout, message)
    } else if outrider_proto::any::is::<StderrAccessLog>(any) {
        let StderrAccessLog { access_log_format } = unpack(cx, path, any)?;
        let message = access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(message)| message);
        (LogSink::Stderr, message)
    } else {
        cx.refuse(
            path,
            format!(
                "the access logger {} is not supported; use a file, stdout or stderr logger",
                type_of(any)
            ),
        );
        return None;
    };
    let format = match &message {
        Some(message) => substitution(cx, &path.field("log_format"), message)?,
        None => default_format(cx, path)?,
    };
    Some((sink, format))
}

fn file(cx: &Cx, path: &Path<'_>, message: &file_pb::FileAccessLog) -> Option<(LogSink, LogFormat)> {
    use file_pb::file_access_log::AccessLogFormat;
    let file_pb::FileAccessLog { path: name, access_log_format } = message;
    if name.is_empty() {
        cx.error(&path.field("path"), "a file is needed");
        return None;
    }
    let format = match access_log_format {
        Some(AccessLogFormat::Format(text)) if !text.is_empty() => {
            LogFormat::Text { format: Arc::new(format(cx, &path.field("format"), text)?), omit_empty: false }
        }
        Some(AccessLogFormat::JsonFormat(fields)) => LogFormat::Json {
            fields: Arc::new(json(cx, &path.field("json_format"), fields)),
            omit_empty: false,
        },
        Some(AccessLogFormat::TypedJsonFormat(fields)) => {
            let path = path.field("typed_json_format");
            LogFormat::Json { fields: Arc::new(json(cx, &path, fields)), omit_empty: false }
        }
        Some(AccessLogFormat::LogFormat(message)) => substitution(cx, &path.field("log_format"), message)?,
        Some(AccessLogFormat::Format(_)) | None => default_format(cx, path)?,
    };
    Some((LogSink::File(Arc::from(name.as_str())), format))
}

/// Envoy's own format.
pub(crate) fn default_format(cx: &Cx, path: &Path<'_>) -> Option<LogFormat> {
    Some(LogFormat::Text { format: Arc::new(format(cx, path, DEFAULT_FORMAT)?), omit_empty: false })
}

fn substitution(cx: &Cx, path: &Path<'_>, message: &core_pb::SubstitutionFormatString) -> Option<LogFormat> {
    let core_pb::SubstitutionFormatString { content_type, .. } = message;
    inert!(cx, path, "only local replies have a content type"; content_type);
    body_format(cx, path, message)
}

/// The format of a body, whose content type is the caller's to take.
pub(crate) fn body_format(
    cx: &Cx,
    path: &Path<'_>,
    message: &core_pb::SubstitutionFormatString,
) -> Option<LogFormat> {
    use core_pb::substitution_format_string::Format as Kind;
    let core_pb::SubstitutionFormatString {
        omit_empty_values,
        content_type: _content_type,
        formatters,
        json_format_options,
        format: text,
    } = message;
    inert!(cx, path, "properties are always sorted"; json_format_options);
    for (i, message) in formatters.iter().enumerate() {
        formatter(cx, &path.field("formatters").index(i), message);
    }
    let omit_empty = *omit_empty_values;
    Some(match text {
        Some(Kind::TextFormat(text)) => {
            LogFormat::Text { format: Arc::new(format(cx, &path.field("text_format"), text)?), omit_empty }
        }
        Some(Kind::TextFormatSource(message)) => {
            let path = path.field("text_format_source");
            let source = data_source(cx, &path, message)?;
            let DataSourceKind::Inline(bytes) = source.kind else {
                cx.refuse(&path, "formats from files are not supported; write the text as inline_string");
                return None;
            };
            let Ok(text) = std::str::from_utf8(&bytes) else {
                cx.error(&path, "the format is not UTF-8");
                return None;
            };
            LogFormat::Text { format: Arc::new(format(cx, &path, text)?), omit_empty }
        }
        Some(Kind::JsonFormat(fields)) => {
            LogFormat::Json { fields: Arc::new(json(cx, &path.field("json_format"), fields)), omit_empty }
        }
        None => {
            cx.error(path, "give one of text_format_source, json_format and text_format");
            return None;
        }
    })
}

/// Extensions that bring commands; those whose commands we have anyway are taken.
fn formatter(cx: &Cx, path: &Path<'_>, message: &core_pb::TypedExtensionConfig) {
    let core_pb::TypedExtensionConfig { name, typed_config } = message;
    match typed_config {
        Some(any) if outrider_proto::any::is::<ReqWithoutQuery>(any) => {
            cx.inert(path, "REQ_WITHOUT_QUERY is always there");
        }
        Some(any) if outrider_proto::any::is::<Metadata>(any) => cx.inert(path, "METADATA is always there"),
        Some(any) => {
            cx.refuse(
                &path.field("typed_config"),
                format!("the formatter {} is not supported", type_of(any)),
            );
        }
        None => cx.error(path, format!("the formatter {name:?} needs a typed_config")),
    }
}

/// A JSON format; properties print in the order of their names.
fn json(cx: &Cx, path: &Path<'_>, fields: &google::Struct) -> JsonNode {
    let google::Struct { fields } = fields;
    let mut entries: Vec<(&String, &google::Value)> = fields.iter().collect();
    entries.sort_by_key(|(name, _)| *name);
    let mut nodes = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        nodes.push((name.clone(), json_value(cx, &path.field(name), value)));
    }
    JsonNode::Object(nodes)
}

fn json_value(cx: &Cx, path: &Path<'_>, value: &google::Value) -> JsonNode {
    use google::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => JsonNode::Null,
        Some(Kind::NumberValue(number)) => JsonNode::Number(*number),
        Some(Kind::BoolValue(value)) => JsonNode::Bool(*value),
        Some(Kind::StringValue(text)) => match Format::parse(text) {
            Ok(format) => JsonNode::Value(format),
            Err(error) => {
                cx.error(path, error.to_string());
                JsonNode::Null
            }
        },
        Some(Kind::StructValue(fields)) => json(cx, path, fields),
        Some(Kind::ListValue(google::ListValue { values })) => JsonNode::List(
            values.iter().enumerate().map(|(i, value)| json_value(cx, &path.index(i), value)).collect(),
        ),
    }
}
