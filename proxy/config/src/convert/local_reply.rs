//! `local_reply_config` of the connection manager.

use std::sync::Arc;

use http::StatusCode;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3::SubstitutionFormatString;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use super::access_log::{self, Protocol};
use super::cx::Cx;
use super::scalar::{data_source, u32_of};
use super::{header, log_filter};
use crate::model::{BodyFormat, DirectBody, LocalReplies, LogFormat, ResponseMapper};

/// The mappers and the format.
pub(crate) fn config(cx: &Cx, path: &Path<'_>, message: &pb::LocalReplyConfig) -> LocalReplies {
    let pb::LocalReplyConfig { mappers, body_format } = message;
    let at = path.field("mappers");
    LocalReplies {
        mappers: mappers
            .iter()
            .enumerate()
            .filter_map(|(i, message)| mapper(cx, &at.index(i), message))
            .collect(),
        body_format: body_format.as_ref().and_then(|message| format(cx, &path.field("body_format"), message)),
    }
}

fn mapper(cx: &Cx, path: &Path<'_>, message: &pb::ResponseMapper) -> Option<ResponseMapper> {
    let pb::ResponseMapper { filter, status_code, body, body_format_override, headers_to_add } = message;
    let at = path.field("filter");
    let Some(filter) = filter else {
        cx.error(&at, "a filter is needed");
        return None;
    };
    let filter = log_filter::filter(cx, &at, filter, Protocol::Http);
    let status = u32_of(status_code).map(|code| {
        let code = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
        let status = code.and_then(|code| StatusCode::from_u16(code).ok());
        if status.is_none() {
            cx.error(&path.field("status_code"), "it must be 200 to 599");
        }
        status
    });
    Some(ResponseMapper {
        filter: filter?,
        status: status.flatten(),
        body: body
            .as_ref()
            .and_then(|message| data_source(cx, &path.field("body"), message))
            .map(DirectBody::Source),
        headers: header::adds(cx, &path.field("headers_to_add"), headers_to_add),
        body_format: body_format_override
            .as_ref()
            .and_then(|message| format(cx, &path.field("body_format_override"), message)),
    })
}

fn format(cx: &Cx, path: &Path<'_>, message: &SubstitutionFormatString) -> Option<BodyFormat> {
    let format = access_log::body_format(cx, path, message)?;
    let content_type = match (&*message.content_type, &format) {
        ("", LogFormat::Json { .. }) => "application/json",
        ("", LogFormat::Text { .. }) => "text/plain",
        (given, _) => given,
    };
    Some(BodyFormat { content_type: Arc::from(content_type), format })
}
