//! `envoy.filters.http.cors`

use http::HeaderValue;
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::cors::v3 as pb;

use crate::convert::cx::Cx;
use crate::convert::matcher;
use crate::convert::scalar::{bool_of, fraction, header_value};
use crate::model::CorsPolicy;

/// The policy at `path`.
pub(super) fn policy(cx: &Cx, path: &Path<'_>, message: &pb::CorsPolicy) -> CorsPolicy {
    let pb::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    } = message;
    let value = |field: &str, text: &str| -> Option<HeaderValue> {
        (!text.is_empty()).then(|| header_value(cx, &path.field(field), text))
    };
    let share = |field: &str, message: &Option<_>| {
        message.as_ref().map(|message| fraction(cx, &path.field(field), message))
    };
    CorsPolicy {
        allow_origins: matcher::strings(
            cx,
            &path.field("allow_origin_string_match"),
            allow_origin_string_match,
        ),
        allow_methods: value("allow_methods", allow_methods),
        allow_headers: value("allow_headers", allow_headers),
        expose_headers: value("expose_headers", expose_headers),
        max_age: value("max_age", max_age),
        allow_credentials: bool_of(allow_credentials),
        enabled: share("filter_enabled", filter_enabled),
        shadow: share("shadow_enabled", shadow_enabled),
        allow_private_network: bool_of(allow_private_network_access),
        forward_not_matching_preflights: bool_of(forward_not_matching_preflights),
    }
}
