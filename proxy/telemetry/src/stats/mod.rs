//! How stats are read: Envoy's text and JSON, and Prometheus exposition with Envoy's tag names.
//!
//! All of this runs on the control thread, over one snapshot of the registry.

mod json;
mod prometheus;
mod tags;
mod text;

use outrider_config::model::StatsConfig;
use outrider_core::stats::{Kind, Registry, Sample};
use regex::Regex;

pub use tags::TagExtractor;

/// Which stats a reader wants.
#[derive(Debug, Default)]
pub struct Query {
    /// Only names in which this matches somewhere.
    pub filter: Option<Regex>,
    /// Only these kinds; `None` for all.
    pub kind: Option<Kind>,
    /// How histograms print as text.
    pub histograms: HistogramStyle,
}

/// How histograms print in `/stats`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum HistogramStyle {
    /// Quantiles.
    #[default]
    Summary,
    /// `le` buckets, cumulative.
    Cumulative,
    /// `le` buckets, each by itself.
    Disjoint,
}

/// Reads the registry in the ways of the admin interface.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    tags: TagExtractor,
    config: StatsConfig,
}

impl Exposition {
    /// Reads `registry` as `config` says; `fixed` tags are on every stat.
    pub fn new(registry: Registry, config: &StatsConfig, fixed: Vec<(String, String)>) -> Self {
        Self { registry, tags: TagExtractor::new(config, fixed), config: config.clone() }
    }

    fn samples(&self, query: &Query) -> Vec<Sample> {
        let wanted = |sample: &Sample| {
            query.kind.is_none_or(|kind| kind == sample.kind)
                && query.filter.as_ref().is_none_or(|filter| filter.is_match(&sample.name))
        };
        let mut samples: Vec<_> = self.registry.samples().into_iter().filter(wanted).collect();
        samples.sort_by(|a, b| a.name.cmp(&b.name));
        samples
    }

    /// `/stats`: `name: value` a line, sorted; histograms after the rest.
    pub fn text(&self, query: &Query) -> String {
        text::write(&self.samples(query), query.histograms, &|name| self.bounds(name))
    }

    /// `/stats?format=json`
    pub fn json(&self, query: &Query) -> serde_json::Value {
        json::value(&self.samples(query))
    }

    /// `/stats/prometheus`
    pub fn prometheus(&self, query: &Query) -> String {
        prometheus::write(&self.samples(query), &self.tags, &|name| self.bounds(name))
    }

    /// The bucket bounds of the histogram `name`.
    fn bounds(&self, name: &str) -> &[f64] {
        let own = self.config.buckets.iter().find(|buckets| buckets.matcher.matches(name));
        own.map_or(DEFAULT_BOUNDS, |buckets| &buckets.bounds)
    }
}

/// Envoy's default buckets, in milliseconds.
const DEFAULT_BOUNDS: &[f64] = &[
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Envoy's quantiles of a histogram's summary.
const QUANTILES: &[f64] = &[0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

#[cfg(test)]
mod tests;
