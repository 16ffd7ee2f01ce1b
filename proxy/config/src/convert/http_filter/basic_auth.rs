//! `envoy.filters.http.basic_auth`

use std::sync::Arc;

use http::header::AUTHORIZATION;
use outrider_core::credentials::{HtpasswdError, Users};
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3::DataSource;
use outrider_proto::pb::envoy::extensions::filters::http::basic_auth::v3 as pb;

use crate::convert::cx::Cx;
use crate::convert::scalar::{data_source, header_name, request_header};
use crate::model::{BasicAuth, BasicUsers, DataSourceKind};

/// The filter at `path`; `None`, and an error, when it is not usable.
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::BasicAuth) -> Option<BasicAuth> {
    let pb::BasicAuth {
        users,
        forward_username_header,
        authentication_header,
        allow_missing,
        emit_dynamic_metadata,
    } = message;
    let found = users_of(cx, path, users.as_ref());
    // Routes may have none; the filter itself must have something to read (Envoy: `DataSource::read`).
    if let Some(BasicUsers::Here(_)) = &found
        && users.as_ref().is_some_and(is_empty)
    {
        cx.error(&path.field("users"), HtpasswdError::Empty.to_string());
    }
    let forward_username = match forward_username_header.as_str() {
        "" => None,
        name => Some(header_name(cx, &path.field("forward_username_header"), name)?),
    };
    let header = match authentication_header.as_str() {
        "" => AUTHORIZATION,
        name => request_header(cx, &path.field("authentication_header"), name)?,
    };
    Some(BasicAuth {
        users: found?,
        header,
        forward_username,
        allow_missing: *allow_missing,
        emit_metadata: *emit_dynamic_metadata,
    })
}

/// The users that a route has in place of the filter's own.
pub(super) fn per_route(cx: &Cx, path: &Path<'_>, message: &pb::BasicAuthPerRoute) -> Option<BasicUsers> {
    let pb::BasicAuthPerRoute { users } = message;
    users_of(cx, path, users.as_ref())
}

fn users_of(cx: &Cx, path: &Path<'_>, message: Option<&DataSource>) -> Option<BasicUsers> {
    let path = path.field("users");
    let Some(message) = message else {
        cx.error(
            &path,
            "users are needed: give one of filename, inline_string, inline_bytes and environment_variable",
        );
        return None;
    };
    let source = data_source(cx, &path, message)?;
    let DataSourceKind::Inline(text) = &source.kind else { return Some(BasicUsers::Source(source)) };
    match Users::parse(text) {
        Ok(users) => Some(BasicUsers::Here(Arc::new(users))),
        Err(error) => {
            cx.error(&path, error.to_string());
            None
        }
    }
}

fn is_empty(message: &DataSource) -> bool {
    use outrider_proto::pb::envoy::config::core::v3::data_source::Specifier;
    match &message.specifier {
        Some(Specifier::InlineString(text)) => text.is_empty(),
        Some(Specifier::InlineBytes(bytes)) => bytes.is_empty(),
        _ => false,
    }
}
