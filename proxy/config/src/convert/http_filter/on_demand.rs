//! `envoy.filters.http.on_demand`

use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::on_demand::v3 as pb;

use crate::convert::cx::{Cx, refuse};
use crate::convert::scalar::duration;
use crate::convert::xds::delta_source;
use crate::model::{OnDemand, OnDemandClusters};

/// How long a request waits for a cluster where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The filter's settings; those of a route are the same.
pub(super) fn settings(cx: &Cx, path: &Path<'_>, odcds: Option<&pb::OnDemandCds>) -> OnDemand {
    OnDemand { clusters: odcds.and_then(|message| clusters(cx, &path.field("odcds"), message)) }
}

fn clusters(cx: &Cx, path: &Path<'_>, message: &pb::OnDemandCds) -> Option<OnDemandClusters> {
    let pb::OnDemandCds { source, resources_locator, timeout } = message;
    refuse!(cx, path, "xdstp:// resource names are not supported; write source"; resources_locator);
    let timeout = duration(cx, path, "timeout", timeout).unwrap_or(TIMEOUT);
    let at = path.field("source");
    let Some(source) = source else {
        cx.error(&at, "a source of the clusters is needed");
        return None;
    };
    Some(OnDemandClusters { source: delta_source(cx, &at, source, "clusters on demand")?, timeout })
}
