//! When an entry is written.

use outrider_config::model::{Comparison, ComparisonOp, LogFilter};
use outrider_core::ResponseFlags;
use outrider_core::cel::{Reads, View};
use outrider_core::format::FormatContext;
use outrider_core::matcher::HeadView;
use outrider_core::rng;

/// Whether `filter` lets the entry through.
pub fn passes(filter: &LogFilter, cx: &FormatContext<'_>) -> bool {
    match filter {
        LogFilter::Status(comparison) => compares(comparison, u64::from(cx.info.response_code.unwrap_or(0))),
        LogFilter::Duration(comparison) => {
            // Envoy: an unfinished stream is measured up to now.
            let duration = cx.info.duration.unwrap_or_else(|| cx.info.start.elapsed());
            compares(comparison, duration.as_millis() as u64)
        }
        LogFilter::NotHealthCheck => !cx.info.health_check,
        // No tracer samples anything yet.
        LogFilter::Traceable => false,
        LogFilter::Runtime { fraction, independent: _ } => rng::with(|rng| fraction.draw(rng)),
        LogFilter::And(all) => all.iter().all(|filter| passes(filter, cx)),
        LogFilter::Or(any) => any.iter().any(|filter| passes(filter, cx)),
        LogFilter::Header(matcher) => {
            let empty = http::HeaderMap::new();
            matcher.matches(cx.request.as_ref().unwrap_or(&HeadView::of(&empty)))
        }
        LogFilter::Flags(ResponseFlags::NONE) => !cx.info.flags.is_empty(),
        LogFilter::Flags(flags) => cx.info.flags.intersects(*flags),
        LogFilter::GrpcStatus { statuses, exclude } => {
            grpc_status(cx).is_some_and(|status| statuses.contains(&status)) != *exclude
        }
        LogFilter::Expression(program) => program.is_true(&View {
            stream: cx.info,
            request: cx.request,
            response: cx.response,
            trailers: cx.trailers,
            route: None,
        }),
        LogFilter::LogType { types, exclude } => types.iter().any(|name| name == cx.log_type) != *exclude,
    }
}

fn compares(comparison: &Comparison, value: u64) -> bool {
    let wanted = comparison.value.get();
    match comparison.op {
        ComparisonOp::Eq => value == wanted,
        ComparisonOp::Ne => value != wanted,
        ComparisonOp::Ge => value >= wanted,
        ComparisonOp::Le => value <= wanted,
    }
}

/// As Envoy's filter: from trailers, headers, else mapped from the HTTP status; whatever the content type.
fn grpc_status(cx: &FormatContext<'_>) -> Option<u32> {
    let from = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    let named =
        cx.trailers.and_then(from).or_else(|| cx.response.and_then(|response| from(response.headers)));
    named.or_else(|| cx.info.response_code.map(outrider_core::format::grpc_from_http))
}

/// Whether deciding needs the request's head.
pub fn reads_request(filter: &LogFilter) -> bool {
    any(filter, &|filter| matches!(filter, LogFilter::Header(_)) || expression(filter).request)
}

/// Whether deciding needs the response's head or trailers.
pub(super) fn reads_response(filter: &LogFilter) -> bool {
    any(filter, &|filter| matches!(filter, LogFilter::GrpcStatus { .. }) || expression(filter).response)
}

/// Whether deciding needs to know of upstream connections that were tried.
pub(super) fn reads_attempts(filter: &LogFilter) -> bool {
    any(filter, &|filter| expression(filter).attempts)
}

/// Whether deciding needs metadata of routes, clusters and hosts.
pub(super) fn reads_metadata(filter: &LogFilter) -> bool {
    any(filter, &|filter| expression(filter).metadata)
}

/// What an expression reads; nothing for other filters.
fn expression(filter: &LogFilter) -> Reads {
    match filter {
        LogFilter::Expression(program) => program.reads(),
        _ => Reads::default(),
    }
}

fn any(filter: &LogFilter, is: &dyn Fn(&LogFilter) -> bool) -> bool {
    match filter {
        LogFilter::And(parts) | LogFilter::Or(parts) => parts.iter().any(|part| any(part, is)),
        other => is(other),
    }
}
