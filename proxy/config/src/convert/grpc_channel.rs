//! `google_grpc`: a channel to a target of its own, as gRPC's library would make it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3::grpc_service as pb;
use outrider_proto::pb::envoy::config::core::v3::grpc_service::google_grpc as google;

use super::cx::{Cx, UNSUPPORTED, refuse};
use super::grpc_service::authority;
use super::scalar::data_source;
use crate::model::{ChannelTarget, ChannelTls, GrpcChannel};

const PORT: u16 = 443;

/// A channel; `None`, and an error, when it cannot be made.
pub(crate) fn channel(cx: &Cx, path: &Path<'_>, message: &pb::GoogleGrpc) -> Option<GrpcChannel> {
    let pb::GoogleGrpc {
        target_uri,
        channel_credentials,
        channel_credentials_plugin,
        call_credentials,
        call_credentials_plugin,
        stat_prefix,
        credentials_factory_name,
        config,
        per_stream_buffer_limit_bytes,
        channel_args,
    } = message;
    refuse!(cx, path, UNSUPPORTED;
        channel_credentials_plugin, call_credentials_plugin, credentials_factory_name, config,
        per_stream_buffer_limit_bytes);
    let target = target(target_uri);
    if let Err(reason) = &target {
        cx.refuse(&path.field("target_uri"), format!("{target_uri:?}: {reason}"));
    }
    let tls = credentials(cx, &path.field("channel_credentials"), channel_credentials.as_ref());
    let at = path.field("call_credentials");
    let mut authorization = None;
    for (i, google::CallCredentials { credential_specifier }) in call_credentials.iter().enumerate() {
        let path = at.index(i);
        let Some(value) = bearer(cx, &path, credential_specifier.as_ref()) else { continue };
        if tls.is_none() {
            cx.error(&path.field("access_token"), "a token is sent over TLS alone; give ssl_credentials");
        }
        if authorization.replace(value).is_some() {
            cx.error(&path, "one token is enough");
        }
    }
    let mut channel = GrpcChannel {
        target: target.ok()?,
        tls,
        authorization,
        stat_prefix: Arc::from(stat_prefix.as_str()),
        authority: None,
        tls_name: None,
        keepalive_time: None,
        keepalive_timeout: Duration::from_secs(20),
        max_receive_message_length: Some(4 << 20),
    };
    if let Some(google::ChannelArgs { args }) = channel_args {
        let path = path.field("channel_args");
        let path = path.field("args");
        for (name, google::channel_args::Value { value_specifier }) in args {
            argument(cx, &path.key(name), name, value_specifier.as_ref(), &mut channel);
        }
    }
    Some(channel)
}

/// The target of a URI in gRPC's naming.
fn target(uri: &str) -> Result<ChannelTarget, &'static str> {
    let rest = |prefix: &str| uri.strip_prefix(prefix);
    if let Some(name) = rest("unix-abstract:") {
        return Ok(ChannelTarget::Unix(Arc::from(format!("@{name}"))));
    }
    if let Some(path) = rest("unix://").or_else(|| rest("unix:")) {
        return if path.is_empty() {
            Err("a path is needed")
        } else {
            Ok(ChannelTarget::Unix(Arc::from(path)))
        };
    }
    if ["xds:", "google-c2p:", "vsock:"].iter().any(|scheme| uri.starts_with(scheme)) {
        return Err("this scheme is not supported; write host:port, dns:, ipv4:, ipv6: or unix:");
    }
    if rest("dns://").is_some_and(|authority| !authority.starts_with('/')) {
        return Err("a name server of its own is not supported; write dns:///host:port");
    }
    let name = rest("dns:///").or_else(|| rest("dns:"));
    let name = name.or_else(|| rest("ipv4:")).or_else(|| rest("ipv6:")).unwrap_or(uri);
    if name.contains(',') {
        return Err("several addresses are not supported; give several grpc_services");
    }
    if name.contains('/') {
        return Err("a host and a port are needed");
    }
    let (host, port) = match name.strip_prefix('[').and_then(|name| name.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("a port is needed after ]")?)),
        // An IPv6 literal without brackets has no port.
        None if name.matches(':').count() > 1 => (name, None),
        None => name.split_once(':').map_or((name, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| "its port is not a port"))?;
    if host.is_empty() {
        Err("a host is needed")
    } else {
        Ok(ChannelTarget::Host { host: Arc::from(host), port })
    }
}

fn credentials(cx: &Cx, path: &Path<'_>, message: Option<&google::ChannelCredentials>) -> Option<ChannelTls> {
    use google::channel_credentials::CredentialSpecifier as Kind;
    let google::ChannelCredentials { credential_specifier } = message?;
    match credential_specifier {
        Some(Kind::SslCredentials(message)) => {
            let path = path.field("ssl_credentials");
            let google::SslCredentials { root_certs, private_key, cert_chain } = message;
            let source = |field: &str, message: &Option<_>| {
                message.as_ref().and_then(|message| data_source(cx, &path.field(field), message))
            };
            let roots = source("root_certs", root_certs);
            let (key, chain) = (source("private_key", private_key), source("cert_chain", cert_chain));
            let identity = match (chain, key) {
                (Some(chain), Some(key)) => Some((chain, key)),
                (None, None) => None,
                (Some(_), None) => {
                    cx.error(&path.field("private_key"), "cert_chain needs its private_key");
                    None
                }
                (None, Some(_)) => {
                    cx.error(&path.field("cert_chain"), "private_key needs its cert_chain");
                    None
                }
            };
            if roots.is_none() {
                cx.refuse(
                    &path.field("root_certs"),
                    "the system's roots are not read by themselves; name a bundle",
                );
            }
            return Some(ChannelTls { roots: roots?, identity });
        }
        Some(Kind::GoogleDefault(_)) => {
            cx.refuse(
                &path.field("google_default"),
                "Google's credentials are not supported; use ssl_credentials",
            );
        }
        Some(Kind::LocalCredentials(_)) => {
            cx.refuse(
                &path.field("local_credentials"),
                "not supported; leave credentials out for a plain channel",
            );
        }
        None => cx.error(path, "give ssl_credentials"),
    }
    None
}

/// The `authorization` that call credentials amount to.
fn bearer(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&google::call_credentials::CredentialSpecifier>,
) -> Option<HeaderValue> {
    use google::call_credentials::CredentialSpecifier as Kind;
    let field = match message {
        Some(Kind::AccessToken(token)) => {
            let Ok(mut value) = HeaderValue::try_from(format!("Bearer {token}")) else {
                cx.error(
                    &path.field("access_token"),
                    "it cannot be a header value: it holds control characters",
                );
                return None;
            };
            value.set_sensitive(true);
            return Some(value);
        }
        Some(Kind::GoogleComputeEngine(_)) => "google_compute_engine",
        Some(Kind::GoogleRefreshToken(_)) => "google_refresh_token",
        Some(Kind::ServiceAccountJwtAccess(_)) => "service_account_jwt_access",
        Some(Kind::GoogleIam(_)) => "google_iam",
        Some(Kind::FromPlugin(_)) => "from_plugin",
        Some(Kind::StsService(_)) => "sts_service",
        None => {
            cx.error(path, "give access_token");
            return None;
        }
    };
    cx.refuse(&path.field(field), "these credentials are not supported; use access_token or ssl_credentials");
    None
}

fn argument(
    cx: &Cx,
    path: &Path<'_>,
    name: &str,
    value: Option<&google::channel_args::value::ValueSpecifier>,
    channel: &mut GrpcChannel,
) {
    use google::channel_args::value::ValueSpecifier as Value;
    let millis = |value: i64| {
        (value > 0 && value < i64::from(i32::MAX)).then(|| Duration::from_millis(value.cast_unsigned()))
    };
    match (name, value) {
        ("grpc.keepalive_time_ms", Some(Value::IntValue(value))) => channel.keepalive_time = millis(*value),
        ("grpc.keepalive_timeout_ms", Some(Value::IntValue(value))) => {
            channel.keepalive_timeout = millis(*value).unwrap_or(channel.keepalive_timeout);
        }
        // Negative: no limit.
        ("grpc.max_receive_message_length", Some(Value::IntValue(value))) => {
            channel.max_receive_message_length = u32::try_from(*value).ok();
        }
        ("grpc.default_authority", Some(Value::StringValue(text))) => {
            channel.authority = authority(cx, path, text);
        }
        ("grpc.ssl_target_name_override", Some(Value::StringValue(text))) => {
            channel.tls_name = Some(Arc::from(text.as_str()));
        }
        (
            "grpc.keepalive_permit_without_calls" | "grpc.http2.max_pings_without_data",
            Some(Value::IntValue(_)),
        ) => cx.inert(path, "a channel to a control plane always has a stream"),
        _ => cx.refuse(path, "this channel argument is not supported; remove it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_in_grpcs_naming() {
        let host = |host: &str, port| Ok(ChannelTarget::Host { host: Arc::from(host), port });
        for (uri, expected) in [
            ("cp.example:18000", host("cp.example", 18000)),
            ("dns:///cp.example:18000", host("cp.example", 18000)),
            ("dns:cp.example", host("cp.example", 443)),
            ("ipv4:10.0.0.1:5", host("10.0.0.1", 5)),
            ("ipv6:[::1]:5", host("::1", 5)),
            ("[::1]", host("::1", 443)),
            ("unix:///run/xds.sock", Ok(ChannelTarget::Unix(Arc::from("/run/xds.sock")))),
            ("unix:run/xds.sock", Ok(ChannelTarget::Unix(Arc::from("run/xds.sock")))),
            ("unix-abstract:xds", Ok(ChannelTarget::Unix(Arc::from("@xds")))),
        ] {
            assert_eq!(target(uri), expected, "{uri}");
        }
        for uri in ["", "xds:///a", "ipv4:1.2.3.4:1,1.2.3.5:1", "cp:notaport", "dns://8.8.8.8/cp:1", ":1"] {
            assert!(target(uri).is_err(), "{uri}");
        }
    }
}
