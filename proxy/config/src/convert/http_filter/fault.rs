//! `envoy.filters.http.fault`

use bytes::Bytes;
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::common::fault::v3 as common_pb;
use outrider_proto::pb::envoy::extensions::filters::http::fault::v3 as pb;

use crate::convert::cx::Cx;
use crate::convert::scalar::{duration, runtime_fraction, runtime_integer, u32_of};
use crate::convert::{json, matcher};
use crate::model::{Fault, FaultAbort, FaultDelay, FaultRateLimit, FaultStatus, RuntimeKey};

/// The body of aborts that are given none.
const BODY: &str = "fault filter abort";

/// The fault at `path`. One that does nothing is no error: Envoy takes it, and meshes send it.
pub(super) fn fault(cx: &Cx, path: &Path<'_>, message: &pb::HttpFault) -> Fault {
    let pb::HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        delay_percent_runtime,
        abort_percent_runtime,
        delay_duration_runtime,
        abort_http_status_runtime,
        max_active_faults_runtime,
        response_rate_limit_percent_runtime,
        abort_grpc_status_runtime,
        disable_downstream_cluster_stats,
        filter_metadata,
    } = message;
    let delay_share = or(delay_percent_runtime, "fault.http.delay.fixed_delay_percent");
    let delay_time = or(delay_duration_runtime, "fault.http.delay.fixed_duration_ms");
    let limit_share = or(response_rate_limit_percent_runtime, "fault.http.rate_limit.response_percent");
    let keys = AbortKeys {
        share: or(abort_percent_runtime, "fault.http.abort.abort_percent"),
        http: cx.runtime.follow(or(abort_http_status_runtime, "fault.http.abort.http_status")),
        grpc: cx.runtime.follow(or(abort_grpc_status_runtime, "fault.http.abort.grpc_status")),
    };
    let most = u32_of(max_active_faults).map_or(u64::MAX, u64::from);
    Fault {
        delay: delay
            .as_ref()
            .and_then(|message| delay_of(cx, &path.field("delay"), message, delay_share, delay_time)),
        abort: abort.as_ref().and_then(|message| abort_of(cx, &path.field("abort"), message, keys)),
        rate_limit: response_rate_limit
            .as_ref()
            .and_then(|message| limit_of(cx, &path.field("response_rate_limit"), message, limit_share)),
        upstream_cluster: upstream_cluster.as_str().into(),
        headers: matcher::headers(cx, &path.field("headers"), headers),
        downstream_nodes: downstream_nodes.iter().map(|node| node.as_str().into()).collect(),
        max_active: runtime_integer(cx, or(max_active_faults_runtime, "fault.http.max_active_faults"), most),
        by_downstream_cluster: !disable_downstream_cluster_stats,
        metadata: filter_metadata.as_ref().map(json::members),
        runtime: cx.runtime.clone(),
    }
}

fn or<'a>(key: &'a str, default: &'a str) -> &'a str {
    if key.is_empty() { default } else { key }
}

fn delay_of(
    cx: &Cx,
    path: &Path<'_>,
    message: &common_pb::FaultDelay,
    share: &str,
    time: &str,
) -> Option<FaultDelay> {
    use common_pb::fault_delay::{FaultDelaySecifier, HeaderDelay};
    let common_pb::FaultDelay { percentage, fault_delay_secifier } = message;
    let fixed = match fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => {
            let time = duration(cx, path, "fixed_delay", &Some(*fixed))?;
            Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        }
        Some(FaultDelaySecifier::HeaderDelay(HeaderDelay {})) => None,
        None => {
            cx.error(path, "give one of fixed_delay and header_delay");
            return None;
        }
    };
    let share = runtime_fraction(cx, &path.field("percentage"), percentage.as_ref(), share);
    Some(FaultDelay { fixed, share, runtime: cx.runtime.follow(time) })
}

struct AbortKeys<'a> {
    share: &'a str,
    http: Option<RuntimeKey>,
    grpc: Option<RuntimeKey>,
}

fn abort_of(cx: &Cx, path: &Path<'_>, message: &pb::FaultAbort, keys: AbortKeys<'_>) -> Option<FaultAbort> {
    use pb::fault_abort::{ErrorType, HeaderAbort};
    let pb::FaultAbort { percentage, response_body, error_type } = message;
    let status = match error_type {
        Some(ErrorType::HttpStatus(status)) => {
            match u16::try_from(*status).ok().filter(|status| (200..600).contains(status)) {
                Some(status) => FaultStatus::Http(status),
                None => {
                    let why = format!("{status} is not a status between 200 and 599");
                    cx.error(&path.field("http_status"), why);
                    return None;
                }
            }
        }
        Some(ErrorType::GrpcStatus(status)) => FaultStatus::Grpc(*status),
        Some(ErrorType::HeaderAbort(HeaderAbort {})) => FaultStatus::Header,
        None => {
            cx.error(path, "give one of http_status, grpc_status and header_abort");
            return None;
        }
    };
    let body = if response_body.is_empty() { BODY } else { response_body };
    Some(FaultAbort {
        status,
        share: runtime_fraction(cx, &path.field("percentage"), percentage.as_ref(), keys.share),
        http_runtime: keys.http,
        grpc_runtime: keys.grpc,
        body: Bytes::copy_from_slice(body.as_bytes()),
    })
}

fn limit_of(
    cx: &Cx,
    path: &Path<'_>,
    message: &common_pb::FaultRateLimit,
    share: &str,
) -> Option<FaultRateLimit> {
    use common_pb::fault_rate_limit::{FixedLimit, HeaderLimit, LimitType};
    let common_pb::FaultRateLimit { percentage, limit_type } = message;
    let fixed = match limit_type {
        Some(LimitType::FixedLimit(FixedLimit { limit_kbps })) => Some((*limit_kbps).max(1)),
        Some(LimitType::HeaderLimit(HeaderLimit {})) => None,
        None => {
            cx.error(path, "give one of fixed_limit and header_limit");
            return None;
        }
    };
    let share = runtime_fraction(cx, &path.field("percentage"), percentage.as_ref(), share);
    Some(FaultRateLimit { fixed, share })
}
