//! One try: a connection, the exchange of heads, and the response that follows.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, SET_COOKIE, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme as UriScheme};
use http::{HeaderValue, Method, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use outrider_core::LocalReply;
use outrider_core::reply::details;
use outrider_core::stream::{Attempt, Protocol};
use outrider_upstream::{
    AcquireContext, BodyError, Event, Host, Incoming, Lease, Outbound, PoolErrorKind, SendError, UpstreamBody,
};

use super::call::{self, Call};
use super::envoy_headers::{CANARY, FAIL_AT_ONCE, SERVICE_TIME};
use super::limits::Expired;
use super::outcome::{Failure, Reset};
use super::response::{BodyLimits, Tail, UpstreamResponse, grpc_http_status, grpc_outcome};
use super::retry::grpc_status;
use super::{heads, upgrade};
use crate::body::{DownstreamBody, ResponseBody};
use crate::stream::{Scheme, Stream};

const NOTHING: HeaderValue = HeaderValue::from_static("0");

/// A response's head, and the connection that it came on.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
}

/// Nearly every request: one try.
pub(crate) async fn once(
    call: &Call<'_>,
    parts: Box<Parts>,
    body: DownstreamBody,
) -> Result<Response<ResponseBody>, LocalReply> {
    // An upgrade's request is open to its end, but has no body before that.
    let empty = body.is_end_stream()
        || (body.size_hint().exact() == Some(0) && call.stream.upgrade.borrow().is_some());
    let body = if empty { UpstreamBody::Empty } else { boxed(body) };
    let host = &call.first_host;
    match exchange(call, host, Outbound { parts, body }).await {
        Ok(answer) => match refused_websocket(call, &answer) {
            Some(reply) => {
                call.count_status(reply.status.as_u16(), call.kind);
                host.count_response(Some(reply.status.as_u16()));
                Err(reply)
            }
            None => Ok(respond(call, host, answer)),
        },
        Err(failure) => {
            call.count_expired(&failure, Some(host));
            Err(call.fail(&failure, Some(host)))
        }
    }
}

/// An HTTP/1.1 upstream that answers a WebSocket request with success, but not with 101: the client gets the
/// status and nothing else (measured on Envoy 1.40).
fn refused_websocket(call: &Call<'_>, answer: &Answer) -> Option<LocalReply> {
    let status = answer.response.status();
    let websocket = call.stream.upgrade.borrow().as_ref().is_some_and(upgrade::is_websocket);
    let refused = websocket && status.is_success() && answer.lease.protocol() != Protocol::Http2;
    refused.then(|| LocalReply::new(status, upgrade::HANDSHAKE_UNSUCCESSFUL))
}

/// Sends `request` to `host` and waits for the response's head, as long as the limits allow.
pub(crate) async fn exchange(
    call: &Call<'_>,
    host: &Arc<Host>,
    request: Outbound,
) -> Result<Answer, Failure> {
    call.limits.begin_try();
    // Pinned here: passed by value it would be held twice.
    let outcome = match call.limits.guard(pin!(send(call, host, request))).await {
        Ok(result) => result,
        Err(Expired::Global) => Err(Failure::GlobalTimeout),
        Err(Expired::PerTry) => Err(Failure::PerTryTimeout),
        Err(Expired::PerTryIdle) => Err(Failure::PerTryIdle),
        Err(Expired::MaxDuration) => Err(Failure::MaxDuration),
    };
    if let Ok(answer) = &outcome
        && call.cluster.shared.listens()
        && answer.response.headers().contains_key(FAIL_AT_ONCE)
    {
        call.cluster.shared.told_unwell(host);
    }
    if let Some(event) = event_of(call, &outcome) {
        call.cluster.shared.report(host, event);
    }
    outcome
}

/// What outlier detection is to know of a try; `None` for nothing of its host.
fn event_of(call: &Call<'_>, outcome: &Result<Answer, Failure>) -> Option<Event> {
    match outcome {
        Ok(answer) => {
            let status = answer.response.status().as_u16();
            let grpc = if call.grpc { grpc_status(answer.response.headers()) } else { None };
            Some(Event::Response(grpc.map_or(status, grpc_http_status)))
        }
        Err(Failure::Reset { reset: Reset::Overflow, .. } | Failure::MaxDuration) => None,
        Err(Failure::Reset { .. }) => Some(Event::ConnectFailed),
        // One that still waits for its connection is charged to nobody.
        Err(_) if !call.limits.is_connected() => None,
        Err(_) => Some(Event::TimedOut(call.timeout_status())),
    }
}

async fn send(call: &Call<'_>, host: &Arc<Host>, mut request: Outbound) -> Result<Answer, Failure> {
    note_host(call.stream, host);
    let logger = &call.stream.hcm.shared.logger;
    let begun = logger.reads_attempts().then(std::time::Instant::now);
    let mut lease = acquire(call, host, &request.parts).await.map_err(|error| {
        let mut info = call.stream.info.borrow_mut();
        info.upstream.transport_failure = (!error.details.is_empty()).then(|| error.details.clone());
        if error.kind == PoolErrorKind::PendingOverflow {
            info.upstream.host = None;
            info.upstream.hostname = None;
        }
        Failure::pool(&error)
    })?;
    call.limits.connected();
    call.cluster.shared.report(host, Event::Connected);
    note_connection(call.stream, &lease, request.body.is_end_stream());
    if let Some(begun) = begun {
        note_attempt(call.stream, host, &lease, begun.elapsed());
    }
    for route in call.route_stats() {
        route.counters.upstream_rq_total().inc();
    }
    call::auto_rewrite_host(call, host, &mut request.parts.headers);
    shape(call, &lease, &mut request);
    match lease.send(request).await {
        Ok(response) if has_two_lengths(&response, call, &lease) => {
            let reset = Reset::ProtocolError;
            Err(Failure::Reset { reset, transport: Arc::from(""), started: true })
        }
        Ok(response) => Ok(Answer { response, lease }),
        Err(error) => {
            if error.cause.as_deref().is_some_and(|cause| was_reset(cause)) {
                call.stream.info.borrow_mut().upstream.reset = true;
            }
            Err(failed(error))
        }
    }
}

/// Whether the peer's TCP said that the connection is reset.
pub(crate) fn was_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionReset;
        }
        cause = inner.source();
    }
    false
}

/// Notes a connection for formats that tell what was tried.
fn note_attempt(stream: &Stream, host: &Host, lease: &Lease, waited: Duration) {
    let mut info = stream.info.borrow_mut();
    info.upstream.ready_after = Some(waited);
    info.upstream.attempted.push(Attempt {
        host: lease.remote().unwrap_or(&host.address).clone(),
        hostname: host.hostname.clone(),
        connection_id: lease.connection_id(),
    });
}

async fn acquire(
    call: &Call<'_>,
    host: &Arc<Host>,
    request: &Parts,
) -> Result<Lease, outrider_upstream::PoolError> {
    let http = &call.cluster.shared.config.http;
    // Looked at only where the cluster takes its SNI from requests.
    let sni = if http.auto_sni || http.auto_san_validation {
        let named = http.override_auto_sni_header.as_ref().and_then(|name| request.headers.get(name));
        let value = named.filter(|value| !value.is_empty()).or_else(|| request.headers.get(HOST));
        value.and_then(|value| value.to_str().ok())
    } else {
        None
    };
    let context = AcquireContext {
        downstream_protocol: call.stream.info.borrow().protocol,
        high_priority: call.route.high_priority,
        sni_from: sni,
        source: call.stream.conn.info.source,
    };
    call.cluster.acquire(host, &context).await
}

/// A response that says its length in two ways is how responses are smuggled: Envoy's codec refuses it.
fn has_two_lengths(response: &Response<Incoming>, call: &Call<'_>, lease: &Lease) -> bool {
    let headers = response.headers();
    headers.contains_key(TRANSFER_ENCODING)
        && headers.contains_key(CONTENT_LENGTH)
        && lease.protocol() != Protocol::Http2
        && !call.cluster.shared.config.http.http1.allow_chunked_length
}

fn failed(error: SendError) -> Failure {
    if let Some(pool) = &error.pool {
        return Failure::pool(pool);
    }
    let started = !error.kind.never_processed();
    Failure::Reset { reset: Reset::of_send(error.kind), transport: Arc::from(""), started }
}

/// The form that the connection's protocol asks for, where the lease does not see to it.
fn shape(call: &Call<'_>, lease: &Lease, request: &mut Outbound) {
    let stream = call.stream;
    let Outbound { parts: request, body } = request;
    let http2 = lease.protocol() == Protocol::Http2;
    if !http2 {
        stream.drops_trailers.set(!call.cluster.shared.config.http.http1.enable_trailers);
        if body.is_end_stream() && may_have_body(&request.method) {
            // A method that usually has a body says that there is none (RFC 9110, section 8.6).
            request.headers.entry(CONTENT_LENGTH).or_insert(NOTHING);
        }
    }
    if let Some(kind) = &*stream.upgrade.borrow() {
        if http2 {
            upgrade::for_http2(request, kind);
        } else {
            upgrade::for_http1(request, kind);
        }
    }
    // The scheme is the client's, whatever the transport is.
    if http2
        && request.uri.authority().is_none()
        && let Some(uri) = absolute(&request.uri, request.headers.get(HOST), stream.scheme.get())
    {
        request.uri = uri;
    }
}

/// Whether a request with this method has a body more often than not. Envoy's list of those that have none.
fn may_have_body(method: &Method) -> bool {
    ![Method::GET, Method::HEAD, Method::DELETE, Method::TRACE, Method::CONNECT].contains(method)
}

fn absolute(uri: &Uri, host: Option<&HeaderValue>, scheme: Scheme) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(Authority::try_from(host?.as_bytes()).ok()?);
    parts.scheme = Some(match scheme {
        Scheme::Http => UriScheme::HTTP,
        Scheme::Https => UriScheme::HTTPS,
    });
    Uri::from_parts(parts).ok()
}

fn note_host(stream: &Stream, host: &Host) {
    let mut info = stream.info.borrow_mut();
    let upstream = &mut info.upstream;
    upstream.host = Some(host.address.clone());
    upstream.hostname = Some(host.hostname.clone());
    upstream.transport_failure = None;
    if let Some(metadata) = &mut info.metadata {
        metadata.host.clone_from(&host.metadata);
    }
}

fn note_connection(stream: &Stream, lease: &Lease, empty: bool) {
    let mut info = stream.info.borrow_mut();
    let since = stream.since_start(info.start);
    info.timings.first_upstream_tx = Some(since);
    if empty {
        info.timings.last_upstream_tx = Some(since);
    }
    let upstream = &mut info.upstream;
    upstream.local = lease.local().cloned();
    upstream.protocol = Some(lease.protocol());
    upstream.tls = lease.tls().cloned();
    upstream.connection_id = Some(lease.connection_id());
    // Behind a logical name the address is the connection's.
    if let Some(remote) = lease.remote()
        && upstream.host.as_ref() != Some(remote)
    {
        upstream.host = Some(remote.clone());
    }
}

/// Turns the upstream's answer into the response for the client, and counts it.
pub(crate) fn respond(call: &Call<'_>, host: &Arc<Host>, answer: Answer) -> Response<ResponseBody> {
    let Answer { mut response, lease } = answer;
    let stream = call.stream;
    let protocol = lease.protocol();
    let upgraded = stream
        .upgrade
        .borrow()
        .as_ref()
        .is_some_and(|kind| upgrade::accepted(&mut response, kind, protocol == Protocol::Http2));
    // What the upstream speaks is not the client's concern.
    *response.version_mut() = Version::HTTP_11;
    let status = response.status().as_u16();
    let ended = response.body().is_end_stream() && !upgraded;
    let mut kind = call.kind;
    kind.canary = response.headers().get(CANARY).is_some_and(|value| value == "true");
    add_service_time(call, response.headers_mut());
    for cookie in &call.hash.cookies {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    call.count_status(status, kind);
    let grpc_pending = call.grpc && status < 500 && !ended;
    if status >= 500 || !call.grpc {
        host.count_response(Some(status));
    } else if ended {
        host.count_response(Some(grpc_outcome(grpc_status(response.headers()))));
    }
    {
        let mut info = stream.info.borrow_mut();
        info.details = details::VIA_UPSTREAM.into();
        info.response_code = Some(status);
    }
    heads::finish_response(stream, call.selected, status, response.headers_mut());
    if upgraded {
        return hand_over(response, lease);
    }
    // The codec's notes of the upstream's message (its reason phrase) are not the client's.
    response.extensions_mut().clear();
    let (parts, body) = response.into_parts();
    let timeouts = &call.limits.timeouts;
    let tail = Tail {
        stream: stream.clone(),
        selected: call.selected.clone(),
        cluster: call.cluster.clone(),
        host: host.clone(),
        guard: lease.into_guard(),
        kind,
        protocol,
        grpc_pending,
        dynamic_stats: call.dynamic_stats(),
        limits: BodyLimits {
            global: timeouts.global,
            idle: timeouts.per_try_idle,
            until: call.limits.max_duration_at(),
        },
    };
    if ended {
        tail.end(None);
        return Response::from_parts(parts, ResponseBody::Empty);
    }
    Response::from_parts(parts, ResponseBody::Upstream(Box::new(UpstreamResponse::new(body, tail))))
}

fn add_service_time(call: &Call<'_>, headers: &mut http::HeaderMap) {
    let mut info = call.stream.info.borrow_mut();
    let since = call.stream.since_start(info.start);
    info.timings.first_upstream_rx = Some(since);
    // Not of a response that came before the whole request was here; an upgrade's request never is.
    let Some(received) = info.timings.last_downstream_rx else { return };
    if !call.suppresses_headers() && call.stream.upgrade.borrow().is_none() {
        let ms = u64::try_from(since.saturating_sub(received).as_millis()).unwrap_or(u64::MAX);
        headers.insert(SERVICE_TIME, heads::small_number(ms));
    }
}

fn hand_over(mut response: Response<Incoming>, lease: Lease) -> Response<ResponseBody> {
    let tunnel = Box::new(lease.into_tunnel(&mut response));
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, ResponseBody::Upgrade(tunnel))
}

/// A request's body as it goes upstream.
pub(crate) fn boxed(body: DownstreamBody) -> UpstreamBody {
    UpstreamBody::Boxed(Box::pin(Streaming(body)))
}

/// A downstream body with the upstream's error type.
struct Streaming(DownstreamBody);

impl Body for Streaming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.0).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
