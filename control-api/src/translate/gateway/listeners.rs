//! The listeners of a gateway: one for each port, as Envoy has them.

use std::sync::Arc;

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrider_proto::pb::envoy::config::core::v3::{
    DataSource, TrafficDirection, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
};
use outrider_proto::pb::envoy::config::listener::v3 as pb;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls_pb;

use tls_pb::common_tls_context::ValidationContextType;

use super::{hosts, tables};
use crate::attach::ir::TcpRoute;
use crate::attach::{ClientValidation, Listener, Protocol};
use crate::translate::hcm::{Hcm, Routes, bare_listener, chain, tcp_proxy, tls_inspector};
use crate::translate::policy::authorization::{self, Workload};
use crate::translate::wire::{ads, any, truth};
use crate::translate::{Context, external, names, policy, routes};
use crate::world::Named;

/// What both kinds of listeners need.
pub(super) struct Frame<'c> {
    pub(super) context: &'c Context,
    pub(super) gateway: &'c Named,
    /// Whom policies select: the Gateway's namespace, the router's labels.
    pub(super) workload: Workload<'c>,
    pub(super) port: u16,
}

impl Frame<'_> {
    /// A port without TLS.
    pub(super) fn plain(&self, listeners: &[&Listener]) -> pb::Listener {
        let mut out = self.bare();
        let filters = match listeners {
            [tcp, ..] if tcp.protocol == Protocol::Tcp => self.tcp(best(&tcp.tcp, hosts::ANY), &tcp.name),
            _ => vec![self.manager("http", tables::name(self.port, None))],
        };
        out.filter_chains = vec![chain("plain", None, filters)];
        out
    }

    /// A port with TLS, ended here or passed on: a chain for each server name. A name that nobody has finds no chain, and its
    /// connection is closed.
    pub(super) fn tls(&self, listeners: &[&Listener]) -> pb::Listener {
        let mut out = self.bare();
        out.listener_filters = vec![tls_inspector()];
        for (host, listener) in hosts::owned(listeners) {
            let (filters, socket) = match &listener.protocol {
                Protocol::Https(secrets) => {
                    // Routes tell hosts apart, so the listener's own name is the only one that counts for its chain.
                    if hosts::of(listener) != host {
                        continue;
                    }
                    let table = tables::name(self.port, Some(listener));
                    (
                        vec![self.manager(&listener.name, table)],
                        Some(terminate(secrets, &["h2", "http/1.1"], clients(listener))),
                    )
                }
                Protocol::TlsTerminate(secrets) => {
                    let socket = terminate(secrets, &[], clients(listener));
                    (self.tcp(best(&listener.tcp, &host), &listener.name), Some(socket))
                }
                Protocol::TlsPassthrough => (self.passed(best(&listener.tcp, &host), &listener.name), None),
                Protocol::Http | Protocol::Tcp => continue,
            };
            let name = if hosts::of(listener) == host {
                listener.name.to_string()
            } else {
                format!("{}/{host}", listener.name)
            };
            let mut found = chain(&name, Some(server_name(&host)), filters);
            found.transport_socket = socket;
            out.filter_chains.push(found);
        }
        out
    }

    fn bare(&self) -> pb::Listener {
        let name = format!("0.0.0.0_{}", self.port);
        bare_listener(&name, "0.0.0.0", self.port, TrafficDirection::Outbound)
    }

    fn logs(&self) -> Vec<AccessLog> {
        policy::telemetry::access_logs(self.context, self.workload.namespace, self.workload.labels)
    }

    fn manager(&self, what: &str, table: String) -> pb::Filter {
        let mut filters = authorization::http_filters(self.context, self.workload);
        filters.extend(policy::traffic::gateway_filters(self.context, self.gateway));
        filters.extend(external::gateway_filters(self.context, self.gateway));
        Hcm {
            stat_prefix: format!("gateway_{}_{what}", self.port),
            routes: Routes::Named(table),
            filters,
            access_log: self.logs(),
            edge: true,
            certificates: false,
            grpc: false,
        }
        .filter()
    }

    fn tcp(&self, route: Option<&Arc<TcpRoute>>, what: &str) -> Vec<pb::Filter> {
        self.proxy(route, what, routes::tcp)
    }

    fn passed(&self, route: Option<&Arc<TcpRoute>>, what: &str) -> Vec<pb::Filter> {
        self.proxy(route, what, routes::passthrough)
    }

    fn proxy(
        &self,
        route: Option<&Arc<TcpRoute>>,
        what: &str,
        filter: impl Fn(&TcpRoute, &str, Vec<AccessLog>) -> pb::Filter,
    ) -> Vec<pb::Filter> {
        let prefix = format!("gateway_{}_{what}", self.port);
        let last = match route {
            Some(route) => filter(route, &prefix, self.logs()),
            None => tcp_proxy(&prefix, names::BLACK_HOLE, self.logs()),
        };
        let mut filters = authorization::network_filters(self.context, self.workload);
        filters.push(last);
        filters
    }
}

/// The route of a server name: the one that names it most exactly, then the oldest, then the first by name.
fn best<'r>(routes: &'r [Arc<TcpRoute>], host: &str) -> Option<&'r Arc<TcpRoute>> {
    routes
        .iter()
        .filter_map(|route| Some((hosts::fit(&route.hostnames, host)?, route)))
        .min_by_key(|(fit, route)| (std::cmp::Reverse(*fit), route.created, route.key.clone()))
        .map(|(_, route)| route)
}

fn server_name(host: &str) -> pb::FilterChainMatch {
    pb::FilterChainMatch {
        transport_protocol: "tls".to_owned(),
        server_names: (host != hosts::ANY).then(|| host.to_owned()).into_iter().collect(),
        ..Default::default()
    }
}

/// How the certificates of clients are verified. Where none is required, any is let in, but the backend may be told which.
fn verified(clients: &ClientValidation) -> ValidationContextType {
    use tls_pb::certificate_validation_context::TrustChainVerification::{AcceptUntrusted, VerifyTrustChain};
    let verification = if clients.required { VerifyTrustChain } else { AcceptUntrusted };
    ValidationContextType::ValidationContext(tls_pb::CertificateValidationContext {
        trusted_ca: Some(DataSource {
            specifier: Some(Specifier::InlineString(clients.roots.to_string())),
            ..Default::default()
        }),
        trust_chain_verification: verification as i32,
        ..Default::default()
    })
}

fn clients(listener: &Listener) -> Option<&ClientValidation> {
    listener.client_validation.as_ref()
}

fn terminate(
    certificates: &[Named],
    protocols: &[&str],
    clients: Option<&ClientValidation>,
) -> TransportSocket {
    let named = certificates
        .iter()
        .map(|secret| tls_pb::SdsSecretConfig { name: names::secret(secret), sds_config: Some(ads()) });
    let context = tls_pb::DownstreamTlsContext {
        common_tls_context: Some(tls_pb::CommonTlsContext {
            tls_certificate_sds_secret_configs: named.collect(),
            alpn_protocols: protocols.iter().map(|it| (*it).to_owned()).collect(),
            validation_context_type: clients.map(verified),
            ..Default::default()
        }),
        require_client_certificate: clients.filter(|it| it.required).map(|_| truth(true)),
        ..Default::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&context))),
    }
}
