//! Scalars: durations, wrappers, enumerations, percentages, header names, `Any`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use outrider_core::matcher::RuntimeFraction;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::r#type::v3 as type_pb;
use outrider_proto::pb::google::protobuf as google;
use outrider_proto::prost::{Message, Name};
use outrider_proto::{Path, any};

use super::cx::Cx;
use crate::model::{DataSource, DataSourceKind, RuntimeDouble, RuntimeFlag, RuntimeInteger};

/// A wrapped `uint32`, if it is there.
pub(crate) fn u32_of(value: &Option<google::UInt32Value>) -> Option<u32> {
    value.as_ref().map(|value| value.value)
}

/// A wrapped `bool`, if it is there.
pub(crate) fn bool_of(value: &Option<google::BoolValue>) -> Option<bool> {
    value.as_ref().map(|value| value.value)
}

/// A duration; a negative one, or one that is not a duration at all, is an error.
pub(crate) fn duration(
    cx: &Cx,
    path: &Path<'_>,
    field: &str,
    value: &Option<google::Duration>,
) -> Option<Duration> {
    let google::Duration { seconds, nanos } = value.as_ref()?;
    let (seconds, nanos) = (u64::try_from(*seconds), u32::try_from(*nanos));
    match (seconds, nanos) {
        // Envoy refuses what does not fit into 64 bits of nanoseconds with room to spare.
        (Ok(seconds), Ok(nanos)) if seconds <= 315_576_000_000 && nanos < 1_000_000_000 => {
            Some(Duration::new(seconds, nanos))
        }
        _ => {
            cx.error(
                &path.field(field),
                "not a duration: it must be zero or more, and less than 10,000 years",
            );
            None
        }
    }
}

/// A duration of which zero means never.
pub(crate) fn timeout(
    cx: &Cx,
    path: &Path<'_>,
    field: &str,
    value: &Option<google::Duration>,
    default: Option<Duration>,
) -> Option<Duration> {
    if value.is_none() { default } else { duration(cx, path, field, value).filter(|time| !time.is_zero()) }
}

/// The named value of an enumeration; a number that has no name is an error.
pub(crate) fn enumeration<E: TryFrom<i32> + Default>(cx: &Cx, path: &Path<'_>, field: &str, value: i32) -> E {
    E::try_from(value).unwrap_or_else(|_| {
        cx.error(&path.field(field), format!("{value} is not a value of this enumeration"));
        E::default()
    })
}

/// A header's name; `None`, and an error, when it is not valid.
pub(crate) fn header_name(cx: &Cx, path: &Path<'_>, name: &str) -> Option<HeaderName> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Some(name),
        Err(_) => {
            cx.error(path, format!("{name:?} is not a header name"));
            None
        }
    }
}

/// The name of a request's header that is read; `:authority` is called `host` in the requests that we route.
pub(crate) fn request_header(cx: &Cx, path: &Path<'_>, name: &str) -> Option<HeaderName> {
    if name.eq_ignore_ascii_case(":authority") {
        Some(http::header::HOST)
    } else {
        header_name(cx, path, name)
    }
}

/// A header's value; an empty one, and an error, when it is not valid.
pub(crate) fn header_value(cx: &Cx, path: &Path<'_>, value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| {
        cx.error(path, format!("{value:?} cannot be a header value: it holds control characters"));
        HeaderValue::from_static("")
    })
}

/// The message of type `M` that an `Any` carries; anything else is an error.
pub(crate) fn unpack<M: Message + Name + Default>(
    cx: &Cx,
    path: &Path<'_>,
    value: &google::Any,
) -> Option<M> {
    match any::unpack::<M>(value) {
        Ok(message) => Some(message),
        Err(error) => {
            cx.error(path, error.to_string());
            None
        }
    }
}

/// The name of the type that an `Any` carries, for errors.
pub(crate) fn type_of(value: &google::Any) -> &str {
    match any::type_name(&value.type_url) {
        "" => "(no @type)",
        name => name,
    }
}

/// Where bytes come from; `None`, and an error, when the message does not say.
pub(crate) fn data_source(cx: &Cx, path: &Path<'_>, message: &core_pb::DataSource) -> Option<DataSource> {
    use core_pb::data_source::Specifier;
    let core_pb::DataSource { watched_directory, specifier } = message;
    super::cx::inert!(cx, path, "Envoy watches files of xDS secrets alone, not of static resources";
        watched_directory);
    let kind = match specifier {
        Some(Specifier::Filename(name)) => DataSourceKind::File(Arc::from(name.as_str())),
        Some(Specifier::InlineBytes(bytes)) => DataSourceKind::Inline(Arc::from(bytes.as_slice())),
        Some(Specifier::InlineString(text)) => DataSourceKind::Inline(Arc::from(text.as_bytes())),
        Some(Specifier::EnvironmentVariable(name)) => DataSourceKind::Environment(Arc::from(name.as_str())),
        None => {
            cx.error(path, "give one of filename, inline_string, inline_bytes and environment_variable");
            return None;
        }
    };
    Some(DataSource { kind, field: Arc::from(path.to_string()) })
}

/// The denominator of a fraction as a number.
pub(crate) fn denominator(cx: &Cx, path: &Path<'_>, value: i32) -> u32 {
    use type_pb::fractional_percent::DenominatorType;
    match enumeration::<DenominatorType>(cx, path, "denominator", value) {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    }
}

/// A share of requests, as the runtime has it at each of them.
pub(crate) fn fraction(
    cx: &Cx,
    path: &Path<'_>,
    message: &core_pb::RuntimeFractionalPercent,
) -> RuntimeFraction {
    let core_pb::RuntimeFractionalPercent { default_value, runtime_key } = message;
    runtime_fraction(cx, &path.field("default_value"), default_value.as_ref(), runtime_key)
}

/// A share of requests with the key that overrides it.
pub(crate) fn runtime_fraction(
    cx: &Cx,
    path: &Path<'_>,
    default: Option<&type_pb::FractionalPercent>,
    key: &str,
) -> RuntimeFraction {
    let (mut numerator, mut per) = (0, 100);
    if let Some(type_pb::FractionalPercent { numerator: n, denominator: d }) = default {
        (numerator, per) = (*n, denominator(cx, path, *d));
    }
    RuntimeFraction { numerator, denominator: per, runtime_key: cx.runtime.follow(key) }
}

/// A whole number that the runtime may override.
pub(crate) fn runtime_integer(cx: &Cx, key: &str, default: u64) -> RuntimeInteger {
    RuntimeInteger { default, key: cx.runtime.follow(key) }
}

/// A real number that the runtime may override.
pub(crate) fn runtime_double(cx: &Cx, key: &str, default: f64) -> RuntimeDouble {
    RuntimeDouble { default, key: cx.runtime.follow(key) }
}

/// A truth value that the runtime may override.
pub(crate) fn runtime_flag(cx: &Cx, key: &str, default: bool) -> RuntimeFlag {
    RuntimeFlag { default, key: cx.runtime.follow(key) }
}

/// A percentage between 0 and 100.
pub(crate) fn percent(
    cx: &Cx,
    path: &Path<'_>,
    field: &str,
    value: &Option<type_pb::Percent>,
) -> Option<f64> {
    let type_pb::Percent { value } = value.as_ref()?;
    if (0.0..=100.0).contains(value) {
        return Some(*value);
    }
    cx.error(&path.field(field), format!("{value} is not a percentage between 0 and 100"));
    None
}

/// A name as it stands in stats: colons, with the slashes after them, become underscores (Envoy:
/// `sanitizeStatsName`).
pub(crate) fn stat_name(name: &str) -> String {
    name.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_")
}
