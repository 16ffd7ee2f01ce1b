//! Sources of configuration: `ConfigSource` and what stands in it.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::grpc_service;
use super::scalar::{duration, enumeration, u32_of};
use crate::model::{ApiConfigSource, ConfigSource, ConfigSourceKind, RateLimit};

const XDSTP: &str = "xdstp:// resource names are not supported; name resources plainly";

/// A `ConfigSource`; `None`, and an error, when it is none that we have.
pub(crate) fn config_source(cx: &Cx, path: &Path<'_>, message: &pb::ConfigSource) -> Option<ConfigSource> {
    use pb::config_source::ConfigSourceSpecifier as Kind;
    let pb::ConfigSource {
        authorities,
        initial_fetch_timeout,
        resource_api_version,
        config_source_specifier,
    } = message;
    refuse!(cx, path, XDSTP; authorities);
    if enumeration::<pb::ApiVersion>(cx, path, "resource_api_version", *resource_api_version)
        == pb::ApiVersion::V2
    {
        cx.inert(&path.field("resource_api_version"), "resources are of version 3 in any case, in Envoy too");
    }
    let kind = match config_source_specifier {
        Some(Kind::Ads(pb::AggregatedConfigSource {})) => {
            if !cx.has_ads {
                cx.error(&path.field("ads"), "it needs dynamic_resources.ads_config in the bootstrap");
            }
            ConfigSourceKind::Ads
        }
        Some(Kind::ApiConfigSource(message)) => {
            let path = path.field("api_config_source");
            ConfigSourceKind::Api(Arc::new(api_config_source(cx, &path, message, false)?))
        }
        Some(Kind::Path(file)) => {
            if file.is_empty() {
                cx.error(&path.field("path"), "a path is needed");
            }
            ConfigSourceKind::Path { path: Arc::from(file.as_str()), watched_directory: None }
        }
        Some(Kind::PathConfigSource(message)) => {
            let path = path.field("path_config_source");
            let pb::PathConfigSource { path: file, watched_directory, poll_interval } = message;
            refuse!(cx, path, "files are watched for moves, not polled; remove it"; poll_interval);
            if file.is_empty() {
                cx.error(&path.field("path"), "a path is needed");
            }
            ConfigSourceKind::Path {
                path: Arc::from(file.as_str()),
                watched_directory: watched_directory.as_ref().map(|message| directory(cx, &path, message)),
            }
        }
        Some(Kind::Self_(_)) => {
            cx.refuse(
                &path.field("self"),
                "not implemented, in Envoy neither; write ads or api_config_source",
            );
            return None;
        }
        None => {
            cx.error(path, "give one of ads, api_config_source and path_config_source");
            return None;
        }
    };
    let initial_fetch_timeout = duration(cx, path, "initial_fetch_timeout", initial_fetch_timeout)
        .unwrap_or(ConfigSource::INITIAL_FETCH_TIMEOUT);
    Some(ConfigSource { kind, initial_fetch_timeout })
}

/// The source of `what`, which the protocol knows in delta form only.
pub(crate) fn delta_source(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::ConfigSource,
    what: &str,
) -> Option<ConfigSource> {
    let source = config_source(cx, path, message)?;
    let delta = match &source.kind {
        // Without a stream that has been said already.
        ConfigSourceKind::Ads => cx.ads_is_delta || !cx.has_ads,
        ConfigSourceKind::Api(api) => api.delta,
        ConfigSourceKind::Path { .. } => false,
    };
    if !delta {
        cx.error(
            path,
            format!("{what} need a source of api_type DELTA_GRPC, or ads where the aggregated stream has it"),
        );
        return None;
    }
    Some(source)
}

/// The directory that is watched for moves.
pub(super) fn directory(cx: &Cx, path: &Path<'_>, message: &pb::WatchedDirectory) -> Arc<str> {
    let path = path.field("watched_directory");
    let pb::WatchedDirectory { path: directory, watch_modify } = message;
    refuse!(cx, path, "files are replaced by moves, not written in place; remove it"; watch_modify);
    Arc::from(directory.as_str())
}

/// An `ApiConfigSource` of the aggregated stream, or of one type's; `None`, and an error, when it is none that we have.
pub(crate) fn api_config_source(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::ApiConfigSource,
    aggregated: bool,
) -> Option<ApiConfigSource> {
    use pb::api_config_source::ApiType;
    let pb::ApiConfigSource {
        api_type,
        transport_api_version,
        cluster_names,
        grpc_services,
        refresh_delay,
        request_timeout,
        rate_limit_settings,
        set_node_on_first_message_only,
        config_validators,
    } = message;
    cx.uses_control_plane.set(true);
    let delta = match enumeration::<ApiType>(cx, path, "api_type", *api_type) {
        ApiType::Grpc => false,
        ApiType::DeltaGrpc => true,
        ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc => {
            let why = if aggregated {
                "the field says already that the stream is aggregated; write GRPC or DELTA_GRPC"
            } else {
                "the aggregated stream is made in dynamic_resources.ads_config; write ads: {} here"
            };
            cx.error(&path.field("api_type"), why);
            return None;
        }
        ApiType::Rest => {
            cx.refuse(&path.field("api_type"), "REST is not supported; use GRPC or DELTA_GRPC");
            return None;
        }
        ApiType::DeprecatedAndUnavailableDoNotUse => {
            cx.error(&path.field("api_type"), "a type is needed: GRPC or DELTA_GRPC");
            return None;
        }
    };
    // Nothing said means version 3, too.
    if enumeration::<pb::ApiVersion>(cx, path, "transport_api_version", *transport_api_version)
        == pb::ApiVersion::V2
    {
        cx.refuse(&path.field("transport_api_version"), "version 2 is gone, in Envoy too; write V3");
    }
    refuse!(cx, path, UNSUPPORTED; config_validators);
    inert!(cx, path, "a setting of REST, and this is gRPC"; refresh_delay, request_timeout);
    if !cluster_names.is_empty() {
        cx.error(&path.field("cluster_names"), "it is for REST; name the cluster in grpc_services");
    }
    let at = path.field("grpc_services");
    if grpc_services.is_empty() {
        cx.error(&at, "a service is needed");
    }
    let mut services = Vec::with_capacity(grpc_services.len());
    for (i, message) in grpc_services.iter().enumerate() {
        let path = at.index(i);
        let service = grpc_service::service(cx, &path, message);
        if let Some(service) = &service {
            grpc_service::primary_cluster(cx, &path, service);
        }
        services.extend(service);
    }
    (services.len() == grpc_services.len() && !services.is_empty()).then(|| ApiConfigSource {
        delta,
        aggregated,
        services,
        set_node_on_first_message_only: *set_node_on_first_message_only,
        rate_limit: rate_limit_settings
            .as_ref()
            .map(|message| rate_limit(cx, &path.field("rate_limit_settings"), message)),
    })
}

fn rate_limit(cx: &Cx, path: &Path<'_>, message: &pb::RateLimitSettings) -> RateLimit {
    let pb::RateLimitSettings { max_tokens, fill_rate } = message;
    let fill_rate = fill_rate.map_or(10.0, |rate| rate.value);
    let refill = Duration::try_from_secs_f64(fill_rate.recip()).unwrap_or_else(|_| {
        cx.error(&path.field("fill_rate"), format!("{fill_rate} is not a number of tokens in a second"));
        Duration::from_millis(100)
    });
    RateLimit { max_tokens: u32_of(max_tokens).unwrap_or(100), refill }
}
