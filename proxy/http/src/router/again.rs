//! Requests that may be sent more than once: retries and mirrors.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::{HeaderValue, Response};
use outrider_core::rng;
use outrider_core::{LocalReply, ResponseFlags};
use outrider_upstream::stats::ResponseKind;
use outrider_upstream::{Host, Outbound, RetryPermit, UpstreamBody};
use smallvec::SmallVec;

use super::attempt::{self, Answer};
use super::call::{self, Call};
use super::envoy_headers::{ATTEMPT_COUNT, IS_TIMEOUT_RETRY};
use super::outcome::{self, Failure};
use super::replay::Replay;
use super::retry::{ResponseView, Verdict, Wait};
use super::{heads, mirror};
use crate::body::{DownstreamBody, ResponseBody};

/// Kept of a request's body when nothing else is configured, bytes.
const DEFAULT_BUFFER: u64 = 1 << 20;

/// The outcome of one try.
type Tried = Result<Answer, Failure>;

/// Sends the request, again where that is due, and copies of it to mirrors.
pub(crate) async fn with_retries(
    mut call: Call<'_>,
    mut parts: Box<Parts>,
    body: DownstreamBody,
) -> Result<Response<ResponseBody>, LocalReply> {
    let replay = Replay::new(body, call.retries.is_some(), buffer_limit(&call));
    mirror::start(&call, &parts, &replay);
    let mut host = call.first_host.clone();
    let mut tried = SmallVec::<[u64; 4]>::new();
    // A retry holds its place in the breaker until its outcome is known.
    let mut permit: Option<RetryPermit> = None;
    loop {
        if call.retries.is_none() {
            replay.last_try();
        }
        let request = copy(&parts, UpstreamBody::Boxed(Box::pin(replay.reader())));
        let outcome = attempt::exchange(&call, &host, request).await;
        if let Err(failure) = &outcome {
            call.count_expired(failure, Some(&host));
        }
        if replay.take_abandoned() {
            call.cluster.shared.stats().retry_or_shadow_abandoned().inc();
            call.retries = None;
        }
        drop(permit.take());
        match decide(&mut call, &outcome) {
            Some((wait, taken)) => {
                note_retry(&call, &outcome, &host, wait);
                permit = Some(taken);
                let timed_out = matches!(&outcome, Err(Failure::PerTryTimeout | Failure::PerTryIdle));
                drop(outcome);
                // Only the clock of the whole request runs while we wait.
                call.limits.begin_try();
                if call.limits.guard(tokio::time::sleep(wait.duration())).await.is_err() {
                    return Err(call.fail(&Failure::GlobalTimeout, None));
                }
                if previous_hosts(&call) {
                    tried.push(host.id);
                }
                host = next_host(&call, &mut parts, &tried, timed_out)?;
            }
            None => break finish(&call, &host, outcome),
        }
    }
}

/// Whether to try again: how long to wait, and the place in the breaker.
fn decide(call: &mut Call<'_>, outcome: &Tried) -> Option<(Wait, RetryPermit)> {
    // What was expired as a whole is over; a response that has begun is the client's.
    if matches!(outcome, Err(Failure::GlobalTimeout)) {
        return None;
    }
    let retries = call.retries.as_mut()?;
    let verdict = rng::with(|rng| match outcome {
        Ok(Answer { response, .. }) => {
            let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
            let view =
                ResponseView { status: response.status().as_u16(), headers: response.headers(), unix_now };
            retries.after_response(&view, rng)
        }
        Err(failure) => retries.after_reset(failure.reset(), failure.started(), rng),
    });
    let counts = call.cluster.shared.stats();
    let routes = || call.selected.stats().map(|stats| &stats.counters);
    let flag = |flag| call.stream.info.borrow_mut().flags.insert(flag);
    match verdict {
        Verdict::Keep { retry_succeeded } => {
            if retry_succeeded {
                counts.upstream_rq_retry_success().inc();
                for route in routes() {
                    route.upstream_rq_retry_success().inc();
                }
            }
            None
        }
        Verdict::LimitReached => {
            counts.upstream_rq_retry_limit_exceeded().inc();
            for route in routes() {
                route.upstream_rq_retry_limit_exceeded().inc();
            }
            flag(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            None
        }
        Verdict::Retry(wait) => match call.cluster.retry_permit(call.route.high_priority) {
            Ok(permit) => {
                retries.begun();
                Some((wait, permit))
            }
            // Counted as upstream_rq_retry_overflow where it was refused.
            Err(_) => {
                for route in routes() {
                    route.upstream_rq_retry_overflow().inc();
                }
                flag(ResponseFlags::UPSTREAM_OVERFLOW);
                None
            }
        },
    }
}

fn note_retry(call: &Call<'_>, outcome: &Tried, host: &Host, wait: Wait) {
    let counts = call.cluster.shared.stats();
    counts.upstream_rq_retry().inc();
    match wait {
        Wait::BackOff(_) => counts.upstream_rq_retry_backoff_exponential().inc(),
        Wait::RateLimited(_) => counts.upstream_rq_retry_backoff_ratelimited().inc(),
    }
    for route in call.route_stats() {
        route.counters.upstream_rq_retry().inc();
    }
    host.count_response(None);
    if let Ok(Answer { response, .. }) = outcome {
        let kind = ResponseKind { retried: true, ..call.kind };
        call.count_status(response.status().as_u16(), kind);
    }
}

fn previous_hosts(call: &Call<'_>) -> bool {
    call.route.retry.as_ref().is_some_and(|retry| retry.previous_hosts)
}

/// The host of the next try, with the request's head brought up to date.
fn next_host(
    call: &Call<'_>,
    parts: &mut Parts,
    tried: &[u64],
    timed_out: bool,
) -> Result<Arc<Host>, LocalReply> {
    call.retried.set(true);
    let attempts = {
        let mut info = call.stream.info.borrow_mut();
        info.attempts += 1;
        info.attempts
    };
    let Some(host) = call.pick_again(tried, parts) else {
        call.count_status(503, call.kind);
        return Err(outcome::no_healthy_upstream());
    };
    if let Some(virtual_host) = call.selected.virtual_host() {
        if virtual_host.request_attempt_count {
            parts.headers.insert(ATTEMPT_COUNT, heads::small_number(attempts.into()));
        }
        if virtual_host.is_timeout_retry_header {
            let value = HeaderValue::from_static(if timed_out { "true" } else { "false" });
            parts.headers.insert(IS_TIMEOUT_RETRY, value);
        }
    }
    let elapsed = call::since_request_end(call.stream);
    let suppress = call.suppresses_headers();
    heads::set_expected_timeout(&mut parts.headers, &call.limits.timeouts, elapsed, suppress);
    Ok(host)
}

fn finish(call: &Call<'_>, host: &Arc<Host>, outcome: Tried) -> Result<Response<ResponseBody>, LocalReply> {
    match outcome {
        Ok(answer) => Ok(attempt::respond(call, host, answer)),
        Err(failure) => Err(call.fail(&failure, Some(host))),
    }
}

fn buffer_limit(call: &Call<'_>) -> u64 {
    call.selected.config().and_then(|route| route.per_request_buffer_limit).unwrap_or(DEFAULT_BUFFER)
}

/// A request with the same head.
pub(crate) fn copy(parts: &Parts, body: UpstreamBody) -> Outbound {
    Outbound { parts: Box::new(parts.clone()), body }
}
