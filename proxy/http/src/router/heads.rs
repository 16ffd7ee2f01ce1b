//! The heads of requests and responses as the router changes them.

use std::time::Duration;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use outrider_config::model::Forward;
use outrider_core::LocalReply;
use outrider_core::format::FormatContext;
use outrider_core::matcher::HeadView;

use super::envoy_headers::{ATTEMPT_COUNT, EXPECTED_TIMEOUT};
use super::timeout::{self, Timeouts};
use crate::routing::rewrite::{self, ORIGINAL_HOST, ORIGINAL_PATH};
use crate::routing::{ContextSource, Selected};
use crate::stream::Stream;

/// The context of formats in request headers.
pub(crate) struct RequestContext<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) method: &'a http::Method,
    pub(crate) uri: &'a Uri,
}

impl ContextSource for RequestContext<'_> {
    fn with(&self, headers: &HeaderMap, f: &mut dyn FnMut(&FormatContext<'_>)) {
        let info = self.stream.info.borrow();
        let request = self.stream.view(self.method, self.uri, headers);
        f(&FormatContext { request: Some(request), ..FormatContext::of(&info) });
    }
}

/// The context of formats in response headers.
pub(crate) struct ResponseContext<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) status: u16,
}

impl ContextSource for ResponseContext<'_> {
    fn with(&self, headers: &HeaderMap, f: &mut dyn FnMut(&FormatContext<'_>)) {
        let mut digits = itoa::Buffer::new();
        let response = HeadView { status: digits.format(self.status), ..HeadView::of(headers) };
        let info = self.stream.info.borrow();
        self.stream.with_head(|request| {
            f(&FormatContext { request, response: Some(response), ..FormatContext::of(&info) });
        });
    }
}

/// Makes the changes that the route asks for, in Envoy's order: headers, authority, path.
pub(crate) fn finish_request(stream: &Stream, selected: &Selected, route: &Forward, parts: &mut Parts) {
    if let Some(changes) = selected.request_changes() {
        let context = RequestContext { stream, method: &parts.method, uri: &parts.uri };
        changes.apply(&mut parts.headers, &context);
    }
    let keep_original = !stream.hcm.shared.config.router.suppress_envoy_headers;
    // A weighted cluster's literal leaves no trace of the authority that it replaces.
    if let Some(literal) = selected.cluster_host_rewrite().and_then(|host| HeaderValue::from_str(host).ok()) {
        parts.headers.insert(HOST, literal);
    }
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if route.host_rewrite.is_some() {
        let new = rewrite::host(route, &parts.headers, path);
        if let Some(new) = new.and_then(|new| HeaderValue::from_bytes(&new).ok()) {
            replace_host(&mut parts.headers, new, route.append_x_forwarded_host, keep_original);
        }
    }
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if let Some(new) = selected.path_rewrite(path) {
        replace_path(parts, new, keep_original);
    }
}

/// The path that logs show of a redirected request: rewritten as the redirect rewrites it.
pub(crate) fn finish_redirected(stream: &Stream, selected: &Selected, parts: &mut Parts) {
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if let Some(new) = selected.redirected_path(path) {
        replace_path(parts, new, !stream.hcm.shared.config.router.suppress_envoy_headers);
    }
}

fn replace_path(parts: &mut Parts, new: String, keep_original: bool) {
    let old = parts.uri.path_and_query().and_then(|old| HeaderValue::from_str(old.as_str()).ok());
    if set_path(parts, new)
        && let Some(old) = old.filter(|_| keep_original)
    {
        parts.headers.insert(ORIGINAL_PATH, old);
    }
}

/// Puts `new` in place of the authority; the old one is kept where it should be.
pub(crate) fn replace_host(headers: &mut HeaderMap, new: HeaderValue, forwarded: bool, keep_original: bool) {
    if let Some(old) = headers.get(HOST).cloned() {
        if forwarded {
            rewrite::append_forwarded_host(headers, &old);
        }
        if keep_original {
            headers.insert(ORIGINAL_HOST, old);
        }
    }
    headers.insert(HOST, new);
}

/// Puts `path` in place of the path and query; what is no path changes nothing.
pub(crate) fn set_path(parts: &mut Parts, path: String) -> bool {
    if parts.uri.path_and_query().is_none() {
        return false;
    }
    let Ok(path) = PathAndQuery::from_maybe_shared(bytes::Bytes::from(path)) else { return false };
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query = Some(path);
    match Uri::from_parts(uri) {
        Ok(uri) => {
            parts.uri = uri;
            true
        }
        Err(_) => false,
    }
}

/// Tells the upstream how long it may take.
pub(crate) fn set_expected_timeout(
    headers: &mut HeaderMap,
    timeouts: &Timeouts,
    elapsed: Duration,
    suppress: bool,
) {
    let Some(expected) = timeouts.expected(elapsed) else { return };
    if !suppress {
        let ms = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        headers.insert(EXPECTED_TIMEOUT, small_number(ms));
    }
    if timeouts.rewrite_grpc {
        headers.insert(timeout::GRPC_TIMEOUT, timeout::grpc_timeout(expected));
    }
}

/// A number as a header value; the frequent ones without allocating.
pub(crate) fn small_number(number: u64) -> HeaderValue {
    const FREQUENT: [&str; 16] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"];
    let frequent = usize::try_from(number).ok().and_then(|number| FREQUENT.get(number));
    match frequent {
        Some(text) => HeaderValue::from_static(text),
        None if number == 15_000 => HeaderValue::from_static("15000"),
        None => HeaderValue::from(number),
    }
}

/// Makes the route's changes of a response's headers, and says how many tries there were where that is wanted.
/// For responses from upstream and for those that the proxy makes up once a route is known.
pub(crate) fn finish_response(stream: &Stream, selected: &Selected, status: u16, headers: &mut HeaderMap) {
    if let Some(changes) = selected.response_changes() {
        changes.apply(headers, &ResponseContext { stream, status });
    }
    if selected.virtual_host().is_some_and(|host| host.attempt_count_in_response) {
        let attempts = stream.info.borrow().attempts;
        if attempts > 0 {
            headers.insert(ATTEMPT_COUNT, small_number(attempts.into()));
        }
    }
}

/// The same for a local reply: what is added stands before the reply's own headers of the connection manager.
pub(crate) fn finish_reply(stream: &Stream, selected: &Selected, reply: &mut LocalReply) {
    let counts = selected.virtual_host().is_some_and(|host| host.attempt_count_in_response);
    if selected.response_changes().is_none() && !counts {
        return;
    }
    let status = reply.status.as_u16();
    {
        // What is added may tell of it.
        let mut info = stream.info.borrow_mut();
        info.details.clone_from(&reply.details);
        info.flags.insert(reply.flags);
    }
    let mut headers = reply.headers.take().unwrap_or_default();
    finish_response(stream, selected, status, &mut headers);
    reply.headers = Some(headers);
}
