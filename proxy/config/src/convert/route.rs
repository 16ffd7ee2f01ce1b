//! Route tables, virtual hosts, routes and what they match.

use std::collections::HashMap;
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::route::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::header::{Lists, mutations};
use super::route_action::{self, Inherited};
use super::scalar::{bool_of, enumeration, fraction, header_name, u32_of};
use super::xds::delta_source;
use super::{http_filter, json, matcher, retry};
use crate::model::{
    ConfigSource, PathMatch, RequireTls, Route, RouteConfiguration, RouteMatch, TlsContextMatch, Vhds,
    VirtualCluster, VirtualHost,
};

/// The reason why metadata of routes changes nothing.
const METADATA: &str = "read by extensions alone, and none of those supported reads it";

/// A route table that a control plane sent: its clusters may come later (`validate_clusters` is false by default).
pub(crate) fn dynamic(cx: &Cx, path: &Path<'_>, message: &pb::RouteConfiguration) -> RouteConfiguration {
    table(cx, path, message, false)
}

/// A route table that stands in a connection manager.
pub(crate) fn route_configuration(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::RouteConfiguration,
) -> RouteConfiguration {
    table(cx, path, message, true)
}

fn table(cx: &Cx, path: &Path<'_>, message: &pb::RouteConfiguration, inline: bool) -> RouteConfiguration {
    let pb::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = message;
    if inline {
        refuse!(cx, path, "virtual hosts come to tables that came by rds themselves; write virtual_hosts"; vhds);
    }
    let vhds_source = vhds.as_ref().and_then(|message| vhds_source(cx, &path.field("vhds"), message));
    refuse!(cx, path, UNSUPPORTED; cluster_specifier_plugins, vhost_header, route_specifiers);
    let filters = http_filter::overrides(cx, path, typed_per_filter_config);
    inert!(cx, path, METADATA; metadata);
    let validate_clusters = bool_of(validate_clusters).unwrap_or(inline);
    cx.check_clusters.set(validate_clusters);
    let mirrors = route_action::mirrors(cx, &path.field("request_mirror_policies"), request_mirror_policies);
    let max_direct_response_body = u32_of(max_direct_response_body_size_bytes).unwrap_or(4096);
    let vhds = vhds_source.map(|source| Arc::new(Vhds { source, mirrors: mirrors.clone() }));
    let hosts = path.field("virtual_hosts");
    let mut seen = HashMap::new();
    for (i, message) in virtual_hosts.iter().enumerate() {
        check_domains(cx, &hosts.index(i), &message.domains, &mut seen);
    }
    RouteConfiguration {
        name: Arc::from(name.as_str()),
        virtual_hosts: virtual_hosts
            .iter()
            .enumerate()
            .map(|(i, message)| {
                let inherited = Inherited { retry: None, mirrors: &mirrors, max_direct_response_body };
                Arc::new(virtual_host(cx, &hosts.index(i), message, &inherited))
            })
            .collect(),
        headers: mutations(
            cx,
            path,
            &Lists {
                request_add: request_headers_to_add,
                request_remove: request_headers_to_remove,
                response_add: response_headers_to_add,
                response_remove: response_headers_to_remove,
            },
        ),
        internal_only_headers: internal_only_headers
            .iter()
            .enumerate()
            .filter_map(|(i, name)| header_name(cx, &path.field("internal_only_headers").index(i), name))
            .collect(),
        most_specific_wins: *most_specific_header_mutations_wins,
        ignore_port: *ignore_port_in_host_matching,
        validate_clusters,
        max_direct_response_body,
        ignore_path_parameters: *ignore_path_parameters_in_path_matching,
        filters,
        vhds,
    }
}

/// Where a table's other virtual hosts come from.
fn vhds_source(cx: &Cx, path: &Path<'_>, message: &pb::Vhds) -> Option<ConfigSource> {
    let pb::Vhds { config_source } = message;
    let path = path.field("config_source");
    let Some(source) = config_source else {
        cx.error(&path, "a source of the virtual hosts is needed");
        return None;
    };
    delta_source(cx, &path, source, "virtual hosts on demand")
}

/// A virtual host of `table` that a control plane sent by itself.
pub(crate) fn dynamic_virtual_host(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::VirtualHost,
    table: &RouteConfiguration,
) -> VirtualHost {
    cx.check_clusters.set(table.validate_clusters);
    check_domains(cx, path, &message.domains, &mut HashMap::new());
    let mirrors = table.vhds.as_ref().map_or(&[][..], |vhds| &vhds.mirrors);
    let inherited =
        Inherited { retry: None, mirrors, max_direct_response_body: table.max_direct_response_body };
    virtual_host(cx, path, message, &inherited)
}

/// A domain may stand in one virtual host alone, and once. `seen`: who has it.
fn check_domains(cx: &Cx, host: &Path<'_>, domains: &[String], seen: &mut HashMap<String, String>) {
    for (i, domain) in domains.iter().enumerate() {
        let list = host.field("domains");
        let at = list.index(i);
        if let Some(first) = seen.get(&domain.to_ascii_lowercase()) {
            let what = if domain == "*" { "the catch-all domain *" } else { "this domain" };
            cx.error(
                &at,
                format!("{what} is taken by {first} already; a domain may stand in one place alone"),
            );
        } else {
            seen.insert(domain.to_ascii_lowercase(), at.to_string());
        }
    }
}

fn virtual_host(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::VirtualHost,
    inherited: &Inherited<'_>,
) -> VirtualHost {
    use pb::virtual_host::TlsRequirementType;
    let pb::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = message;
    refuse!(cx, path, UNSUPPORTED;
        matcher, rate_limits, cors, retry_policy_typed_config, hedge_policy, route_specifiers);
    let filters = http_filter::overrides(cx, path, typed_per_filter_config);
    let buffer_limit = buffer_limit(per_request_buffer_limit_bytes, request_body_buffer_limit);
    let retry = retry_policy
        .as_ref()
        .map(|message| Arc::new(retry::policy(cx, &path.field("retry_policy"), message)));
    let own_mirrors =
        route_action::mirrors(cx, &path.field("request_mirror_policies"), request_mirror_policies);
    let mirrors = if own_mirrors.is_empty() { inherited.mirrors } else { &own_mirrors };
    let inherited = Inherited { retry: retry.as_ref(), mirrors, ..*inherited };
    let at = path.field("routes");
    VirtualHost {
        metadata: json::metadata(cx, path, metadata.as_ref()),
        virtual_clusters: virtual_clusters_of(cx, &path.field("virtual_clusters"), virtual_clusters),
        name: Arc::from(name.as_str()),
        domains: domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
        routes: routes
            .iter()
            .enumerate()
            .filter_map(|(i, message)| route(cx, &at.index(i), message, &inherited, buffer_limit))
            .map(Arc::new)
            .collect(),
        require_tls: match enumeration::<TlsRequirementType>(cx, path, "require_tls", *require_tls) {
            TlsRequirementType::None => RequireTls::None,
            TlsRequirementType::ExternalOnly => RequireTls::External,
            TlsRequirementType::All => RequireTls::All,
        },
        headers: mutations(
            cx,
            path,
            &Lists {
                request_add: request_headers_to_add,
                request_remove: request_headers_to_remove,
                response_add: response_headers_to_add,
                response_remove: response_headers_to_remove,
            },
        ),
        request_attempt_count: *include_request_attempt_count,
        attempt_count_in_response: *include_attempt_count_in_response,
        is_timeout_retry_header: *include_is_timeout_retry_header,
        filters,
    }
}

fn virtual_clusters_of(cx: &Cx, path: &Path<'_>, messages: &[pb::VirtualCluster]) -> Vec<VirtualCluster> {
    let one = |(i, message): (usize, &pb::VirtualCluster)| {
        let pb::VirtualCluster { headers, name } = message;
        let path = path.index(i);
        let at = path.field("headers");
        if headers.is_empty() {
            cx.error(&at, "a virtual cluster needs at least one header to match");
        }
        VirtualCluster { name: Arc::from(name.as_str()), headers: matcher::headers(cx, &at, headers) }
    };
    messages.iter().enumerate().map(one).collect()
}

/// The body limit; the newer field comes first.
fn buffer_limit(
    old: &Option<outrider_proto::pb::google::protobuf::UInt32Value>,
    new: &Option<outrider_proto::pb::google::protobuf::UInt64Value>,
) -> Option<u64> {
    new.as_ref().map(|limit| limit.value).or(u32_of(old).map(u64::from))
}

fn route(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::Route,
    inherited: &Inherited<'_>,
    host_buffer_limit: Option<u64>,
) -> Option<Route> {
    let pb::Route {
        name,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = message;
    refuse!(cx, path, "tracing is not supported; remove it"; tracing);
    inert!(cx, path, "it names spans, and tracing is not supported"; decorator);
    refuse!(cx, path, UNSUPPORTED; route_specifiers);
    let filters = http_filter::overrides(cx, path, typed_per_filter_config);
    let headers = mutations(
        cx,
        path,
        &Lists {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: response_headers_to_add,
            response_remove: response_headers_to_remove,
        },
    );
    let matches = match r#match {
        Some(message) => route_match(cx, &path.field("match"), message),
        None => {
            cx.error(&path.field("match"), "a match is needed, such as {prefix: \"/\"}");
            None
        }
    };
    let action = route_action::action(cx, path, action.as_ref(), inherited);
    Some(Route {
        metadata: json::metadata(cx, path, metadata.as_ref()),
        name: (!name.is_empty()).then(|| Arc::from(name.as_str())),
        matches: matches?,
        action: action?,
        headers,
        per_request_buffer_limit: buffer_limit(per_request_buffer_limit_bytes, request_body_buffer_limit)
            .or(host_buffer_limit),
        stat_prefix: (!stat_prefix.is_empty()).then(|| Arc::from(stat_prefix.as_str())),
        filters,
    })
}

/// What a route's `match` asks for; `None`, and an error, when it is not usable.
pub(crate) fn route_match(cx: &Cx, path: &Path<'_>, message: &pb::RouteMatch) -> Option<RouteMatch> {
    use pb::route_match::{GrpcRouteMatchOptions, TlsContextMatchOptions};
    let pb::RouteMatch {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = message;
    refuse!(cx, path, "cookies cannot be matched by themselves yet; match the cookie header"; cookies);
    refuse!(cx, path, "no supported filter writes it; remove it"; dynamic_metadata, filter_state);
    let headers = matcher::headers(cx, &path.field("headers"), headers);
    let query = matcher::queries(cx, &path.field("query_parameters"), query_parameters);
    let fraction =
        runtime_fraction.as_ref().map(|message| fraction(cx, &path.field("runtime_fraction"), message));
    let path_match = path_match(cx, path, path_specifier.as_ref())?;
    Some(RouteMatch {
        path: path_match,
        case_sensitive: bool_of(case_sensitive).unwrap_or(true),
        headers,
        query,
        grpc: matches!(grpc, Some(GrpcRouteMatchOptions {})),
        fraction,
        tls: tls_context.as_ref().map(|TlsContextMatchOptions { presented, validated }| TlsContextMatch {
            presented: bool_of(presented),
            validated: bool_of(validated),
        }),
    })
}

fn path_match(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::route_match::PathSpecifier>,
) -> Option<PathMatch> {
    use pb::route_match::{ConnectMatcher, PathSpecifier};
    Some(match message {
        Some(PathSpecifier::Prefix(text)) => PathMatch::Prefix(text.as_str().into()),
        Some(PathSpecifier::Path(text)) => PathMatch::Exact(text.as_str().into()),
        Some(PathSpecifier::PathSeparatedPrefix(text)) => {
            // Envoy's rule: ^[^?#]+[^?#/]$
            if text.len() < 2 || text.contains(['?', '#']) || text.ends_with('/') {
                cx.error(
                    &path.field("path_separated_prefix"),
                    format!(
                        "{text:?} must have at least two characters, none of them ? or #, and not end in /"
                    ),
                );
            }
            PathMatch::SeparatedPrefix(text.as_str().into())
        }
        Some(PathSpecifier::SafeRegex(message)) => {
            PathMatch::Regex(Box::new(matcher::whole_regex(cx, &path.field("safe_regex"), message)?))
        }
        Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})) => PathMatch::Connect,
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            cx.refuse(
                &path.field("path_match_policy"),
                "URI templates are not supported; write the match as safe_regex",
            );
            return None;
        }
        None => {
            cx.error(path, "give one of prefix, path, path_separated_prefix, safe_regex and connect_matcher");
            return None;
        }
    })
}
