//! Who is asked.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use outrider_proto::pb::google::protobuf as google;

use super::list;
use crate::convert::cx::{Cx, UNSUPPORTED, refuse};
use crate::convert::grpc_service;
use crate::convert::header::format_value;
use crate::convert::scalar::{duration, header_name, timeout, u32_of};
use crate::model::{
    AddTarget, AppendAction, AuthzGrpc, AuthzHttp, AuthzPath, GrpcTarget, HeaderAdd, JwksRetries,
};

/// How long a service has by default.
const TIMEOUT: Duration = Duration::from_millis(200);
/// The limit of the first random time between tries, by default.
const BACK_OFF: Duration = Duration::from_secs(1);

/// A service that speaks gRPC; `None`, and an error, when it is not usable.
pub(super) fn grpc(cx: &Cx, path: &Path<'_>, message: &core_pb::GrpcService) -> Option<AuthzGrpc> {
    use core_pb::grpc_service::TargetSpecifier;
    let service = grpc_service::service(cx, path, message)?;
    if let Some(TargetSpecifier::EnvoyGrpc(message)) = &message.target_specifier {
        let core_pb::grpc_service::EnvoyGrpc { retry_policy, .. } = message;
        refuse!(cx, path.field("envoy_grpc"), "a service is asked once; remove it"; retry_policy);
    }
    let GrpcTarget::Cluster { cluster, authority, max_receive_message_length } = &service.target else {
        cx.refuse(
            &path.field("google_grpc"),
            "a channel of its own is not supported here; use envoy_grpc with a cluster",
        );
        return None;
    };
    let authority = authority.as_ref().map_or(&**cluster, |authority| authority.as_str());
    Some(AuthzGrpc {
        cluster: cluster.clone(),
        authority: Arc::from(authority),
        longest: *max_receive_message_length,
        timeout: longest(cx, path, &message.timeout),
        service,
    })
}

/// A service that speaks HTTP; `None`, and an error, when it is not usable.
pub(super) fn http(cx: &Cx, path: &Path<'_>, message: &pb::HttpService) -> Option<AuthzHttp> {
    use core_pb::http_uri::HttpUpstreamType;
    let pb::HttpService {
        server_uri,
        path_prefix,
        path_override,
        authorization_request,
        authorization_response,
        retry_policy,
    } = message;
    let retries = retry_policy.as_ref().and_then(|message| retries(cx, &path.field("retry_policy"), message));
    let at = path.field("server_uri");
    let Some(core_pb::HttpUri { uri, timeout: limit, http_upstream_type }) = server_uri else {
        cx.error(&at, "an address is needed");
        return None;
    };
    let parsed = uri.parse::<Uri>().ok();
    let authority = parsed.as_ref().and_then(Uri::authority);
    if authority.is_none() {
        cx.error(&at.field("uri"), format!("{uri:?} is no URI with a host, as http://authz.example"));
    }
    cx.inert(&at.field("uri"), "the client's host and path are sent; the cluster says where to");
    let cluster = match http_upstream_type {
        Some(HttpUpstreamType::Cluster(name)) if !name.is_empty() => Some(Arc::from(name.as_str())),
        _ => {
            cx.error(&at.field("cluster"), "the name of a cluster is needed");
            None
        }
    };
    // `allowed_headers` is the filter's, whose conversion looks at it.
    let add = authorization_request.as_ref().map(|pb::AuthorizationRequest { headers_to_add, .. }| {
        let path = path.field("authorization_request");
        adds(cx, &path.field("headers_to_add"), headers_to_add)
    });
    let at = path.field("authorization_response");
    let none = pb::AuthorizationResponse::default();
    let pb::AuthorizationResponse {
        allowed_upstream_headers,
        allowed_upstream_headers_to_append,
        allowed_client_headers,
        allowed_client_headers_on_success,
        dynamic_metadata_from_headers,
    } = authorization_response.as_ref().unwrap_or(&none);
    let matchers = |field: &str, message: &Option<_>| list(cx, &at.field(field), message.as_ref());
    Some(AuthzHttp {
        authority: Arc::from(authority?.as_str()),
        timeout: longest(cx, &path.field("server_uri"), limit),
        path: target(cx, path, path_prefix, path_override)?,
        retries,
        add: add.unwrap_or_default(),
        upstream: matchers("allowed_upstream_headers", allowed_upstream_headers),
        upstream_append: matchers("allowed_upstream_headers_to_append", allowed_upstream_headers_to_append),
        client: matchers("allowed_client_headers", allowed_client_headers),
        client_on_success: matchers("allowed_client_headers_on_success", allowed_client_headers_on_success),
        metadata: matchers("dynamic_metadata_from_headers", dynamic_metadata_from_headers),
        cluster: cluster?,
    })
}

/// The limit of a call at `path`: 0 is none.
fn longest(cx: &Cx, path: &Path<'_>, message: &Option<google::Duration>) -> Option<Duration> {
    timeout(cx, path, "timeout", message, Some(TIMEOUT))
}

/// How the service is asked again; `None`: it is not.
pub(in crate::convert::http_filter) fn retries(
    cx: &Cx,
    path: &Path<'_>,
    message: &core_pb::RetryPolicy,
) -> Option<JwksRetries> {
    let core_pb::RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = message;
    let conditions: Vec<&str> = retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let known = ["5xx", "gateway-error", "connect-failure", "reset"];
    if conditions.is_empty() {
        cx.inert(path, "without retry_on nothing is asked again, in Envoy neither");
    } else if !conditions.contains(&"5xx") || !conditions.iter().all(|word| known.contains(word)) {
        let why = "write 5xx: the service is asked again after 5xx, and when there is no answer";
        cx.refuse(&path.field("retry_on"), why);
    }
    refuse!(cx, path, UNSUPPORTED; retry_priority, retry_host_predicate, host_selection_retry_max_attempts);
    let at = path.field("retry_back_off");
    let (base, most) = match retry_back_off {
        Some(core_pb::BackoffStrategy { base_interval, max_interval }) => {
            let base = duration(cx, &at, "base_interval", base_interval).unwrap_or(BACK_OFF);
            let most = duration(cx, &at, "max_interval", max_interval).unwrap_or(base.saturating_mul(10));
            (base, most)
        }
        None => (BACK_OFF, BACK_OFF * 10),
    };
    if most < base {
        cx.error(&at.field("max_interval"), "it must not be less than base_interval");
    }
    let retries = JwksRetries { count: u32_of(num_retries).unwrap_or(1), base, most };
    (!conditions.is_empty()).then_some(retries)
}

fn target(cx: &Cx, path: &Path<'_>, prefix: &str, fixed: &str) -> Option<AuthzPath> {
    for (field, text) in [("path_prefix", prefix), ("path_override", fixed)] {
        let is_path = text.starts_with('/') && text.parse::<PathAndQuery>().is_ok();
        if !text.is_empty() && !is_path {
            cx.error(&path.field(field), format!("{text:?} is no path: it must begin with a slash"));
            return None;
        }
    }
    match (prefix, fixed) {
        (prefix, "") => Some(AuthzPath::Prefix(prefix.into())),
        ("", fixed) => Some(AuthzPath::Fixed(fixed.into())),
        _ => {
            cx.error(&path.field("path_override"), "path_prefix and path_override exclude one another");
            None
        }
    }
}

fn adds(cx: &Cx, path: &Path<'_>, messages: &[core_pb::HeaderValue]) -> Box<[HeaderAdd]> {
    let one = |(i, message): (usize, &core_pb::HeaderValue)| {
        let path = path.index(i);
        let core_pb::HeaderValue { key, value, raw_value } = message;
        refuse!(cx, path, "raw values are not supported; write the text as value"; raw_value);
        if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
            cx.error(&path.field("key"), format!("{key:?} may not be set"));
            return None;
        }
        Some(HeaderAdd {
            name: AddTarget::Name(header_name(cx, &path.field("key"), key)?),
            value: format_value(cx, &path.field("value"), value)?,
            action: AppendAction::OverwriteIfExistsOrAdd,
            keep_empty: false,
        })
    };
    messages.iter().enumerate().filter_map(one).collect()
}
