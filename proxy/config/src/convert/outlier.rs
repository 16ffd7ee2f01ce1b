//! Outlier detection.

use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::cluster::v3 as pb;
use outrider_proto::pb::google::protobuf as google;

use super::cx::{Cx, UNSUPPORTED, refuse};
use super::scalar::{bool_of, duration, runtime_integer, u32_of};
use crate::model::{FailurePercentage, OutlierDetection, OutlierLimit, RuntimeInteger, SuccessRate};

/// `Cluster.outlier_detection`.
#[expect(clippy::too_many_lines, reason = "one message of thirty fields, destructured and built once")]
pub(crate) fn detection(cx: &Cx, path: &Path<'_>, message: &pb::OutlierDetection) -> OutlierDetection {
    let pb::OutlierDetection {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        max_ejection_time,
        max_ejection_time_jitter,
        successful_active_health_check_uneject_host,
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
    } = message;
    refuse!(cx, path, UNSUPPORTED; monitors);
    if bool_of(detect_degraded_hosts) == Some(true) {
        cx.refuse(&path.field("detect_degraded_hosts"), UNSUPPORTED);
    }
    let fields = Fields { cx, path };
    let base = duration(cx, path, "base_ejection_time", base_ejection_time).unwrap_or(SECONDS_30);
    let longest = duration(cx, path, "max_ejection_time", max_ejection_time);
    let longest = longest.unwrap_or_else(|| base.max(Duration::from_secs(300)));
    if longest < base {
        cx.error(&path.field("max_ejection_time"), "it must not be shorter than base_ejection_time");
    }
    let jitter = duration(cx, path, "max_ejection_time_jitter", max_ejection_time_jitter).unwrap_or_default();
    let interval = duration(cx, path, "interval", interval).unwrap_or(Duration::from_secs(10));
    OutlierDetection {
        interval_ms: fields.time("interval", interval),
        base_ejection_time_ms: fields.time("base_ejection_time", base),
        max_ejection_time_ms: fields.time("max_ejection_time", longest),
        max_ejection_time_jitter_ms: fields.time("max_ejection_time_jitter", jitter),
        max_ejection_percent: fields.percent("max_ejection_percent", max_ejection_percent, 10),
        always_eject_one_host: bool_of(always_eject_one_host).unwrap_or(false),
        check_restores: bool_of(successful_active_health_check_uneject_host).unwrap_or(true),
        split_local_origin: *split_external_local_origin_errors,
        consecutive_5xx: OutlierLimit {
            limit: fields.number("consecutive_5xx", consecutive_5xx, 5),
            enforcing: fields.percent("enforcing_consecutive_5xx", enforcing_consecutive_5xx, 100),
        },
        consecutive_gateway_failure: OutlierLimit {
            limit: fields.number("consecutive_gateway_failure", consecutive_gateway_failure, 5),
            enforcing: fields.percent(
                "enforcing_consecutive_gateway_failure",
                enforcing_consecutive_gateway_failure,
                0,
            ),
        },
        consecutive_local_origin_failure: OutlierLimit {
            limit: fields.number("consecutive_local_origin_failure", consecutive_local_origin_failure, 5),
            enforcing: fields.percent(
                "enforcing_consecutive_local_origin_failure",
                enforcing_consecutive_local_origin_failure,
                100,
            ),
        },
        success_rate: SuccessRate {
            minimum_hosts: fields.number("success_rate_minimum_hosts", success_rate_minimum_hosts, 5),
            request_volume: fields.number("success_rate_request_volume", success_rate_request_volume, 100),
            stdev_factor: fields.number("success_rate_stdev_factor", success_rate_stdev_factor, 1900),
            enforcing: fields.percent("enforcing_success_rate", enforcing_success_rate, 100),
            enforcing_local_origin: fields.percent(
                "enforcing_local_origin_success_rate",
                enforcing_local_origin_success_rate,
                100,
            ),
        },
        failure_percentage: FailurePercentage {
            threshold: fields.percent("failure_percentage_threshold", failure_percentage_threshold, 85),
            minimum_hosts: fields.number(
                "failure_percentage_minimum_hosts",
                failure_percentage_minimum_hosts,
                5,
            ),
            request_volume: fields.number(
                "failure_percentage_request_volume",
                failure_percentage_request_volume,
                50,
            ),
            enforcing: fields.percent("enforcing_failure_percentage", enforcing_failure_percentage, 0),
            enforcing_local_origin: fields.percent(
                "enforcing_failure_percentage_local_origin",
                enforcing_failure_percentage_local_origin,
                0,
            ),
        },
    }
}

const SECONDS_30: Duration = Duration::from_secs(30);

/// The numbers of the message, each with its runtime key.
struct Fields<'a> {
    cx: &'a Cx,
    path: &'a Path<'a>,
}

impl Fields<'_> {
    fn number(&self, field: &str, value: &Option<google::UInt32Value>, default: u32) -> RuntimeInteger {
        self.keyed(field, u64::from(u32_of(value).unwrap_or(default)))
    }

    fn percent(&self, field: &str, value: &Option<google::UInt32Value>, default: u32) -> RuntimeInteger {
        let percent = u32_of(value).unwrap_or(default);
        if percent > 100 {
            let message = format!("{percent} is not a percentage between 0 and 100");
            self.cx.error(&self.path.field(field), message);
        }
        self.keyed(field, u64::from(percent))
    }

    fn time(&self, field: &str, time: Duration) -> RuntimeInteger {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.keyed(&format!("{field}_ms"), ms)
    }

    fn keyed(&self, name: &str, value: u64) -> RuntimeInteger {
        runtime_integer(self.cx, &format!("outlier_detection.{name}"), value)
    }
}
