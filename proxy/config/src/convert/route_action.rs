//! What routes do: forward, redirect, answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::config::route::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{
    bool_of, data_source, duration, enumeration, fraction, header_value, request_header, timeout,
};
use super::{cluster_specifier, hash, matcher, retry};
use crate::model::{
    DataSourceKind, DirectBody, DirectResponse, Forward, HostRewrite, MirrorCluster, MirrorPolicy,
    PathRewrite, Redirect, RedirectPath, RetryPolicy, RouteAction, RouteMaxStreamDuration, UpgradeConfig,
};

/// What a route takes over from its virtual host and table.
#[derive(Clone, Copy)]
pub(crate) struct Inherited<'a> {
    /// The virtual host's retry policy.
    pub(crate) retry: Option<&'a Arc<RetryPolicy>>,
    /// Copies, where the route says nothing of them.
    pub(crate) mirrors: &'a [MirrorPolicy],
    /// Largest direct response, bytes.
    pub(crate) max_direct_response_body: u32,
}

/// The action of the route at `path`.
pub(crate) fn action(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::route::Action>,
    inherited: &Inherited<'_>,
) -> Option<RouteAction> {
    use pb::route::Action;
    match message {
        Some(Action::Route(message)) => {
            let forward = forward(cx, &path.field("route"), message, inherited)?;
            Some(RouteAction::Forward(Box::new(forward)))
        }
        Some(Action::Redirect(message)) => {
            Some(RouteAction::Redirect(Box::new(redirect(cx, &path.field("redirect"), message)?)))
        }
        Some(Action::DirectResponse(message)) => {
            let path = path.field("direct_response");
            Some(RouteAction::Direct(direct(cx, &path, message, inherited.max_direct_response_body)?))
        }
        Some(Action::FilterAction(_)) => {
            cx.refuse(&path.field("filter_action"), UNSUPPORTED);
            None
        }
        Some(Action::NonForwardingAction(pb::NonForwardingAction {})) => {
            cx.refuse(
                &path.field("non_forwarding_action"),
                "a proxy needs route, redirect or direct_response",
            );
            None
        }
        None => {
            cx.error(path, "an action is needed: route, redirect or direct_response");
            None
        }
    }
}

fn direct(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::DirectResponseAction,
    max_body: u32,
) -> Option<DirectResponse> {
    let pb::DirectResponseAction { status, body, body_format } = message;
    refuse!(cx, path, "formatted bodies are not supported; write the text as body"; body_format);
    let code = u16::try_from(*status).ok().filter(|code| (200..600).contains(code));
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    if code.is_none() {
        cx.error(&path.field("status"), format!("{status} is not a status between 200 and 599"));
    }
    let mut direct = DirectBody::Inline(Bytes::new());
    if let Some(message) = body {
        let path = path.field("body");
        let source = data_source(cx, &path, message)?;
        direct = match source.kind {
            DataSourceKind::Inline(bytes) => {
                if bytes.len() > max_body as usize {
                    cx.error(
                        &path,
                        format!(
                            "the body has {} bytes; {max_body} are allowed, raise max_direct_response_body_size_bytes of the route configuration",
                            bytes.len()
                        ),
                    );
                }
                DirectBody::Inline(Bytes::copy_from_slice(&bytes))
            }
            DataSourceKind::File(_) | DataSourceKind::Environment(_) => DirectBody::Source(source),
        };
    }
    Some(DirectResponse { status: code?, body: direct })
}

fn redirect(cx: &Cx, path: &Path<'_>, message: &pb::RedirectAction) -> Option<Redirect> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let pb::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = message;
    let text = |text: &str| (!text.is_empty()).then(|| Box::<str>::from(text));
    let (https, scheme) = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => (*https, None),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => (false, text(scheme)),
        None => (false, None),
    };
    let target = match path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => text(path).map(RedirectPath::Whole),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => text(prefix).map(RedirectPath::Prefix),
        Some(PathRewriteSpecifier::RegexRewrite(message)) => {
            Some(RedirectPath::Regex(matcher::rewrite(cx, &path.field("regex_rewrite"), message)?))
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            cx.refuse(
                &path.field("path_rewrite"),
                "formatted paths are not supported; use path_redirect or regex_rewrite",
            );
            None
        }
        None => None,
    };
    let port = match u16::try_from(*port_redirect) {
        Ok(port) => (port != 0).then_some(port),
        Err(_) => {
            cx.error(&path.field("port_redirect"), format!("{port_redirect} is not a port"));
            None
        }
    };
    Some(Redirect {
        status: match enumeration::<RedirectResponseCode>(cx, path, "response_code", *response_code) {
            RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
            RedirectResponseCode::Found => StatusCode::FOUND,
            RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
            RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
            RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
        },
        https,
        scheme,
        host: text(host_redirect),
        port,
        path: target,
        strip_query: *strip_query,
    })
}

fn forward(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::RouteAction,
    inherited: &Inherited<'_>,
) -> Option<Forward> {
    use pb::route_action::ClusterNotFoundResponseCode;
    let pb::RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout: route_timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier: specifier,
        host_rewrite_specifier,
    } = message;
    refuse!(cx, path, UNSUPPORTED;
        metadata_match, path_rewrite_policy, flush_timeout, early_data_policy, retry_policy_typed_config,
        rate_limits, cors, internal_redirect_policy, internal_redirect_action, hedge_policy);
    refuse!(cx, path, "formatted paths are not supported; use prefix_rewrite or regex_rewrite"; path_rewrite);
    inert!(cx, path, "rate limits are refused anyway"; include_vh_rate_limits);
    inert!(cx, path, "internal redirects are refused anyway"; max_internal_redirects);

    let own_mirrors = mirrors(cx, &path.field("request_mirror_policies"), request_mirror_policies);
    let retry = match retry_policy {
        Some(message) => Some(Arc::new(retry::policy(cx, &path.field("retry_policy"), message))),
        None => inherited.retry.cloned(),
    };
    let path_rewrite = match regex_rewrite {
        Some(message) => {
            if !prefix_rewrite.is_empty() {
                cx.error(
                    &path.field("prefix_rewrite"),
                    "prefix_rewrite and regex_rewrite exclude one another",
                );
            }
            matcher::rewrite(cx, &path.field("regex_rewrite"), message).map(PathRewrite::Regex)
        }
        None => (!prefix_rewrite.is_empty()).then(|| PathRewrite::Prefix(prefix_rewrite.as_str().into())),
    };
    let host_rewrite = host_rewrite(cx, path, host_rewrite_specifier.as_ref());
    let upgrades = upgrades(cx, &path.field("upgrade_configs"), upgrade_configs);
    let not_found =
        enumeration(cx, path, "cluster_not_found_response_code", *cluster_not_found_response_code);
    let forward = Forward {
        cluster: cluster_specifier::specifier(cx, path, specifier.as_ref())?,
        cluster_not_found: match not_found {
            ClusterNotFoundResponseCode::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            ClusterNotFoundResponseCode::NotFound => StatusCode::NOT_FOUND,
            ClusterNotFoundResponseCode::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        },
        path_rewrite,
        host_rewrite,
        append_x_forwarded_host: *append_x_forwarded_host,
        timeout: timeout(cx, path, "timeout", route_timeout, Some(Duration::from_secs(15))),
        idle_timeout: override_of(cx, path, "idle_timeout", idle_timeout),
        retry,
        mirrors: if own_mirrors.is_empty() { inherited.mirrors.to_vec() } else { own_mirrors },
        high_priority: enumeration::<core_pb::RoutingPriority>(cx, path, "priority", *priority)
            == core_pb::RoutingPriority::High,
        max_stream_duration: max_stream_duration
            .as_ref()
            .map(|message| stream_duration(cx, &path.field("max_stream_duration"), message)),
        upgrades,
        max_grpc_timeout: duration(cx, path, "max_grpc_timeout", max_grpc_timeout),
        grpc_timeout_offset: duration(cx, path, "grpc_timeout_offset", grpc_timeout_offset),
        hash_policy: hash::policies(cx, &path.field("hash_policy"), hash_policy),
    };
    Some(forward)
}

/// A duration that takes the place of another: `Some(None)` when it is zero, which turns the timeout off.
#[expect(clippy::option_option, reason = "not given, given as never, given as a time")]
fn override_of(
    cx: &Cx,
    path: &Path<'_>,
    field: &str,
    value: &Option<outrider_proto::pb::google::protobuf::Duration>,
) -> Option<Option<Duration>> {
    duration(cx, path, field, value).map(|time| (!time.is_zero()).then_some(time))
}

fn stream_duration(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::route_action::MaxStreamDuration,
) -> RouteMaxStreamDuration {
    let pb::route_action::MaxStreamDuration {
        max_stream_duration,
        grpc_timeout_header_max,
        grpc_timeout_header_offset,
    } = message;
    RouteMaxStreamDuration {
        max_stream_duration: override_of(cx, path, "max_stream_duration", max_stream_duration),
        grpc_timeout_header_max: override_of(cx, path, "grpc_timeout_header_max", grpc_timeout_header_max),
        grpc_timeout_header_offset: duration(
            cx,
            path,
            "grpc_timeout_header_offset",
            grpc_timeout_header_offset,
        ),
    }
}

fn host_rewrite(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::route_action::HostRewriteSpecifier>,
) -> Option<HostRewrite> {
    use pb::route_action::HostRewriteSpecifier as Kind;
    match message? {
        Kind::HostRewriteLiteral(text) => {
            // Envoy: an empty literal rewrites nothing.
            (!text.is_empty())
                .then(|| HostRewrite::Literal(header_value(cx, &path.field("host_rewrite_literal"), text)))
        }
        Kind::AutoHostRewrite(on) => on.value.then_some(HostRewrite::Auto),
        Kind::HostRewriteHeader(name) => {
            request_header(cx, &path.field("host_rewrite_header"), name).map(HostRewrite::Header)
        }
        Kind::HostRewritePathRegex(message) => {
            matcher::rewrite(cx, &path.field("host_rewrite_path_regex"), message).map(HostRewrite::PathRegex)
        }
        Kind::HostRewrite(_) => {
            cx.refuse(
                &path.field("host_rewrite"),
                "formatted hosts are not supported; use host_rewrite_literal or host_rewrite_header",
            );
            None
        }
    }
}

fn upgrades(cx: &Cx, path: &Path<'_>, messages: &[pb::route_action::UpgradeConfig]) -> Vec<UpgradeConfig> {
    let mut upgrades: Vec<UpgradeConfig> = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let pb::route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = message;
        refuse!(cx, path, "CONNECT is passed on to the upstream, not ended here; remove it"; connect_config);
        add_upgrade(cx, &path, &mut upgrades, upgrade_type, bool_of(enabled).unwrap_or(true));
    }
    upgrades
}

/// Adds an upgrade; the same name twice, in any case, is an error.
pub(crate) fn add_upgrade(
    cx: &Cx,
    path: &Path<'_>,
    upgrades: &mut Vec<UpgradeConfig>,
    name: &str,
    enabled: bool,
) {
    if upgrades.iter().any(|upgrade| upgrade.name.eq_ignore_ascii_case(name)) {
        cx.error(&path.field("upgrade_type"), format!("there is an entry for {name:?} already; keep one"));
    }
    upgrades.push(UpgradeConfig { name: name.to_owned(), enabled });
}

/// Mirror policies.
pub(crate) fn mirrors(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[pb::route_action::RequestMirrorPolicy],
) -> Vec<MirrorPolicy> {
    messages.iter().enumerate().filter_map(|(i, message)| mirror(cx, &path.index(i), message)).collect()
}

fn mirror(cx: &Cx, path: &Path<'_>, message: &pb::route_action::RequestMirrorPolicy) -> Option<MirrorPolicy> {
    let pb::route_action::RequestMirrorPolicy {
        cluster,
        cluster_header,
        runtime_fraction,
        trace_sampled,
        disable_shadow_host_suffix_append,
        request_headers_mutations,
        host_rewrite_literal,
    } = message;
    refuse!(cx, path, UNSUPPORTED; request_headers_mutations, host_rewrite_literal);
    inert!(cx, path, "tracing is not supported, so no copy is sampled"; trace_sampled);
    let cluster = match (cluster.is_empty(), cluster_header.is_empty()) {
        (false, true) => {
            cx.cluster_reference(&path.field("cluster"), cluster);
            MirrorCluster::Name(Arc::from(cluster.as_str()))
        }
        (true, false) => {
            MirrorCluster::Header(request_header(cx, &path.field("cluster_header"), cluster_header)?)
        }
        _ => {
            cx.error(path, "give exactly one of cluster and cluster_header");
            return None;
        }
    };
    Some(MirrorPolicy {
        cluster,
        fraction: runtime_fraction
            .as_ref()
            .map(|message| fraction(cx, &path.field("runtime_fraction"), message)),
        disable_host_suffix: *disable_shadow_host_suffix_append,
    })
}
