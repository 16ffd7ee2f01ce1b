//! Copies of a request to other clusters: sent and forgotten.

use std::net::IpAddr;
use std::rc::Rc;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method};
use http_body::Body;
use outrider_config::model::MirrorCluster;
use outrider_upstream::stats::ResponseKind;
use outrider_upstream::{
    AcquireContext, Event, Incoming, Outbound, PickContext, UpstreamBody, WorkerCluster,
};

use super::again;
use super::call::Call;
use super::envoy_headers::INTERNAL;
use super::outcome::Reset;
use super::replay::Replay;
use crate::body::DownstreamBody;
use crate::headers::append_joined;
use crate::headers::names::X_FORWARDED_FOR;
use crate::routing;

/// Begins the copies that the route asks for. Nothing of them comes back to the request.
pub(crate) fn start(call: &Call<'_>, parts: &Parts, body: &Replay<DownstreamBody>) {
    if parts.method == Method::CONNECT || call.stream.upgrade.borrow().is_some() {
        return;
    }
    let own_address = call.stream.hcm.shared.local_address;
    for (policy, slot) in call.route.mirrors.iter().zip(call.selected.mirrors()) {
        let wanted = policy
            .fraction
            .as_ref()
            .is_none_or(|fraction| routing::in_fraction(fraction, call.stream.random.get()));
        if !wanted {
            continue;
        }
        let clusters = &call.stream.hcm.clusters;
        let cluster = match (&policy.cluster, slot) {
            (MirrorCluster::Name(_), Some(slot)) => clusters.get(slot),
            (MirrorCluster::Header(name), _) => {
                let name = parts.headers.get(name).and_then(|value| value.to_str().ok());
                name.and_then(|name| clusters.by_name(name))
            }
            (MirrorCluster::Name(_), None) => None,
        };
        let Some(cluster) = cluster else { continue };
        let tap = body.tap();
        let copy = if tap.is_end_stream() { UpstreamBody::Empty } else { UpstreamBody::Boxed(Box::pin(tap)) };
        let request = shadow(parts, copy, !policy.disable_host_suffix, own_address);
        let protocol = call.stream.info.borrow().protocol;
        let work = send(cluster, request, protocol);
        match call.limits.timeouts.global {
            Some(limit) => {
                tokio::task::spawn_local(async move {
                    let _ = tokio::time::timeout(limit, work).await;
                });
            }
            None => {
                tokio::task::spawn_local(work);
            }
        }
    }
}

fn shadow(parts: &Parts, body: UpstreamBody, suffix: bool, own_address: IpAddr) -> Outbound {
    let mut request = again::copy(parts, body);
    let headers = &mut request.parts.headers;
    if suffix
        && let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()).map(shadow_host)
        && let Ok(host) = HeaderValue::from_str(&host)
    {
        headers.insert(HOST, host);
    }
    headers.insert(INTERNAL, HeaderValue::from_static("true"));
    // The copy comes from us: our address ends the list.
    append_joined(headers, X_FORWARDED_FOR, ",", own_address.to_string().as_bytes());
    request
}

/// `host` and `host:port` with `-shadow` behind the host.
fn shadow_host(host: &str) -> String {
    match routing::port_start(host).and_then(|colon| host.split_at_checked(colon)) {
        Some((name, port)) => [name, "-shadow", port].concat(),
        None => [host, "-shadow"].concat(),
    }
}

async fn send(
    cluster: Rc<WorkerCluster>,
    request: Outbound,
    downstream_protocol: Option<outrider_core::stream::Protocol>,
) {
    let kind = ResponseKind { internal: Some(true), ..ResponseKind::default() };
    let counts = cluster.shared.stats();
    let Ok(host) = cluster.pick(&PickContext::default()) else {
        counts.count_response(503, kind);
        return;
    };
    let authority = request.parts.headers.get(HOST).cloned();
    let context = AcquireContext {
        downstream_protocol,
        high_priority: false,
        sni_from: authority.as_ref().and_then(|host| host.to_str().ok()),
        // Nobody waits for the answer: it is asked in the proxy's own name.
        source: None,
    };
    let mut lease = match cluster.acquire(&host, &context).await {
        Ok(lease) => lease,
        Err(error) => {
            host.count_response(None);
            if Reset::of_pool(error.kind) != Reset::Overflow {
                cluster.shared.report(&host, Event::ConnectFailed);
            }
            counts.count_response(Reset::of_pool(error.kind).status().as_u16(), kind);
            return;
        }
    };
    cluster.shared.report(&host, Event::Connected);
    match lease.send(request).await {
        Ok(response) => {
            let status = response.status().as_u16();
            cluster.shared.report(&host, Event::Response(status));
            host.count_response(Some(status));
            counts.count_response(status, kind);
            let mut guard = lease.into_guard();
            if drained(response.into_body()).await {
                guard.finished();
            }
        }
        Err(error) => {
            host.count_response(None);
            cluster.shared.report(&host, Event::ConnectFailed);
            counts.count_response(Reset::of_send(error.kind).status().as_u16(), kind);
        }
    }
}

/// Reads a body to its end; whether it came there.
async fn drained(mut body: Incoming) -> bool {
    use std::future::poll_fn;
    use std::pin::Pin;

    loop {
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            None => return true,
            Some(Ok(_)) => {}
            Some(Err(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_goes_before_the_port() {
        assert_eq!(shadow_host("a.com"), "a.com-shadow");
        assert_eq!(shadow_host("a.com:80"), "a.com-shadow:80");
        assert_eq!(shadow_host("[::1]:80"), "[::1]-shadow:80");
    }
}
