//! `Telemetry`: access logs.

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;

use crate::translate::Context;

/// The access logs of a connection manager or TCP proxy in a namespace. `labels`: of the workload, where it is one.
pub fn access_logs(
    context: &Context,
    namespace: &str,
    labels: Option<&std::collections::BTreeMap<String, String>>,
) -> Vec<AccessLog> {
    let _ = (context, namespace, labels);
    Vec::new()
}
