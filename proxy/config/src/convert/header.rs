//! Headers that are added and removed.

use std::sync::Arc;

use http::HeaderName;
use outrider_core::format::Format;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as pb;

use super::cx::{Cx, refuse};
use super::scalar::{enumeration, header_name, header_value};
use crate::model::{AddTarget, AppendAction, HeaderAdd, HeaderAddValue, HeaderMutations};

/// The four lists that routes, virtual hosts, route tables and weighted clusters have alike.
pub(crate) struct Lists<'a> {
    pub(crate) request_add: &'a [pb::HeaderValueOption],
    pub(crate) request_remove: &'a [String],
    pub(crate) response_add: &'a [pb::HeaderValueOption],
    pub(crate) response_remove: &'a [String],
}

/// The header changes of the message at `path`.
pub(crate) fn mutations(cx: &Cx, path: &Path<'_>, lists: &Lists<'_>) -> HeaderMutations {
    HeaderMutations {
        request_add: adds(cx, &path.field("request_headers_to_add"), lists.request_add),
        request_remove: removes(cx, &path.field("request_headers_to_remove"), lists.request_remove),
        response_add: adds(cx, &path.field("response_headers_to_add"), lists.response_add),
        response_remove: removes(cx, &path.field("response_headers_to_remove"), lists.response_remove),
    }
}

/// Headers to add.
pub(crate) fn adds(cx: &Cx, path: &Path<'_>, messages: &[pb::HeaderValueOption]) -> Vec<HeaderAdd> {
    messages.iter().enumerate().filter_map(|(i, message)| add(cx, &path.index(i), message)).collect()
}

/// A header to add; `None`, and an error, when it is not usable.
pub(crate) fn add(cx: &Cx, path: &Path<'_>, message: &pb::HeaderValueOption) -> Option<HeaderAdd> {
    let pb::HeaderValueOption { header, append: _append, append_action: _action, keep_empty_value } = message;
    let Some(pb::HeaderValue { key, value, raw_value }) = header else {
        cx.error(&path.field("header"), "a header is needed");
        return None;
    };
    let at = path.field("header");
    refuse!(cx, at, "raw values are not supported; write the text as value"; raw_value);
    let action = action(cx, path, message);
    if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
        cx.error(
            &at.field("key"),
            format!("{key:?} may not be modified; rewrite the host or the path in the route instead"),
        );
        return None;
    }
    let name = header_name(cx, &at.field("key"), key)?;
    let value = format_value(cx, &at.field("value"), value)?;
    Some(HeaderAdd { name: AddTarget::Name(name), value, action, keep_empty: *keep_empty_value })
}

/// What happens to a header that is there already, by the newer field or the older.
fn action(cx: &Cx, path: &Path<'_>, message: &pb::HeaderValueOption) -> AppendAction {
    use pb::header_value_option::HeaderAppendAction;
    let pb::HeaderValueOption { append, append_action, .. } = message;
    if append.is_some() && *append_action != 0 {
        cx.error(&path.field("append"), "append and append_action exclude one another; keep append_action");
    }
    match append {
        Some(append) if append.value => AppendAction::AppendIfExistsOrAdd,
        Some(_) => AppendAction::OverwriteIfExistsOrAdd,
        None => match enumeration::<HeaderAppendAction>(cx, path, "append_action", *append_action) {
            HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
            HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
            HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
        },
    }
}

/// A value with command operators.
pub(crate) fn format_value(cx: &Cx, path: &Path<'_>, text: &str) -> Option<HeaderAddValue> {
    let format = format(cx, path, text)?;
    Some(match format.as_literal() {
        Some(text) => HeaderAddValue::Literal(header_value(cx, path, text)),
        None => HeaderAddValue::Format(Arc::new(format)),
    })
}

/// A parsed format; `None`, and an error, when it is not one.
pub(crate) fn format(cx: &Cx, path: &Path<'_>, text: &str) -> Option<Format> {
    match Format::parse(text) {
        Ok(format) => Some(format),
        Err(error) => {
            cx.error(path, error.to_string());
            None
        }
    }
}

fn removes(cx: &Cx, path: &Path<'_>, names: &[String]) -> Vec<HeaderName> {
    names.iter().enumerate().filter_map(|(i, name)| removal(cx, &path.index(i), name)).collect()
}

/// A header to remove; `None`, and an error, when it may not be.
pub(crate) fn removal(cx: &Cx, path: &Path<'_>, name: &str) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        cx.error(path, format!("{name:?} may not be removed; it is part of every request"));
        return None;
    }
    header_name(cx, path, name)
}
