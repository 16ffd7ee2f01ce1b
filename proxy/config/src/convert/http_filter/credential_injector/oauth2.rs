//! `envoy.http.injected_credentials.oauth2`

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3::{HttpUri, http_uri::HttpUpstreamType};
use outrider_proto::pb::envoy::extensions::http::injected_credentials::oauth2::v3 as pb;
use outrider_proto::pb::envoy::extensions::http::injected_credentials::oauth2::v3::o_auth2 as parts;

use super::secret;
use crate::convert::cx::Cx;
use crate::convert::scalar::{duration, enumeration};
use crate::model::OAuth2;

/// How long after a failure the server is asked again, by default.
const RETRY: Duration = Duration::from_secs(2);

/// The token at `path`; `None`, and an error, when it is not usable.
pub(super) fn token(cx: &Cx, path: &Path<'_>, message: &pb::OAuth2) -> Option<OAuth2> {
    let pb::OAuth2 { token_endpoint, scopes, token_fetch_retry_interval, endpoint_params, flow_type } =
        message;
    let endpoint = endpoint(cx, &path.field("token_endpoint"), token_endpoint.as_ref());
    let retry = duration(cx, path, "token_fetch_retry_interval", token_fetch_retry_interval);
    if retry.is_some_and(|retry| retry < Duration::from_secs(1)) {
        cx.error(&path.field("token_fetch_retry_interval"), "it must be a second at least");
    }
    let at = path.field("endpoint_params");
    for (i, parts::EndpointParameter { name, value: _value }) in endpoint_params.iter().enumerate() {
        if name.is_empty() {
            cx.error(&at.index(i).field("name"), "a name is needed");
        }
    }
    let Some(parts::FlowType::ClientCredentials(client)) = flow_type else {
        cx.error(&path.field("client_credentials"), "the client's name and its secret are needed");
        return None;
    };
    let at = path.field("client_credentials");
    let parts::ClientCredentials { client_id, client_secret, auth_type } = client;
    if client_id.is_empty() {
        cx.error(&at.field("client_id"), "the name of the client is needed");
    }
    if enumeration::<parts::AuthType>(cx, &at, "auth_type", *auth_type) == parts::AuthType::BasicAuth {
        cx.inert(
            &at.field("auth_type"),
            "client_id and client_secret go in the body, as Envoy sends them whatever this says; write URL_ENCODED_BODY",
        );
    }
    let secret = secret(cx, &at.field("client_secret"), client_secret.as_ref());
    let (uri, cluster, timeout) = endpoint?;
    Some(OAuth2 {
        uri,
        cluster,
        timeout,
        client_id: client_id.as_str().into(),
        secret: secret?,
        scopes: scopes.iter().map(|scope| Box::from(scope.as_str())).collect(),
        params: endpoint_params
            .iter()
            .map(|param| (Box::from(param.name.as_str()), Box::from(param.value.as_str())))
            .collect(),
        // Envoy counts whole seconds.
        retry_interval: retry.map_or(RETRY, |retry| Duration::from_secs(retry.as_secs())),
    })
}

/// Where tokens are: what is asked for, the cluster, and how long an answer may take.
fn endpoint(cx: &Cx, path: &Path<'_>, message: Option<&HttpUri>) -> Option<(Uri, Arc<str>, Duration)> {
    let Some(HttpUri { uri, timeout, http_upstream_type }) = message else {
        cx.error(path, "an address is needed");
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
    let limit = duration(cx, path, "timeout", timeout);
    if limit.is_none() {
        cx.error(&path.field("timeout"), "a time is needed");
    }
    Some((parsed?, cluster?, limit?))
}
