//! When access log entries are written.

use outrider_core::ResponseFlags;
use outrider_core::cel::Place;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::accesslog::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::data::accesslog::v3::AccessLogType;
use outrider_proto::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;

use super::access_log::Protocol;
use super::cx::Cx;
use super::scalar::{enumeration, runtime_fraction, runtime_integer, type_of, unpack};
use super::{cel, matcher};
use crate::model::{Comparison, ComparisonOp, LogFilter};

/// A filter; `None`, and an error, when it is not usable.
pub(crate) fn filter(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::AccessLogFilter,
    protocol: Protocol,
) -> Option<LogFilter> {
    use pb::access_log_filter::FilterSpecifier as Kind;
    let pb::AccessLogFilter { filter_specifier } = message;
    Some(match filter_specifier {
        Some(Kind::StatusCodeFilter(pb::StatusCodeFilter { comparison })) => {
            LogFilter::Status(compare(cx, &path.field("status_code_filter"), comparison.as_ref())?)
        }
        Some(Kind::DurationFilter(pb::DurationFilter { comparison })) => {
            LogFilter::Duration(compare(cx, &path.field("duration_filter"), comparison.as_ref())?)
        }
        Some(Kind::NotHealthCheckFilter(pb::NotHealthCheckFilter {})) => LogFilter::NotHealthCheck,
        Some(Kind::TraceableFilter(pb::TraceableFilter {})) => LogFilter::Traceable,
        Some(Kind::RuntimeFilter(message)) => {
            let pb::RuntimeFilter { runtime_key, percent_sampled, use_independent_randomness } = message;
            let path = path.field("runtime_filter");
            let path = path.field("percent_sampled");
            LogFilter::Runtime {
                fraction: runtime_fraction(cx, &path, percent_sampled.as_ref(), runtime_key),
                independent: *use_independent_randomness,
            }
        }
        Some(Kind::AndFilter(pb::AndFilter { filters })) => {
            LogFilter::And(all(cx, &path.field("and_filter"), filters, protocol))
        }
        Some(Kind::OrFilter(pb::OrFilter { filters })) => {
            LogFilter::Or(all(cx, &path.field("or_filter"), filters, protocol))
        }
        Some(Kind::HeaderFilter(pb::HeaderFilter { header })) => {
            let path = path.field("header_filter");
            let path = path.field("header");
            let Some(message) = header else {
                cx.error(&path, "a header is needed");
                return None;
            };
            LogFilter::Header(Box::new(matcher::header(cx, &path, message)?))
        }
        Some(Kind::ResponseFlagFilter(pb::ResponseFlagFilter { flags })) => {
            let path = path.field("response_flag_filter");
            LogFilter::Flags(flag_set(cx, &path.field("flags"), flags))
        }
        Some(Kind::GrpcStatusFilter(message)) => grpc(cx, &path.field("grpc_status_filter"), message),
        Some(Kind::LogTypeFilter(message)) => log_type(cx, &path.field("log_type_filter"), message),
        Some(Kind::ExtensionFilter(message)) => extension(cx, &path.field("extension_filter"), message)?,
        Some(Kind::MetadataFilter(_)) => {
            cx.refuse(&path.field("metadata_filter"), "no supported filter writes metadata; remove it");
            return None;
        }
        None => {
            cx.error(path, "a filter is needed, such as status_code_filter");
            return None;
        }
    })
}

fn all(cx: &Cx, path: &Path<'_>, messages: &[pb::AccessLogFilter], protocol: Protocol) -> Vec<LogFilter> {
    let path = path.field("filters");
    if messages.len() < 2 {
        cx.error(&path, "two filters or more are needed");
    }
    messages
        .iter()
        .enumerate()
        .filter_map(|(i, message)| filter(cx, &path.index(i), message, protocol))
        .collect()
}

fn compare(cx: &Cx, path: &Path<'_>, message: Option<&pb::ComparisonFilter>) -> Option<Comparison> {
    use pb::comparison_filter::Op;
    let path = path.field("comparison");
    let Some(pb::ComparisonFilter { op, value }) = message else {
        cx.error(&path, "a comparison is needed");
        return None;
    };
    let Some(core_pb::RuntimeUInt32 { default_value, runtime_key }) = value else {
        cx.error(&path.field("value"), "a value is needed");
        return None;
    };
    Some(Comparison {
        op: match enumeration::<Op>(cx, &path, "op", *op) {
            Op::Eq => ComparisonOp::Eq,
            Op::Ge => ComparisonOp::Ge,
            Op::Le => ComparisonOp::Le,
            Op::Ne => ComparisonOp::Ne,
        },
        value: runtime_integer(cx, runtime_key, u64::from(*default_value)),
    })
}

fn flag_set(cx: &Cx, path: &Path<'_>, names: &[String]) -> ResponseFlags {
    let mut set = ResponseFlags::NONE;
    for (i, name) in names.iter().enumerate() {
        match ResponseFlags::from_short(name) {
            Some(flag) => set.insert(flag),
            None => {
                cx.error(&path.index(i), format!("{name:?} is not a response flag; flags look like UH or NR"))
            }
        }
    }
    set
}

fn grpc(cx: &Cx, path: &Path<'_>, message: &pb::GrpcStatusFilter) -> LogFilter {
    use pb::grpc_status_filter::Status;
    let pb::GrpcStatusFilter { statuses, exclude } = message;
    let at = path.field("statuses");
    let statuses = statuses
        .iter()
        .enumerate()
        .filter_map(|(i, status)| match (Status::try_from(*status), u32::try_from(*status)) {
            (Ok(_), Ok(status)) => Some(status),
            _ => {
                cx.error(&at.index(i), format!("{status} is not a gRPC status"));
                None
            }
        })
        .collect();
    LogFilter::GrpcStatus { statuses, exclude: *exclude }
}

/// `envoy.access_loggers.extension_filters.cel` is the one there is.
fn extension(cx: &Cx, path: &Path<'_>, message: &pb::ExtensionFilter) -> Option<LogFilter> {
    use pb::extension_filter::ConfigType;
    // The name is for people alone: extensions go by their type.
    let pb::ExtensionFilter { name: _name, config_type } = message;
    let path = path.field("typed_config");
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        cx.error(&path, "settings with their @type are needed");
        return None;
    };
    if !outrider_proto::any::is::<ExpressionFilter>(any) {
        cx.refuse(&path, format!("the filter {} is not supported; use the one for CEL", type_of(any)));
        return None;
    }
    let ExpressionFilter { expression, cel_config } = unpack(cx, &path, any)?;
    let program = cel::text(cx, &path.field("expression"), &expression, cel_config.as_ref(), Place::Log)?;
    Some(LogFilter::Expression(program))
}

fn log_type(cx: &Cx, path: &Path<'_>, message: &pb::LogTypeFilter) -> LogFilter {
    let pb::LogTypeFilter { types, exclude } = message;
    let at = path.field("types");
    let types = types
        .iter()
        .enumerate()
        .filter_map(|(i, value)| match AccessLogType::try_from(*value) {
            Ok(kind) => Some(kind.as_str_name().to_owned()),
            Err(_) => {
                cx.error(&at.index(i), format!("{value} is not a type of access log entry"));
                None
            }
        })
        .collect();
    LogFilter::LogType { types, exclude: *exclude }
}
