//! `dynamic_resources`: what comes from a control plane, and how it is reached.

use std::collections::HashSet;
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use outrider_proto::pb::envoy::config::core::v3::ApiConfigSource;
use outrider_proto::pb::envoy::config::core::v3::api_config_source::ApiType;
use outrider_proto::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;

use super::cx::{Cx, refuse};
use super::xds::{api_config_source, config_source};
use crate::model::DynamicResources;

/// `dynamic_resources`
pub(crate) fn resources(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::bootstrap::DynamicResources>,
) -> DynamicResources {
    let Some(message) = message else { return DynamicResources::default() };
    let pb::bootstrap::DynamicResources {
        lds_config,
        lds_resources_locator,
        cds_config,
        cds_resources_locator,
        ads_config,
    } = message;
    refuse!(cx, path, "xdstp:// resource names are not supported; write lds_config and cds_config";
        lds_resources_locator, cds_resources_locator);
    let source = |field: &str, message: &Option<_>| {
        message.as_ref().and_then(|message| config_source(cx, &path.field(field), message))
    };
    let ads = ads_config
        .as_ref()
        .and_then(|message| api_config_source(cx, &path.field("ads_config"), message, true))
        .map(Arc::new);
    DynamicResources { lds: source("lds_config", lds_config), cds: source("cds_config", cds_config), ads }
}

/// Whether an aggregated stream speaks delta.
pub(crate) fn is_delta(message: &ApiConfigSource) -> bool {
    message.api_type == ApiType::DeltaGrpc as i32
}

/// The static clusters that need no control plane themselves.
pub(crate) fn primary_clusters(message: &pb::Bootstrap) -> HashSet<String> {
    let clusters = message.static_resources.iter().flat_map(|resources| &resources.clusters);
    clusters.filter(|cluster| is_primary(cluster)).map(|cluster| cluster.name.clone()).collect()
}

/// Whether a cluster has its hosts without a control plane's help; endpoints from a file count (Envoy:
/// `ClusterManagerImpl::isPrimaryCluster` as of its checks of config sources).
fn is_primary(cluster: &Cluster) -> bool {
    let eds = cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
    let source = cluster.eds_cluster_config.as_ref().and_then(|eds| eds.eds_config.as_ref());
    let source = source.and_then(|source| source.config_source_specifier.as_ref());
    !eds || matches!(
        source,
        Some(ConfigSourceSpecifier::Path(_) | ConfigSourceSpecifier::PathConfigSource(_))
    )
}
