//! The kubelet's probes of a workload that takes mutual TLS alone: the kubelet has no identity, so that what it asks for, and nothing else,
//! is let in in clear. Policies do not judge it: one that lets known clients in alone would have the Pod killed.
//!
//! HTTP probes and those by gRPC get to the application. A TCP probe finds the sidecar's port open, whatever the application does; an HTTPS
//! probe gets no answer, as the application's TLS is not what is expected.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Probe as Message};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use outrider_proto::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, filter};
use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::CodecType;
use pb::header_matcher::HeaderMatchSpecifier;
use pb::route_match::PathSpecifier;

use crate::translate::hcm::{self, Hcm, Routes};
use crate::translate::wire::{any, duration, truth};
use crate::world::{Proxy, World};
use outrider_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

/// The path of gRPC's health service (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

/// One request of the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Probe {
    method: &'static str,
    /// With its query.
    path: String,
}

/// The probes of a proxy's pod, by port.
pub(super) fn of(world: &World, proxy: &Proxy) -> BTreeMap<u16, Vec<Probe>> {
    let mut out: BTreeMap<u16, Vec<Probe>> = BTreeMap::new();
    let Some(pod) = world.get::<Pod>(&proxy.namespace, &proxy.pod) else { return out };
    let containers =
        pod.spec.iter().flat_map(|it| it.containers.iter().chain(it.init_containers.iter().flatten()));
    for container in containers {
        let all = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        for (port, probe) in all.into_iter().flatten().filter_map(|it| one(container, it)) {
            let known = out.entry(port).or_default();
            if !known.contains(&probe) {
                known.push(probe);
            }
        }
    }
    out.values_mut().for_each(|it| it.sort());
    out
}

fn one(container: &Container, probe: &Message) -> Option<(u16, Probe)> {
    if let Some(http) = &probe.http_get {
        if http.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
            return None;
        }
        let path = http.path.as_deref().unwrap_or_default();
        let path = path.split('#').next().unwrap_or_default();
        // As the kubelet asks for it.
        let path = format!("{}{path}", if path.starts_with('/') { "" } else { "/" });
        return Some((number(container, &http.port)?, Probe { method: "GET", path }));
    }
    let grpc = probe.grpc.as_ref()?;
    Some((u16::try_from(grpc.port).ok()?, Probe { method: "POST", path: GRPC_HEALTH.to_owned() }))
}

fn number(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            ports.into_iter().find(|it| it.name.as_deref() == Some(name))?.container_port
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// The chain that lets these in and answers 403 to all else; `None` when there are none.
pub(super) fn chain(
    name: &str,
    wanted: FilterChainMatch,
    cluster: &str,
    probes: &[Probe],
) -> Option<FilterChain> {
    if probes.is_empty() {
        return None;
    }
    let mut routes: Vec<pb::Route> = probes.iter().map(|it| route(it, cluster)).collect();
    routes.push(refusal());
    let table = pb::RouteConfiguration {
        name: format!("{name}probe"),
        virtual_hosts: vec![pb::VirtualHost {
            name: "probes".to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut manager = Hcm {
        stat_prefix: "inbound_probe".to_owned(),
        routes: Routes::Inline(Box::new(table)),
        filters: Vec::new(),
        access_log: Vec::new(),
        edge: false,
        certificates: false,
        grpc: false,
    }
    .message();
    // What is let in is the very request, to the letter, and not what it might mean.
    manager.normalize_path = Some(truth(false));
    // A probe is one request, and not the beginning of something else.
    manager.upgrade_configs = Vec::new();
    if probes.iter().all(|it| it.method == "GET") {
        // Where a body is announced by a header, which the routes do not let pass.
        manager.codec_type = CodecType::Http1 as i32;
    }
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(&manager))),
    };
    let wanted = FilterChainMatch { transport_protocol: "raw_buffer".to_owned(), ..wanted };
    Some(hcm::chain(&format!("{name}probe"), Some(wanted), vec![filter]))
}

fn route(probe: &Probe, cluster: &str) -> pb::Route {
    let mut headers = vec![exactly(":method", probe.method), exactly(":path", &probe.path)];
    if probe.method == "GET" {
        headers.extend(["content-length", "transfer-encoding"].map(absent));
    }
    let to = pb::RouteAction {
        cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: Some(duration(std::time::Duration::ZERO)),
        ..Default::default()
    };
    pb::Route {
        name: "probe".to_owned(),
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            headers,
            ..Default::default()
        }),
        action: Some(pb::route::Action::Route(to)),
        ..Default::default()
    }
}

fn exactly(name: &str, value: &str) -> pb::HeaderMatcher {
    let text =
        StringMatcher { match_pattern: Some(MatchPattern::Exact(value.to_owned())), ..Default::default() };
    pb::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text)),
        ..Default::default()
    }
}

fn absent(name: &str) -> pb::HeaderMatcher {
    pb::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        invert_match: true,
        ..Default::default()
    }
}

fn refusal() -> pb::Route {
    pb::Route {
        name: "mtls-required".to_owned(),
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(pb::route::Action::DirectResponse(pb::DirectResponseAction {
            status: 403,
            ..Default::default()
        })),
        ..Default::default()
    }
}
