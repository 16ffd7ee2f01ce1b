//! HTTP to a cluster's hosts: `HttpProtocolOptions`, and the older fields that say the same.

use std::collections::{BTreeMap, HashMap};

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter::ConfigType,
};
use outrider_proto::pb::envoy::extensions::upstreams::http::v3 as pb;
use outrider_proto::pb::google::protobuf as google;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::http_options::{common, http1, http2};
use super::scalar::{enumeration, header_name, type_of, u32_of, unpack};
use crate::model::{Http1Options, Http2Options, UpstreamHttp, UpstreamProtocol};

/// The key under which `HttpProtocolOptions` stand.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The older fields of a cluster. They count where there are no `HttpProtocolOptions`.
pub(crate) struct Old<'a> {
    pub(crate) max_requests_per_connection: &'a Option<google::UInt32Value>,
    pub(crate) upstream: Option<&'a core_pb::UpstreamHttpProtocolOptions>,
    pub(crate) common: Option<&'a core_pb::HttpProtocolOptions>,
    pub(crate) http1: Option<&'a core_pb::Http1ProtocolOptions>,
    pub(crate) http2: Option<&'a core_pb::Http2ProtocolOptions>,
    pub(crate) selection: i32,
}

/// The HTTP settings of the cluster at `path`.
pub(crate) fn options(
    cx: &Cx,
    path: &Path<'_>,
    typed: &HashMap<String, google::Any>,
    old: &Old<'_>,
) -> UpstreamHttp {
    let at = path.field("typed_extension_protocol_options");
    let mut found = None;
    for (key, any) in typed.iter().collect::<BTreeMap<_, _>>() {
        let path = at.key(key);
        if outrider_proto::any::is::<pb::HttpProtocolOptions>(any) && key == KEY {
            found = unpack::<pb::HttpProtocolOptions>(cx, &path, any);
        } else {
            cx.refuse(&path, format!("{} under {key:?} is not supported; {KEY} is", type_of(any)));
        }
    }
    let per_connection = u32_of(old.max_requests_per_connection);
    let mut options = match &found {
        Some(message) => {
            inert_old(cx, path, old);
            new(cx, &at.key(KEY), message)
        }
        None => older(cx, path, old),
    };
    if options.max_requests_per_connection == 0 {
        options.max_requests_per_connection = per_connection.unwrap_or(0);
    }
    options
}

/// Records the older fields that `HttpProtocolOptions` put aside.
fn inert_old(cx: &Cx, path: &Path<'_>, old: &Old<'_>) {
    for (set, field) in [
        (old.upstream.is_some(), "upstream_http_protocol_options"),
        (old.common.is_some(), "common_http_protocol_options"),
        (old.http1.is_some(), "http_protocol_options"),
        (old.http2.is_some(), "http2_protocol_options"),
        (old.selection != 0, "protocol_selection"),
    ] {
        if set {
            cx.inert(
                &path.field(field),
                "HttpProtocolOptions in typed_extension_protocol_options come before it",
            );
        }
    }
}

fn older(cx: &Cx, path: &Path<'_>, old: &Old<'_>) -> UpstreamHttp {
    let selection: ClusterProtocolSelection = enumeration(cx, path, "protocol_selection", old.selection);
    let downstream = selection == ClusterProtocolSelection::UseDownstreamProtocol;
    if !downstream && old.http1.is_some() && old.http2.is_some() {
        cx.error(
            &path.field("http2_protocol_options"),
            "http_protocol_options and http2_protocol_options exclude one another, unless protocol_selection is USE_DOWNSTREAM_PROTOCOL",
        );
    }
    let mut options = UpstreamHttp {
        protocol: match (downstream, old.http2) {
            (true, _) => UpstreamProtocol::UseDownstream,
            (false, Some(_)) => UpstreamProtocol::Http2,
            (false, None) => UpstreamProtocol::Http1,
        },
        takes_http2: old.http2.is_some(),
        http1: http1(cx, &path.field("http_protocol_options"), old.http1),
        http2: http2(cx, &path.field("http2_protocol_options"), old.http2),
        ..UpstreamHttp::default()
    };
    set_common(cx, &path.field("common_http_protocol_options"), old.common, &mut options);
    set_sni(cx, &path.field("upstream_http_protocol_options"), old.upstream, &mut options);
    options
}

fn new(cx: &Cx, path: &Path<'_>, message: &pb::HttpProtocolOptions) -> UpstreamHttp {
    let pb::HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = message;
    refuse!(cx, path, UNSUPPORTED;
        header_validation_config, outlier_detection, request_mirror_policies, hash_policy, retry_policy);
    filters(cx, &path.field("http_filters"), http_filters);
    let (protocol, http1, http2) = protocol(cx, path, upstream_protocol_options.as_ref());
    let takes_http2 = match (protocol, upstream_protocol_options) {
        (_, Some(pb::http_protocol_options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(both))) => {
            both.http2_protocol_options.is_some()
        }
        (protocol, _) => matches!(protocol, UpstreamProtocol::Http2 | UpstreamProtocol::Auto),
    };
    let mut options = UpstreamHttp { protocol, takes_http2, http1, http2, ..UpstreamHttp::default() };
    set_common(
        cx,
        &path.field("common_http_protocol_options"),
        common_http_protocol_options.as_ref(),
        &mut options,
    );
    set_sni(
        cx,
        &path.field("upstream_http_protocol_options"),
        upstream_http_protocol_options.as_ref(),
        &mut options,
    );
    options
}

fn protocol(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::http_protocol_options::UpstreamProtocolOptions>,
) -> (UpstreamProtocol, Http1Options, Http2Options) {
    use pb::http_protocol_options::explicit_http_config::ProtocolConfig;
    use pb::http_protocol_options::{
        AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    };
    const HTTP3: &str = "HTTP/3 is not supported; remove it";
    match message {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config })) => {
            let path = path.field("explicit_http_config");
            match protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(message)) => {
                    let options = http1(cx, &path.field("http_protocol_options"), Some(message));
                    (UpstreamProtocol::Http1, options, Http2Options::default())
                }
                Some(ProtocolConfig::Http2ProtocolOptions(message)) => {
                    let options = http2(cx, &path.field("http2_protocol_options"), Some(message));
                    (UpstreamProtocol::Http2, Http1Options::default(), options)
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    cx.refuse(&path.field("http3_protocol_options"), HTTP3);
                    (UpstreamProtocol::Http1, Http1Options::default(), Http2Options::default())
                }
                None => {
                    cx.error(&path, "give one of http_protocol_options and http2_protocol_options");
                    (UpstreamProtocol::Http1, Http1Options::default(), Http2Options::default())
                }
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(message)) => {
            let UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = message;
            let path = path.field("use_downstream_protocol_config");
            inert!(cx, path, "no request comes by HTTP/3"; http3_protocol_options);
            let http1 = http1(cx, &path.field("http_protocol_options"), http_protocol_options.as_ref());
            let http2 = http2(cx, &path.field("http2_protocol_options"), http2_protocol_options.as_ref());
            (UpstreamProtocol::UseDownstream, http1, http2)
        }
        Some(UpstreamProtocolOptions::AutoConfig(message)) => {
            let AutoHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
                alternate_protocols_cache_options,
            } = message;
            let path = path.field("auto_config");
            refuse!(cx, path, HTTP3; http3_protocol_options, alternate_protocols_cache_options);
            let http1 = http1(cx, &path.field("http_protocol_options"), http_protocol_options.as_ref());
            let http2 = http2(cx, &path.field("http2_protocol_options"), http2_protocol_options.as_ref());
            (UpstreamProtocol::Auto, http1, http2)
        }
        None => {
            cx.error(
                path,
                "give one of explicit_http_config, use_downstream_protocol_config and auto_config",
            );
            (UpstreamProtocol::Http1, Http1Options::default(), Http2Options::default())
        }
    }
}

fn set_common(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&core_pb::HttpProtocolOptions>,
    options: &mut UpstreamHttp,
) {
    if message.is_some_and(|message| message.headers_with_underscores_action != 0) {
        cx.inert(
            &path.field("headers_with_underscores_action"),
            "it is about requests of clients; Envoy does not read it here either",
        );
    }
    let common = common(cx, path, message);
    options.idle_timeout = common.idle_timeout;
    options.max_connection_duration = common.max_connection_duration;
    options.max_headers_count = common.max_headers_count;
    options.max_stream_duration = common.max_stream_duration;
    options.max_requests_per_connection = common.max_requests_per_connection.unwrap_or(0);
}

fn set_sni(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&core_pb::UpstreamHttpProtocolOptions>,
    options: &mut UpstreamHttp,
) {
    let Some(message) = message else { return };
    let core_pb::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header } =
        message;
    options.auto_sni = *auto_sni;
    options.auto_san_validation = *auto_san_validation;
    if !override_auto_sni_header.is_empty() && !override_auto_sni_header.eq_ignore_ascii_case(":authority") {
        options.override_auto_sni_header =
            header_name(cx, &path.field("override_auto_sni_header"), override_auto_sni_header);
    }
}

/// Upstream filters: the codec is the only one.
fn filters(cx: &Cx, path: &Path<'_>, messages: &[HttpFilter]) {
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let HttpFilter { name, is_optional: _is_optional, disabled, config_type } = message;
        refuse!(cx, path, "the codec cannot be disabled; remove it"; disabled);
        match config_type {
            Some(ConfigType::TypedConfig(any)) if outrider_proto::any::is::<UpstreamCodec>(any) => {
                cx.inert(&path, "the codec is always there");
            }
            Some(ConfigType::TypedConfig(any)) => cx.refuse(
                &path.field("typed_config"),
                format!("the upstream filter {} is not supported; remove it", type_of(any)),
            ),
            Some(ConfigType::ConfigDiscovery(_)) => cx.refuse(&path.field("config_discovery"), UNSUPPORTED),
            None => cx.error(&path, format!("the filter {name:?} needs a typed_config with its @type")),
        }
    }
}
