//! Protocol options that listeners and clusters share.

use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as pb;
use outrider_proto::pb::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, duration, percent, timeout, type_of, u32_of, unpack};
use crate::model::{HeaderCase, Http1Options, Http2Keepalive, Http2Options};

/// HTTP/1 settings.
pub(crate) fn http1(cx: &Cx, path: &Path<'_>, message: Option<&pb::Http1ProtocolOptions>) -> Http1Options {
    let Some(message) = message else { return Http1Options::default() };
    let pb::Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = message;
    inert!(cx, path, "it chooses between Envoy's parsers; there is one here"; use_balsa_parser);
    refuse!(cx, path, UNSUPPORTED; ignore_http_11_upgrade);
    Http1Options {
        allow_absolute_url: bool_of(allow_absolute_url).unwrap_or(true),
        allow_custom_methods: *allow_custom_methods,
        accept_http_10: *accept_http_10,
        default_host_for_http_10: default_host_for_http_10.clone(),
        enable_trailers: *enable_trailers,
        allow_chunked_length: *allow_chunked_length,
        header_case: header_case(cx, &path.field("header_key_format"), header_key_format.as_ref()),
        override_stream_error_on_invalid_http_message: bool_of(override_stream_error_on_invalid_http_message),
        send_fully_qualified_url: *send_fully_qualified_url,
    }
}

fn header_case(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::http1_protocol_options::HeaderKeyFormat>,
) -> HeaderCase {
    use pb::http1_protocol_options::HeaderKeyFormat;
    use pb::http1_protocol_options::header_key_format::{HeaderFormat, ProperCaseWords};
    let Some(HeaderKeyFormat { header_format }) = message else { return HeaderCase::Lower };
    let formatter = match header_format {
        Some(HeaderFormat::ProperCaseWords(ProperCaseWords {})) => return HeaderCase::ProperWords,
        Some(HeaderFormat::StatefulFormatter(formatter)) => formatter,
        None => {
            cx.error(path, "give one of proper_case_words and stateful_formatter");
            return HeaderCase::Lower;
        }
    };
    let path = path.field("stateful_formatter");
    let pb::TypedExtensionConfig { name: _name, typed_config } = formatter;
    let path = path.field("typed_config");
    let Some(any) = typed_config else {
        cx.error(&path, "a typed_config is needed");
        return HeaderCase::Lower;
    };
    if !outrider_proto::any::is::<PreserveCaseFormatterConfig>(any) {
        cx.refuse(&path, format!("the formatter {} is not supported; use preserve_case", type_of(any)));
        return HeaderCase::Lower;
    }
    if let Some(message) = unpack::<PreserveCaseFormatterConfig>(cx, &path, any) {
        let PreserveCaseFormatterConfig { forward_reason_phrase, formatter_type_on_envoy_headers } = &message;
        refuse!(cx, path, UNSUPPORTED; forward_reason_phrase, formatter_type_on_envoy_headers);
    }
    HeaderCase::Preserve
}

/// HTTP/2 settings.
pub(crate) fn http2(cx: &Cx, path: &Path<'_>, message: Option<&pb::Http2ProtocolOptions>) -> Http2Options {
    let Some(message) = message else { return Http2Options::default() };
    let pb::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = message;
    refuse!(cx, path, "METADATA frames are not supported; remove it"; allow_metadata);
    inert!(cx, path, "METADATA frames are refused anyway"; max_metadata_size);
    inert!(cx, path, "it chooses between Envoy's codecs; there is one here"; use_oghttp2_codec);
    inert!(cx, path, "an encoding of the same headers; peers see no other headers"; enable_huffman_encoding);
    refuse!(cx, path, "this flood limit cannot be set; remove it, the codec has limits of its own";
        max_consecutive_inbound_frames_with_empty_payload, max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent, stream_reset_burst, stream_reset_rate,
        max_outbound_frames, max_outbound_control_frames);
    refuse!(cx, path, UNSUPPORTED; custom_settings_parameters, max_header_field_size_kb, disallow_obs_text);
    for (field, value) in [
        ("initial_stream_window_size", initial_stream_window_size),
        ("initial_connection_window_size", initial_connection_window_size),
    ] {
        if u32_of(value).is_some_and(|size| !(65_535..=2_147_483_647).contains(&size)) {
            cx.error(&path.field(field), "a window has 65,535 to 2,147,483,647 bytes");
        }
    }
    if u32_of(max_concurrent_streams).is_some_and(|streams| !(1..=2_147_483_647).contains(&streams)) {
        cx.error(&path.field("max_concurrent_streams"), "it must be 1 to 2,147,483,647");
    }
    Http2Options {
        hpack_table_size: u32_of(hpack_table_size),
        max_concurrent_streams: u32_of(max_concurrent_streams),
        initial_stream_window_size: u32_of(initial_stream_window_size),
        initial_connection_window_size: u32_of(initial_connection_window_size),
        allow_connect: *allow_connect,
        override_stream_error_on_invalid_http_message: bool_of(override_stream_error_on_invalid_http_message)
            .or(stream_error_on_invalid_http_messaging.then_some(true)),
        keepalive: connection_keepalive
            .as_ref()
            .and_then(|message| keepalive(cx, &path.field("connection_keepalive"), message)),
        max_outbound_frames: None,
        max_outbound_control_frames: None,
    }
}

fn keepalive(cx: &Cx, path: &Path<'_>, message: &pb::KeepaliveSettings) -> Option<Http2Keepalive> {
    let pb::KeepaliveSettings { interval, timeout: limit, interval_jitter, connection_idle_interval } =
        message;
    let Some(limit) = duration(cx, path, "timeout", limit) else {
        cx.error(&path.field("timeout"), "a timeout is needed");
        return None;
    };
    if connection_idle_interval.is_some() {
        cx.refuse(
            &path.field("connection_idle_interval"),
            "an idle connection is not probed before its next stream; use interval",
        );
    }
    Some(Http2Keepalive {
        interval: timeout(cx, path, "interval", interval, None),
        timeout: limit,
        interval_jitter_percent: percent(cx, path, "interval_jitter", interval_jitter).unwrap_or(15.0),
        connection_idle_interval: timeout(
            cx,
            path,
            "connection_idle_interval",
            connection_idle_interval,
            None,
        ),
    })
}

/// What `common_http_protocol_options` says, with Envoy's defaults.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    /// `None` for never.
    pub(crate) idle_timeout: Option<Duration>,
    /// `None` for no limit.
    pub(crate) max_connection_duration: Option<Duration>,
    pub(crate) max_headers_count: u32,
    pub(crate) max_stream_duration: Option<Duration>,
    pub(crate) underscores: pb::http_protocol_options::HeadersWithUnderscoresAction,
    /// `None` when not given.
    pub(crate) max_requests_per_connection: Option<u32>,
}

/// Settings of every HTTP version.
pub(crate) fn common(cx: &Cx, path: &Path<'_>, message: Option<&pb::HttpProtocolOptions>) -> Common {
    let default = pb::HttpProtocolOptions::default();
    let pb::HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = message.unwrap_or(&default);
    refuse!(cx, path, UNSUPPORTED; max_connection_duration_jitter, max_response_headers_kb);
    Common {
        idle_timeout: timeout(cx, path, "idle_timeout", idle_timeout, Some(Duration::from_secs(3600))),
        max_connection_duration: timeout(cx, path, "max_connection_duration", max_connection_duration, None),
        max_headers_count: u32_of(max_headers_count).unwrap_or(100),
        max_stream_duration: timeout(cx, path, "max_stream_duration", max_stream_duration, None),
        underscores: super::scalar::enumeration(
            cx,
            path,
            "headers_with_underscores_action",
            *headers_with_underscores_action,
        ),
        max_requests_per_connection: u32_of(max_requests_per_connection),
    }
}
