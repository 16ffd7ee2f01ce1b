//! Listeners.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::config::listener::v3 as pb;

use super::access_log::{self, Protocol};
use super::address::{Names, keepalive, required, socket_options};
use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, enumeration, runtime_integer, stat_name, timeout, u32_of};
use super::{filter_chain, json, listener_filter};
use crate::model::{
    FilterChain, Listener, ListenerAddress, NO_LIMIT, RuntimeInteger, SocketAddress, TrafficDirection,
};

/// A listener; `None`, and an error, when it lacks what it cannot do without.
#[expect(clippy::too_many_lines, reason = "one message of forty fields, destructured and built once")]
pub(crate) fn listener(cx: &Cx, path: &Path<'_>, message: &pb::Listener) -> Option<Listener> {
    let pb::Listener {
        name,
        address,
        additional_addresses,
        stat_prefix,
        stats_matcher,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        metadata,
        deprecated_v1,
        drain_type,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options: options,
        tcp_fast_open_queue_length,
        traffic_direction,
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        access_log,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event,
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive,
        listener_specifier,
    } = message;
    refuse!(cx, path, UNSUPPORTED;
        stats_matcher, filter_chain_matcher, per_connection_buffer_high_watermark_timeout, enable_mptcp);
    refuse!(cx, path, "filter chain discovery comes with xDS; write filter_chains"; fcds_config);
    refuse!(cx, path, "UDP and QUIC are not supported; remove the listener"; udp_listener_config);
    refuse!(cx, path, "API listeners are for Envoy Mobile; write filter_chains"; api_listener);
    if let Some(pb::listener::ListenerSpecifier::InternalListener(_)) = listener_specifier {
        cx.refuse(
            &path.field("internal_listener"),
            "internal listeners are not supported; remove the listener",
        );
    }
    inert!(cx, path, "no overload action is supported that it could bypass"; bypass_overload_manager);
    inert!(cx, path, "it is the default; enable_reuse_port turns it off"; reuse_port);
    balance(cx, &path.field("connection_balance_config"), connection_balance_config.as_ref());

    let old_bind =
        deprecated_v1.as_ref().and_then(|pb::listener::DeprecatedV1 { bind_to_port }| bool_of(bind_to_port));
    let bind = bool_of(bind_to_port).unwrap_or(true) && old_bind.unwrap_or(true);
    let use_original_dst = bool_of(use_original_dst).unwrap_or(false);
    let addresses = addresses(cx, path, address.as_ref(), additional_addresses);
    let first = addresses.first().map(|address| address.address.clone());
    let label = first.as_ref().map(SocketAddress::to_string).unwrap_or_default();
    let name = if name.is_empty() { label.as_str() } else { name.as_str() };

    let chains = filter_chain::chains(cx, &path.field("filter_chains"), filter_chains);
    let default_filter_chain = default_filter_chain
        .as_ref()
        .map(|message| filter_chain::chain(cx, &path.field("default_filter_chain"), message))
        // It is another place than that of a chain without a match.
        .map(|chain| chain.map(|chain| Arc::new(FilterChain { match_hash: !chain.match_hash, ..chain })));
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        cx.error(&path.field("filter_chains"), "no filter chain: give one, or a default_filter_chain");
    }
    let listener_filters = listener_filter::filters(
        cx,
        &path.field("listener_filters"),
        listener_filters,
        &listener_filter::Implied {
            original_dst: use_original_dst,
            proxy_protocol: filter_chains.iter().any(|chain| bool_of(&chain.use_proxy_proto) == Some(true)),
        },
    );
    Some(Listener {
        metadata: json::metadata(cx, path, metadata.as_ref()),
        name: Arc::from(name),
        stat_prefix: match stat_prefix.as_str() {
            "" => Arc::from(stat_name(&label)),
            prefix => Arc::from(prefix),
        },
        addresses,
        bind_to_port: bind,
        use_original_dst,
        listener_filters,
        listener_filters_timeout: timeout(
            cx,
            path,
            "listener_filters_timeout",
            listener_filters_timeout,
            Some(Duration::from_secs(15)),
        ),
        continue_on_listener_filters_timeout: *continue_on_listener_filters_timeout,
        filter_chains: chains,
        default_filter_chain: default_filter_chain.flatten(),
        per_connection_buffer_limit: u32_of(per_connection_buffer_limit_bytes).unwrap_or(1 << 20) as usize,
        reuse_port: bool_of(enable_reuse_port).unwrap_or(true),
        // The kernel cuts it down to net.core.somaxconn, which is Envoy's default.
        backlog: u32_of(tcp_backlog_size).unwrap_or(i32::MAX.unsigned_abs()),
        transparent: bool_of(transparent),
        freebind: bool_of(freebind),
        tcp_fast_open: u32_of(tcp_fast_open_queue_length),
        keepalive: tcp_keepalive.as_ref().map(keepalive),
        socket_options: socket_options(cx, &path.field("socket_options"), options),
        max_accepts_per_event: accepts(cx, path, max_connections_to_accept_per_socket_event),
        access_logs: access_log::logs(cx, &path.field("access_log"), access_log, Protocol::Tcp),
        ignore_global_conn_limit: *ignore_global_conn_limit,
        direction: direction(cx, path, *traffic_direction),
        drain_modify_only: modify_only(cx, path, *drain_type),
        connection_limit: connection_limit(cx, name),
    })
    .filter(|_| first.is_some())
}

/// The two kinds differ in `/healthcheck/fail` alone, which drains no listener here.
fn modify_only(cx: &Cx, path: &Path<'_>, drain_type: i32) -> bool {
    let modify_only = enumeration::<pb::listener::DrainType>(cx, path, "drain_type", drain_type)
        == pb::listener::DrainType::ModifyOnly;
    if modify_only {
        cx.inert(
            &path.field("drain_type"),
            "/healthcheck/fail drains no listener, so both kinds behave alike",
        );
    }
    modify_only
}

/// What a listener accepts at one event; 0 for all there are.
fn accepts(
    cx: &Cx,
    path: &Path<'_>,
    value: &Option<outrider_proto::pb::google::protobuf::UInt32Value>,
) -> u32 {
    let accepts = u32_of(value);
    if accepts == Some(0) {
        cx.error(&path.field("max_connections_to_accept_per_socket_event"), "it must be 1 or more");
    }
    accepts.unwrap_or(0)
}

/// The limit that the runtime sets.
fn connection_limit(cx: &Cx, name: &str) -> RuntimeInteger {
    let key = format!("envoy.resource_limits.listener.{name}.connection_limit");
    runtime_integer(cx, &key, NO_LIMIT.default)
}

fn direction(cx: &Cx, path: &Path<'_>, value: i32) -> TrafficDirection {
    match enumeration::<core_pb::TrafficDirection>(cx, path, "traffic_direction", value) {
        core_pb::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
        core_pb::TrafficDirection::Inbound => TrafficDirection::Inbound,
        core_pb::TrafficDirection::Outbound => TrafficDirection::Outbound,
    }
}

fn balance(cx: &Cx, path: &Path<'_>, message: Option<&pb::listener::ConnectionBalanceConfig>) {
    use pb::listener::connection_balance_config::BalanceType;
    const KERNEL: &str = "the kernel spreads connections over the workers' sockets (SO_REUSEPORT)";
    let Some(pb::listener::ConnectionBalanceConfig { balance_type }) = message else { return };
    match balance_type {
        Some(BalanceType::ExactBalance(_)) => cx.inert(&path.field("exact_balance"), KERNEL),
        Some(BalanceType::CpuLocalityBalance(_)) => cx.inert(&path.field("cpu_locality_balance"), KERNEL),
        Some(BalanceType::ExtendBalance(_)) => cx.refuse(&path.field("extend_balance"), UNSUPPORTED),
        None => cx.error(path, "give a way of balancing, such as exact_balance"),
    }
}

fn addresses(
    cx: &Cx,
    path: &Path<'_>,
    first: Option<&core_pb::Address>,
    more: &[pb::AdditionalAddress],
) -> Vec<ListenerAddress> {
    let mut addresses = Vec::with_capacity(1 + more.len());
    if let Some(address) = required(cx, &path.field("address"), first, Names::Refused) {
        addresses.push(ListenerAddress {
            address,
            ipv4_compat: ipv4_compat(cx, &path.field("address"), first),
            socket_options: None,
            keepalive: None,
        });
    }
    let at = path.field("additional_addresses");
    for (i, message) in more.iter().enumerate() {
        let path = at.index(i);
        let pb::AdditionalAddress { address: message, socket_options: options, tcp_keepalive } = message;
        let at = path.field("address");
        let Some(address) = required(cx, &at, message.as_ref(), Names::Refused) else { continue };
        let options = options.as_ref().map(|core_pb::SocketOptionsOverride { socket_options: options }| {
            let path = path.field("socket_options");
            socket_options(cx, &path.field("socket_options"), options)
        });
        addresses.push(ListenerAddress {
            address,
            ipv4_compat: ipv4_compat(cx, &at, message.as_ref()),
            socket_options: options,
            keepalive: tcp_keepalive.as_ref().map(keepalive),
        });
    }
    addresses
}

/// Whether an IPv6 address takes IPv4 too; on an address that cannot, Envoy refuses it.
fn ipv4_compat(cx: &Cx, path: &Path<'_>, message: Option<&core_pb::Address>) -> bool {
    let Some(core_pb::address::Address::SocketAddress(message)) =
        message.and_then(|message| message.address.as_ref())
    else {
        return false;
    };
    let fits = |ip: std::net::Ipv6Addr| ip.is_unspecified() || ip.to_ipv4_mapped().is_some();
    if message.ipv4_compat && !message.address.parse().is_ok_and(fits) {
        let path = path.field("socket_address");
        cx.error(
            &path.field("ipv4_compat"),
            "only :: and IPv4-mapped IPv6 addresses can take IPv4 as well; remove it",
        );
    }
    message.ipv4_compat
}
