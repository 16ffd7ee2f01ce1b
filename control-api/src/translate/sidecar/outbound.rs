//! What the application calls: port 15001, a listener for each port of a service behind it, and the explicit HTTP listener.

use std::collections::BTreeSet;

use outrider_proto::pb::envoy::config::core::v3::TrafficDirection::Outbound;
use outrider_proto::pb::envoy::config::listener::v3::{Filter, FilterChainMatch, Listener};

use super::Visible;
use super::routes::{HTTP_PROXY, spoken};
use crate::translate::hcm::{
    DETECTION, Hcm, Routes, bare_listener, chain, http_inspector, is_http, on_demand, original_dst, tcp_proxy,
};
use crate::translate::port::Spoken;
use crate::translate::wire::{any_address, duration, truth, uint};
use crate::translate::{Context, Scope, external, names, policy};
use crate::world::Proxy;

/// Where redirected outbound connections arrive.
const PORT: u16 = 15001;

/// `virtualOutbound` and what it hands connections to.
pub(super) fn listeners(context: &Context, scope: &Scope, services: &[Visible<'_>]) -> Vec<Listener> {
    let mut out = vec![virtual_outbound(context, scope)];
    let mut http: BTreeSet<u16> = external::http_ports(context, scope).into_iter().collect();
    for it in services {
        match spoken(context, scope, it) {
            Spoken::Http | Spoken::Http2 | Spoken::Grpc => {
                http.insert(it.port.number);
            }
            known => out
                .extend(it.addresses().iter().map(|address| at_address(context, scope, it, address, known))),
        }
    }
    // Nobody takes a service's address away by claiming it for something outside.
    let at = |it: &Visible<'_>| -> Vec<String> {
        it.addresses().iter().map(|address| format!("{address}_{}", it.port.number)).collect()
    };
    let taken: BTreeSet<String> = services.iter().flat_map(at).collect();
    out.extend(external::listeners(context, scope, &http).into_iter().filter(|it| !taken.contains(&it.name)));
    for port in http {
        let mut listener = bare_listener(&format!("0.0.0.0_{port}"), "0.0.0.0", port, Outbound);
        listener.address = Some(any_address(port, scope.ipv6));
        listener.bind_to_port = Some(truth(false));
        let filter = manager(context, scope, &format!("outbound_0.0.0.0_{port}"), &port.to_string());
        listener.filter_chains = vec![chain("http", None, vec![filter])];
        out.push(listener);
    }
    out
}

fn virtual_outbound(context: &Context, scope: &Scope) -> Listener {
    let mut listener = bare_listener("virtualOutbound", "0.0.0.0", PORT, Outbound);
    listener.address = Some(any_address(PORT, scope.ipv6));
    listener.use_original_dst = Some(truth(true));
    listener.listener_filters = vec![original_dst()];
    let here = FilterChainMatch { destination_port: Some(uint(u32::from(PORT))), ..Default::default() };
    let hole = vec![tcp_proxy(names::BLACK_HOLE, names::BLACK_HOLE, Vec::new())];
    let logs = policy::telemetry::access_logs(context, &scope.namespace, None);
    listener.filter_chains = vec![chain("virtualOutbound-blackhole", Some(here), hole)];
    listener.default_filter_chain = Some(chain(
        "virtualOutbound-catchall-tcp",
        None,
        vec![tcp_proxy(names::PASSTHROUGH, names::PASSTHROUGH, logs)],
    ));
    listener
}

/// A listener for one address and port: what is spoken there is not HTTP for certain.
fn at_address(context: &Context, scope: &Scope, it: &Visible<'_>, address: &str, spoken: Spoken) -> Listener {
    let (port, cluster) = (it.port.number, names::outbound(&it.service, it.port.number));
    let mut listener = bare_listener(&format!("{address}_{port}"), address, port, Outbound);
    listener.bind_to_port = Some(truth(false));
    let logs = policy::telemetry::access_logs(context, &scope.namespace, None);
    let tcp = chain("tcp", None, super::routes::tcp(context, scope, it, &cluster, logs));
    if spoken == Spoken::Unknown {
        listener.listener_filters = vec![http_inspector()];
        listener.listener_filters_timeout = Some(duration(DETECTION));
        listener.continue_on_listener_filters_timeout = true;
        let wanted = is_http(FilterChainMatch::default());
        let name = super::routes::table_of(it);
        let filter = manager(context, scope, &format!("outbound_{address}_{port}"), &name);
        listener.filter_chains = vec![chain("http", Some(wanted), vec![filter])];
        listener.default_filter_chain = Some(tcp);
    } else {
        listener.filter_chains = vec![tcp];
    }
    listener
}

/// The explicit HTTP listener: for applications that name their proxy instead of being captured.
pub(super) fn http_proxy(context: &Context, proxy: &Proxy) -> Listener {
    let mut listener = bare_listener(HTTP_PROXY, "127.0.0.1", proxy.http_port, Outbound);
    let scope = Scope::of(&context.world, proxy);
    let filter = manager(context, &scope, HTTP_PROXY, HTTP_PROXY);
    listener.filter_chains = vec![chain("http", None, vec![filter])];
    listener
}

fn manager(context: &Context, scope: &Scope, stat_prefix: &str, table: &str) -> Filter {
    let mut filters = policy::traffic::http_filters(context, scope);
    if scope.observed {
        filters.push(on_demand());
    }
    filters.extend(external::sidecar_filters(context, scope));
    Hcm {
        stat_prefix: stat_prefix.to_owned(),
        routes: Routes::Named(table.to_owned()),
        filters,
        access_log: policy::telemetry::access_logs(context, &scope.namespace, None),
        edge: false,
        certificates: false,
        grpc: false,
    }
    .filter()
}
