//! Asking by HTTP.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;

use http::{HeaderMap, Response};
use http_body::Body;
use hyper::body::Incoming;
use outrider_config::model::HttpProbe;
use outrider_core::rng::{self, Rng};

use super::probe::{Ask, Kept, authority, exchange, headers, holds, keep};
use super::{Checks, Finding};
use crate::body::UpstreamBody;
use crate::cluster::ClusterShared;
use crate::host::{Host, flags};

/// Which cluster the checked server belongs to.
const CHECKED_CLUSTER: &str = "x-envoy-upstream-healthchecked-cluster";
/// The server asks for less.
const DEGRADED: &str = "x-envoy-degraded";
/// The server is to be left alone.
const FAIL_AT_ONCE: &str = "x-envoy-immediate-health-check-fail";

pub(super) async fn ask(
    cluster: &ClusterShared,
    checks: &Checks,
    probe: &HttpProbe,
    host: &Host,
    kept: &mut Kept,
) -> Finding {
    let mut headers = headers(&probe.add);
    for name in &probe.remove {
        headers.remove(name);
    }
    let body =
        if probe.send.is_empty() { UpstreamBody::Empty } else { UpstreamBody::Full(probe.send.clone()) };
    let ask = Ask {
        method: probe.method.clone(),
        authority: authority(cluster, host, &probe.host),
        path: probe.path.clone(),
        headers,
        body,
    };
    let Some((response, sender)) = exchange(cluster, host, probe.http2, kept, ask).await else {
        return Finding::Broken;
    };
    let (head, mut body) = {
        let (head, body) = response.into_parts();
        (Response::from_parts(head, ()), body)
    };
    let Some(read) = read(&mut body, probe).await else { return Finding::Broken };
    keep(&checks.config, kept, || Kept::Http(sender));
    judge(checks, probe, host, head.status().as_u16(), head.headers(), &read)
}

/// Reads the response to its end, and keeps what may be asked for; `None` when it broke off.
async fn read(body: &mut Incoming, probe: &HttpProbe) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let most = usize::try_from(probe.response_buffer).unwrap_or(usize::MAX);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.ok()?;
        if let (Some(data), false) = (frame.data_ref(), probe.receive.is_empty()) {
            let room = most.saturating_sub(text.len());
            text.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        }
    }
    Some(text)
}

fn judge(
    checks: &Checks,
    probe: &HttpProbe,
    host: &Host,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
) -> Finding {
    let within = |ranges: &[Range<u16>]| ranges.iter().any(|range| range.contains(&status));
    let told = headers.contains_key(FAIL_AT_ONCE);
    let matches = holds(body, &probe.receive);
    if !matches || !within(&probe.expected) {
        host.checks.set(flags::EXCLUDED, host.checks.has(flags::EXCLUDED) || told);
        return Finding::Ill { retriable: matches && within(&probe.retriable) };
    }
    if let Some(matcher) = &probe.service_name
        && rng::with(|rng| rng.below(100)) < probe.verify_cluster.get()
    {
        checks.stats.verify_cluster().inc();
        let name = headers.get(CHECKED_CLUSTER).map(|value| String::from_utf8_lossy(value.as_bytes()));
        if !matcher.matches(name.as_deref().unwrap_or_default()) {
            return Finding::Ill { retriable: false };
        }
    }
    Finding::Well { degraded: headers.contains_key(DEGRADED) }
}
