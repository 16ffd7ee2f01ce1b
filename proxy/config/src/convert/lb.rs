//! Load balancing.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::cluster::v3 as pb;
use outrider_proto::pb::envoy::config::cluster::v3::cluster as cluster_pb;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::load_balancing_policies as ext;
use outrider_proto::pb::google::protobuf as google;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::hash;
use super::scalar::{enumeration, percent, runtime_double, runtime_integer, type_of, u32_of, unpack};
use crate::model::{HashPolicy, LbPolicy, RuntimeDouble, RuntimeInteger};

/// The fields of a cluster that say how a host is chosen.
pub(crate) struct Fields<'a> {
    pub(crate) policy: i32,
    pub(crate) config: Option<&'a cluster_pb::LbConfig>,
    pub(crate) extension: Option<&'a pb::LoadBalancingPolicy>,
    pub(crate) common: Option<&'a cluster_pb::CommonLbConfig>,
    /// Whether the cluster's type is ORIGINAL_DST.
    pub(crate) original_dst: bool,
}

/// How the hosts of the cluster at `path` are chosen, and what such a policy hashes by itself.
pub(crate) fn policy(cx: &Cx, path: &Path<'_>, fields: &Fields<'_>) -> (LbPolicy, Vec<HashPolicy>) {
    use cluster_pb::LbPolicy as Kind;
    let kind = enumeration::<Kind>(cx, path, "lb_policy", fields.policy);
    let extended = fields.extension.is_some() || kind == Kind::LoadBalancingPolicyConfig;
    let at = if extended { path.field("load_balancing_policy") } else { path.field("lb_policy") };
    let (policy, hashed) = if extended {
        inert_config(cx, path, fields.config, "load_balancing_policy comes before it");
        extension(cx, &at, fields.extension)
    } else {
        (plain(cx, path, kind, fields), Vec::new())
    };
    consistent(cx, path, fields.common, extended, &policy);
    match (fields.original_dst, policy == LbPolicy::ClusterProvided) {
        (true, false) => {
            cx.error(&at, "a cluster of type ORIGINAL_DST chooses hosts by itself; use CLUSTER_PROVIDED")
        }
        (false, true) => {
            cx.error(&at, "only clusters of type ORIGINAL_DST choose hosts by themselves; use another policy")
        }
        _ => {}
    }
    (policy, hashed)
}

/// What of `common_lb_config` only policies that hash read, or do not.
fn consistent(
    cx: &Cx,
    path: &Path<'_>,
    common: Option<&cluster_pb::CommonLbConfig>,
    extended: bool,
    policy: &LbPolicy,
) {
    use cluster_pb::common_lb_config::LocalityConfigSpecifier::ZoneAwareLbConfig;
    let path = path.field("common_lb_config");
    let Some(common) = common else { return };
    let consistent_hashing_lb_config = &common.consistent_hashing_lb_config;
    if extended {
        inert!(cx, path, "load_balancing_policy says it"; consistent_hashing_lb_config);
    } else if !policy.is_hashed() {
        inert!(cx, path, "the policy does not hash"; consistent_hashing_lb_config);
    }
    if let (true, Some(ZoneAwareLbConfig(zones))) = (policy.is_hashed(), &common.locality_config_specifier)
        && zones.fail_traffic_on_panic
    {
        let path = path.field("zone_aware_lb_config");
        cx.inert(&path.field("fail_traffic_on_panic"), "policies that hash do not read it, in Envoy neither");
    }
}

fn plain(cx: &Cx, path: &Path<'_>, kind: cluster_pb::LbPolicy, fields: &Fields<'_>) -> LbPolicy {
    use cluster_pb::LbPolicy as Kind;
    match kind {
        Kind::RoundRobin => {
            if let Some(cluster_pb::LbConfig::RoundRobinLbConfig(message)) = fields.config {
                let cluster_pb::RoundRobinLbConfig { slow_start_config } = message;
                let path = path.field("round_robin_lb_config");
                refuse!(cx, path, UNSUPPORTED; slow_start_config);
            } else {
                inert_config(cx, path, fields.config, "it belongs to another lb_policy");
            }
            LbPolicy::RoundRobin
        }
        Kind::LeastRequest => {
            let Some(cluster_pb::LbConfig::LeastRequestLbConfig(message)) = fields.config else {
                inert_config(cx, path, fields.config, "it belongs to another lb_policy");
                return least_request(cx, path, &None, None);
            };
            let cluster_pb::LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } =
                message;
            let path = path.field("least_request_lb_config");
            refuse!(cx, path, UNSUPPORTED; slow_start_config);
            least_request(cx, &path, choice_count, active_request_bias.as_ref())
        }
        Kind::Random => {
            inert_config(cx, path, fields.config, "it belongs to another lb_policy");
            LbPolicy::Random
        }
        Kind::ClusterProvided => LbPolicy::ClusterProvided,
        Kind::RingHash => {
            let config = match fields.config {
                Some(cluster_pb::LbConfig::RingHashLbConfig(message)) => Some(message),
                other => {
                    inert_config(cx, path, other, "it belongs to another lb_policy");
                    None
                }
            };
            hash::old_ring(cx, path, config, by_hostname(cx, path, fields))
        }
        Kind::Maglev => {
            let config = match fields.config {
                Some(cluster_pb::LbConfig::MaglevLbConfig(message)) => Some(message),
                other => {
                    inert_config(cx, path, other, "it belongs to another lb_policy");
                    None
                }
            };
            hash::old_maglev(cx, path, config, by_hostname(cx, path, fields))
        }
        Kind::LoadBalancingPolicyConfig => LbPolicy::RoundRobin,
    }
}

fn by_hostname(cx: &Cx, path: &Path<'_>, fields: &Fields<'_>) -> bool {
    let common = fields.common.and_then(|common| common.consistent_hashing_lb_config.as_ref());
    hash::common(cx, &path.field("common_lb_config"), common)
}

/// Records an `lb_config` that the policy does not read.
fn inert_config(cx: &Cx, path: &Path<'_>, config: Option<&cluster_pb::LbConfig>, why: &str) {
    let field = match config {
        Some(cluster_pb::LbConfig::RingHashLbConfig(_)) => "ring_hash_lb_config",
        Some(cluster_pb::LbConfig::MaglevLbConfig(_)) => "maglev_lb_config",
        Some(cluster_pb::LbConfig::LeastRequestLbConfig(_)) => "least_request_lb_config",
        Some(cluster_pb::LbConfig::RoundRobinLbConfig(_)) => "round_robin_lb_config",
        // Where hosts come from reads it.
        Some(cluster_pb::LbConfig::OriginalDstLbConfig(_)) | None => return,
    };
    cx.inert(&path.field(field), why);
}

fn least_request(
    cx: &Cx,
    path: &Path<'_>,
    choice_count: &Option<google::UInt32Value>,
    bias: Option<&core_pb::RuntimeDouble>,
) -> LbPolicy {
    let choices = u32_of(choice_count).unwrap_or(2);
    if choices < 2 {
        cx.error(&path.field("choice_count"), "it must be 2 or more");
    }
    let active_request_bias =
        bias.map_or(RuntimeDouble::fixed(1.0), |core_pb::RuntimeDouble { default_value, runtime_key }| {
            runtime_double(cx, runtime_key, *default_value)
        });
    if active_request_bias.default < 0.0 || active_request_bias.default.is_nan() {
        cx.error(&path.field("active_request_bias"), "it must be 0 or more");
    }
    LbPolicy::LeastRequest { choices, active_request_bias }
}

/// The policy of `load_balancing_policy`. Envoy takes the first one that it knows; it knows all those of its API,
/// so the first one counts.
fn extension(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::LoadBalancingPolicy>,
) -> (LbPolicy, Vec<HashPolicy>) {
    use outrider_proto::any::is;

    let policies = path.field("policies");
    let path = policies.index(0);
    let path = path.field("typed_extension_config");
    let config = message.and_then(|pb::LoadBalancingPolicy { policies }| policies.first());
    let config = config.and_then(|pb::load_balancing_policy::Policy { typed_extension_config }| {
        typed_extension_config.as_ref()
    });
    let Some(core_pb::TypedExtensionConfig { name: _name, typed_config: Some(any) }) = config else {
        cx.error(&path, "a policy with a typed_config is needed");
        return (LbPolicy::RoundRobin, Vec::new());
    };
    let path = path.field("typed_config");
    if is::<ext::ring_hash::v3::RingHash>(any) {
        let message = unpack(cx, &path, any).unwrap_or_default();
        return hash::ring_extension(cx, &path, &message);
    }
    if is::<ext::maglev::v3::Maglev>(any) {
        let message = unpack(cx, &path, any).unwrap_or_default();
        return hash::maglev_extension(cx, &path, &message);
    }
    (extension_policy(cx, &path, any).unwrap_or(LbPolicy::RoundRobin), Vec::new())
}

fn extension_policy(cx: &Cx, path: &Path<'_>, any: &google::Any) -> Option<LbPolicy> {
    use outrider_proto::any::is;
    if is::<ext::round_robin::v3::RoundRobin>(any) {
        let ext::round_robin::v3::RoundRobin { slow_start_config, locality_lb_config } =
            &unpack(cx, path, any)?;
        refuse!(cx, path, UNSUPPORTED; slow_start_config);
        locality(cx, path, locality_lb_config.as_ref());
        return Some(LbPolicy::RoundRobin);
    }
    if is::<ext::least_request::v3::LeastRequest>(any) {
        let ext::least_request::v3::LeastRequest {
            choice_count,
            active_request_bias,
            slow_start_config,
            locality_lb_config,
            enable_full_scan,
            selection_method,
        } = &unpack(cx, path, any)?;
        refuse!(cx, path, UNSUPPORTED; slow_start_config, selection_method);
        if enable_full_scan.as_ref().is_some_and(|on| on.value) {
            cx.refuse(&path.field("enable_full_scan"), UNSUPPORTED);
        }
        locality(cx, path, locality_lb_config.as_ref());
        return Some(least_request(cx, path, choice_count, active_request_bias.as_ref()));
    }
    if is::<ext::random::v3::Random>(any) {
        let ext::random::v3::Random { locality_lb_config } = &unpack(cx, path, any)?;
        locality(cx, path, locality_lb_config.as_ref());
        return Some(LbPolicy::Random);
    }
    if is::<ext::cluster_provided::v3::ClusterProvided>(any) {
        let ext::cluster_provided::v3::ClusterProvided {} = unpack(cx, path, any)?;
        return Some(LbPolicy::ClusterProvided);
    }
    cx.refuse(
        path,
        format!(
            "the policy {} is not supported; use round_robin, least_request, random, ring_hash or maglev",
            type_of(any)
        ),
    );
    None
}

/// Zone awareness needs a local cluster, which is refused; weights of localities would change traffic.
fn locality(cx: &Cx, path: &Path<'_>, message: Option<&ext::common::v3::LocalityLbConfig>) {
    use ext::common::v3::locality_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
    let Some(message) = message else { return };
    let path = path.field("locality_lb_config");
    let ext::common::v3::LocalityLbConfig { locality_config_specifier } = message;
    match locality_config_specifier {
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(message)) => {
            let path = path.field("zone_aware_lb_config");
            let ZoneAwareLbConfig {
                routing_enabled,
                min_cluster_size,
                fail_traffic_on_panic,
                force_locality_direct_routing,
                force_local_zone,
                locality_basis,
            } = message;
            inert!(cx, path, NO_ZONES; routing_enabled, min_cluster_size, force_locality_direct_routing,
                force_local_zone, locality_basis);
            refuse!(cx, path, "write it in common_lb_config.zone_aware_lb_config"; fail_traffic_on_panic);
        }
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            cx.refuse(&path.field("locality_weighted_lb_config"), UNSUPPORTED);
        }
        None => {}
    }
}

/// The reason why settings of zone awareness change nothing.
const NO_ZONES: &str = "zones count only with cluster_manager.local_cluster_name, which is refused";

/// The runtime key that overrides `healthy_panic_threshold`.
const PANIC_KEY: &str = "upstream.healthy_panic_threshold";

/// `common_lb_config`, as far as it is honoured.
pub(crate) struct Common {
    pub(crate) panic_threshold: RuntimeInteger,
    pub(crate) fail_traffic_on_panic: bool,
    pub(crate) ignore_new_until_checked: bool,
}

/// What all policies share.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage is 0 to 100")]
pub(crate) fn common(cx: &Cx, path: &Path<'_>, message: Option<&cluster_pb::CommonLbConfig>) -> Common {
    use cluster_pb::common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
    let empty = cluster_pb::CommonLbConfig::default();
    let cluster_pb::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        // Honoured, or told to be inert, where the policy is chosen (`policy`, `hashing`).
        consistent_hashing_lb_config: _consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = message.unwrap_or(&empty);
    inert!(cx, path, "what checks find at the same time is published once, and other updates are cheap enough to be taken one by one"; update_merge_window);
    inert!(cx, path, "stateful sessions are refused, and nothing else reads it"; override_host_status);
    refuse!(cx, path, UNSUPPORTED; close_connections_on_host_set_change);
    let panic = percent(cx, path, "healthy_panic_threshold", healthy_panic_threshold).unwrap_or(50.0);
    let mut fail = false;
    match locality_config_specifier {
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(message)) => {
            let ZoneAwareLbConfig { routing_enabled, min_cluster_size, fail_traffic_on_panic } = message;
            let path = path.field("zone_aware_lb_config");
            inert!(cx, path, NO_ZONES; routing_enabled, min_cluster_size);
            fail = *fail_traffic_on_panic;
        }
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            cx.refuse(&path.field("locality_weighted_lb_config"), UNSUPPORTED);
        }
        None => {}
    }
    Common {
        panic_threshold: runtime_integer(cx, PANIC_KEY, panic.round() as u64),
        fail_traffic_on_panic: fail,
        ignore_new_until_checked: *ignore_new_hosts_until_first_hc,
    }
}
