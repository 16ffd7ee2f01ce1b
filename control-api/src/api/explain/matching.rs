//! Texts, headers, query parameters: whether they are as a matcher says, and in words why not.

use outrider_proto::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier,
};
use outrider_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use regex::Regex;

use super::Asked;

/// How large a compiled expression may be. Control planes are given them by operators.
const LARGEST_REGEX: usize = 1024 * 1024;

/// A test of a text: whether it takes it, and what it wants, in words.
pub(super) type Test = (Box<dyn Fn(&str) -> bool>, String);

/// Whether the whole of a text is as an expression says.
pub(super) fn regex_takes(regex: &str, text: &str) -> bool {
    let whole = format!("^(?:{regex})$");
    regex::RegexBuilder::new(&whole)
        .size_limit(LARGEST_REGEX)
        .dot_matches_new_line(true)
        .build()
        .is_ok_and(|it: Regex| it.is_match(text))
}

/// The test of a string matcher.
pub(super) fn string(matcher: &StringMatcher) -> Option<Test> {
    let ignore = matcher.ignore_case;
    let fold = move |text: &str| if ignore { text.to_ascii_lowercase() } else { text.to_owned() };
    let test = |wanted: &str, word: &str, compare: fn(&str, &str) -> bool| -> Test {
        let (folded, words) = (fold(wanted), format!("{word} {wanted:?}"));
        (Box::new(move |text| compare(&fold(text), &folded)), words)
    };
    Some(match matcher.match_pattern.as_ref()? {
        MatchPattern::Exact(wanted) => test(wanted, "equal", |text, wanted| text == wanted),
        MatchPattern::Prefix(wanted) => test(wanted, "begin with", |text, wanted| text.starts_with(wanted)),
        MatchPattern::Suffix(wanted) => test(wanted, "end with", |text, wanted| text.ends_with(wanted)),
        MatchPattern::Contains(wanted) => test(wanted, "contain", |text, wanted| text.contains(wanted)),
        MatchPattern::SafeRegex(regex) => {
            let (regex, words) = (regex.regex.clone(), format!("match {:?}", regex.regex));
            (Box::new(move |text| regex_takes(&regex, text)), words)
        }
        MatchPattern::Custom(_) => return None,
    })
}

/// Why a request lacks what a header matcher wants; `None`: it has it.
#[expect(deprecated, reason = "what the API still takes is still explained")]
pub(super) fn header(matcher: &HeaderMatcher, asked: &Asked) -> Option<String> {
    let name = matcher.name.to_lowercase();
    let value = asked.header(&name);
    let exact = |text: &str| StringMatcher {
        match_pattern: Some(MatchPattern::Exact(text.to_owned())),
        ..Default::default()
    };
    let pattern =
        |pattern: MatchPattern| StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    let test = match matcher.header_match_specifier.as_ref() {
        None => return presence(&name, value.is_some(), true, matcher.invert_match),
        Some(HeaderMatchSpecifier::PresentMatch(wanted)) => {
            return presence(&name, value.is_some(), *wanted, matcher.invert_match);
        }
        Some(HeaderMatchSpecifier::RangeMatch(range)) => {
            let (start, end) = (range.start, range.end);
            let takes = move |text: &str| text.parse::<i64>().is_ok_and(|it| it >= start && it < end);
            Some((Box::new(takes) as Box<dyn Fn(&str) -> bool>, format!("be from {start} to {}", end - 1)))
        }
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => string(matcher),
        Some(HeaderMatchSpecifier::ExactMatch(text)) => string(&exact(text)),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => string(&pattern(MatchPattern::Prefix(text.clone()))),
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => string(&pattern(MatchPattern::Suffix(text.clone()))),
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => {
            string(&pattern(MatchPattern::Contains(text.clone())))
        }
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => {
            string(&pattern(MatchPattern::SafeRegex(regex.clone())))
        }
    };
    let Some((takes, wanted)) = test else {
        return Some(format!("header {name} has a matcher of an unknown kind"));
    };
    let shown = if name == ":method" { "method".to_owned() } else { format!("header {name}") };
    let not = if matcher.invert_match { "not " } else { "" };
    match value {
        // An absent header has no value, inverted or not.
        None if !(matcher.treat_missing_header_as_empty && takes("") != matcher.invert_match) => {
            Some(format!("{shown} is missing; it must {not}{wanted}"))
        }
        Some(value) if takes(&value) == matcher.invert_match => {
            Some(format!("{shown} is {value:?}; it must {not}{wanted}"))
        }
        _ => None,
    }
}

fn presence(name: &str, present: bool, wanted: bool, invert: bool) -> Option<String> {
    let wanted = wanted != invert;
    (present != wanted).then(|| {
        if wanted { format!("header {name} is missing") } else { format!("header {name} must not be there") }
    })
}

/// Why a request lacks what a query matcher wants; `None`: it has it. The first of equal names counts.
pub(super) fn query(matcher: &QueryParameterMatcher, asked: &Asked) -> Option<String> {
    let name = &matcher.name;
    let query = asked.query.as_deref().unwrap_or_default();
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs.find(|(found, _)| found == name).map(|(_, value)| value);
    match (matcher.query_parameter_match_specifier.as_ref(), value) {
        (None | Some(QueryParameterMatchSpecifier::PresentMatch(true)), None) => {
            Some(format!("query parameter {name} is missing"))
        }
        (Some(QueryParameterMatchSpecifier::PresentMatch(false)), Some(_)) => {
            Some(format!("query parameter {name} must not be there"))
        }
        (Some(QueryParameterMatchSpecifier::StringMatch(matcher)), value) => {
            let Some((takes, wanted)) = string(matcher) else {
                return Some(format!("query parameter {name} has a matcher of an unknown kind"));
            };
            match value {
                None => Some(format!("query parameter {name} is missing; it must {wanted}")),
                Some(value) if !takes(value) => {
                    Some(format!("query parameter {name} is {value:?}; it must {wanted}"))
                }
                Some(_) => None,
            }
        }
        _ => None,
    }
}
