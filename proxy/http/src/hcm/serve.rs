//! The way of one request: policy, route, router, response.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode, Version};
use hyper::body::{Body, Incoming};
use outrider_config::model::RouteMaxStreamDuration;
use outrider_core::generation;
use outrider_core::reply::details;
use outrider_core::{LocalReply, ResponseFlags};

use super::conn::Conn;
use super::routing::Routing;
use crate::body::{DownstreamBody, ResponseBody, TrackedBody};
use crate::filter;
use crate::headers;
use crate::headers::request::Refusal;
use crate::local_reply;
use crate::router;
use crate::routing::{RequestView, RouteTable, Selected};
use crate::stream::{Stream, StreamGuard, UpgradeKind};
use crate::upgrade::PendingUpgrade;

type Answer = Result<http::Response<ResponseBody>, LocalReply>;

/// Serves `request`, which came on `conn`.
pub(crate) async fn request(
    conn: Rc<Conn>,
    request: http::Request<Incoming>,
) -> Result<http::Response<TrackedBody>, h2::Error> {
    let (stream, guard) = Stream::open(&conn);
    let (parts, incoming) = request.into_parts();
    // Boxed: it passes through many hands.
    let mut parts = Box::new(parts);
    let mut routing = Routing::default();
    let prepared = prepare(&stream, &mut parts, &incoming, &mut routing);
    let (answer, closes) = match prepared {
        Ok(()) => {
            let body = DownstreamBody::new(incoming, stream.clone());
            // Pinned here: passed by value it would be held twice, and it is kilobytes.
            let answered = stream.or_abort(pin!(answer(&stream, parts, body, &mut routing))).await;
            let Some(mut answer) = answered else { return Err(h2::Reason::CANCEL.into()) };
            if let Err(reply) = &mut answer
                && let Some(selected) = routing.known()
                && stream.cut_short.get()
            {
                router::finish_reply(&stream, selected, reply);
            }
            (answer, false)
        }
        Err(refusal) if refusal.malformed && conn.is_h2() => {
            note_reset(&stream, &refusal.reply);
            return Err(h2::Reason::INTERNAL_ERROR.into());
        }
        Err(refusal) => {
            let closes = refusal.malformed || closes_on(&stream, refusal.reply.status);
            (Err(refusal.reply), closes)
        }
    };
    Ok(respond(&stream, guard, answer, closes, routing.known()))
}

/// The answer to a request whose head is in order: a filter's, or what the router gets.
async fn answer(
    stream: &Rc<Stream>,
    mut parts: Box<Parts>,
    mut body: DownstreamBody,
    routing: &mut Routing,
) -> Answer {
    if stream.hcm.shared.has_filters {
        match filter::request(stream, &mut parts, &mut body, routing).await {
            Ok(None) => {}
            Ok(Some(response)) => {
                note_answered(stream, *parts, routing.known());
                return Ok(response);
            }
            Err(mut reply) => {
                note_answered(stream, *parts, routing.known());
                if let Some(selected) = routing.known() {
                    router::finish_reply(stream, selected, &mut reply);
                }
                return Err(reply);
            }
        }
    } else if stream.upgrade.borrow().is_some() {
        stream.keep_for_policies(&parts);
    }
    match routing.selected(stream, &parts) {
        Some(selected) => router::forward(stream, parts, body, selected).await,
        None => {
            if stream.wants_head() {
                stream.keep_head(&parts);
            }
            Err(no_route(stream))
        }
    }
}

/// Notes what logs show of a request that a filter answered.
fn note_answered(stream: &Stream, parts: Parts, selected: Option<&Selected>) {
    stream.answered_by_proxy();
    stream.store_head(parts.method, parts.uri, parts.headers);
    if let Some(selected) = selected {
        router::note_routed(stream, selected);
    }
}

/// Everything up to the router.
fn prepare(
    stream: &Rc<Stream>,
    parts: &mut Parts,
    incoming: &Incoming,
    routing: &mut Routing,
) -> Result<(), Refusal> {
    let settled = headers::request::apply(stream, parts);
    // A request that asks for more than HTTP has no end in HTTP, and one that is none has no end at all.
    let whole = !settled.as_ref().is_err_and(|refusal| refusal.malformed);
    if incoming.is_end_stream() && whole && stream.upgrade.borrow().is_none() {
        stream.request_complete();
    }
    let routed = match settled {
        Ok(()) => {
            routing.set(find_route(stream, parts));
            routing.known().map_or(Ok(()), |selected| check_upgrade(stream, selected)).map_err(Refusal::from)
        }
        Err(refusal) => Err(refusal),
    };
    let config = &stream.hcm.shared.config;
    if config.always_set_request_id_in_response {
        *stream.request_id.borrow_mut() = parts.headers.get(headers::names::X_REQUEST_ID).cloned();
    }
    match routed {
        Ok(()) => {
            if config.log_on_new_request && routing.known().is_some() {
                stream.keep_head(parts);
                stream.log("DownstreamStart");
            }
            Ok(())
        }
        Err(refusal) => {
            let stats = &stream.hcm.shared.stats;
            if refusal.malformed {
                stats.downstream_cx_protocol_error().inc();
            } else if stream.wants_head() || stream.hcm.shared.has_filters {
                stream.keep_head(parts);
            }
            Err(refusal)
        }
    }
}

/// The route for a request whose head is in order; `None` for none.
pub(super) fn find_route(stream: &Rc<Stream>, parts: &Parts) -> Option<Selected> {
    let shared = &stream.hcm.shared;
    let view = RequestView {
        head: stream.view(&parts.method, &parts.uri, &parts.headers),
        tls: stream.conn.info.tls.as_deref(),
        random: stream.random.get(),
    };
    let table = stream.hcm.routes(&view.head);
    let selected = table.and_then(|table| RouteTable::route(&table, &view));
    {
        let mut info = stream.info.borrow_mut();
        info.route_name = selected.as_ref().and_then(|selected| selected.name().cloned());
        let selected = selected.as_ref()?;
        info.generation = generation::current();
        if shared.logger.reads_metadata() || selected.reads_metadata() {
            info.metadata = Some(Box::new(selected.metadata()));
        }
    }
    if let Some(forward) = selected.as_ref().and_then(Selected::forward) {
        let longest = forward.max_stream_duration.and_then(|limits| longest(limits, &parts.headers));
        stream.route_limits(forward.idle_timeout, longest);
    }
    selected
}

/// The reply where no route takes a request.
fn no_route(stream: &Stream) -> LocalReply {
    let stats = &stream.hcm.shared.stats;
    stats.rq_total().inc();
    stats.no_route().inc();
    LocalReply::new(StatusCode::NOT_FOUND, details::ROUTE_NOT_FOUND).flags(ResponseFlags::NO_ROUTE_FOUND)
}

/// The reply to a request for an upgrade that is not allowed.
pub(crate) fn check_upgrade(stream: &Stream, selected: &Selected) -> Result<(), LocalReply> {
    let upgrade = stream.upgrade.borrow();
    if upgrade.as_ref().is_none_or(|kind| upgrade_allowed(stream, selected, kind)) {
        return Ok(());
    }
    stream.hcm.shared.stats.downstream_rq_ws_on_non_ws_route().inc();
    router::note_routed(stream, selected);
    Err(LocalReply::new(StatusCode::FORBIDDEN, details::UPGRADE_FAILED))
}

/// The longest life that a route gives a stream: what the client's `grpc-timeout` asks for, capped, where the route
/// looks at it; else the route's own.
fn longest(limits: RouteMaxStreamDuration, headers: &HeaderMap) -> Option<Option<Duration>> {
    let Some(cap) = limits.grpc_timeout_header_max else { return limits.max_stream_duration };
    let Some(asked) = headers.get(router::GRPC_TIMEOUT).and_then(router::parse_grpc_timeout) else {
        return limits.max_stream_duration;
    };
    // 0 stands for no limit on both sides.
    let asked = match cap.filter(|cap| !cap.is_zero()) {
        Some(cap) if asked.is_zero() || asked > cap => cap,
        _ => asked,
    };
    let offset = limits.grpc_timeout_header_offset.unwrap_or_default();
    let left = if asked > offset { asked - offset } else { asked };
    Some((!left.is_zero()).then_some(left))
}

/// Whether the route, or else the connection manager, allows the upgrade.
fn upgrade_allowed(stream: &Stream, selected: &Selected, kind: &UpgradeKind) -> bool {
    let find = |upgrades: &[outrider_config::model::UpgradeConfig]| {
        let found = upgrades.iter().find(|upgrade| upgrade.name.eq_ignore_ascii_case(kind.name()));
        found.map(|upgrade| upgrade.enabled)
    };
    selected
        .forward()
        .and_then(|forward| find(&forward.upgrades))
        .or_else(|| find(&stream.hcm.shared.config.upgrades))
        .unwrap_or(false)
}

/// A bad request ends an HTTP/1 connection: what comes next on it may be part of the same mistake.
fn closes_on(stream: &Stream, status: StatusCode) -> bool {
    let config = &stream.hcm.shared.config;
    let survives = config
        .http1
        .override_stream_error_on_invalid_http_message
        .unwrap_or(config.stream_error_on_invalid_http_message);
    status == StatusCode::BAD_REQUEST && !stream.conn.is_h2() && !survives
}

/// Everything behind the router.
fn respond(
    stream: &Rc<Stream>,
    guard: StreamGuard,
    answer: Answer,
    closes: bool,
    route: Option<&Selected>,
) -> http::Response<TrackedBody> {
    let conn = &stream.conn;
    let shared = &stream.hcm.shared;
    let response = match answer {
        Ok(response) => response,
        Err(mut reply) => {
            stream.answered_by_proxy();
            note_reply(stream, &reply);
            if let Some(mapper) = &shared.reply_mapper {
                mapper.apply(stream, &mut reply);
            }
            local_reply::build(stream, reply)
        }
    };
    let (mut parts, mut body) = response.into_parts();
    if shared.has_filters {
        filter::response(stream, &mut parts, &mut body, route);
    }
    let tunnel = matches!(body, ResponseBody::Upgrade(_));
    let mut close = conn.closes_after_response() || closes || stream.client_closes.get();
    if !stream.request_done.get() {
        shared.stats.downstream_rq_response_before_rq_complete().inc();
        close |= !tunnel;
    }
    let version_10 = stream.info.borrow().protocol == Some(outrider_core::stream::Protocol::Http10);
    if version_10 && !stream.keep_alive_10.get() {
        close = true;
    }
    // An HTTP/2 client reads 200 where the log has 101.
    let status = parts.status;
    headers::response::apply(stream, &mut parts, tunnel, close);
    if close && !tunnel {
        conn.h1.response_closes.set(true);
    }
    // hyper answers HTTP/1.0 with HTTP/1.0, and keeps a connection alive for it only if this says 1.1.
    parts.version = Version::HTTP_11;
    count_code(stream, status);
    stream.response_head(status, &parts.headers);
    if let ResponseBody::Upgrade(upstream) = body {
        stream.tunnel.set(true);
        let upgrade = Box::new(PendingUpgrade::new(guard, upstream));
        match stream.h2_upgrade.borrow_mut().take() {
            Some(downstream) => {
                tokio::task::spawn_local(upgrade.run_h2(downstream));
            }
            None => *conn.h1.upgrade.borrow_mut() = Some(upgrade),
        }
        return http::Response::from_parts(parts, TrackedBody::empty());
    }
    http::Response::from_parts(parts, TrackedBody::new(body, guard))
}

fn note_reply(stream: &Stream, reply: &LocalReply) {
    let mut info = stream.info.borrow_mut();
    info.flags.insert(reply.flags);
    info.details = reply.details.clone();
}

/// What is malformed in HTTP/2 ends its stream without an answer.
fn note_reset(stream: &Stream, reply: &LocalReply) {
    let mut info = stream.info.borrow_mut();
    let limits = reply.status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        || reply.details == "http2.unexpected_underscore";
    info.flags.insert(if limits { ResponseFlags::DOWNSTREAM_REMOTE_RESET } else { reply.flags });
    info.details = reply.details.clone();
    drop(info);
    stream.reset();
}

fn count_code(stream: &Stream, status: StatusCode) {
    if stream.info.borrow().health_check {
        return;
    }
    let (stats, listener) = (&stream.hcm.shared.stats, &stream.hcm.shared.listener_stats);
    stats.downstream_rq_completed().inc();
    listener.downstream_rq_completed().inc();
    let (ours, listeners) = match status.as_u16() / 100 {
        1 => (stats.downstream_rq_1xx(), listener.downstream_rq_1xx()),
        2 => (stats.downstream_rq_2xx(), listener.downstream_rq_2xx()),
        3 => (stats.downstream_rq_3xx(), listener.downstream_rq_3xx()),
        4 => (stats.downstream_rq_4xx(), listener.downstream_rq_4xx()),
        5 => (stats.downstream_rq_5xx(), listener.downstream_rq_5xx()),
        _ => return,
    };
    ours.inc();
    listeners.inc();
}

/// The client left in the middle of a request's head: a stream without a request, for the counters and the log.
pub(crate) fn head_cut_off(conn: &Rc<Conn>) {
    let (_stream, guard) = Stream::open(conn);
    drop(guard);
}

/// The bytes that answer a message in which no request was found. It is counted and logged as a stream.
pub(crate) fn refused(conn: &Rc<Conn>, reply: &LocalReply) -> Vec<u8> {
    let (stream, guard) = Stream::open(conn);
    let stats = &conn.hcm.shared.stats;
    if reply.flags.intersects(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR) {
        stats.downstream_cx_protocol_error().inc();
    }
    stats.downstream_rq_response_before_rq_complete().inc();
    note_reply(&stream, reply);
    let mut reply = reply.clone();
    if let Some(mapper) = &conn.hcm.shared.reply_mapper {
        mapper.apply(&stream, &mut reply);
    }
    let response = local_reply::build(&stream, reply.clone());
    let (mut parts, mut body) = response.into_parts();
    if conn.hcm.shared.has_filters {
        filter::response(&stream, &mut parts, &mut body, None);
    }
    headers::response::apply(&stream, &mut parts, false, true);
    count_code(&stream, parts.status);
    stream.response_head(parts.status, &parts.headers);
    stream.response_frame(reply.body.len());
    stream.response_complete();
    drop(guard);
    local_reply::raw(&reply, std::mem::replace(&mut parts.headers, HeaderMap::new()))
}
