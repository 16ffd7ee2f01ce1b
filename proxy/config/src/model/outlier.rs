//! Outlier detection: hosts that fail requests are taken out for a while.

use super::RuntimeInteger;

/// `OutlierDetection`. Each number follows the runtime key `outlier_detection.<field>`; times are milliseconds.
#[derive(Debug, Clone)]
pub struct OutlierDetection {
    /// Between two sweeps. Default 10 s.
    pub interval_ms: RuntimeInteger,
    /// How long a host is out the first time. Default 30 s.
    pub base_ejection_time_ms: RuntimeInteger,
    /// The longest that a host is out, jitter aside. Default 300 s, or the base time where that is longer.
    pub max_ejection_time_ms: RuntimeInteger,
    /// Up to this is added to the time that a host is out. Default none.
    pub max_ejection_time_jitter_ms: RuntimeInteger,
    /// Percent of the hosts that may be out at once. Default 10.
    pub max_ejection_percent: RuntimeInteger,
    /// One host may be out whatever the percentage.
    pub always_eject_one_host: bool,
    /// A good active health check brings a host back. Default true.
    pub check_restores: bool,
    /// Failures to connect and timeouts are told from what the host answers.
    pub split_local_origin: bool,
    /// Responses 5xx in a row; 0 never ejects. Default 5, enforced for 100 %.
    pub consecutive_5xx: OutlierLimit,
    /// Responses 502, 503 and 504 in a row. Default 5, enforced for 0 %.
    pub consecutive_gateway_failure: OutlierLimit,
    /// Failures of local origin in a row, where they are told apart. Default 5, enforced for 100 %.
    pub consecutive_local_origin_failure: OutlierLimit,
    /// By success rate, compared with that of the other hosts.
    pub success_rate: SuccessRate,
    /// By the share of failures.
    pub failure_percentage: FailurePercentage,
}

/// How many failures in a row, and how often that ejects the host.
#[derive(Debug, Clone)]
pub struct OutlierLimit {
    /// The number; 0 for none.
    pub limit: RuntimeInteger,
    /// Percent of the cases in which the host is ejected indeed.
    pub enforcing: RuntimeInteger,
}

/// The settings `success_rate_*`.
#[derive(Debug, Clone)]
pub struct SuccessRate {
    /// Hosts with enough requests that it takes. Default 5.
    pub minimum_hosts: RuntimeInteger,
    /// Requests of an interval that are enough. Default 100.
    pub request_volume: RuntimeInteger,
    /// Standard deviations below the mean, in thousandths, that make an outlier. Default 1900.
    pub stdev_factor: RuntimeInteger,
    /// Percent of the cases in which the host is ejected indeed. Default 100.
    pub enforcing: RuntimeInteger,
    /// The same for what is of local origin. Default 100.
    pub enforcing_local_origin: RuntimeInteger,
}

/// The settings `failure_percentage_*`.
#[derive(Debug, Clone)]
pub struct FailurePercentage {
    /// Percent of failures that make an outlier. Default 85.
    pub threshold: RuntimeInteger,
    /// Hosts with enough requests that it takes. Default 5.
    pub minimum_hosts: RuntimeInteger,
    /// Requests of an interval that are enough. Default 50.
    pub request_volume: RuntimeInteger,
    /// Percent of the cases in which the host is ejected indeed. Default 0.
    pub enforcing: RuntimeInteger,
    /// The same for what is of local origin. Default 0.
    pub enforcing_local_origin: RuntimeInteger,
}
