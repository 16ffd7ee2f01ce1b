//! Matchers and regular expressions.

use outrider_core::matcher::{
    HeaderCheck, HeaderMatcher, HeaderRef, QueryMatcher, StringMatch, StringMatcher, full_regex,
};
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::route::v3 as route_pb;
use outrider_proto::pb::envoy::r#type::matcher::v3 as pb;
use outrider_proto::pb::envoy::r#type::v3 as type_pb;
use regex::Regex;

use super::cx::{Cx, UNSUPPORTED};
use super::re2;
use crate::model::RegexRewrite;

/// The expression of a matcher in the regex crate's notation; `None`, and an error, when it does not compile.
fn pattern(cx: &Cx, path: &Path<'_>, message: &pb::RegexMatcher) -> Option<(String, Regex)> {
    use pb::regex_matcher::{EngineType, GoogleRe2};
    let pb::RegexMatcher { regex, engine_type } = message;
    if let Some(EngineType::GoogleRe2(GoogleRe2 { max_program_size: Some(_) })) = engine_type {
        cx.inert(
            &path.field("google_re2").field("max_program_size"),
            "expressions are limited to 1 MiB when compiled, and their time is linear",
        );
    }
    let path = path.field("regex");
    if regex.is_empty() {
        cx.error(&path, "the expression is empty");
        return None;
    }
    compile(cx, &path, regex)
}

/// An expression in RE2's notation, translated and compiled without anchors; `None`, and an error, when it is none.
pub(crate) fn compile(cx: &Cx, path: &Path<'_>, regex: &str) -> Option<(String, Regex)> {
    let error = match re2::translate(regex) {
        Ok(pattern) => match Regex::new(&pattern) {
            Ok(regex) => {
                program_size(cx, path, &pattern);
                return Some((pattern, regex));
            }
            Err(error) => error.to_string(),
        },
        Err(error) => error,
    };
    cx.error(path, format!("{regex:?} is not a regular expression: {error}"));
    None
}

/// Holds an expression against the runtime's `re2.max_program_size.error_level`, where it sets it: without a word of it
/// expressions of any size are taken (Envoy: up to 100). The size is counted in states of our own automaton, which are near
/// to RE2's instructions.
fn program_size(cx: &Cx, path: &Path<'_>, pattern: &str) {
    use regex_automata::nfa::thompson::{Config, NFA, WhichCaptures};
    let Some(most) = cx.runtime_number("re2.max_program_size.error_level") else { return };
    let config = Config::new().which_captures(WhichCaptures::None);
    let Ok(program) = NFA::compiler().configure(config).build(pattern) else { return };
    let size = program.states().len() as u64;
    if size > most {
        let why =
            format!("the expression has a size of {size}; re2.max_program_size.error_level allows {most}");
        cx.error(path, why);
    }
}

/// An expression that must match the whole text.
pub(crate) fn whole_regex(cx: &Cx, path: &Path<'_>, message: &pb::RegexMatcher) -> Option<Regex> {
    let (pattern, _) = pattern(cx, path, message)?;
    match full_regex(&pattern) {
        Ok(regex) => Some(regex),
        Err(error) => {
            cx.error(&path.field("regex"), format!("not a regular expression: {error}"));
            None
        }
    }
}

/// An expression whose matches are replaced.
pub(crate) fn rewrite(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::RegexMatchAndSubstitute,
) -> Option<RegexRewrite> {
    let pb::RegexMatchAndSubstitute { pattern: message, substitution } = message;
    let Some(message) = message else {
        cx.error(&path.field("pattern"), "a pattern is needed");
        return None;
    };
    let (_, regex) = pattern(cx, &path.field("pattern"), message)?;
    let substitution = match translate(substitution, regex.captures_len()) {
        Ok(text) => text,
        Err(message) => {
            cx.error(&path.field("substitution"), message);
            return None;
        }
    };
    Some(RegexRewrite { pattern: regex, substitution: substitution.into() })
}

/// RE2's `\1` in the notation of the regex crate, `${1}`; `groups` counts the whole match as one.
fn translate(text: &str, groups: usize) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit as usize - '0' as usize;
                    if group >= groups {
                        return Err(format!("\\{group} refers to a group that the pattern does not have"));
                    }
                    out.push_str(&format!("${{{group}}}"));
                }
                _ => return Err("a backslash must be followed by a digit or a backslash".to_owned()),
            },
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// A `StringMatcher`; `None`, and an error, when it is not usable.
pub(crate) fn string(cx: &Cx, path: &Path<'_>, message: &pb::StringMatcher) -> Option<StringMatcher> {
    use pb::string_matcher::MatchPattern;
    let pb::StringMatcher { ignore_case, match_pattern } = message;
    let text = |text: &str| -> Box<str> {
        if *ignore_case { text.to_ascii_lowercase().into() } else { text.into() }
    };
    let matcher = match match_pattern {
        Some(MatchPattern::Exact(want)) => StringMatch::Exact(text(want)),
        Some(MatchPattern::Prefix(want)) => StringMatch::Prefix(text(want)),
        Some(MatchPattern::Suffix(want)) => StringMatch::Suffix(text(want)),
        Some(MatchPattern::Contains(want)) => StringMatch::Contains(text(want)),
        Some(MatchPattern::SafeRegex(regex)) => {
            if *ignore_case {
                cx.error(
                    &path.field("ignore_case"),
                    "it has no effect with safe_regex; begin the expression with (?i)",
                );
            }
            StringMatch::Regex(Box::new(whole_regex(cx, &path.field("safe_regex"), regex)?))
        }
        Some(MatchPattern::Custom(_)) => {
            cx.refuse(&path.field("custom"), UNSUPPORTED);
            return None;
        }
        None => {
            cx.error(path, "give one of exact, prefix, suffix, contains and safe_regex");
            return None;
        }
    };
    Some(StringMatcher { matcher, ignore_case: *ignore_case })
}

/// String matchers.
pub(crate) fn strings(cx: &Cx, path: &Path<'_>, messages: &[pb::StringMatcher]) -> Vec<StringMatcher> {
    messages.iter().enumerate().filter_map(|(i, message)| string(cx, &path.index(i), message)).collect()
}

/// Header matchers.
pub(crate) fn headers(cx: &Cx, path: &Path<'_>, messages: &[route_pb::HeaderMatcher]) -> Vec<HeaderMatcher> {
    messages.iter().enumerate().filter_map(|(i, message)| header(cx, &path.index(i), message)).collect()
}

/// A header matcher; `None`, and an error, when it is not usable.
pub(crate) fn header(cx: &Cx, path: &Path<'_>, message: &route_pb::HeaderMatcher) -> Option<HeaderMatcher> {
    use route_pb::header_matcher::HeaderMatchSpecifier as Kind;
    let route_pb::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } =
        message;
    let plain = |matcher: StringMatch| HeaderCheck::Value(StringMatcher { matcher, ignore_case: false });
    let check = match header_match_specifier {
        Some(Kind::ExactMatch(text)) => plain(StringMatch::Exact(text.as_str().into())),
        Some(Kind::PrefixMatch(text)) => plain(StringMatch::Prefix(text.as_str().into())),
        Some(Kind::SuffixMatch(text)) => plain(StringMatch::Suffix(text.as_str().into())),
        Some(Kind::ContainsMatch(text)) => plain(StringMatch::Contains(text.as_str().into())),
        Some(Kind::SafeRegexMatch(regex)) => {
            plain(StringMatch::Regex(Box::new(whole_regex(cx, &path.field("safe_regex_match"), regex)?)))
        }
        Some(Kind::StringMatch(message)) => {
            HeaderCheck::Value(string(cx, &path.field("string_match"), message)?)
        }
        Some(Kind::RangeMatch(type_pb::Int64Range { start, end })) => {
            HeaderCheck::Range { start: *start, end: *end }
        }
        Some(Kind::PresentMatch(present)) => HeaderCheck::Present(*present),
        // Envoy: no specifier asks for presence.
        None => HeaderCheck::Present(true),
    };
    let Some(name) = HeaderRef::parse(name) else {
        cx.error(&path.field("name"), format!("{name:?} is not a header name"));
        return None;
    };
    Some(HeaderMatcher {
        name,
        check,
        invert: *invert_match,
        treat_missing_as_empty: *treat_missing_header_as_empty,
    })
}

/// Query parameter matchers.
pub(crate) fn queries(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[route_pb::QueryParameterMatcher],
) -> Vec<QueryMatcher> {
    messages.iter().enumerate().filter_map(|(i, message)| query(cx, &path.index(i), message)).collect()
}

fn query(cx: &Cx, path: &Path<'_>, message: &route_pb::QueryParameterMatcher) -> Option<QueryMatcher> {
    use route_pb::query_parameter_matcher::QueryParameterMatchSpecifier as Kind;
    let route_pb::QueryParameterMatcher { name, query_parameter_match_specifier } = message;
    let (value, absent) = match query_parameter_match_specifier {
        Some(Kind::StringMatch(message)) => (Some(string(cx, &path.field("string_match"), message)?), false),
        Some(Kind::PresentMatch(present)) => (None, !present),
        None => (None, false),
    };
    Some(QueryMatcher { name: name.as_str().into(), value, absent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions_change_notation() {
        assert_eq!(translate(r"/a/\1/\2$", 3).as_deref(), Ok("/a/${1}/${2}$$"));
        assert_eq!(translate(r"\\0 \0", 1).as_deref(), Ok(r"\0 ${0}"));
        assert!(translate(r"\3", 3).is_err());
        assert!(translate(r"\x", 3).is_err());
    }
}
