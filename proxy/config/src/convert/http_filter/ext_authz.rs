//! `envoy.filters.http.ext_authz`

mod rules;
mod service;

use std::sync::Arc;

use http::StatusCode;
use outrider_core::matcher::StringMatcher;
use outrider_core::metadata::note_reader;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use outrider_proto::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use outrider_proto::pb::envoy::r#type::v3::HttpStatus;

use crate::convert::cx::{Cx, UNSUPPORTED, inert, refuse};
use crate::convert::scalar::{bool_of, enumeration, fraction, runtime_flag};
use crate::convert::{matcher, metadata};
use crate::model::{AuthzBody, AuthzRoute, AuthzService, ExtAuthz, RuntimeFlag};

pub(super) use self::service::retries;

/// The headers that a service that speaks HTTP gets in any case.
const ALWAYS: [&str; 4] = ["authorization", ":method", ":path", ":authority"];

/// The filter at `path`; `None`, and an error, when it is not usable.
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::ExtAuthz) -> Option<ExtAuthz> {
    let pb::ExtAuthz {
        services,
        transport_api_version,
        failure_mode_allow,
        failure_mode_allow_header_add,
        with_request_body,
        clear_route_cache,
        status_on_error,
        validate_mutations,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        route_metadata_context_namespaces,
        route_typed_metadata_context_namespaces,
        filter_enabled,
        filter_enabled_metadata,
        deny_at_disable,
        include_peer_certificate,
        stat_prefix,
        bootstrap_metadata_labels_key,
        allowed_headers,
        disallowed_headers,
        include_tls_session,
        charge_cluster_response_stats,
        encode_raw_headers,
        decoder_header_mutation_rules,
        enable_dynamic_metadata_ingestion,
        filter_metadata,
        emit_filter_state_stats,
        max_denied_response_body_bytes,
        enforce_response_header_limits,
        shadow_mode,
        emit_client_span,
    } = message;
    inert!(cx, path, "no filter here notes typed metadata, so there is none to send"; typed_metadata_context_namespaces);
    inert!(cx, path, "there is no tracing, so there are no spans"; emit_client_span);
    refuse!(cx, path, "typed metadata of routes is not kept; use route_metadata_context_namespaces"; route_typed_metadata_context_namespaces);
    refuse!(cx, path, "labels of the node are not sent; use context_extensions of the route"; bootstrap_metadata_labels_key);
    refuse!(cx, path, UNSUPPORTED; filter_metadata, emit_filter_state_stats, enforce_response_header_limits);
    let service = match services {
        Some(pb::ext_authz::Services::GrpcService(message)) => {
            version(cx, path, *transport_api_version);
            service::grpc(cx, &path.field("grpc_service"), message)
                .map(|grpc| AuthzService::Grpc(Box::new(grpc)))
        }
        Some(pb::ext_authz::Services::HttpService(message)) => {
            inert!(cx, path, "the service speaks HTTP, not gRPC"; transport_api_version);
            service::http(cx, &path.field("http_service"), message)
                .map(|http| AuthzService::Http(Box::new(http)))
        }
        None => {
            cx.error(path, "give one of grpc_service and http_service");
            None
        }
    };
    let allowed_headers = allowed(cx, path, services.as_ref(), allowed_headers.as_ref());
    let enabled_metadata = match filter_enabled_metadata {
        Some(message) => {
            note_reader();
            Some(metadata::matcher(cx, &path.field("filter_enabled_metadata"), message)?)
        }
        None => None,
    };
    if !metadata_context_namespaces.is_empty() {
        note_reader();
    }
    let rules = path.field("decoder_header_mutation_rules");
    Some(ExtAuthz {
        failure_mode_allow: *failure_mode_allow,
        failure_mode_header: *failure_mode_allow_header_add,
        body: with_request_body.as_ref().map(|message| body(cx, &path.field("with_request_body"), message)),
        clear_route_cache: *clear_route_cache,
        status_on_error: status(status_on_error.as_ref()),
        validate_mutations: *validate_mutations,
        metadata_namespaces: names(metadata_context_namespaces),
        route_metadata_namespaces: names(route_metadata_context_namespaces),
        enabled: filter_enabled.as_ref().map(|message| fraction(cx, &path.field("filter_enabled"), message)),
        enabled_metadata,
        deny_at_disable: deny_at_disable.as_ref().map(|message| flag(cx, message)),
        include_peer_certificate: *include_peer_certificate,
        include_tls_session: *include_tls_session,
        stat_prefix: stat_prefix.as_str().into(),
        allowed_headers,
        disallowed_headers: list(cx, &path.field("disallowed_headers"), disallowed_headers.as_ref()),
        charge_cluster: bool_of(charge_cluster_response_stats).unwrap_or(true),
        raw_headers: *encode_raw_headers,
        mutation_rules: match decoder_header_mutation_rules {
            Some(message) => Some(rules::rules(cx, &rules, message)?),
            None => None,
        },
        ingest_metadata: bool_of(enable_dynamic_metadata_ingestion).unwrap_or(true),
        max_denied_body: usize::try_from(*max_denied_response_body_bytes).ok().filter(|most| *most > 0),
        shadow: *shadow_mode,
        service: service?,
    })
}

/// What a route says of the filter; `None`, and an error, when it is not usable.
pub(super) fn per_route(cx: &Cx, path: &Path<'_>, message: &pb::ExtAuthzPerRoute) -> Option<AuthzRoute> {
    use pb::check_settings::ServiceOverride;
    use pb::ext_authz_per_route::Override;
    let pb::ExtAuthzPerRoute { r#override } = message;
    let settings = match r#override {
        Some(Override::Disabled(disabled)) => {
            return Some(AuthzRoute { disabled: *disabled, ..AuthzRoute::default() });
        }
        Some(Override::CheckSettings(settings)) => settings,
        None => {
            cx.error(path, "give one of disabled and check_settings");
            return None;
        }
    };
    let pb::CheckSettings {
        context_extensions,
        disable_request_body_buffering,
        with_request_body,
        service_override,
        emit_client_span,
    } = settings;
    let path = path.field("check_settings");
    inert!(cx, path, "there is no tracing, so there are no spans"; emit_client_span);
    if *disable_request_body_buffering && with_request_body.is_some() {
        let why = "disable_request_body_buffering and with_request_body exclude one another";
        cx.error(&path.field("with_request_body"), why);
    }
    let service = match service_override {
        Some(ServiceOverride::GrpcService(message)) => {
            let grpc = service::grpc(cx, &path.field("grpc_service"), message)?;
            Some(AuthzService::Grpc(Box::new(grpc)))
        }
        Some(ServiceOverride::HttpService(message)) => {
            let path = path.field("http_service");
            let at = path.field("authorization_request");
            if let Some(pb::AuthorizationRequest { allowed_headers, .. }) = &message.authorization_request {
                refuse!(cx, at, "Envoy does not look at it in routes; use allowed_headers of the filter"; allowed_headers);
            }
            Some(AuthzService::Http(Box::new(service::http(cx, &path, message)?)))
        }
        None => None,
    };
    let body = with_request_body.as_ref().map(|message| {
        let path = path.field("with_request_body");
        let pb::BufferSettings { pack_as_bytes, .. } = message;
        inert!(cx, path, "the filter's own says it, in Envoy too"; pack_as_bytes);
        body(cx, &path, message)
    });
    let extensions = context_extensions.iter();
    Some(AuthzRoute {
        disabled: false,
        extensions: extensions.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
        without_body: *disable_request_body_buffering,
        body,
        service,
    })
}

fn version(cx: &Cx, path: &Path<'_>, version: i32) {
    use core_pb::ApiVersion;
    if enumeration::<ApiVersion>(cx, path, "transport_api_version", version) != ApiVersion::V3 {
        cx.error(&path.field("transport_api_version"), "write V3: there is no other version any more");
    }
}

fn flag(cx: &Cx, message: &core_pb::RuntimeFeatureFlag) -> RuntimeFlag {
    let core_pb::RuntimeFeatureFlag { default_value, runtime_key } = message;
    runtime_flag(cx, runtime_key, bool_of(default_value).unwrap_or(false))
}

fn body(cx: &Cx, path: &Path<'_>, message: &pb::BufferSettings) -> AuthzBody {
    let pb::BufferSettings { max_request_bytes, allow_partial_message, pack_as_bytes } = message;
    if *max_request_bytes == 0 {
        cx.error(&path.field("max_request_bytes"), "one byte at least is needed");
    }
    AuthzBody {
        most: usize::try_from(*max_request_bytes).unwrap_or(usize::MAX),
        partial: *allow_partial_message,
        as_bytes: *pack_as_bytes,
    }
}

/// Envoy: `toErrorCode`.
fn status(message: Option<&HttpStatus>) -> StatusCode {
    let code = message.and_then(|HttpStatus { code }| u16::try_from(*code).ok());
    let code = code.filter(|code| (200..=511).contains(code));
    code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::FORBIDDEN)
}

fn names(names: &[String]) -> Box<[Arc<str>]> {
    names.iter().map(|name| Arc::from(name.as_str())).collect()
}

/// The patterns of the list at `path`; none where there is no list.
fn list(cx: &Cx, path: &Path<'_>, message: Option<&ListStringMatcher>) -> Box<[StringMatcher]> {
    let Some(ListStringMatcher { patterns }) = message else { return Box::default() };
    matcher::strings(cx, &path.field("patterns"), patterns).into()
}

/// Which headers are sent. A service that speaks gRPC gets all where there is no list, one that speaks HTTP a few.
fn allowed(
    cx: &Cx,
    path: &Path<'_>,
    service: Option<&pb::ext_authz::Services>,
    own: Option<&ListStringMatcher>,
) -> Option<Box<[StringMatcher]>> {
    let at = path.field("allowed_headers");
    let Some(pb::ext_authz::Services::HttpService(http)) = service else {
        return own.map(|own| list(cx, &at, Some(own)));
    };
    let old = http.authorization_request.as_ref().and_then(|request| request.allowed_headers.as_ref());
    if own.is_some() && old.is_some() {
        let why = "it is in http_service.authorization_request already; keep one of them";
        cx.error(&at, why);
    }
    let patterns = match old {
        Some(old) => {
            let path = path.field("http_service");
            let path = path.field("authorization_request");
            list(cx, &path.field("allowed_headers"), Some(old))
        }
        None => list(cx, &at, own),
    };
    Some(patterns.into_iter().chain(ALWAYS.map(StringMatcher::exact)).collect())
}
