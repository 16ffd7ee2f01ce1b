//! gRPC services: through a cluster of ours, or by a channel of their own.

use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::grpc_channel;
use super::header::format;
use super::scalar::{duration, header_name, timeout, u32_of};
use crate::model::{BackOff, GrpcService, GrpcTarget};

/// A `GrpcService`; `None`, and an error, when it has no usable target.
pub(crate) fn service(cx: &Cx, path: &Path<'_>, message: &pb::GrpcService) -> Option<GrpcService> {
    use pb::grpc_service::TargetSpecifier;
    let pb::GrpcService { timeout: longest, initial_metadata, retry_policy, target_specifier } = message;
    refuse!(cx, path, "calls are not repeated; write envoy_grpc.retry_policy for the back-off of streams"; retry_policy);
    let (target, back_off) = match target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(message)) => {
            let path = path.field("envoy_grpc");
            let pb::grpc_service::EnvoyGrpc {
                cluster_name,
                authority,
                retry_policy,
                max_receive_message_length,
                skip_envoy_headers,
            } = message;
            inert!(cx, path, "no such headers are sent in any case"; skip_envoy_headers);
            let retry = retry_policy.as_ref();
            let back_off = retry.and_then(|message| back_off(cx, &path.field("retry_policy"), message));
            let target = GrpcTarget::Cluster {
                cluster: Arc::from(cluster_name.as_str()),
                authority: self::authority(cx, &path.field("authority"), authority),
                max_receive_message_length: u32_of(max_receive_message_length).filter(|length| *length > 0),
            };
            (target, back_off)
        }
        Some(TargetSpecifier::GoogleGrpc(message)) => {
            let channel = grpc_channel::channel(cx, &path.field("google_grpc"), message)?;
            (GrpcTarget::Channel(Box::new(channel)), None)
        }
        None => {
            cx.error(path, "give one of envoy_grpc and google_grpc");
            return None;
        }
    };
    Some(GrpcService {
        target,
        timeout: timeout(cx, path, "timeout", longest, None),
        initial_metadata: metadata(cx, &path.field("initial_metadata"), initial_metadata),
        back_off: back_off.unwrap_or(GrpcService::BACK_OFF),
    })
}

/// Checks that the cluster of a control plane is there before any control plane has spoken (Envoy: a static cluster,
/// and not of EDS).
pub(crate) fn primary_cluster(cx: &Cx, path: &Path<'_>, service: &GrpcService) {
    let (GrpcTarget::Cluster { cluster, .. }, Some(primary)) = (&service.target, &cx.primary_clusters) else {
        return;
    };
    if !primary.contains(&**cluster) {
        cx.error(
            &path.field("envoy_grpc").field("cluster_name"),
            format!("{cluster:?} must be a cluster of static_resources, and not of type EDS: how to reach a control plane is known before it speaks"),
        );
    }
}

/// An authority; `None` for none, or with an error.
pub(crate) fn authority(cx: &Cx, path: &Path<'_>, text: &str) -> Option<Authority> {
    if text.is_empty() {
        return None;
    }
    text.parse().map_err(|error| cx.error(path, format!("{text:?} is not an authority: {error}"))).ok()
}

fn back_off(cx: &Cx, path: &Path<'_>, message: &pb::RetryPolicy) -> Option<BackOff> {
    let pb::RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = message;
    refuse!(cx, path, UNSUPPORTED; retry_priority, retry_host_predicate);
    inert!(cx, path, "a stream is made anew for as long as it takes, in Envoy too";
        num_retries, retry_on, host_selection_retry_max_attempts);
    let pb::BackoffStrategy { base_interval, max_interval } = retry_back_off.as_ref()?;
    let path = path.field("retry_back_off");
    let Some(base) = duration(cx, &path, "base_interval", base_interval).filter(|base| !base.is_zero())
    else {
        cx.error(&path.field("base_interval"), "it is needed, and more than 0s");
        return None;
    };
    let max = duration(cx, &path, "max_interval", max_interval).unwrap_or(base.saturating_mul(10));
    if max < base {
        cx.error(&path.field("max_interval"), "it must not be less than base_interval");
    }
    Some(BackOff { base, max })
}

fn metadata(cx: &Cx, path: &Path<'_>, messages: &[pb::HeaderValue]) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(messages.len());
    for (i, pb::HeaderValue { key, value, raw_value }) in messages.iter().enumerate() {
        let path = path.index(i);
        let at = path.field(if raw_value.is_empty() { "value" } else { "raw_value" });
        let bytes = if raw_value.is_empty() {
            // A stream to a control plane belongs to no request that an operator could read.
            let Some(format) = format(cx, &at, value) else { continue };
            let Some(text) = format.as_literal() else {
                cx.refuse(&at, "command operators are not supported here; write the value itself");
                continue;
            };
            text.as_bytes().to_vec()
        } else {
            raw_value.clone()
        };
        let Some(name) = header_name(cx, &path.field("key"), key) else { continue };
        match HeaderValue::from_bytes(&bytes) {
            Ok(mut value) => {
                // It may be a token.
                value.set_sensitive(true);
                headers.push((name, value));
            }
            Err(_) => cx.error(&at, "it cannot be a header value: it holds control characters"),
        }
    }
    headers
}
