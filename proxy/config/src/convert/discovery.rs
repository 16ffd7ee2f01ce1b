//! Where the hosts of a cluster come from.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::cluster::v3::cluster as pb;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use outrider_proto::pb::envoy::extensions::clusters::dns::v3 as dns_pb;
use outrider_proto::pb::envoy::extensions::clusters::original_dst::v3::OriginalDstCluster;
use outrider_proto::pb::google::protobuf as google;

use super::address::Names;
use super::cx::{Cx, UNSUPPORTED, refuse};
use super::dns::{self, Resolver};
use super::endpoint::assignment;
use super::scalar::{duration, enumeration, header_name, type_of, u32_of, unpack};
use super::xds::config_source;
use crate::model::{BackOff, Discovery, DnsFamily, DnsSettings, Endpoints, OriginalDst, SocketAddress};

/// The fields of a cluster that say where its hosts come from.
pub(crate) struct Fields<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Option<&'a pb::ClusterDiscoveryType>,
    pub(crate) eds: Option<&'a pb::EdsClusterConfig>,
    pub(crate) assignment: Option<&'a ClusterLoadAssignment>,
    pub(crate) dns: OldDns<'a>,
    pub(crate) cleanup_interval: &'a Option<google::Duration>,
    pub(crate) lb_config: Option<&'a pb::LbConfig>,
}

/// The DNS fields of the cluster itself; the extension has its own.
pub(crate) struct OldDns<'a> {
    pub(crate) dns_refresh_rate: &'a Option<google::Duration>,
    pub(crate) dns_jitter: &'a Option<google::Duration>,
    pub(crate) dns_failure_refresh_rate: Option<&'a pb::RefreshRate>,
    pub(crate) respect_dns_ttl: bool,
    pub(crate) dns_lookup_family: i32,
    pub(crate) dns_resolvers: &'a [core_pb::Address],
    pub(crate) use_tcp_for_dns_lookups: bool,
    pub(crate) dns_resolution_config: Option<&'a core_pb::DnsResolutionConfig>,
    pub(crate) typed_dns_resolver_config: Option<&'a core_pb::TypedExtensionConfig>,
}

/// The discovery of the cluster at `path`; `None`, and an error, when there is none that we have.
pub(crate) fn discovery(cx: &Cx, path: &Path<'_>, fields: &Fields<'_>) -> Option<Discovery> {
    let kind = match fields.kind {
        Some(pb::ClusterDiscoveryType::Type(kind)) => enumeration(cx, path, "type", *kind),
        Some(pb::ClusterDiscoveryType::ClusterType(message)) => {
            return custom(cx, &path.field("cluster_type"), message, path, fields);
        }
        None => pb::DiscoveryType::Static,
    };
    let endpoints = |names| endpoints(cx, path, fields, names);
    match kind {
        pb::DiscoveryType::Static => Some(Discovery::Static(endpoints(Names::Refused))),
        pb::DiscoveryType::StrictDns => Some(Discovery::StrictDns {
            endpoints: endpoints(Names::Accepted),
            dns: old_dns(cx, path, &fields.dns),
        }),
        pb::DiscoveryType::LogicalDns => {
            let endpoints = endpoints(Names::Accepted);
            check_logical(cx, &path.field("load_assignment"), &endpoints);
            Some(Discovery::LogicalDns { endpoints, dns: old_dns(cx, path, &fields.dns) })
        }
        pb::DiscoveryType::Eds => eds(cx, path, fields),
        pb::DiscoveryType::OriginalDst => Some(Discovery::OriginalDst(original_dst(cx, path, fields))),
    }
}

/// Endpoints that a control plane brings.
fn eds(cx: &Cx, path: &Path<'_>, fields: &Fields<'_>) -> Option<Discovery> {
    if fields.assignment.is_some() {
        cx.inert(
            &path.field("load_assignment"),
            "a cluster of type EDS gets its endpoints elsewhere, in Envoy too",
        );
    }
    let path = path.field("eds_cluster_config");
    let Some(pb::EdsClusterConfig { eds_config, service_name }) = fields.eds else {
        cx.error(&path, "a cluster of type EDS needs it");
        return None;
    };
    if service_name.starts_with("xdstp:") {
        cx.refuse(
            &path.field("service_name"),
            "xdstp:// resource names are not supported; name the resource plainly",
        );
    }
    let at = path.field("eds_config");
    let Some(source) = eds_config else {
        cx.error(&at, "a source of the endpoints is needed");
        return None;
    };
    let service_name = if service_name.is_empty() { fields.name } else { service_name };
    Some(Discovery::Eds { source: config_source(cx, &at, source)?, service_name: Arc::from(service_name) })
}

fn endpoints(cx: &Cx, path: &Path<'_>, fields: &Fields<'_>, names: Names) -> Endpoints {
    let path = path.field("load_assignment");
    let Some(message) = fields.assignment else {
        // Envoy takes such a cluster, too: it has no hosts.
        return Endpoints::default();
    };
    let endpoints = assignment(cx, &path, message, names);
    let hosts = endpoints.localities.iter().flat_map(|locality| &locality.endpoints);
    for endpoint in hosts {
        if names == Names::Accepted && matches!(endpoint.address, SocketAddress::Pipe { .. }) {
            cx.error(&path, "clusters that resolve names have no Unix sockets; use a cluster of type STATIC");
        }
    }
    endpoints
}

/// A LOGICAL_DNS cluster has one name.
fn check_logical(cx: &Cx, path: &Path<'_>, endpoints: &Endpoints) {
    let [locality] = endpoints.localities.as_slice() else {
        cx.error(path, "a cluster of type LOGICAL_DNS has one locality with one endpoint");
        return;
    };
    if locality.endpoints.len() != 1 {
        cx.error(path, "a cluster of type LOGICAL_DNS has one endpoint; use STRICT_DNS for several");
    }
}

/// `cluster_type`, the newer way to name a type.
fn custom(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::CustomClusterType,
    cluster: &Path<'_>,
    fields: &Fields<'_>,
) -> Option<Discovery> {
    let pb::CustomClusterType { name, typed_config } = message;
    let at = path.field("typed_config");
    match (name.as_str(), typed_config) {
        (_, Some(any)) if outrider_proto::any::is::<dns_pb::DnsCluster>(any) => {
            dns_cluster(cx, &at, &unpack(cx, &at, any)?, cluster, fields)
        }
        (_, Some(any)) if outrider_proto::any::is::<OriginalDstCluster>(any) => {
            let OriginalDstCluster {
                use_http_header,
                http_header_name,
                upstream_port_override,
                metadata_key,
            } = &unpack(cx, &at, any)?;
            refuse!(cx, at, "no supported filter writes it; remove it"; metadata_key);
            let header = http_header(cx, &at, *use_http_header, http_header_name);
            let port = port_override(cx, &at, upstream_port_override);
            Some(Discovery::OriginalDst(passing(cx, cluster, fields, header, port)))
        }
        ("envoy.cluster.static", None) => {
            Some(Discovery::Static(endpoints(cx, cluster, fields, Names::Refused)))
        }
        ("envoy.cluster.strict_dns", None) => Some(Discovery::StrictDns {
            endpoints: endpoints(cx, cluster, fields, Names::Accepted),
            dns: old_dns(cx, cluster, &fields.dns),
        }),
        ("envoy.cluster.logical_dns", None) => {
            let endpoints = endpoints(cx, cluster, fields, Names::Accepted);
            check_logical(cx, &cluster.field("load_assignment"), &endpoints);
            Some(Discovery::LogicalDns { endpoints, dns: old_dns(cx, cluster, &fields.dns) })
        }
        ("envoy.cluster.eds", None) => eds(cx, cluster, fields),
        ("envoy.cluster.original_dst", None) => {
            Some(Discovery::OriginalDst(original_dst(cx, cluster, fields)))
        }
        (name, any) => {
            let kind = any.as_ref().map_or(name, type_of);
            cx.refuse(path, format!("the cluster type {kind} is not supported; use STATIC, STRICT_DNS, LOGICAL_DNS, EDS or ORIGINAL_DST"));
            None
        }
    }
}

fn dns_cluster(
    cx: &Cx,
    path: &Path<'_>,
    message: &dns_pb::DnsCluster,
    cluster: &Path<'_>,
    fields: &Fields<'_>,
) -> Option<Discovery> {
    let dns_pb::DnsCluster {
        dns_refresh_rate,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_jitter,
        typed_dns_resolver_config,
        dns_lookup_family,
        all_addresses_in_single_endpoint,
        dns_min_refresh_rate,
    } = message;
    refuse!(cx, path, UNSUPPORTED; dns_min_refresh_rate);
    let resolver =
        dns::typed(cx, &path.field("typed_dns_resolver_config"), typed_dns_resolver_config.as_ref());
    let family = match enumeration(cx, path, "dns_lookup_family", *dns_lookup_family) {
        DnsLookupFamily::Unspecified | DnsLookupFamily::Auto => DnsFamily::Auto,
        DnsLookupFamily::V4Only => DnsFamily::V4Only,
        DnsLookupFamily::V6Only => DnsFamily::V6Only,
        DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        DnsLookupFamily::All => DnsFamily::All,
    };
    let failure = dns_failure_refresh_rate.as_ref().and_then(
        |dns_pb::dns_cluster::RefreshRate { base_interval, max_interval }| {
            back_off(cx, &path.field("dns_failure_refresh_rate"), base_interval, max_interval)
        },
    );
    let dns = settings(cx, path, dns_refresh_rate, dns_jitter, failure, *respect_dns_ttl, family, resolver);
    let endpoints = endpoints(cx, cluster, fields, Names::Accepted);
    if *all_addresses_in_single_endpoint {
        check_logical(cx, &cluster.field("load_assignment"), &endpoints);
        return Some(Discovery::LogicalDns { endpoints, dns });
    }
    Some(Discovery::StrictDns { endpoints, dns })
}

fn old_dns(cx: &Cx, path: &Path<'_>, fields: &OldDns<'_>) -> DnsSettings {
    let family = match enumeration(cx, path, "dns_lookup_family", fields.dns_lookup_family) {
        pb::DnsLookupFamily::Auto => DnsFamily::Auto,
        pb::DnsLookupFamily::V4Only => DnsFamily::V4Only,
        pb::DnsLookupFamily::V6Only => DnsFamily::V6Only,
        pb::DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        pb::DnsLookupFamily::All => DnsFamily::All,
    };
    let failure =
        fields.dns_failure_refresh_rate.and_then(|pb::RefreshRate { base_interval, max_interval }| {
            back_off(cx, &path.field("dns_failure_refresh_rate"), base_interval, max_interval)
        });
    let resolver = resolver(cx, path, fields);
    settings(
        cx,
        path,
        fields.dns_refresh_rate,
        fields.dns_jitter,
        failure,
        fields.respect_dns_ttl,
        family,
        resolver,
    )
}

/// The resolver: the newest field that is given, else the bootstrap's.
fn resolver(cx: &Cx, path: &Path<'_>, fields: &OldDns<'_>) -> Option<Resolver> {
    if fields.typed_dns_resolver_config.is_some() {
        return dns::typed(cx, &path.field("typed_dns_resolver_config"), fields.typed_dns_resolver_config);
    }
    if let Some(message) = fields.dns_resolution_config {
        return Some(dns::resolution(cx, &path.field("dns_resolution_config"), message));
    }
    if fields.dns_resolvers.is_empty() && !fields.use_tcp_for_dns_lookups {
        return None;
    }
    Some(Resolver {
        servers: dns::servers(cx, &path.field("dns_resolvers"), fields.dns_resolvers),
        use_tcp: fields.use_tcp_for_dns_lookups,
        no_default_search_domain: false,
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "the same eight settings stand in two messages of different types"
)]
fn settings(
    cx: &Cx,
    path: &Path<'_>,
    refresh_rate: &Option<google::Duration>,
    jitter: &Option<google::Duration>,
    failure_refresh: Option<BackOff>,
    respect_ttl: bool,
    family: DnsFamily,
    resolver: Option<Resolver>,
) -> DnsSettings {
    let refresh_rate = duration(cx, path, "dns_refresh_rate", refresh_rate).unwrap_or(Duration::from_secs(5));
    if refresh_rate <= Duration::from_millis(1) {
        cx.error(&path.field("dns_refresh_rate"), "it must be more than 0.001s");
    }
    let resolver = resolver.or_else(|| cx.cluster_defaults.borrow().resolver.clone()).unwrap_or_default();
    DnsSettings {
        refresh_rate,
        failure_refresh,
        respect_ttl,
        jitter: duration(cx, path, "dns_jitter", jitter).unwrap_or_default(),
        family,
        resolvers: resolver.servers,
        no_default_search_domain: resolver.no_default_search_domain,
        use_tcp: resolver.use_tcp,
    }
}

fn back_off(
    cx: &Cx,
    path: &Path<'_>,
    base: &Option<google::Duration>,
    max: &Option<google::Duration>,
) -> Option<BackOff> {
    let Some(base) = duration(cx, path, "base_interval", base).filter(|base| !base.is_zero()) else {
        cx.error(&path.field("base_interval"), "it is needed, and more than 0s");
        return None;
    };
    let max = duration(cx, path, "max_interval", max).unwrap_or(base.saturating_mul(10));
    if max < base {
        cx.error(&path.field("max_interval"), "it must not be less than base_interval");
    }
    Some(BackOff { base, max })
}

fn original_dst(cx: &Cx, path: &Path<'_>, fields: &Fields<'_>) -> OriginalDst {
    let (mut header, mut port) = (None, None);
    if let Some(pb::LbConfig::OriginalDstLbConfig(message)) = fields.lb_config {
        let pb::OriginalDstLbConfig {
            use_http_header,
            http_header_name,
            upstream_port_override,
            metadata_key,
        } = message;
        let path = path.field("original_dst_lb_config");
        refuse!(cx, path, "no supported filter writes it; remove it"; metadata_key);
        header = http_header(cx, &path, *use_http_header, http_header_name);
        port = port_override(cx, &path, upstream_port_override);
    }
    passing(cx, path, fields, header, port)
}

fn passing(
    cx: &Cx,
    path: &Path<'_>,
    fields: &Fields<'_>,
    http_header: Option<HeaderName>,
    port_override: Option<u16>,
) -> OriginalDst {
    if fields.assignment.is_some() {
        cx.error(
            &path.field("load_assignment"),
            "a cluster of type ORIGINAL_DST has no endpoints of its own; remove it",
        );
    }
    let cleanup_interval =
        duration(cx, path, "cleanup_interval", fields.cleanup_interval).unwrap_or(Duration::from_secs(5));
    OriginalDst { http_header, port_override, cleanup_interval }
}

fn http_header(cx: &Cx, path: &Path<'_>, on: bool, name: &str) -> Option<HeaderName> {
    if !on {
        if !name.is_empty() {
            cx.error(&path.field("http_header_name"), "it needs use_http_header: true");
        }
        return None;
    }
    match name {
        "" => Some(HeaderName::from_static("x-envoy-original-dst-host")),
        name => header_name(cx, &path.field("http_header_name"), name),
    }
}

fn port_override(cx: &Cx, path: &Path<'_>, value: &Option<google::UInt32Value>) -> Option<u16> {
    let port = u32_of(value)?;
    u16::try_from(port)
        .map_err(|_| cx.error(&path.field("upstream_port_override"), format!("{port} is not a port")))
        .ok()
}
