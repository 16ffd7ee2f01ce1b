//! The authorization server.

use std::sync::Arc;

use http::Uri;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3::{HttpUri, RetryPolicy, http_uri::HttpUpstreamType};

use crate::convert::cx::Cx;
use crate::convert::http_filter::ext_authz::retries;
use crate::convert::scalar::duration;
use crate::model::TokenEndpoint;

/// The token endpoint of the settings at `path`; `None`, and an error, when it is not usable.
pub(super) fn token(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&HttpUri>,
    policy: Option<&RetryPolicy>,
) -> Option<TokenEndpoint> {
    let retries = policy.and_then(|message| retries(cx, &path.field("retry_policy"), message));
    let path = path.field("token_endpoint");
    let Some(HttpUri { uri, timeout, http_upstream_type }) = message else {
        cx.error(&path, "an address is needed");
        return None;
    };
    // As in Envoy, the scheme may be left out.
    let whole = if uri.contains("://") { uri.clone() } else { format!("http://{uri}") };
    let parsed = whole.parse::<Uri>().ok().filter(|uri| uri.authority().is_some());
    if parsed.is_none() {
        cx.error(&path.field("uri"), format!("{uri:?} is no URI with a host, as https://example.com/token"));
    }
    let cluster = match http_upstream_type {
        Some(HttpUpstreamType::Cluster(name)) if !name.is_empty() => Some(Arc::from(name.as_str())),
        _ => {
            cx.error(&path.field("cluster"), "the name of a cluster is needed");
            None
        }
    };
    let limit = duration(cx, &path, "timeout", timeout);
    if timeout.is_none() {
        cx.error(&path.field("timeout"), "a time is needed");
    }
    Some(TokenEndpoint {
        uri: parsed?,
        cluster: cluster?,
        timeout: Some(limit?).filter(|limit| !limit.is_zero()),
        retries,
    })
}

/// Where users log in; `None`, and an error, when that is no address.
pub(super) fn authorization(cx: &Cx, path: &Path<'_>, text: &str) -> Option<Uri> {
    let parsed = text.parse::<Uri>().ok();
    let parsed = parsed.filter(|uri| uri.scheme().is_some() && uri.authority().is_some());
    if parsed.is_none() {
        let why = format!("{text:?} is no URI with scheme and host, as https://example.com/authorize");
        cx.error(&path.field("authorization_endpoint"), why);
    }
    parsed
}
