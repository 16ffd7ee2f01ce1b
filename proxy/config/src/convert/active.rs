//! Active health checks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::config::core::v3::health_check as pb;
use outrider_proto::pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use outrider_proto::pb::envoy::r#type::v3 as type_pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, duration, enumeration, runtime_integer, u32_of};
use super::{address, header, matcher};
use crate::model::{
    ActiveCheck, AddTarget, AppendAction, CheckIntervals, EndpointCheck, GrpcProbe, HeaderAddValue,
    HttpProbe, Probe, TcpProbe,
};

/// The most that a check may expect of a response, bytes, where it reads it whole.
const MOST_RESPONSE: u64 = 1 << 20;

/// `health_checks`: the one that there may be.
pub(crate) fn checks(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[core_pb::HealthCheck],
) -> Option<Box<ActiveCheck>> {
    if messages.len() > 1 {
        cx.refuse(
            &path.index(1),
            "one health check of a cluster is supported; keep the one that matters most",
        );
    }
    check(cx, &path.index(0), messages.first()?).map(Box::new)
}

fn check(cx: &Cx, path: &Path<'_>, message: &core_pb::HealthCheck) -> Option<ActiveCheck> {
    let core_pb::HealthCheck {
        timeout,
        interval,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent,
        unhealthy_threshold,
        healthy_threshold,
        alt_port,
        reuse_connection,
        no_traffic_interval,
        no_traffic_healthy_interval,
        unhealthy_interval,
        unhealthy_edge_interval,
        healthy_edge_interval,
        event_log_path,
        event_logger,
        event_service,
        always_log_health_check_failures,
        always_log_health_check_success,
        tls_options,
        transport_socket_match_criteria,
        health_checker,
    } = message;
    inert!(cx, path, "not implemented, in Envoy neither; a host's health_check_config names a port"; alt_port);
    refuse!(cx, path, UNSUPPORTED;
        event_log_path, event_logger, event_service, tls_options, transport_socket_match_criteria);
    inert!(cx, path, "only event logs read it, and those are refused";
        always_log_health_check_failures, always_log_health_check_success);
    let time = |field, value| duration(cx, path, field, value);
    let needed = |field, value| {
        let time = time(field, value).filter(|time| !time.is_zero());
        if time.is_none() {
            cx.error(&path.field(field), "a time above 0s is needed");
        }
        time
    };
    let timeout = needed("timeout", timeout);
    let healthy = needed("interval", interval);
    let threshold = |field, value| {
        let value = u32_of(value);
        if value.is_none() {
            cx.error(&path.field(field), "a number is needed");
        }
        value
    };
    let unhealthy_threshold = threshold("unhealthy_threshold", unhealthy_threshold);
    let healthy_threshold = threshold("healthy_threshold", healthy_threshold);
    let probe = probe(cx, path, health_checker.as_ref());
    let healthy = healthy?;
    let unhealthy = time("unhealthy_interval", unhealthy_interval).unwrap_or(healthy);
    let no_traffic = time("no_traffic_interval", no_traffic_interval).unwrap_or(Duration::from_secs(60));
    Some(ActiveCheck {
        timeout: timeout?,
        unhealthy_threshold: unhealthy_threshold?,
        healthy_threshold: healthy_threshold?,
        intervals: CheckIntervals {
            healthy,
            healthy_edge: time("healthy_edge_interval", healthy_edge_interval).unwrap_or(healthy),
            unhealthy,
            unhealthy_edge: time("unhealthy_edge_interval", unhealthy_edge_interval).unwrap_or(unhealthy),
            no_traffic,
            no_traffic_healthy: time("no_traffic_healthy_interval", no_traffic_healthy_interval)
                .unwrap_or(no_traffic),
            initial_jitter: time("initial_jitter", initial_jitter).unwrap_or_default(),
            jitter: time("interval_jitter", interval_jitter).unwrap_or_default(),
            jitter_percent: *interval_jitter_percent,
            min_ms: runtime_integer(cx, "health_check.min_interval", 0),
            max_ms: runtime_integer(cx, "health_check.max_interval", u64::MAX >> 1),
        },
        reuse_connection: bool_of(reuse_connection).unwrap_or(true),
        probe: probe?,
    })
}

fn probe(cx: &Cx, path: &Path<'_>, message: Option<&pb::HealthChecker>) -> Option<Probe> {
    match message {
        Some(pb::HealthChecker::HttpHealthCheck(message)) => {
            http(cx, &path.field("http_health_check"), message).map(|probe| Probe::Http(Box::new(probe)))
        }
        Some(pb::HealthChecker::TcpHealthCheck(message)) => {
            let path = path.field("tcp_health_check");
            let pb::TcpHealthCheck { send, receive, proxy_protocol_config } = message;
            refuse!(cx, path, UNSUPPORTED; proxy_protocol_config);
            Some(Probe::Tcp(TcpProbe {
                send: optional_payload(cx, &path.field("send"), send.as_ref()),
                receive: payloads(cx, &path.field("receive"), receive),
            }))
        }
        Some(pb::HealthChecker::GrpcHealthCheck(message)) => {
            let path = path.field("grpc_health_check");
            let pb::GrpcHealthCheck { service_name, authority, initial_metadata } = message;
            Some(Probe::Grpc(GrpcProbe {
                service: service_name.clone(),
                authority: authority_of(cx, &path.field("authority"), authority),
                add: adds(cx, &path.field("initial_metadata"), initial_metadata),
            }))
        }
        Some(pb::HealthChecker::CustomHealthCheck(_)) => {
            cx.refuse(
                &path.field("custom_health_check"),
                "not supported; use http_health_check, tcp_health_check or grpc_health_check",
            );
            None
        }
        None => {
            cx.error(path, "give one of http_health_check, tcp_health_check and grpc_health_check");
            None
        }
    }
}

fn http(cx: &Cx, path: &Path<'_>, message: &pb::HttpHealthCheck) -> Option<HttpProbe> {
    let pb::HttpHealthCheck {
        host,
        path: target,
        send,
        receive,
        response_buffer_size,
        request_headers_to_add,
        request_headers_to_remove,
        expected_statuses,
        retriable_statuses,
        codec_client_type,
        service_name_matcher,
        method,
    } = message;
    if !target.starts_with('/') || target.parse::<http::Uri>().is_err() {
        cx.error(
            &path.field("path"),
            format!("{target:?} is not a path; it begins with / and holds no spaces"),
        );
    }
    let method = method_of(cx, path, *method);
    let send = optional_payload(cx, &path.field("send"), send.as_ref());
    if !send.is_empty() && [Method::GET, Method::HEAD, Method::DELETE, Method::TRACE].contains(&method) {
        cx.error(
            &path.field("send"),
            format!("a {method} request has no body; use POST, PUT, PATCH or OPTIONS"),
        );
    }
    let receive = payloads(cx, &path.field("receive"), receive);
    let response_buffer = response_buffer_size.as_ref().map_or(1024, |size| size.value);
    let expected_bytes: usize = receive.iter().map(Bytes::len).sum();
    let room = if response_buffer == 0 { MOST_RESPONSE } else { response_buffer };
    if expected_bytes as u64 > room {
        cx.error(
            &path.field("receive"),
            format!(
                "{expected_bytes} bytes are expected, and {room} are looked at; raise response_buffer_size"
            ),
        );
    }
    if room > MOST_RESPONSE {
        cx.error(&path.field("response_buffer_size"), format!("it must not be more than {MOST_RESPONSE}"));
    }
    let http2 =
        match enumeration::<type_pb::CodecClientType>(cx, path, "codec_client_type", *codec_client_type) {
            type_pb::CodecClientType::Http1 => false,
            type_pb::CodecClientType::Http2 => true,
            type_pb::CodecClientType::Http3 => {
                cx.refuse(&path.field("codec_client_type"), "HTTP/3 is not supported; use HTTP1 or HTTP2");
                false
            }
        };
    let expected = statuses(cx, &path.field("expected_statuses"), expected_statuses);
    let at = path.field("request_headers_to_remove");
    let removals = request_headers_to_remove.iter().enumerate();
    Some(HttpProbe {
        host: authority_of(cx, &path.field("host"), host),
        path: Arc::from(target.as_str()),
        method,
        send,
        receive,
        response_buffer: if response_buffer == 0 { MOST_RESPONSE } else { response_buffer },
        add: adds(cx, &path.field("request_headers_to_add"), request_headers_to_add),
        remove: removals.filter_map(|(i, name)| header::removal(cx, &at.index(i), name)).collect(),
        expected: if expected.is_empty() { vec![Range { start: 200, end: 201 }] } else { expected },
        retriable: statuses(cx, &path.field("retriable_statuses"), retriable_statuses),
        http2,
        service_name: service_name_matcher
            .as_ref()
            .and_then(|message| matcher::string(cx, &path.field("service_name_matcher"), message)),
        verify_cluster: runtime_integer(cx, "health_check.verify_cluster", 100),
    })
}

fn method_of(cx: &Cx, path: &Path<'_>, method: i32) -> Method {
    use core_pb::RequestMethod;
    match enumeration::<RequestMethod>(cx, path, "method", method) {
        RequestMethod::MethodUnspecified | RequestMethod::Get => Method::GET,
        RequestMethod::Head => Method::HEAD,
        RequestMethod::Post => Method::POST,
        RequestMethod::Put => Method::PUT,
        RequestMethod::Delete => Method::DELETE,
        RequestMethod::Options => Method::OPTIONS,
        RequestMethod::Trace => Method::TRACE,
        RequestMethod::Patch => Method::PATCH,
        RequestMethod::Connect => {
            cx.error(&path.field("method"), "CONNECT asks for no health; use GET");
            Method::GET
        }
    }
}

fn authority_of(cx: &Cx, path: &Path<'_>, text: &str) -> Arc<str> {
    if !text.is_empty() && text.parse::<http::uri::Authority>().is_err() {
        cx.error(path, format!("{text:?} is not an authority: a host, and a port where one is needed"));
    }
    Arc::from(text)
}

fn statuses(cx: &Cx, path: &Path<'_>, messages: &[type_pb::Int64Range]) -> Vec<Range<u16>> {
    let mut ranges = Vec::with_capacity(messages.len());
    for (i, type_pb::Int64Range { start, end }) in messages.iter().enumerate() {
        let valid = (100..600).contains(start) && start < end && *end <= 600;
        match (u16::try_from(*start), u16::try_from(*end)) {
            (Ok(start), Ok(end)) if valid => ranges.push(start..end),
            _ => cx.error(
                &path.index(i),
                format!("{start} to {end} is no range of statuses: start is below end, within 100 and 600"),
            ),
        }
    }
    ranges
}

/// Headers with fixed values: a check has no request that formats could tell of.
fn adds(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[core_pb::HeaderValueOption],
) -> Vec<(HeaderName, HeaderValue, AppendAction)> {
    let mut headers = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let Some(add) = header::add(cx, &path, message) else { continue };
        match (add.name, add.value) {
            (AddTarget::Name(name), HeaderAddValue::Literal(value)) => {
                if !value.is_empty() || add.keep_empty {
                    headers.push((name, value, add.action));
                }
            }
            _ => cx.refuse(
                &path.field("header"),
                "formatted values are not supported in health checks; write the text",
            ),
        }
    }
    headers
}

fn optional_payload(cx: &Cx, path: &Path<'_>, message: Option<&pb::Payload>) -> Bytes {
    message.map(|message| payload(cx, path, message)).unwrap_or_default()
}

fn payloads(cx: &Cx, path: &Path<'_>, messages: &[pb::Payload]) -> Vec<Bytes> {
    messages.iter().enumerate().map(|(i, message)| payload(cx, &path.index(i), message)).collect()
}

fn payload(cx: &Cx, path: &Path<'_>, message: &pb::Payload) -> Bytes {
    let pb::Payload { payload } = message;
    match payload {
        Some(pb::payload::Payload::Text(text)) => match unhex(text) {
            Some(bytes) => bytes.into(),
            None => {
                let message =
                    format!("{text:?} is not hexadecimal: an even number of 0-9, a-f, without spaces");
                cx.error(&path.field("text"), message);
                Bytes::new()
            }
        },
        Some(pb::payload::Payload::Binary(bytes)) => bytes.clone().into(),
        None => {
            cx.error(path, "give one of text and binary");
            Bytes::new()
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8; 2]| {
        let [high, low] = *pair;
        u8::try_from(digit(high)? * 16 + digit(low)?).ok()
    };
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// `Endpoint.health_check_config`; `None` when it says nothing.
pub(crate) fn endpoint(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&HealthCheckConfig>,
) -> Option<Arc<EndpointCheck>> {
    let HealthCheckConfig { port_value, hostname, address, disable_active_health_check } = message?;
    let port = u16::try_from(*port_value).unwrap_or_else(|_| {
        cx.error(&path.field("port_value"), format!("{port_value} is not a port"));
        0
    });
    let address = address.as_ref().and_then(|message| {
        address::required(cx, &path.field("address"), Some(message), address::Names::Refused)
    });
    let check = EndpointCheck {
        address,
        port,
        hostname: authority_of(cx, &path.field("hostname"), hostname),
        disabled: *disable_active_health_check,
    };
    (check != EndpointCheck::default()).then(|| Arc::new(check))
}
