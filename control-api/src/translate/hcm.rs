//! Connection managers and TCP proxies, as all listeners have them.

use std::time::Duration;

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrider_proto::pb::envoy::config::core::v3::{Http2ProtocolOptions, TrafficDirection};
use outrider_proto::pb::envoy::config::listener::v3 as listener;
use outrider_proto::pb::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::pb::envoy::extensions::filters::http::{cors::v3::Cors, router::v3::Router};
use outrider_proto::pb::envoy::extensions::filters::listener as filters;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;

use outrider_proto::pb::envoy::r#type::v3::Int32Range;

use super::policy::authorization;
use super::wire::{ads, any, duration, truth};

/// How long a stream may be silent at an edge, where a client that left without a word would hold it for ever; a `TrafficPolicy` says
/// otherwise for a service (`timeouts.idle`). Between workloads there is no such limit: watches are silent for hours, and whoever wants one
/// says so by policy.
const EDGE_STREAM_IDLE: Duration = Duration::from_secs(300);

/// How long a client may be silent before it counts as one that waits for the server to speak.
pub const DETECTION: Duration = Duration::from_millis(200);

/// Where a connection manager has its routes.
#[derive(Clone, Debug)]
pub enum Routes {
    /// By name, over RDS.
    Named(String),
    /// In itself.
    Inline(Box<RouteConfiguration>),
}

/// What differs from one connection manager to the other.
#[derive(Clone, Debug)]
pub struct Hcm {
    /// Of its stats.
    pub stat_prefix: String,
    /// Its routes.
    pub routes: Routes,
    /// Filters before the router.
    pub filters: Vec<pb::HttpFilter>,
    /// Its logs.
    pub access_log: Vec<AccessLog>,
    /// It stands at an edge: the peer's address is the client's, and its headers are not believed.
    pub edge: bool,
    /// Clients show certificates: who asks is told to the application, and what a client says of it is not.
    pub certificates: bool,
    /// It is a gRPC client's, which refuses filters that it does not know.
    pub grpc: bool,
}

impl Hcm {
    /// As a network filter.
    pub fn filter(self) -> listener::Filter {
        let name = "envoy.filters.network.http_connection_manager";
        listener::Filter {
            name: name.to_owned(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(any(&self.message()))),
        }
    }

    /// The message.
    pub fn message(self) -> pb::HttpConnectionManager {
        use pb::http_connection_manager::{
            ForwardClientCertDetails as Forward, PathWithEscapedSlashesAction as Slashes, RouteSpecifier,
            SetCurrentClientCertDetails, UpgradeConfig,
        };
        let routes = match self.routes {
            Routes::Named(name) => {
                RouteSpecifier::Rds(pb::Rds { config_source: Some(ads()), route_config_name: name })
            }
            Routes::Inline(routes) => RouteSpecifier::RouteConfig(*routes),
        };
        let mut filters = self.filters;
        // Who is judged by a path must not get by with another way to write it; what was judged is what the application gets.
        let judged = filters.iter().any(|it| it.name == authorization::HTTP_FILTER);
        let slashes =
            if judged { Slashes::UnescapeAndForward } else { Slashes::ImplementationSpecificDefault };
        if !self.grpc {
            filters.push(http_filter("envoy.filters.http.cors", &Cors::default()));
        }
        filters.push(http_filter("envoy.filters.http.router", &Router::default()));
        let idle = if self.edge { EDGE_STREAM_IDLE } else { Duration::ZERO };
        pb::HttpConnectionManager {
            stat_prefix: self.stat_prefix,
            route_specifier: Some(routes),
            http_filters: filters,
            access_log: self.access_log,
            normalize_path: Some(truth(true)),
            forward_client_cert_details: if self.certificates {
                Forward::SanitizeSet
            } else {
                Forward::Sanitize
            } as i32,
            set_current_client_cert_details: self
                .certificates
                .then(|| SetCurrentClientCertDetails { uri: true, ..Default::default() }),
            // Sidecars call in HTTP/2, and a WebSocket comes in it as RFC 8441 has it.
            http2_protocol_options: self
                .certificates
                .then(|| Http2ProtocolOptions { allow_connect: true, ..Default::default() }),
            use_remote_address: self.edge.then(|| truth(true)),
            merge_slashes: judged,
            path_with_escaped_slashes_action: slashes as i32,
            stream_idle_timeout: (!self.grpc).then(|| duration(idle)),
            upgrade_configs: vec![UpgradeConfig {
                upgrade_type: "websocket".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }
}

/// Asks for a cluster that a route names and that is not here, while the request waits.
pub fn on_demand() -> pb::HttpFilter {
    use outrider_proto::pb::envoy::extensions::filters::http::on_demand::v3::{OnDemand, OnDemandCds};
    let odcds = OnDemandCds { source: Some(ads()), ..Default::default() };
    http_filter("envoy.filters.http.on_demand", &OnDemand { odcds: Some(odcds) })
}

/// An HTTP filter.
pub fn http_filter<M: outrider_proto::prost::Message + outrider_proto::prost::Name>(
    name: &str,
    config: &M,
) -> pb::HttpFilter {
    pb::HttpFilter {
        name: name.to_owned(),
        config_type: Some(pb::http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

/// A TCP proxy to one cluster, as a network filter.
pub fn tcp_proxy(stat_prefix: &str, cluster: &str, access_log: Vec<AccessLog>) -> listener::Filter {
    let proxy = tcp::TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        access_log,
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

/// A network filter.
pub fn network_filter<M: outrider_proto::prost::Message + outrider_proto::prost::Name>(
    name: &str,
    config: &M,
) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(config))),
    }
}

/// A chain of these filters for these connections.
pub fn chain(
    name: &str,
    wanted: Option<listener::FilterChainMatch>,
    filters: Vec<listener::Filter>,
) -> listener::FilterChain {
    listener::FilterChain { name: name.to_owned(), filter_chain_match: wanted, filters, ..Default::default() }
}

/// A listener without chains.
pub fn bare_listener(name: &str, host: &str, port: u16, direction: TrafficDirection) -> listener::Listener {
    listener::Listener {
        name: name.to_owned(),
        address: Some(super::wire::address(host, port)),
        traffic_direction: direction as i32,
        ..Default::default()
    }
}

/// Finds out where a redirected connection was going.
pub fn original_dst() -> listener::ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", &filters::original_dst::v3::OriginalDst::default())
}

/// Has the proxy show the client's address to the application, with the mark by which capture brings answers back.
pub fn original_src() -> listener::ListenerFilter {
    let config = filters::original_src::v3::OriginalSrc { mark: 1337, ..Default::default() };
    listener_filter("envoy.filters.listener.original_src", &config)
}

/// Reads the server name of TLS clients.
pub fn tls_inspector() -> listener::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.tls_inspector",
        &filters::tls_inspector::v3::TlsInspector::default(),
    )
}

/// Finds out whether HTTP is spoken.
pub fn http_inspector() -> listener::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.http_inspector",
        &filters::http_inspector::v3::HttpInspector::default(),
    )
}

/// A listener filter for connections to all ports but these.
pub fn but_at(filter: listener::ListenerFilter, ports: &[u16]) -> listener::ListenerFilter {
    use listener::listener_filter_chain_match_predicate::Rule;
    let mut filter = only_at(filter, ports);
    filter.filter_disabled = filter.filter_disabled.map(|it| match it.rule {
        Some(Rule::NotMatch(these)) => *these,
        rule => listener::ListenerFilterChainMatchPredicate { rule },
    });
    filter
}

/// A listener filter for connections to these ports alone.
pub fn only_at(mut filter: listener::ListenerFilter, ports: &[u16]) -> listener::ListenerFilter {
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let of = |rule| listener::ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let mut each: Vec<_> = ports
        .iter()
        .map(|port| {
            let start = i32::from(*port);
            of(Rule::DestinationPortRange(Int32Range { start, end: start + 1 }))
        })
        .collect();
    let any = match each.len() {
        1 => each.pop(),
        _ => Some(of(Rule::OrMatch(MatchSet { rules: each }))),
    };
    filter.filter_disabled = any.map(|any| of(Rule::NotMatch(Box::new(any))));
    filter
}

/// The words of [`http_inspector`] for HTTP.
pub fn is_http(wanted: listener::FilterChainMatch) -> listener::FilterChainMatch {
    listener::FilterChainMatch {
        application_protocols: vec!["http/1.0".into(), "http/1.1".into(), "h2c".into()],
        ..wanted
    }
}

fn listener_filter<M: outrider_proto::prost::Message + outrider_proto::prost::Name>(
    name: &str,
    config: &M,
) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}
