//! Which name servers are asked, and how.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::network::dns_resolver as ext;

use super::address::{Names, address};
use super::cx::{Cx, inert, refuse};
use super::scalar::{type_of, unpack};
use crate::model::SocketAddress;

pub(crate) use crate::model::DnsResolver as Resolver;

/// Name servers.
pub(crate) fn servers(cx: &Cx, path: &Path<'_>, messages: &[core_pb::Address]) -> Vec<SocketAddress> {
    messages
        .iter()
        .enumerate()
        .filter_map(|(i, message)| address(cx, &path.index(i), message, Names::Refused))
        .collect()
}

/// `dns_resolution_config`
pub(crate) fn resolution(cx: &Cx, path: &Path<'_>, message: &core_pb::DnsResolutionConfig) -> Resolver {
    let core_pb::DnsResolutionConfig { resolvers, dns_resolver_options } = message;
    with_options(servers(cx, &path.field("resolvers"), resolvers), dns_resolver_options.as_ref())
}

fn with_options(servers: Vec<SocketAddress>, options: Option<&core_pb::DnsResolverOptions>) -> Resolver {
    let core_pb::DnsResolverOptions { use_tcp_for_dns_lookups, no_default_search_domain } =
        options.copied().unwrap_or_default();
    Resolver { servers, use_tcp: use_tcp_for_dns_lookups, no_default_search_domain }
}

/// `typed_dns_resolver_config`; `None` when there is none.
pub(crate) fn typed(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&core_pb::TypedExtensionConfig>,
) -> Option<Resolver> {
    use outrider_proto::any::is;
    let core_pb::TypedExtensionConfig { name, typed_config } = message?;
    let Some(any) = typed_config else {
        cx.error(path, format!("the resolver {name:?} needs a typed_config with its @type"));
        return None;
    };
    let path = path.field("typed_config");
    if is::<ext::cares::v3::CaresDnsResolverConfig>(any) {
        return Some(cares(cx, &path, &unpack(cx, &path, any)?));
    }
    if is::<ext::getaddrinfo::v3::GetAddrInfoDnsResolverConfig>(any) {
        let ext::getaddrinfo::v3::GetAddrInfoDnsResolverConfig { num_retries, num_resolver_threads } =
            &unpack(cx, &path, any)?;
        inert!(cx, path, "resolution is repeated until it succeeds, at dns_failure_refresh_rate"; num_retries);
        inert!(cx, path, "resolution takes no threads"; num_resolver_threads);
        return Some(Resolver::default());
    }
    cx.refuse(&path, format!("the resolver {} is not supported; use c-ares or getaddrinfo", type_of(any)));
    None
}

fn cares(cx: &Cx, path: &Path<'_>, message: &ext::cares::v3::CaresDnsResolverConfig) -> Resolver {
    let ext::cares::v3::CaresDnsResolverConfig {
        resolvers,
        use_resolvers_as_fallback,
        filter_unroutable_families,
        dns_resolver_options,
        udp_max_queries,
        query_timeout_seconds,
        query_tries,
        rotate_nameservers,
        edns0_max_payload_size,
        max_udp_channel_duration,
        reinit_channel_on_timeout,
        qcache_max_ttl,
    } = message;
    refuse!(cx, path, "name servers of the file are asked first and alone; remove it"; use_resolvers_as_fallback);
    refuse!(cx, path, "addresses are not filtered; set dns_lookup_family instead"; filter_unroutable_families);
    inert!(cx, path, "a setting of c-ares; Outrider has a resolver of its own, whose answers are the same";
        udp_max_queries, query_timeout_seconds, query_tries, rotate_nameservers, edns0_max_payload_size,
        max_udp_channel_duration, reinit_channel_on_timeout, qcache_max_ttl);
    with_options(servers(cx, &path.field("resolvers"), resolvers), dns_resolver_options.as_ref())
}
