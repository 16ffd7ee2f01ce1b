//! Prometheus text exposition, version 0.0.4, with the names and labels that Envoy gives.

use std::collections::BTreeMap;
use std::fmt::Write;

use outrider_core::stats::{Buckets, Kind, Sample, Value};

use super::tags::{TagExtractor, Tagged};
use super::text::trimmed;

pub(super) fn write<'a>(
    samples: &[Sample],
    tags: &TagExtractor,
    bounds: &dyn Fn(&str) -> &'a [f64],
) -> String {
    // All samples of one metric must stand together under one TYPE line.
    let mut metrics: BTreeMap<String, Vec<(String, &Sample)>> = BTreeMap::new();
    // Text has no place in this format.
    for sample in samples.iter().filter(|sample| sample.kind != Kind::TextReadout) {
        let Tagged { name, tags } = tags.extract(&sample.name);
        metrics.entry(metric_name(&name)).or_default().push((labels(&tags), sample));
    }
    let mut out = String::new();
    for (name, series) in &metrics {
        let mut kinds: Vec<Kind> = Vec::new();
        for (_, sample) in series {
            if !kinds.contains(&sample.kind) {
                kinds.push(sample.kind);
            }
        }
        for kind in kinds {
            let _ = writeln!(out, "# TYPE {name} {}", type_name(kind));
            for (labels, sample) in series.iter().filter(|(_, sample)| sample.kind == kind) {
                match &sample.value {
                    Value::Number(value) => {
                        let _ = writeln!(out, "{name}{{{labels}}} {value}");
                    }
                    Value::Histogram(buckets) => {
                        histogram(name, labels, buckets, bounds(&sample.name), &mut out)
                    }
                    Value::Text(_) => {}
                }
            }
            out.push('\n');
        }
    }
    out
}

const fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::TextReadout => "untyped",
    }
}

fn histogram(name: &str, labels: &str, buckets: &Buckets, bounds: &[f64], out: &mut String) {
    let comma = if labels.is_empty() { "" } else { "," };
    for bound in bounds {
        let count = buckets.at_or_below(*bound);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}", trimmed(*bound));
    }
    let count = buckets.count();
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", buckets.sum);
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

/// `envoy_` and the name with every other character as `_`.
fn metric_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 6);
    out.push_str("envoy_");
    sanitize(name, &mut out);
    out
}

fn sanitize(name: &str, out: &mut String) {
    out.extend(name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
}

fn labels(tags: &[(String, String)]) -> String {
    let mut out = String::new();
    for (name, value) in tags {
        if !out.is_empty() {
            out.push(',');
        }
        sanitize(name, &mut out);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}
