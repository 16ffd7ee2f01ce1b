//! Filter chains: what they match, their transport, the network filter at their end.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::listener::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_proto::pb::envoy::extensions::filters::network::rbac::v3::Rbac;
use outrider_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use outrider_proto::pb::google::protobuf::Any;
use outrider_proto::prost::Message as _;

use super::address::cidrs;
use super::cx::{Cx, refuse};
use super::extension::{self, Found};
use super::scalar::{enumeration, timeout, type_of, u32_of, unpack};
use super::{hcm, json, network_rbac, tcp_proxy, tls_context, transport};
use crate::model::{FilterChain, FilterChainMatch, Gate, NetworkFilter, SourceType};

/// The filter chains of a listener. Two that match the same connections are an error.
pub(crate) fn chains(cx: &Cx, path: &Path<'_>, messages: &[pb::FilterChain]) -> Vec<Arc<FilterChain>> {
    let mut seen: HashMap<String, String> = HashMap::new();
    let mut chains = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let Some(chain) = chain(cx, &path, message) else { continue };
        let mut clash = None;
        for key in keys(&chain.matches) {
            if let Some(first) = seen.get(&key) {
                clash = clash.or_else(|| Some(first.clone()));
            } else {
                seen.insert(key, path.to_string());
            }
        }
        if let Some(first) = clash {
            cx.error(
                &path.field("filter_chain_match"),
                format!("it matches connections that {first} matches with the same rules; change or remove one of them"),
            );
        }
        chains.push(Arc::new(chain));
    }
    chains
}

/// Every combination of single criteria that a match stands for: no two chains may share one.
fn keys(matches: &FilterChainMatch) -> Vec<String> {
    fn product<T: std::fmt::Debug>(keys: Vec<String>, values: &[T]) -> Vec<String> {
        if values.is_empty() {
            return keys.into_iter().map(|key| key + "|").collect();
        }
        keys.iter().flat_map(|key| values.iter().map(move |value| format!("{key}|{value:?}"))).collect()
    }
    let FilterChainMatch {
        destination_port,
        prefix_ranges,
        server_names,
        transport_protocol,
        application_protocols,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
    } = matches;
    let mut keys = vec![format!("{destination_port:?}|{transport_protocol}|{source_type:?}")];
    keys = product(keys, prefix_ranges);
    keys = product(keys, server_names);
    keys = product(keys, application_protocols);
    keys = product(keys, direct_source_prefix_ranges);
    keys = product(keys, source_prefix_ranges);
    product(keys, source_ports)
}

/// A filter chain; `None`, and an error, when it lacks what it cannot do without.
pub(crate) fn chain(cx: &Cx, path: &Path<'_>, message: &pb::FilterChain) -> Option<FilterChain> {
    let pb::FilterChain {
        filter_chain_match,
        filters,
        // The listener turns it into a listener filter.
        use_proxy_proto: _use_proxy_proto,
        metadata,
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = message;
    let at = path.field("transport_socket");
    let tls = transport::socket(cx, &at, transport_socket.as_ref(), tls_context::downstream);
    let matches = match filter_chain_match {
        Some(message) => chain_match(cx, &path.field("filter_chain_match"), message),
        None => FilterChainMatch::default(),
    };
    let mut gates = Vec::new();
    let filter = network_filters(cx, &path.field("filters"), filters, &mut gates);
    Some(FilterChain {
        metadata: json::metadata(cx, path, metadata.as_ref()),
        name: Arc::from(name.as_str()),
        matches,
        tls: tls.ok()?.map(Arc::new),
        transport_connect_timeout: timeout(
            cx,
            path,
            "transport_socket_connect_timeout",
            transport_socket_connect_timeout,
            None,
        ),
        gates,
        filter: filter?,
        hash: hash(&message.encode_to_vec()),
        entry_hash: {
            let entry = pb::FilterChain {
                filters: Vec::new(),
                metadata: None,
                name: String::new(),
                ..message.clone()
            };
            hash(&entry.encode_to_vec())
        },
        match_hash: hash(&filter_chain_match.clone().unwrap_or_default().encode_to_vec()),
        gates_hash: {
            let front = filters.split_last().map_or(&[][..], |(_, front)| front);
            hash(&pb::FilterChain { filters: front.to_vec(), ..pb::FilterChain::default() }.encode_to_vec())
        },
    })
}

/// Tells an update apart from what it replaces. Never leaves the process.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn chain_match(cx: &Cx, path: &Path<'_>, message: &pb::FilterChainMatch) -> FilterChainMatch {
    use pb::filter_chain_match::ConnectionSourceType;
    let pb::FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = message;
    refuse!(cx, path, "not implemented, in Envoy neither; use prefix_ranges"; address_suffix, suffix_len);
    let port = |path: &Path<'_>, port: u32| match u16::try_from(port) {
        Ok(port @ 1..) => Some(port),
        _ => {
            cx.error(path, format!("{port} is not a port: it must be 1 to 65535"));
            None
        }
    };
    let names = path.field("server_names");
    FilterChainMatch {
        destination_port: u32_of(destination_port).and_then(|value| port(&path.field("destination_port"), value)),
        prefix_ranges: cidrs(cx, &path.field("prefix_ranges"), prefix_ranges),
        server_names: server_names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                if name.contains('*') && (!name.starts_with("*.") || name.trim_start_matches("*.").contains('*')) {
                    cx.error(
                        &names.index(i),
                        format!("{name:?}: a wildcard stands for the first labels alone, as in *.example.com; leave server_names out to match all"),
                    );
                }
                Arc::from(name.to_ascii_lowercase())
            })
            .collect(),
        transport_protocol: Arc::from(transport_protocol.as_str()),
        application_protocols: application_protocols.iter().map(|name| Arc::from(name.as_str())).collect(),
        direct_source_prefix_ranges: cidrs(
            cx,
            &path.field("direct_source_prefix_ranges"),
            direct_source_prefix_ranges,
        ),
        source_type: match enumeration::<ConnectionSourceType>(cx, path, "source_type", *source_type) {
            ConnectionSourceType::Any => SourceType::Any,
            ConnectionSourceType::SameIpOrLoopback => SourceType::SameIpOrLoopback,
            ConnectionSourceType::External => SourceType::External,
        },
        source_prefix_ranges: cidrs(cx, &path.field("source_prefix_ranges"), source_prefix_ranges),
        source_ports: source_ports
            .iter()
            .enumerate()
            .filter_map(|(i, value)| port(&path.field("source_ports").index(i), *value))
            .collect(),
    }
}

/// The filter that ends the chain; those in front of it are put in `gates`.
fn network_filters(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[pb::Filter],
    gates: &mut Vec<Gate>,
) -> Option<NetworkFilter> {
    use pb::filter::ConfigType;
    let mut found = None;
    let mut failed = false;
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let pb::Filter { name, config_type } = message;
        failed = true;
        let any = match config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            Some(ConfigType::ConfigDiscovery(message)) => {
                let at = path.field("config_discovery");
                let filter = extension::discovered(cx, &at, name, message, &TYPES, kind);
                if i + 1 == messages.len() {
                    found = filter.map(NetworkFilter::Discovered);
                } else {
                    cx.error(&path, format!("the filter {name:?} must be the last network filter"));
                }
                continue;
            }
            None => {
                cx.error(&path, format!("the network filter {name:?} needs a typed_config with its @type"));
                continue;
            }
        };
        let at = path.field("typed_config");
        if let Found::Known(gate) = self::gate(cx, &at, any) {
            gates.extend(gate);
            if i + 1 == messages.len() {
                let why = format!(
                    "the filter {name:?} does not end a chain: tcp_proxy or http_connection_manager is needed behind it"
                );
                cx.error(&path, why);
            }
            continue;
        }
        let Found::Known(filter) = kind(cx, &at, any) else {
            cx.refuse(
                &at,
                format!(
                    "the network filter {} is not supported; use tcp_proxy or http_connection_manager",
                    type_of(any)
                ),
            );
            continue;
        };
        if i + 1 == messages.len() {
            found = filter;
        } else {
            cx.error(
                &path,
                format!("the filter {name:?} ends the chain and so must be the last network filter"),
            );
        }
    }
    if found.is_none() && !failed {
        cx.error(path, "no filter: a chain ends in tcp_proxy or http_connection_manager");
    }
    found
}

/// The filter in front of others whose settings `any` carries.
fn gate(cx: &Cx, path: &Path<'_>, any: &Any) -> Found<Gate> {
    Found::Known(if outrider_proto::any::is::<Rbac>(any) {
        unpack(cx, path, any).map(|message| Gate::Rbac(Arc::new(network_rbac::filter(cx, path, &message))))
    } else {
        return Found::Unknown;
    })
}

/// The types of filters that a control plane may send.
const TYPES: [&str; 2] = [
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
];

/// The filter whose settings `any` carries.
pub(super) fn kind(cx: &Cx, path: &Path<'_>, any: &Any) -> Found<NetworkFilter> {
    Found::Known(if outrider_proto::any::is::<TcpProxy>(any) {
        unpack(cx, path, any)
            .and_then(|message| tcp_proxy::tcp_proxy(cx, path, &message))
            .map(|filter| NetworkFilter::TcpProxy(Arc::new(filter)))
    } else if outrider_proto::any::is::<HttpConnectionManager>(any) {
        unpack(cx, path, any)
            .and_then(|message| hcm::manager(cx, path, &message))
            .map(|filter| NetworkFilter::Http(Arc::new(filter)))
    } else {
        return Found::Unknown;
    })
}
