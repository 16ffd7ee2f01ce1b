//! Matchers of metadata.

use outrider_core::metadata_matcher::{MetadataMatcher, ValueMatcher};
use outrider_proto::Path;
use outrider_proto::pb::envoy::r#type::matcher::v3 as pb;
use outrider_proto::pb::envoy::r#type::v3::DoubleRange;

use super::cx::Cx;
use super::matcher::string;

/// A matcher of metadata; `None`, and an error, when it is not usable.
pub(crate) fn matcher(cx: &Cx, path: &Path<'_>, message: &pb::MetadataMatcher) -> Option<MetadataMatcher> {
    use pb::metadata_matcher::{PathSegment, path_segment::Segment};
    let pb::MetadataMatcher { filter, path: segments, value: wanted, invert } = message;
    let at = path.field("path");
    let segment = |(i, PathSegment { segment }): (usize, &PathSegment)| match segment {
        Some(Segment::Key(key)) => Some(Box::from(key.as_str())),
        None => {
            cx.error(&at.index(i), "a key is needed");
            None
        }
    };
    let keys: Option<Box<[Box<str>]>> = segments.iter().enumerate().map(segment).collect();
    if filter.is_empty() {
        cx.error(&path.field("filter"), "a namespace is needed");
    }
    if segments.is_empty() {
        cx.error(&at, "at least one key is needed");
    }
    let at = path.field("value");
    let Some(wanted) = wanted else {
        cx.error(&at, "a matcher is needed");
        return None;
    };
    let value = value(cx, &at, wanted)?;
    Some(MetadataMatcher { namespace: filter.as_str().into(), path: keys?, value, invert: *invert })
}

/// A matcher of a value; `None`, and an error, when it is not usable.
pub(crate) fn value(cx: &Cx, path: &Path<'_>, message: &pb::ValueMatcher) -> Option<ValueMatcher> {
    use pb::double_matcher::MatchPattern as Double;
    use pb::value_matcher::MatchPattern;
    Some(match &message.match_pattern {
        Some(MatchPattern::NullMatch(pb::value_matcher::NullMatch {})) => ValueMatcher::Null,
        Some(MatchPattern::DoubleMatch(pb::DoubleMatcher { match_pattern })) => match match_pattern {
            Some(Double::Exact(number)) => ValueMatcher::Number(*number),
            Some(Double::Range(DoubleRange { start, end })) => {
                ValueMatcher::Range { start: *start, end: *end }
            }
            None => {
                cx.error(&path.field("double_match"), "give one of exact and range");
                return None;
            }
        },
        Some(MatchPattern::StringMatch(message)) => {
            ValueMatcher::Text(string(cx, &path.field("string_match"), message)?)
        }
        Some(MatchPattern::BoolMatch(wanted)) => ValueMatcher::Bool(*wanted),
        Some(MatchPattern::PresentMatch(wanted)) => ValueMatcher::Present(*wanted),
        Some(MatchPattern::ListMatch(message)) => {
            let pb::ListMatcher { match_pattern } = &**message;
            let path = path.field("list_match");
            let path = path.field("one_of");
            let Some(pb::list_matcher::MatchPattern::OneOf(message)) = match_pattern else {
                cx.error(&path, "a matcher is needed");
                return None;
            };
            ValueMatcher::ListHas(Box::new(value(cx, &path, message)?))
        }
        Some(MatchPattern::OrMatch(pb::OrMatcher { value_matchers })) => {
            let path = path.field("or_match");
            let path = path.field("value_matchers");
            if value_matchers.len() < 2 {
                cx.error(&path, "two matchers or more are needed");
            }
            let all = value_matchers.iter().enumerate();
            let all: Vec<_> = all.map(|(i, message)| value(cx, &path.index(i), message)).collect();
            ValueMatcher::OneOf(all.into_iter().collect::<Option<_>>()?)
        }
        None => {
            cx.error(path, "a match is needed, such as string_match");
            return None;
        }
    })
}
