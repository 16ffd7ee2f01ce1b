//! The connection manager's smaller settings, each with Envoy's default.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrider_proto::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;

use super::address;
use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, enumeration, type_of, u32_of, unpack};
use crate::model::{
    ClientCertDetails, CodecType, EscapedSlashes, ForwardClientCert, InternalAddresses, ServerHeader,
    StripPort, UnderscoreAction,
};

/// Which HTTP is spoken.
pub(super) fn codec(cx: &Cx, path: &Path<'_>, value: i32) -> CodecType {
    use pb::http_connection_manager::CodecType as Kind;
    match enumeration::<Kind>(cx, path, "codec_type", value) {
        Kind::Auto => CodecType::Auto,
        Kind::Http1 => CodecType::Http1,
        Kind::Http2 => CodecType::Http2,
        Kind::Http3 => {
            cx.refuse(&path.field("codec_type"), "HTTP/3 is not supported; use AUTO, HTTP1 or HTTP2");
            CodecType::Auto
        }
    }
}

/// What becomes of the upstream's `server`.
pub(super) fn server_header(cx: &Cx, path: &Path<'_>, value: i32) -> ServerHeader {
    use pb::http_connection_manager::ServerHeaderTransformation as Kind;
    match enumeration::<Kind>(cx, path, "server_header_transformation", value) {
        Kind::Overwrite => ServerHeader::Overwrite,
        Kind::AppendIfAbsent => ServerHeader::AppendIfAbsent,
        Kind::PassThrough => ServerHeader::PassThrough,
    }
}

/// The scheme that replaces that of requests.
pub(super) fn scheme(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&core_pb::SchemeHeaderTransformation>,
) -> Option<String> {
    use core_pb::scheme_header_transformation::Transformation;
    let core_pb::SchemeHeaderTransformation { match_upstream, transformation } = message?;
    let path = path.field("scheme_header_transformation");
    refuse!(cx, path, UNSUPPORTED; match_upstream);
    let Transformation::SchemeToOverwrite(scheme) = transformation.as_ref()?;
    if scheme != "http" && scheme != "https" {
        cx.error(&path.field("scheme_to_overwrite"), format!("{scheme:?} is neither http nor https"));
    }
    Some(scheme.clone())
}

/// The limit of a request's head, KiB.
pub(super) fn head_limit(
    cx: &Cx,
    path: &Path<'_>,
    value: &Option<outrider_proto::pb::google::protobuf::UInt32Value>,
) -> u32 {
    let limit = u32_of(value).unwrap_or(60);
    if !(1..=8192).contains(&limit) {
        cx.error(&path.field("max_request_headers_kb"), format!("{limit} is not within 1 to 8192"));
    }
    limit
}

/// What becomes of header names with an underscore.
pub(super) fn underscore_action(
    value: core_pb::http_protocol_options::HeadersWithUnderscoresAction,
) -> UnderscoreAction {
    use core_pb::http_protocol_options::HeadersWithUnderscoresAction as Kind;
    match value {
        Kind::Allow => UnderscoreAction::Allow,
        Kind::RejectRequest => UnderscoreAction::Reject,
        Kind::DropHeader => UnderscoreAction::Drop,
    }
}

/// What becomes of `%2F`.
pub(super) fn escaped_slashes(cx: &Cx, path: &Path<'_>, value: i32) -> EscapedSlashes {
    use pb::http_connection_manager::PathWithEscapedSlashesAction as Kind;
    match enumeration::<Kind>(cx, path, "path_with_escaped_slashes_action", value) {
        Kind::ImplementationSpecificDefault | Kind::KeepUnchanged => EscapedSlashes::Keep,
        Kind::RejectRequest => EscapedSlashes::Reject,
        Kind::UnescapeAndRedirect => EscapedSlashes::Redirect,
        Kind::UnescapeAndForward => EscapedSlashes::Forward,
    }
}

/// Which ports are cut off the host.
pub(super) fn strip_port(
    cx: &Cx,
    path: &Path<'_>,
    matching: bool,
    mode: Option<&pb::http_connection_manager::StripPortMode>,
) -> StripPort {
    use pb::http_connection_manager::StripPortMode;
    let any = matches!(mode, Some(StripPortMode::StripAnyHostPort(true)));
    if any && matching {
        cx.error(
            &path.field("strip_any_host_port"),
            "strip_matching_host_port and strip_any_host_port exclude one another",
        );
    }
    match (any, matching) {
        (true, _) => StripPort::Any,
        (false, true) => StripPort::Matching,
        (false, false) => StripPort::No,
    }
}

/// Which peers are internal.
pub(super) fn internal(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::http_connection_manager::InternalAddressConfig>,
) -> InternalAddresses {
    // Measured on Envoy 1.40: without the message nothing is internal; with it and no ranges, these are.
    const DEFAULTS: [(&str, u32); 6] = [
        ("10.0.0.0", 8),
        ("192.168.0.0", 16),
        ("172.16.0.0", 12),
        ("127.0.0.1", 32),
        ("fd00::", 8),
        ("::1", 128),
    ];
    let Some(message) = message else { return InternalAddresses { unix_sockets: false, ranges: None } };
    let pb::http_connection_manager::InternalAddressConfig { unix_sockets, cidr_ranges } = message;
    let path = path.field("internal_address_config");
    let path = path.field("cidr_ranges");
    let ranges = if cidr_ranges.is_empty() {
        let range = |(address, len): (&str, u32)| core_pb::CidrRange {
            address_prefix: address.to_owned(),
            prefix_len: Some(outrider_proto::pb::google::protobuf::UInt32Value { value: len }),
        };
        address::cidrs(cx, &path, &DEFAULTS.map(range))
    } else {
        address::cidrs(cx, &path, cidr_ranges)
    };
    InternalAddresses { unix_sockets: *unix_sockets, ranges: Some(ranges) }
}

/// What becomes of `x-forwarded-client-cert`.
pub(super) fn client_cert(
    cx: &Cx,
    path: &Path<'_>,
    action: i32,
    details: Option<&pb::http_connection_manager::SetCurrentClientCertDetails>,
) -> (ForwardClientCert, ClientCertDetails) {
    use pb::http_connection_manager::{ForwardClientCertDetails as Kind, SetCurrentClientCertDetails};
    let action = match enumeration::<Kind>(cx, path, "forward_client_cert_details", action) {
        Kind::Sanitize => ForwardClientCert::Sanitize,
        Kind::ForwardOnly => ForwardClientCert::ForwardOnly,
        Kind::AppendForward => ForwardClientCert::AppendForward,
        Kind::SanitizeSet => ForwardClientCert::SanitizeSet,
        Kind::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    };
    let Some(details) = details else { return (action, ClientCertDetails::default()) };
    let SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } = details;
    let path = path.field("set_current_client_cert_details");
    refuse!(cx, path, UNSUPPORTED; issuer, format);
    let details = ClientCertDetails {
        subject: bool_of(subject).unwrap_or(false),
        cert: *cert,
        chain: *chain,
        dns: *dns,
        uri: *uri,
    };
    (action, details)
}

/// Whether the request id carries the trace decision.
pub(super) fn pack_trace_reason(cx: &Cx, path: &Path<'_>, message: Option<&pb::RequestIdExtension>) -> bool {
    let Some(pb::RequestIdExtension { typed_config: Some(any) }) = message else { return true };
    let path = path.field("typed_config");
    if !outrider_proto::any::is::<UuidRequestIdConfig>(any) {
        cx.refuse(&path, format!("{} is not supported; use the UUID extension or none", type_of(any)));
        return true;
    }
    let Some(message) = unpack::<UuidRequestIdConfig>(cx, &path, any) else { return true };
    let UuidRequestIdConfig { pack_trace_reason, use_request_id_for_trace_sampling } = &message;
    inert!(cx, path, "it decides what is traced, and tracing is not supported"; use_request_id_for_trace_sampling);
    bool_of(pack_trace_reason).unwrap_or(true)
}
