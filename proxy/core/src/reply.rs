//! Local replies: every response that the proxy makes up itself is one of these.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::flags::ResponseFlags;

/// A response made by the proxy and not by an upstream.
#[derive(Debug, Clone)]
pub struct LocalReply {
    /// The HTTP status; for a gRPC request it is mapped to `grpc-status`.
    pub status: StatusCode,
    /// The flags that the access log shows.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// The body, plain text; empty for none.
    pub body: Bytes,
    /// Headers beyond those that every reply has; boxed, since few replies have any.
    pub headers: Option<Box<HeaderMap>>,
}

impl LocalReply {
    /// A reply with `status`, `details` (see [`details`]), no flags and no body.
    pub fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            flags: ResponseFlags::NONE,
            details: details.into(),
            body: Bytes::new(),
            headers: None,
        }
    }

    /// The same with `flags` set.
    #[must_use]
    pub fn flags(mut self, flags: ResponseFlags) -> Self {
        self.flags.insert(flags);
        self
    }

    /// The same with a text body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: http::HeaderValue) -> Self {
        self.headers.get_or_insert_default().append(name, value);
        self
    }
}

/// The values of `%RESPONSE_CODE_DETAILS%` that Envoy documents ("Response Code Details").
#[expect(missing_docs, reason = "the constants are their own text")]
pub mod details {
    pub const VIA_UPSTREAM: &str = "via_upstream";
    pub const DIRECT_RESPONSE: &str = "direct_response";
    pub const ROUTE_NOT_FOUND: &str = "route_not_found";
    pub const CLUSTER_NOT_FOUND: &str = "cluster_not_found";
    pub const NO_HEALTHY_UPSTREAM: &str = "no_healthy_upstream";
    /// The runtime takes requests out (`upstream.maintenance_mode.<cluster>`).
    pub const MAINTENANCE_MODE: &str = "maintenance_mode";
    /// The endpoints' policy drops a share of the requests.
    pub const DROP_OVERLOAD: &str = "drop_overload";
    /// The endpoints' policy drops every request.
    pub const UNCONDITIONAL_DROP_OVERLOAD: &str = "unconditional_drop_overload";
    pub const UPSTREAM_RESPONSE_TIMEOUT: &str = "response_timeout";
    pub const UPSTREAM_PER_TRY_TIMEOUT: &str = "upstream_per_try_timeout";
    pub const UPSTREAM_PER_TRY_IDLE_TIMEOUT: &str = "upstream_per_try_idle_timeout";
    pub const UPSTREAM_MAX_STREAM_DURATION_REACHED: &str = "upstream_max_stream_duration_reached";
    pub const STREAM_IDLE_TIMEOUT: &str = "stream_idle_timeout";
    pub const REQUEST_OVERALL_TIMEOUT: &str = "request_overall_timeout";
    pub const REQUEST_HEADER_TIMEOUT: &str = "request_header_timeout";
    pub const MAX_DURATION_TIMEOUT: &str = "max_duration_timeout";
    pub const OVERFLOW: &str = "overflow";
    pub const MISSING_HOST: &str = "missing_host_header";
    pub const MISSING_PATH: &str = "missing_path_rejected";
    pub const ABSOLUTE_PATH: &str = "absolute_path_rejected";
    pub const LOW_VERSION: &str = "low_version";
    pub const UPGRADE_FAILED: &str = "upgrade_failed";
    pub const DOWNSTREAM_REMOTE_DISCONNECT: &str = "downstream_remote_disconnect";
    pub const INVALID_ENVOY_REQUEST_HEADERS: &str = "request_headers_failed_strict_check";
    pub const REQUEST_PAYLOAD_TOO_LARGE: &str = "request_payload_too_large";
    pub const INTERNAL_REDIRECT: &str = "internal_redirect";
}
