//! What requests are hashed by, and the policies that draw by a hash.

use std::fmt::Write;

use outrider_core::matcher::HeaderRef;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::cluster::v3::cluster as cluster_pb;
use outrider_proto::pb::envoy::config::route::v3::route_action as pb;
use outrider_proto::pb::envoy::extensions::load_balancing_policies as ext;
use outrider_proto::pb::google::protobuf as google;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::matcher;
use super::scalar::{duration, enumeration};
use crate::model::{HashPolicy, HashSource, LbPolicy, RingHashFunction};

/// The most entries of a ring.
const RING_LIMIT: u64 = 8_388_608;
/// The largest table of maglev.
const MAGLEV_LIMIT: u64 = 5_000_011;

/// `hash_policy` of a route, or of a policy that hashes.
pub(crate) fn policies(cx: &Cx, path: &Path<'_>, messages: &[pb::HashPolicy]) -> Vec<HashPolicy> {
    messages.iter().enumerate().filter_map(|(i, message)| policy(cx, &path.index(i), message)).collect()
}

fn policy(cx: &Cx, path: &Path<'_>, message: &pb::HashPolicy) -> Option<HashPolicy> {
    use pb::hash_policy::PolicySpecifier as Kind;
    let pb::HashPolicy { terminal, policy_specifier } = message;
    let source = match policy_specifier {
        Some(Kind::Header(pb::hash_policy::Header { header_name, regex_rewrite })) => {
            let path = path.field("header");
            let Some(name) = HeaderRef::parse(header_name) else {
                cx.error(&path.field("header_name"), format!("{header_name:?} is not a header name"));
                return None;
            };
            let at = path.field("regex_rewrite");
            let rewrite = regex_rewrite.as_ref().and_then(|message| matcher::rewrite(cx, &at, message));
            HashSource::Header { name, rewrite }
        }
        Some(Kind::Cookie(message)) => cookie(cx, &path.field("cookie"), message),
        Some(Kind::ConnectionProperties(pb::hash_policy::ConnectionProperties { source_ip })) => {
            if !source_ip {
                cx.inert(&path.field("connection_properties"), "without source_ip nothing is hashed");
                return None;
            }
            HashSource::SourceIp
        }
        Some(Kind::QueryParameter(pb::hash_policy::QueryParameter { name })) => {
            HashSource::Query(name.as_str().into())
        }
        Some(Kind::FilterState(_)) => {
            cx.refuse(&path.field("filter_state"), "no filter keeps state that could be hashed; remove it");
            return None;
        }
        None => {
            cx.error(path, "give one of header, cookie, connection_properties and query_parameter");
            return None;
        }
    };
    Some(HashPolicy { source, terminal: *terminal })
}

fn cookie(cx: &Cx, path: &Path<'_>, message: &pb::hash_policy::Cookie) -> HashSource {
    let pb::hash_policy::Cookie { name, ttl, path: cookie_path, attributes } = message;
    let set = duration(cx, path, "ttl", ttl).map(|ttl| {
        let mut text = String::new();
        // Writing to a string cannot fail.
        if ttl.as_secs() > 0 {
            let _ = write!(text, "; Max-Age={}", ttl.as_secs());
        }
        if !cookie_path.is_empty() {
            let _ = write!(text, "; Path={cookie_path}");
        }
        for pb::hash_policy::CookieAttribute { name, value } in attributes {
            let equals = if value.is_empty() { "" } else { "=" };
            let _ = write!(text, "; {name}{equals}{value}");
        }
        text.push_str("; HttpOnly");
        text
    });
    match &set {
        None => {
            let why = "without ttl no cookie is made";
            if !cookie_path.is_empty() {
                cx.inert(&path.field("path"), why);
            }
            inert!(cx, path, why; attributes);
        }
        Some(set) if http::HeaderValue::from_str(&format!("{name}{set}")).is_err() => {
            cx.error(path, "its name, path and attributes must not hold control characters");
        }
        Some(_) => {}
    }
    HashSource::Cookie { name: name.as_str().into(), attributes: set.map(Into::into) }
}

/// `lb_policy: RING_HASH`
pub(crate) fn old_ring(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&cluster_pb::RingHashLbConfig>,
    by_hostname: bool,
) -> LbPolicy {
    use cluster_pb::ring_hash_lb_config::HashFunction;
    let path = path.field("ring_hash_lb_config");
    let empty = cluster_pb::RingHashLbConfig::default();
    let cluster_pb::RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } =
        message.unwrap_or(&empty);
    let function = match enumeration::<HashFunction>(cx, &path, "hash_function", *hash_function) {
        HashFunction::XxHash => RingHashFunction::XxHash,
        HashFunction::MurmurHash2 => RingHashFunction::Murmur2,
    };
    ring(cx, &path, function, (minimum_ring_size, maximum_ring_size), by_hostname)
}

/// `lb_policy: MAGLEV`
pub(crate) fn old_maglev(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&cluster_pb::MaglevLbConfig>,
    by_hostname: bool,
) -> LbPolicy {
    let path = path.field("maglev_lb_config");
    let table_size = message.and_then(|cluster_pb::MaglevLbConfig { table_size }| table_size.as_ref());
    maglev(cx, &path, table_size, by_hostname)
}

/// The extension `ring_hash`, with what it hashes by itself.
pub(crate) fn ring_extension(
    cx: &Cx,
    path: &Path<'_>,
    message: &ext::ring_hash::v3::RingHash,
) -> (LbPolicy, Vec<HashPolicy>) {
    use ext::ring_hash::v3::ring_hash::HashFunction;
    let ext::ring_hash::v3::RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = message;
    refuse!(cx, path, UNSUPPORTED; locality_weighted_lb_config);
    let (by_hostname, policies) = match consistent_hashing_lb_config {
        Some(message) => {
            inert!(cx, path, "consistent_hashing_lb_config comes before it";
                use_hostname_for_hashing, hash_balance_factor);
            common_extension(cx, path, message)
        }
        None => {
            refuse!(cx, path, UNBOUNDED; hash_balance_factor);
            (*use_hostname_for_hashing, Vec::new())
        }
    };
    let function = match enumeration::<HashFunction>(cx, path, "hash_function", *hash_function) {
        HashFunction::DefaultHash | HashFunction::XxHash => RingHashFunction::XxHash,
        HashFunction::MurmurHash2 => RingHashFunction::Murmur2,
    };
    (ring(cx, path, function, (minimum_ring_size, maximum_ring_size), by_hostname), policies)
}

/// The extension `maglev`, with what it hashes by itself.
pub(crate) fn maglev_extension(
    cx: &Cx,
    path: &Path<'_>,
    message: &ext::maglev::v3::Maglev,
) -> (LbPolicy, Vec<HashPolicy>) {
    let ext::maglev::v3::Maglev { table_size, consistent_hashing_lb_config, locality_weighted_lb_config } =
        message;
    refuse!(cx, path, UNSUPPORTED; locality_weighted_lb_config);
    let (by_hostname, policies) = match consistent_hashing_lb_config {
        Some(message) => common_extension(cx, path, message),
        None => (false, Vec::new()),
    };
    (maglev(cx, path, table_size.as_ref(), by_hostname), policies)
}

/// Why the load that consistent hashing gives a host has no bound.
const UNBOUNDED: &str = "the load of one host is not bounded; remove it";

/// `common_lb_config.consistent_hashing_lb_config`: whether hosts are hashed by their names.
pub(crate) fn common(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&cluster_pb::common_lb_config::ConsistentHashingLbConfig>,
) -> bool {
    let Some(message) = message else { return false };
    let cluster_pb::common_lb_config::ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
    } = message;
    let path = path.field("consistent_hashing_lb_config");
    refuse!(cx, path, UNBOUNDED; hash_balance_factor);
    *use_hostname_for_hashing
}

fn common_extension(
    cx: &Cx,
    path: &Path<'_>,
    message: &ext::common::v3::ConsistentHashingLbConfig,
) -> (bool, Vec<HashPolicy>) {
    let path = path.field("consistent_hashing_lb_config");
    let ext::common::v3::ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
        hash_policy,
    } = message;
    refuse!(cx, path, UNBOUNDED; hash_balance_factor);
    (*use_hostname_for_hashing, policies(cx, &path.field("hash_policy"), hash_policy))
}

fn ring(
    cx: &Cx,
    path: &Path<'_>,
    function: RingHashFunction,
    (least, most): (&Option<google::UInt64Value>, &Option<google::UInt64Value>),
    by_hostname: bool,
) -> LbPolicy {
    let of = |size: &Option<google::UInt64Value>, field: &str, default| {
        let size = size.as_ref().map_or(default, |size| size.value);
        if size > RING_LIMIT {
            cx.error(&path.field(field), format!("it must not be more than {RING_LIMIT}"));
        }
        size.min(RING_LIMIT)
    };
    let min_size = of(least, "minimum_ring_size", 1024);
    let max_size = of(most, "maximum_ring_size", RING_LIMIT);
    if min_size > max_size {
        let message = format!("it must not be more than maximum_ring_size, which is {max_size}");
        cx.error(&path.field("minimum_ring_size"), message);
    }
    LbPolicy::RingHash { function, min_size, max_size, by_hostname }
}

fn maglev(cx: &Cx, path: &Path<'_>, table_size: Option<&google::UInt64Value>, by_hostname: bool) -> LbPolicy {
    let table_size = table_size.map_or(65_537, |size| size.value);
    if table_size > MAGLEV_LIMIT {
        cx.error(&path.field("table_size"), format!("it must not be more than {MAGLEV_LIMIT}"));
    } else if !is_prime(table_size) {
        cx.error(&path.field("table_size"), format!("{table_size} is not a prime number"));
    }
    LbPolicy::Maglev { table_size: table_size.min(MAGLEV_LIMIT), by_hostname }
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}
