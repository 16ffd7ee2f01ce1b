//! How stats are named and kept.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::metrics::v3 as pb;
use outrider_proto::pb::envoy::r#type::matcher::v3::ListStringMatcher;

use super::cx::{Cx, UNSUPPORTED, inert};
use super::matcher;
use super::scalar::bool_of;
use crate::model::{HistogramBuckets, StatsConfig, StatsMatcher, StatsTag, StatsTagValue};

/// `stats_config`
pub(crate) fn config(cx: &Cx, path: &Path<'_>, message: &pb::StatsConfig) -> StatsConfig {
    let pb::StatsConfig {
        stats_tags,
        use_all_default_tags,
        stats_matcher,
        histogram_bucket_settings,
        allow_default_tag_overrides,
    } = message;
    if bool_of(allow_default_tag_overrides) == Some(true) {
        cx.refuse(&path.field("allow_default_tag_overrides"), UNSUPPORTED);
    }
    let (tags, buckets) = (path.field("stats_tags"), path.field("histogram_bucket_settings"));
    StatsConfig {
        tags: stats_tags
            .iter()
            .enumerate()
            .filter_map(|(i, message)| tag(cx, &tags.index(i), message))
            .collect(),
        use_default_tags: bool_of(use_all_default_tags).unwrap_or(true),
        matcher: stats_matcher
            .as_ref()
            .map_or(StatsMatcher::All, |message| stats_matcher_of(cx, &path.field("stats_matcher"), message)),
        buckets: histogram_bucket_settings
            .iter()
            .enumerate()
            .filter_map(|(i, message)| histogram(cx, &buckets.index(i), message))
            .collect(),
        ..StatsConfig::default()
    }
}

fn tag(cx: &Cx, path: &Path<'_>, message: &pb::TagSpecifier) -> Option<StatsTag> {
    use pb::tag_specifier::TagValue;
    let pb::TagSpecifier { tag_name, tag_value } = message;
    let value = match tag_value {
        Some(TagValue::FixedValue(text)) => StatsTagValue::Fixed(text.clone()),
        // No expression: the tag is one of the default ones, by its name.
        Some(TagValue::Regex(text)) if text.is_empty() => return named(cx, path, tag_name),
        None => return named(cx, path, tag_name),
        Some(TagValue::Regex(text)) => {
            let path = path.field("regex");
            let (_, regex) = matcher::compile(cx, &path, text)?;
            if regex.captures_len() < 2 {
                cx.error(&path, "the expression needs a group that holds the tag's value, such as (\\w+)");
                return None;
            }
            StatsTagValue::Regex(regex)
        }
    };
    if tag_name.is_empty() {
        cx.error(&path.field("tag_name"), "a name is needed");
    }
    Some(StatsTag { name: tag_name.clone(), value })
}

/// A tag without a value asks for the default tag of that name.
fn named(cx: &Cx, path: &Path<'_>, name: &str) -> Option<StatsTag> {
    if name.starts_with("envoy.") {
        cx.inert(
            path,
            "a default tag by its name; all default tags are extracted unless use_all_default_tags is false",
        );
    } else {
        cx.error(path, format!("{name:?} is not a default tag; give it a regex or a fixed_value"));
    }
    None
}

fn stats_matcher_of(cx: &Cx, path: &Path<'_>, message: &pb::StatsMatcher) -> StatsMatcher {
    use pb::stats_matcher::StatsMatcher as Kind;
    let pb::StatsMatcher { stats_matcher } = message;
    match stats_matcher {
        Some(Kind::RejectAll(true)) => StatsMatcher::None,
        Some(Kind::RejectAll(false)) => StatsMatcher::All,
        Some(Kind::ExclusionList(ListStringMatcher { patterns })) => {
            let path = path.field("exclusion_list");
            StatsMatcher::Exclude(matcher::strings(cx, &path.field("patterns"), patterns))
        }
        Some(Kind::InclusionList(ListStringMatcher { patterns })) => {
            let path = path.field("inclusion_list");
            StatsMatcher::Include(matcher::strings(cx, &path.field("patterns"), patterns))
        }
        None => {
            cx.error(path, "give one of reject_all, exclusion_list and inclusion_list");
            StatsMatcher::All
        }
    }
}

fn histogram(cx: &Cx, path: &Path<'_>, message: &pb::HistogramBucketSettings) -> Option<HistogramBuckets> {
    let pb::HistogramBucketSettings { r#match, buckets, bins } = message;
    inert!(cx, path, "the resolution of the summary alone"; bins);
    let Some(message) = r#match else {
        cx.error(&path.field("match"), "a match is needed");
        return None;
    };
    if buckets.windows(2).any(|pair| matches!(pair, [a, b] if a >= b))
        || buckets.iter().any(|bound| *bound <= 0.0)
    {
        cx.error(&path.field("buckets"), "bounds must be more than 0 and ascend");
    }
    let matcher = matcher::string(cx, &path.field("match"), message)?;
    if buckets.is_empty() {
        return None;
    }
    Some(HistogramBuckets { matcher, bounds: buckets.clone() })
}
