//! `/stats` and `/stats/prometheus`.

use outrider_core::stats::Kind;
use outrider_telemetry::stats::{HistogramStyle, Query as StatsQuery};
use regex::Regex;

use crate::control::Control;
use crate::lifecycle;

use super::query::Query;
use super::reply::Reply;

pub(super) fn stats(control: &Control, query: &Query) -> Reply {
    let wanted = match stats_query(query) {
        Ok(wanted) => wanted,
        Err(reply) => return reply,
    };
    lifecycle::refresh_gauges(control);
    match query.get("format") {
        None | Some("" | "text") => Reply::text(control.exposition.text(&wanted)),
        Some("json") => Reply::json(&control.exposition.json(&wanted)),
        Some("prometheus") => Reply::text(control.exposition.prometheus(&wanted)),
        Some(other) => {
            Reply::bad_request(format!("usage: /stats?format=text|json|prometheus, not {other:?}"))
        }
    }
}

pub(super) fn prometheus(control: &Control, query: &Query) -> Reply {
    match stats_query(query) {
        Ok(wanted) => {
            lifecycle::refresh_gauges(control);
            Reply::text(control.exposition.prometheus(&wanted))
        }
        Err(reply) => reply,
    }
}

fn stats_query(query: &Query) -> Result<StatsQuery, Reply> {
    // `usedonly` changes nothing: a stat that was never used does not exist.
    let filter = query.get("filter").filter(|filter| !filter.is_empty()).map(Regex::new).transpose();
    let filter = filter.map_err(|error| Reply::bad_request(format!("Invalid re2 regex: {error}")))?;
    let kind = match query.get("type") {
        None | Some("" | "All") => None,
        Some("Counters") => Some(Kind::Counter),
        Some("Gauges") => Some(Kind::Gauge),
        Some("Histograms") => Some(Kind::Histogram),
        Some("TextReadouts") => Some(Kind::TextReadout),
        Some(other) => {
            return Err(Reply::bad_request(format!(
                "type={other}: use Counters, Gauges, Histograms, TextReadouts or All"
            )));
        }
    };
    let histograms = match query.get("histogram_buckets") {
        None | Some("" | "none" | "summary") => HistogramStyle::Summary,
        Some("cumulative") => HistogramStyle::Cumulative,
        Some("disjoint") => HistogramStyle::Disjoint,
        Some(other) => {
            return Err(Reply::bad_request(format!(
                "usage: /stats?histogram_buckets=(summary|none|cumulative|disjoint), not {other:?}"
            )));
        }
    };
    Ok(StatsQuery { filter, kind, histograms })
}
