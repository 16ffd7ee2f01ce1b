//! What the client asked for, as challenges tell it.

use http::HeaderName;
use http::request::Parts;

use crate::stream::Stream;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// As much of a path clients are told, in bytes.
const LONGEST_PATH: usize = 256;

/// Scheme, host and the path before it was rewritten (Envoy: `buildOriginalUri`).
pub(super) struct Uri(pub(super) String);

impl Uri {
    /// Of a request whose target was `asked`, whatever it is by now.
    pub(super) fn of(stream: &Stream, parts: &Parts, asked: &http::Uri) -> Self {
        let head = stream.view(&parts.method, asked, &parts.headers);
        let original = parts.headers.get(ORIGINAL_PATH).and_then(|path| path.to_str().ok());
        let path = original.unwrap_or(head.path);
        let end = (0..=path.len().min(LONGEST_PATH)).rev().find(|end| path.is_char_boundary(*end));
        let path = path.get(..end.unwrap_or(0)).unwrap_or_default();
        Self(format!("{}://{}{path}", head.scheme, head.authority))
    }
}
