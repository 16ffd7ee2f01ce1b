//! `/stats?format=json`

use outrider_core::stats::{Buckets, Sample, Value};
use serde_json::{Value as Json, json};

use super::QUANTILES;

pub(super) fn value(samples: &[Sample]) -> Json {
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    for sample in samples {
        match &sample.value {
            Value::Number(value) => stats.push(json!({"name": &*sample.name, "value": value})),
            Value::Text(text) => stats.push(json!({"name": &*sample.name, "value": &**text})),
            Value::Histogram(buckets) => histograms.push(histogram(&sample.name, buckets)),
        }
    }
    if !histograms.is_empty() {
        let quantiles: Vec<f64> = QUANTILES.iter().map(|q| q * 100.0).collect();
        stats.push(
            json!({"histograms": {"supported_quantiles": quantiles, "computed_quantiles": histograms}}),
        );
    }
    json!({ "stats": stats })
}

fn histogram(name: &str, buckets: &Buckets) -> Json {
    let values: Vec<Json> =
        QUANTILES.iter().map(|q| json!({"interval": null, "cumulative": buckets.quantile(*q)})).collect();
    json!({"name": name, "values": values})
}
