//! Answers that the route table gives by itself.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use outrider_config::model::{DataSource, DataSourceKind, DirectBody};
use outrider_core::LocalReply;
use outrider_core::reply::details;

/// A direct response's body could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DirectBodyError {
    /// A file cannot be read.
    #[error("{field}: file {path:?} cannot be read: {source}")]
    File {
        /// The field's path.
        field: String,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// An environment variable is not set.
    #[error("{field}: environment variable {name:?} is not set")]
    Environment {
        /// The field's path.
        field: String,
        /// The variable.
        name: String,
    },
    /// It is too large.
    #[error("response body size is {size} bytes; maximum is {limit} (max_direct_response_body_size_bytes)")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: u32,
    },
}

/// Reads a body, on the control thread, and checks its size.
pub(crate) fn load(body: &DirectBody, limit: u32) -> Result<Bytes, DirectBodyError> {
    let bytes = match body {
        DirectBody::Inline(bytes) => bytes.clone(),
        DirectBody::Source(source) => read(source)?,
    };
    if bytes.len() > limit as usize {
        return Err(DirectBodyError::TooLarge { size: bytes.len(), limit });
    }
    Ok(bytes)
}

/// What `source` says. Control thread.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(source: &DataSource) -> Result<Bytes, DirectBodyError> {
    match &source.kind {
        DataSourceKind::Inline(bytes) => Ok(Bytes::copy_from_slice(bytes)),
        DataSourceKind::File(path) => match std::fs::read(&**path) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(DirectBodyError::File {
                field: source.field.to_string(),
                path: path.to_string(),
                source: error,
            }),
        },
        DataSourceKind::Environment(name) => match std::env::var(&**name) {
            Ok(value) => Ok(value.into()),
            Err(_) => {
                Err(DirectBodyError::Environment { field: source.field.to_string(), name: name.to_string() })
            }
        },
    }
}

/// The reply of a route that answers by itself. Only 201 and 3xx carry a `location`.
pub(crate) fn reply(status: StatusCode, body: Bytes, location: impl FnOnce() -> String) -> LocalReply {
    let reply = LocalReply::new(status, details::DIRECT_RESPONSE).body(body);
    if status != StatusCode::CREATED && !status.is_redirection() {
        return reply;
    }
    match HeaderValue::from_maybe_shared(Bytes::from(location())) {
        Ok(location) => reply.header(header::LOCATION, location),
        Err(_) => reply,
    }
}
