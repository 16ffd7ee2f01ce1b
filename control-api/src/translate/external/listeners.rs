//! Listeners for ports of ExternalServices that are not HTTP.

use std::collections::{BTreeMap, BTreeSet};

use outrider_proto::pb::envoy::config::core::v3::TrafficDirection::Outbound;
use outrider_proto::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};

use super::{cluster_name, material, named, visible};
use crate::model::own::{ExternalProtocol, Resolution};
use crate::translate::hcm::{bare_listener, chain, tcp_proxy, tls_inspector};
use crate::translate::wire::{any_address, truth};
use crate::translate::{Context, Scope, names, policy};

/// Stands for all addresses.
const ANY: &str = "0.0.0.0";

/// What is called at one address and port.
#[derive(Default)]
struct At {
    /// By server name: chains for TLS that is passed on.
    tls: Vec<FilterChain>,
    /// Server names that are taken.
    names: BTreeSet<String>,
    /// All else.
    rest: Option<FilterChain>,
}

/// Listeners for captured connections to ports of protocol `TCP` and `TLS`. `http`: the ports that have an HTTP listener, which goes first.
///
/// TLS is told apart by its server name, at any address. TCP goes by the addresses of the service when it has some; else a port belongs to
/// one service, at any address.
pub fn listeners(context: &Context, scope: &Scope, http: &BTreeSet<u16>) -> Vec<Listener> {
    let mut all: BTreeMap<(String, u16), At> = BTreeMap::new();
    let logs = || policy::telemetry::access_logs(context, &scope.namespace, None);
    for it in visible(context, scope) {
        let (service, spec) = (named(&it), &it.body().spec);
        let material = material(context, &it);
        for port in &spec.ports {
            let name = cluster_name(&service, port);
            // A connection that cannot be made as it should be is closed.
            let missing = material.missing(port).is_some();
            let cluster = if missing { names::BLACK_HOLE } else { &name };
            let filters = || vec![tcp_proxy(&name, cluster, logs())];
            match port.protocol {
                ExternalProtocol::TLS if !http.contains(&port.number) => {
                    let at = all.entry((ANY.to_owned(), port.number)).or_default();
                    let fresh: Vec<String> =
                        spec.hosts.iter().filter(|host| at.names.insert((*host).clone())).cloned().collect();
                    if !fresh.is_empty() {
                        let wanted = FilterChainMatch { server_names: fresh, ..Default::default() };
                        at.tls.push(chain(&name, Some(wanted), filters()));
                    }
                }
                ExternalProtocol::TCP if spec.resolution == Resolution::Static => {
                    for address in &spec.addresses {
                        let at = all.entry((address.clone(), port.number)).or_default();
                        at.rest.get_or_insert_with(|| chain(&name, None, filters()));
                    }
                }
                ExternalProtocol::TCP if !http.contains(&port.number) => {
                    let at = all.entry((ANY.to_owned(), port.number)).or_default();
                    at.rest.get_or_insert_with(|| chain(&name, None, filters()));
                }
                _ => {}
            }
        }
    }
    let made = |((address, port), at): ((String, u16), At)| {
        let mut listener = listener(&address, port, at, logs);
        if address == ANY {
            listener.address = Some(any_address(port, scope.ipv6));
        }
        listener
    };
    all.into_iter().map(made).collect()
}

fn listener(
    address: &str,
    port: u16,
    at: At,
    logs: impl Fn() -> Vec<outrider_proto::pb::envoy::config::accesslog::v3::AccessLog>,
) -> Listener {
    let mut listener = bare_listener(&format!("{address}_{port}"), address, port, Outbound);
    listener.bind_to_port = Some(truth(false));
    if at.tls.is_empty() {
        listener.filter_chains = at.rest.into_iter().collect();
        return listener;
    }
    listener.listener_filters = vec![tls_inspector()];
    listener.filter_chains = at.tls;
    // What is for another server goes on to where it was going.
    listener.default_filter_chain = Some(at.rest.unwrap_or_else(|| {
        chain("passthrough", None, vec![tcp_proxy(names::PASSTHROUGH, names::PASSTHROUGH, logs())])
    }));
    listener
}
