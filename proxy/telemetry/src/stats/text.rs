//! `/stats` as text.

use std::fmt::Write;

use outrider_core::stats::{Buckets, Sample, Value};

use super::{HistogramStyle, QUANTILES};

pub(super) fn write<'a>(
    samples: &[Sample],
    style: HistogramStyle,
    bounds: &dyn Fn(&str) -> &'a [f64],
) -> String {
    let mut out = String::new();
    for sample in samples {
        let _ = match &sample.value {
            Value::Number(value) => writeln!(out, "{}: {value}", sample.name),
            Value::Text(text) => writeln!(out, "{}: \"{text}\"", sample.name),
            Value::Histogram(_) => Ok(()),
        };
    }
    for sample in samples {
        let Value::Histogram(buckets) = &sample.value else { continue };
        let text = match style {
            HistogramStyle::Summary => summary(buckets),
            HistogramStyle::Cumulative => by_bound(buckets, bounds(&sample.name), true),
            HistogramStyle::Disjoint => by_bound(buckets, bounds(&sample.name), false),
        };
        let _ = writeln!(out, "{}: {text}", sample.name);
    }
    out
}

fn summary(buckets: &Buckets) -> String {
    if buckets.count() == 0 {
        return "No recorded values".into();
    }
    let quantile = |q: &f64| {
        let value = buckets.quantile(*q).unwrap_or(f64::NAN);
        format!("P{}(nan,{})", trimmed(q * 100.0), trimmed(value))
    };
    QUANTILES.iter().map(quantile).collect::<Vec<_>>().join(" ")
}

fn by_bound(buckets: &Buckets, bounds: &[f64], cumulative: bool) -> String {
    let mut before = 0;
    let one = |bound: &f64| {
        let total = buckets.at_or_below(*bound);
        let count = if cumulative { total } else { total - before };
        before = total;
        format!("B{}(0,{count})", trimmed(*bound))
    };
    bounds.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// A number without needless zeros: `99.5`, `100`.
pub(super) fn trimmed(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
