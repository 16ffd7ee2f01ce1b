//! Clusters.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::cluster::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::config::core::v3::health_check::HealthChecker;
use outrider_proto::pb::envoy::extensions::upstreams::http::generic::v3::GenericConnectionPoolProto;

use super::address::{bind, keepalive};
use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, duration, stat_name, type_of, u32_of};
use super::{active, breaker, cluster_http, discovery, json, lb, outlier, tls_context, transport};
use crate::model::{ActiveCheck, Cluster, Discovery, TcpKeepalive, TransportSocketMatch, UpstreamProtocol};

/// A cluster; `None`, and an error, when it lacks what it cannot do without.
#[expect(clippy::too_many_lines, reason = "one message of sixty fields, destructured and built once")]
pub(crate) fn cluster(cx: &Cx, path: &Path<'_>, message: &pb::Cluster) -> Option<Cluster> {
    let pb::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
        outlier_detection,
        cleanup_interval,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = message;
    refuse!(cx, path, UNSUPPORTED;
        transport_socket_matcher, stats_matcher,
        per_connection_buffer_high_watermark_timeout, lb_subset_config, filters,
        track_timeout_budgets, track_cluster_stats, preconnect_policy,
        connection_pool_per_downstream_connection, queuing_policies);
    inert!(cx, path, "Envoy does not read it either: reports go where cluster_manager.load_stats_config says"; lrs_server);
    refuse!(cx, path, "the load metrics of endpoints (ORCA) are not reported; remove it"; lrs_report_endpoint_metrics);
    if health_checks.is_empty() {
        inert!(cx, path, "there are no active health checks that it could overrule"; ignore_health_on_host_removal);
    }
    if outlier_detection.is_none() && health_checks.is_empty() {
        inert!(cx, path, "nothing checks the health of its hosts"; close_connections_on_host_health_failure);
    } else {
        refuse!(cx, path, "connections of hosts that are taken out go on; remove it";
            close_connections_on_host_health_failure);
    }
    if bool_of(wait_for_warm_on_init) == Some(false) {
        cx.refuse(&path.field("wait_for_warm_on_init"), "the start waits for every cluster; remove it");
    }
    upstream(cx, &path.field("upstream_config"), upstream_config.as_ref());

    let dns = discovery::OldDns {
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate: dns_failure_refresh_rate.as_ref(),
        respect_dns_ttl: *respect_dns_ttl,
        dns_lookup_family: *dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups: *use_tcp_for_dns_lookups,
        dns_resolution_config: dns_resolution_config.as_ref(),
        typed_dns_resolver_config: typed_dns_resolver_config.as_ref(),
    };
    let discovery = discovery::discovery(
        cx,
        path,
        &discovery::Fields {
            name,
            kind: cluster_discovery_type.as_ref(),
            eds: eds_cluster_config.as_ref(),
            assignment: load_assignment.as_ref(),
            dns,
            cleanup_interval,
            lb_config: lb_config.as_ref(),
        },
    );
    if eds_cluster_config.is_some() && !matches!(discovery, None | Some(crate::model::Discovery::Eds { .. }))
    {
        cx.error(&path.field("eds_cluster_config"), "it is for clusters of type EDS alone; remove it");
    }
    let (lb, hash_policy) = lb::policy(
        cx,
        path,
        &lb::Fields {
            policy: *lb_policy,
            config: lb_config.as_ref(),
            extension: load_balancing_policy.as_ref(),
            common: common_lb_config.as_ref(),
            original_dst: discovery
                .as_ref()
                .is_some_and(|found| matches!(found, crate::model::Discovery::OriginalDst(_))),
        },
    );
    let common_lb = lb::common(cx, &path.field("common_lb_config"), common_lb_config.as_ref());
    let old = cluster_http::Old {
        max_requests_per_connection,
        upstream: upstream_http_protocol_options.as_ref(),
        common: common_http_protocol_options.as_ref(),
        http1: http_protocol_options.as_ref(),
        http2: http2_protocol_options.as_ref(),
        selection: *protocol_selection,
    };
    let http = cluster_http::options(cx, path, typed_extension_protocol_options, &old);
    let http2 = http.takes_http2;
    let at = path.field("transport_socket");
    let tls = transport::socket(cx, &at, transport_socket.as_ref(), tls_context::upstream);
    if http.protocol == UpstreamProtocol::Auto && matches!(tls, Ok(None)) {
        cx.error(
            &path.field("transport_socket"),
            "auto_config chooses the protocol by ALPN, which needs a TLS transport socket",
        );
    }
    let tls_matches = matches(cx, &path.field("transport_socket_matches"), transport_socket_matches);
    let connect_timeout =
        duration(cx, path, "connect_timeout", connect_timeout).unwrap_or(Duration::from_secs(5));
    if connect_timeout.is_zero() {
        cx.error(&path.field("connect_timeout"), "it must be more than 0s");
    }
    let bind = upstream_bind_config
        .as_ref()
        .map(|message| bind(cx, &path.field("upstream_bind_config"), message))
        .unwrap_or_default()
        .over(&cx.cluster_defaults.borrow().bind);
    let (breakers, per_host_max_connections) =
        breaker::breakers(cx, &path.field("circuit_breakers"), circuit_breakers.as_ref());
    Some(Cluster {
        metadata: json::metadata(cx, path, metadata.as_ref()),
        name: Arc::from(name.as_str()),
        stat_name: Arc::from(stat_name(if alt_stat_name.is_empty() { name } else { alt_stat_name })),
        alt_stat_name: (!alt_stat_name.is_empty()).then(|| Arc::from(alt_stat_name.as_str())),
        lb,
        hash_policy,
        connect_timeout,
        per_connection_buffer_limit: u32_of(per_connection_buffer_limit_bytes).unwrap_or(1 << 20) as usize,
        tls: tls.ok()?.map(Arc::new),
        tls_matches,
        http,
        breaker_default: breakers.default,
        breaker_high: breakers.high,
        per_host_max_connections,
        socket_options: bind.socket_options(),
        bind: bind.source,
        bind_other: bind.extra,
        keepalive: connection_options(
            cx,
            &path.field("upstream_connection_options"),
            upstream_connection_options.as_ref(),
        ),
        close_connections_on_host_health_failure: *close_connections_on_host_health_failure,
        panic_threshold: common_lb.panic_threshold,
        fail_traffic_on_panic: common_lb.fail_traffic_on_panic,
        checks: health_checks_of(cx, path, health_checks, discovery.as_ref(), http2),
        ignore_new_until_checked: common_lb.ignore_new_until_checked,
        ignore_health_on_removal: *ignore_health_on_host_removal,
        outlier: outlier_detection
            .as_ref()
            .map(|message| Box::new(outlier::detection(cx, &path.field("outlier_detection"), message))),
        discovery: discovery?,
    })
}

fn health_checks_of(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[core_pb::HealthCheck],
    discovery: Option<&Discovery>,
    takes_http2: bool,
) -> Option<Box<ActiveCheck>> {
    let path = path.field("health_checks");
    for (i, message) in messages.iter().enumerate().filter(|_| !takes_http2) {
        if let Some(HealthChecker::GrpcHealthCheck(_)) = message.health_checker {
            cx.error(
                &path.index(i).field("grpc_health_check"),
                "gRPC needs HTTP/2: give the cluster http2_protocol_options in its HttpProtocolOptions",
            );
        }
    }
    if !messages.is_empty() && matches!(discovery, Some(Discovery::OriginalDst(_))) {
        cx.refuse(&path, "hosts of type ORIGINAL_DST come by their requests and are not checked; remove it");
    }
    active::checks(cx, &path, messages)
}

/// Transport sockets by what a host's metadata says.
fn matches(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[pb::cluster::TransportSocketMatch],
) -> Vec<TransportSocketMatch> {
    let mut matches = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let pb::cluster::TransportSocketMatch { name, r#match, transport_socket } = message;
        let at = path.field("transport_socket");
        if transport_socket.is_none() {
            cx.error(&at, "a transport socket is needed: TLS or raw_buffer");
        }
        // One that is not usable has said so; it never reads as plain.
        let Ok(tls) = transport::socket(cx, &at, transport_socket.as_ref(), tls_context::upstream) else {
            continue;
        };
        matches.push(TransportSocketMatch {
            name: Arc::from(name.as_str()),
            criteria: r#match.as_ref().map(json::members).unwrap_or_default(),
            tls: tls.map(Arc::new),
        });
    }
    matches
}

/// The kind of upstream: the generic one is the one there is.
fn upstream(cx: &Cx, path: &Path<'_>, message: Option<&core_pb::TypedExtensionConfig>) {
    let Some(core_pb::TypedExtensionConfig { name: _name, typed_config }) = message else { return };
    match typed_config {
        Some(any) if outrider_proto::any::is::<GenericConnectionPoolProto>(any) => {
            cx.inert(path, "the generic upstream is the default");
        }
        Some(any) => {
            cx.refuse(&path.field("typed_config"), format!("the upstream {} is not supported", type_of(any)));
        }
        None => cx.error(path, "a typed_config is needed"),
    }
}

fn connection_options(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::UpstreamConnectionOptions>,
) -> Option<TcpKeepalive> {
    let pb::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = message?;
    inert!(cx, path, "only extensions read the interface's name"; set_local_interface_name_on_upstream_connections);
    refuse!(cx, path, "hosts have one address each, so there is nothing to choose; remove it"; happy_eyeballs_config);
    tcp_keepalive.as_ref().map(keepalive)
}
