//! Which listener and filter chain a connection meets, and what is in it.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Service;
use network::http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier};
use network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier};
use outrider_proto::any;
use outrider_proto::pb::envoy::config::core::v3::{TrafficDirection, address, socket_address};
use outrider_proto::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, filter::ConfigType,
};
use outrider_proto::pb::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::pb::envoy::extensions::filters::network;

use super::{Asked, Story, policy, resource};
use crate::translate::sidecar::routes::HTTP_PROXY;
use crate::translate::{Context, Resources, Type, names};
use crate::world::{Proxy, Role};

/// What a chain does with a connection.
pub(super) enum Found {
    /// It speaks HTTP.
    Http(Box<HttpConnectionManager>),
    /// It passes bytes on, to clusters by weight.
    Tcp(Vec<(String, u32)>),
}

/// What the request's connection meets; an error is a verdict.
pub(super) fn find(
    context: &Context,
    proxy: &Proxy,
    resources: &Resources,
    asked: &Asked,
    story: &mut Story,
) -> Result<Found, String> {
    let all: Vec<Listener> = resources
        .of(Type::Listener)
        .iter()
        .filter_map(|it| outrider_proto::prost::Message::decode(it.body.clone()).ok())
        .collect();
    if proxy.grpc {
        return api_listener(&all, asked, story);
    }
    let listener = choose(context, proxy, &all, asked, story)?;
    let chain = chain(listener, asked).ok_or_else(|| {
        format!("the connection is closed: no filter chain of listener {} is for it", listener.name)
    })?;
    if !chain.name.is_empty() {
        story.step("filter chain", &chain.name, None, true, chain_reason(chain));
    }
    if let Some(verdict) = policy::network(&chain.filters, asked, story) {
        return Err(verdict);
    }
    content(&chain.filters)
        .ok_or_else(|| format!("listener {} neither speaks HTTP nor passes bytes on", listener.name))
}

fn choose<'l>(
    context: &Context,
    proxy: &Proxy,
    all: &'l [Listener],
    asked: &Asked,
    story: &mut Story,
) -> Result<&'l Listener, String> {
    if asked.inbound {
        let inbound = |it: &&Listener| it.traffic_direction == TrafficDirection::Inbound as i32;
        let found = all.iter().find(inbound).ok_or("the proxy has no inbound listener")?;
        story.step(
            "listener",
            &found.name,
            None,
            true,
            "what arrives for the application is redirected here",
        );
        return Ok(found);
    }
    let outbound = |it: &&Listener| it.traffic_direction != TrafficDirection::Inbound as i32;
    if asked.port == 0 {
        if proxy.role == Role::Sidecar {
            let found = all.iter().find(|it| it.name == HTTP_PROXY);
            let found = found.ok_or("the proxy has no explicit HTTP listener; give a port")?;
            let (_, port) = address_of(found).unwrap_or_default();
            story.step(
                "listener",
                &found.name,
                None,
                true,
                format!("the explicit HTTP listener, at 127.0.0.1:{port}"),
            );
            return Ok(found);
        }
        let mut http: Vec<_> = all.iter().filter(outbound).filter(|it| speaks_http(it)).collect();
        http.sort_by_key(|it| address_of(it).map(|(_, port)| port));
        let found = http.first().ok_or("the gateway has no listener for HTTP")?;
        let (_, port) = address_of(found).unwrap_or_default();
        story.step("listener", &found.name, None, true, format!("the first one for HTTP, at port {port}"));
        return Ok(found);
    }
    let at_port: Vec<_> = all
        .iter()
        .filter(outbound)
        .filter(|it| address_of(it).is_some_and(|(_, port)| port == asked.port))
        .collect();
    let addresses = service_addresses(context, proxy, asked);
    let exact = at_port.iter().find(|it| address_of(it).is_some_and(|(host, _)| addresses.contains(&host)));
    let any = at_port
        .iter()
        .find(|it| address_of(it).is_some_and(|(host, _)| host == "0.0.0.0" || host == "::"))
        .or(at_port.first());
    let captured = |it: &Listener| it.bind_to_port.as_ref().is_some_and(|bind| !bind.value);
    match exact.or(any) {
        Some(found) => {
            let how =
                if captured(found) { "a captured connection is handed to it" } else { "it listens there" };
            story.step("listener", &found.name, None, true, format!("port {}: {how}", asked.port));
            Ok(found)
        }
        None => {
            let listens = all.iter().find(|it| it.use_original_dst.as_ref().is_some_and(|it| it.value));
            let found = listens.ok_or_else(|| format!("the proxy has no listener at port {}", asked.port))?;
            let reason = format!("no listener is for port {}: captured connections stay here", asked.port);
            story.step("listener", &found.name, None, true, reason);
            Ok(found)
        }
    }
}

/// The addresses of the service that the request's host names.
fn service_addresses(context: &Context, proxy: &Proxy, asked: &Asked) -> Vec<String> {
    let host = asked.host().to_lowercase();
    let host = host.as_str();
    let bare = host.trim_matches(['[', ']']);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return vec![bare.to_owned()];
    }
    let host = host
        .strip_suffix(&format!(".svc.{}", names::DOMAIN))
        .or_else(|| host.strip_suffix(".svc"))
        .unwrap_or(host);
    let (name, namespace) = host.split_once('.').unwrap_or((host, &proxy.namespace));
    let Some(service) = context.world.get::<Service>(namespace, name) else { return Vec::new() };
    let spec = service.body().spec.as_ref();
    let listed = spec.and_then(|it| it.cluster_ips.clone()).unwrap_or_default();
    listed.into_iter().chain(spec.and_then(|it| it.cluster_ip.clone())).collect()
}

fn address_of(listener: &Listener) -> Option<(String, u16)> {
    let address::Address::SocketAddress(socket) = listener.address.as_ref()?.address.as_ref()? else {
        return None;
    };
    match socket.port_specifier.as_ref()? {
        socket_address::PortSpecifier::PortValue(port) => {
            Some((socket.address.clone(), u16::try_from(*port).ok()?))
        }
        socket_address::PortSpecifier::NamedPort(_) => None,
    }
}

fn speaks_http(listener: &Listener) -> bool {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains.into_iter().any(|chain| matches!(content(&chain.filters), Some(Found::Http(_))))
}

/// The chain of a connection: by destination port, then server name, transport and application protocol, each the closest.
fn chain<'l>(listener: &'l Listener, asked: &Asked) -> Option<&'l FilterChain> {
    let nothing = FilterChainMatch::default();
    let chains = listener.filter_chains.iter();
    let fits =
        chains.filter_map(|it| Some((rank(it.filter_chain_match.as_ref().unwrap_or(&nothing), asked)?, it)));
    // Of equal ones the first.
    let best =
        fits.enumerate().max_by_key(|(index, (rank, _))| (*rank, Reverse(*index))).map(|(_, (_, it))| it);
    best.or(listener.default_filter_chain.as_ref())
}

/// How well a chain is for the connection; `None`: it is not.
fn rank(wanted: &FilterChainMatch, asked: &Asked) -> Option<(bool, usize, bool, bool)> {
    let port = wanted.destination_port.as_ref().map(|it| it.value);
    // Not said at which port an inbound request arrives: the first that takes HTTP.
    if port.is_some_and(|port| asked.port != 0 && port != u32::from(asked.port)) {
        return None;
    }
    let host = asked.host().to_lowercase();
    let host = host.as_str();
    let mut server = 0;
    if !wanted.server_names.is_empty() {
        let fit = |name: &String| {
            if name == host {
                return Some(usize::MAX);
            }
            let back = name.strip_prefix('*')?;
            (host.len() > back.len() && host.ends_with(back)).then_some(back.len())
        };
        server = wanted.server_names.iter().filter_map(fit).max().filter(|_| asked.tls)?;
    }
    let transport = match wanted.transport_protocol.as_str() {
        "" => false,
        "tls" if asked.tls => true,
        "raw_buffer" if !asked.tls => true,
        _ => return None,
    };
    let application = &wanted.application_protocols;
    let http = |it: &String| ["http/1.0", "http/1.1", "h2", "h2c"].contains(&it.as_str());
    if !application.is_empty() && !application.iter().any(http) {
        return None;
    }
    Some((port.is_some(), server, transport, !application.is_empty()))
}

fn chain_reason(chain: &FilterChain) -> String {
    let nothing = FilterChainMatch::default();
    let wanted = chain.filter_chain_match.as_ref().unwrap_or(&nothing);
    let mut words = Vec::new();
    if let Some(port) = &wanted.destination_port {
        words.push(format!("port {}", port.value));
    }
    if !wanted.server_names.is_empty() {
        words.push(format!("server name {}", wanted.server_names.join(" or ")));
    }
    if !wanted.transport_protocol.is_empty() {
        words.push(wanted.transport_protocol.clone());
    }
    if !wanted.application_protocols.is_empty() {
        words.push("HTTP".to_owned());
    }
    if words.is_empty() {
        "it takes what no other chain takes".to_owned()
    } else {
        format!("it is for {}", words.join(", "))
    }
}

fn content(filters: &[Filter]) -> Option<Found> {
    let ConfigType::TypedConfig(config) = filters.last()?.config_type.as_ref()? else { return None };
    if let Ok(manager) = any::unpack::<HttpConnectionManager>(config) {
        return Some(Found::Http(Box::new(manager)));
    }
    let proxy = any::unpack::<TcpProxy>(config).ok()?;
    Some(Found::Tcp(match proxy.cluster_specifier? {
        ClusterSpecifier::Cluster(name) => vec![(name, 1)],
        ClusterSpecifier::WeightedClusters(many) => {
            many.clusters.into_iter().map(|it| (it.name, it.weight)).collect()
        }
    }))
}

/// What a gRPC client finds under the name that it dials.
fn api_listener(all: &[Listener], asked: &Asked, story: &mut Story) -> Result<Found, String> {
    let mut wanted = vec![asked.authority.clone()];
    if asked.port != 0 {
        wanted.push(format!("{}:{}", asked.host(), asked.port));
    }
    let found = all.iter().find(|it| wanted.contains(&it.name)).ok_or_else(|| {
        format!("no service is called {:?}; a gRPC client names host and port", asked.authority)
    })?;
    story.step("listener", &found.name, None, true, "the name that the client dials");
    let config = found.api_listener.as_ref().and_then(|it| it.api_listener.as_ref());
    let manager = config.and_then(|it| any::unpack::<HttpConnectionManager>(it).ok());
    manager
        .map(|it| Found::Http(Box::new(it)))
        .ok_or_else(|| format!("listener {} speaks no HTTP", found.name))
}

/// The routes of a connection manager; an error is a verdict.
pub(super) fn routes(
    manager: &HttpConnectionManager,
    resources: &Resources,
) -> Result<RouteConfiguration, String> {
    match manager.route_specifier.as_ref() {
        Some(RouteSpecifier::RouteConfig(config)) => Ok(config.clone()),
        Some(RouteSpecifier::Rds(rds)) => resource(resources, Type::Route, &rds.route_config_name)
            .ok_or_else(|| format!("404 the route table {:?} is not there", rds.route_config_name)),
        _ => Err("404 the connection manager has no route table".to_owned()),
    }
}
