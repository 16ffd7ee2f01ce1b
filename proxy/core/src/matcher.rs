//! Compiled matchers: strings, headers, query parameters, fractions.
//!
//! Semantics follow Envoy's `type.matcher.v3` and `config.route.v3.HeaderMatcher`.

use http::HeaderMap;
use http::header::HeaderName;
use regex::Regex;

use crate::rng::Rng;
use crate::runtime::RuntimeKey;

/// `type.matcher.v3.StringMatcher`, compiled.
#[derive(Debug, Clone)]
pub enum StringMatch {
    /// The whole string.
    Exact(Box<str>),
    /// Its beginning.
    Prefix(Box<str>),
    /// Its end.
    Suffix(Box<str>),
    /// Any part of it.
    Contains(Box<str>),
    /// The whole string matches the expression (RE2 syntax; full match).
    Regex(Box<Regex>),
}

/// A [`StringMatch`] with or without regard to ASCII case (the pattern is lower case when `ignore_case`).
#[derive(Debug, Clone)]
pub struct StringMatcher {
    /// What to compare.
    pub matcher: StringMatch,
    /// Whether ASCII case is ignored; never with a regular expression.
    pub ignore_case: bool,
}

impl StringMatcher {
    /// Matches exactly `text`.
    pub fn exact(text: impl Into<Box<str>>) -> Self {
        Self { matcher: StringMatch::Exact(text.into()), ignore_case: false }
    }

    /// Whether `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        if self.ignore_case {
            return self.matches_folded(text);
        }
        match &self.matcher {
            StringMatch::Exact(want) => text == &**want,
            StringMatch::Prefix(want) => text.starts_with(&**want),
            StringMatch::Suffix(want) => text.ends_with(&**want),
            StringMatch::Contains(want) => text.contains(&**want),
            StringMatch::Regex(regex) => regex.is_match(text),
        }
    }

    fn matches_folded(&self, text: &str) -> bool {
        let text = text.as_bytes();
        match &self.matcher {
            StringMatch::Exact(want) => text.eq_ignore_ascii_case(want.as_bytes()),
            StringMatch::Prefix(want) => {
                text.get(..want.len()).is_some_and(|head| head.eq_ignore_ascii_case(want.as_bytes()))
            }
            StringMatch::Suffix(want) => {
                let start = text.len().checked_sub(want.len());
                start
                    .and_then(|i| text.get(i..))
                    .is_some_and(|tail| tail.eq_ignore_ascii_case(want.as_bytes()))
            }
            StringMatch::Contains(want) => {
                let want = want.as_bytes();
                want.is_empty() || text.windows(want.len()).any(|part| part.eq_ignore_ascii_case(want))
            }
            StringMatch::Regex(regex) => std::str::from_utf8(text).is_ok_and(|text| regex.is_match(text)),
        }
    }
}

/// Compiles `pattern` so that it must match the whole text (Envoy: `RegexMatcher` is a full match).
///
/// # Errors
/// The expression is not valid RE2-like syntax or compiles to more than 1 MiB.
pub fn full_regex(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(1 << 20)
        .dot_matches_new_line(true)
        .build()
}

/// What a header is asked.
#[derive(Debug, Clone)]
pub enum HeaderCheck {
    /// Present (`true`) or absent (`false`).
    Present(bool),
    /// A value as a string.
    Value(StringMatcher),
    /// A value as a base-10 integer in `start..end`.
    Range {
        /// The first number in the range.
        start: i64,
        /// The first number after the range.
        end: i64,
    },
}

/// A header's name: a real header, or one of h2's pseudo headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderRef {
    /// A real header.
    Name(HeaderName),
    /// `:method`
    Method,
    /// `:authority`, also asked for as `host`.
    Authority,
    /// `:path`, with its query.
    Path,
    /// `:scheme`
    Scheme,
    /// `:status`, of a response.
    Status,
    /// `:protocol`, of an extended CONNECT.
    Protocol,
}

impl HeaderRef {
    /// The reference for the name `name`; `None` when it is not a valid header name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":authority" | "host" => Self::Authority,
            ":path" => Self::Path,
            ":scheme" => Self::Scheme,
            ":status" => Self::Status,
            ":protocol" => Self::Protocol,
            other => Self::Name(HeaderName::from_bytes(other.as_bytes()).ok()?),
        })
    }
}

/// A message's head as matchers and formats see it: pseudo headers beside the map.
#[derive(Debug, Clone, Copy)]
pub struct HeadView<'a> {
    /// The real headers.
    pub headers: &'a HeaderMap,
    /// `:method`; empty on responses.
    pub method: &'a str,
    /// `:authority`; empty on responses.
    pub authority: &'a str,
    /// `:path` with query; empty on responses.
    pub path: &'a str,
    /// `:scheme`; empty on responses.
    pub scheme: &'a str,
    /// `:status`; empty on requests.
    pub status: &'a str,
    /// `:protocol`; empty unless an extended CONNECT.
    pub protocol: &'a str,
}

impl<'a> HeadView<'a> {
    /// A view of `headers` alone.
    pub const fn of(headers: &'a HeaderMap) -> Self {
        Self { headers, method: "", authority: "", path: "", scheme: "", status: "", protocol: "" }
    }

    /// Calls `f` with each value of `name`.
    pub fn each(&self, name: &HeaderRef, mut f: impl FnMut(&str)) {
        if let HeaderRef::Name(name) = name {
            for value in self.headers.get_all(name) {
                f(&String::from_utf8_lossy(value.as_bytes()));
            }
        } else {
            self.with(name, |value| value.into_iter().for_each(f));
        }
    }

    /// Calls `f` with the value of `name` (several values joined by a comma), or `None` when absent.
    pub fn with<T>(&self, name: &HeaderRef, f: impl FnOnce(Option<&str>) -> T) -> T {
        let pseudo = |text: &'a str| (!text.is_empty()).then_some(text);
        match name {
            HeaderRef::Method => f(pseudo(self.method)),
            HeaderRef::Authority => f(pseudo(self.authority)),
            HeaderRef::Path => f(pseudo(self.path)),
            HeaderRef::Scheme => f(pseudo(self.scheme)),
            HeaderRef::Status => f(pseudo(self.status)),
            HeaderRef::Protocol => f(pseudo(self.protocol)),
            HeaderRef::Name(name) => {
                let mut values = self.headers.get_all(name).iter();
                let Some(first) = values.next() else { return f(None) };
                match values.next() {
                    None => f(Some(&String::from_utf8_lossy(first.as_bytes()))),
                    Some(second) => {
                        let mut joined = String::from_utf8_lossy(first.as_bytes()).into_owned();
                        for value in std::iter::once(second).chain(values) {
                            joined.push(',');
                            joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
                        }
                        f(Some(&joined))
                    }
                }
            }
        }
    }
}

/// `config.route.v3.HeaderMatcher`, compiled.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// Which header.
    pub name: HeaderRef,
    /// What it is asked.
    pub check: HeaderCheck,
    /// Whether the answer is turned round.
    pub invert: bool,
    /// Whether an absent header counts as the empty string.
    pub treat_missing_as_empty: bool,
}

impl HeaderMatcher {
    /// Whether the head matches. Of several values of the header, each is asked by itself, and one that matches is
    /// enough (they are not joined); `invert` turns the answer for all of them round. An absent header never
    /// matches a value check, inverted or not, unless it is treated as empty. Measured on Envoy 1.40.
    pub fn matches(&self, head: &HeadView<'_>) -> bool {
        let mut present = false;
        let mut hit = false;
        head.each(&self.name, |value| {
            present = true;
            hit = hit || self.check.takes(value);
        });
        if let HeaderCheck::Present(want) = self.check {
            return (present == want) != self.invert;
        }
        if !present {
            return self.treat_missing_as_empty && self.check.takes("") != self.invert;
        }
        hit != self.invert
    }
}

impl HeaderCheck {
    fn takes(&self, value: &str) -> bool {
        match self {
            Self::Present(_) => true,
            Self::Value(matcher) => matcher.matches(value),
            Self::Range { start, end } => {
                value.parse::<i64>().is_ok_and(|number| *start <= number && number < *end)
            }
        }
    }
}

/// `config.route.v3.QueryParameterMatcher`, compiled.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// The parameter's name.
    pub name: Box<str>,
    /// The value it must have; `None` asks for presence alone.
    pub value: Option<StringMatcher>,
    /// It must not be there at all (`present_match: false`).
    pub absent: bool,
}

impl QueryMatcher {
    /// Whether the query string (without `?`) has the parameter; its first occurrence counts.
    pub fn matches(&self, query: &str) -> bool {
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let found = pairs.find(|(name, _)| *name == &*self.name);
        if self.absent {
            return found.is_none();
        }
        found.is_some_and(|(_, value)| self.value.as_ref().is_none_or(|want| want.matches(value)))
    }
}

/// `RuntimeFractionalPercent`: a share of requests, overridable by a runtime key.
#[derive(Debug, Clone)]
pub struct RuntimeFraction {
    /// The share's numerator.
    pub numerator: u32,
    /// Its denominator: 100, 10,000 or 1,000,000.
    pub denominator: u32,
    /// The runtime key that may override it.
    pub runtime_key: Option<RuntimeKey>,
}

impl RuntimeFraction {
    /// Numerator and denominator now.
    #[inline]
    pub fn share(&self) -> (u32, u32) {
        let runtime = self.runtime_key.as_ref().and_then(RuntimeKey::share);
        runtime.unwrap_or((self.numerator, self.denominator))
    }

    /// Whether a request with this random number is in the share.
    #[inline]
    pub fn has(&self, random: u64) -> bool {
        let (numerator, denominator) = self.share();
        random % u64::from(denominator.max(1)) < u64::from(numerator)
    }

    /// Draws: whether this request is in the share.
    pub fn draw(&self, rng: &impl Rng) -> bool {
        let (numerator, denominator) = self.share();
        numerator >= denominator || rng.below(u64::from(denominator)) < u64::from(numerator)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn matcher(check: HeaderCheck, invert: bool, treat_missing_as_empty: bool) -> HeaderMatcher {
        let name = HeaderRef::Name(HeaderName::from_static("x"));
        HeaderMatcher { name, check, invert, treat_missing_as_empty }
    }

    fn value(text: &str) -> HeaderCheck {
        HeaderCheck::Value(StringMatcher::exact(text))
    }

    #[test]
    fn an_absent_header_matches_no_value_inverted_or_not() {
        let headers = HeaderMap::new();
        let range = || HeaderCheck::Range { start: 0, end: 10 };
        for (check, invert, as_empty, want) in [
            (value("a"), false, false, false),
            (value("a"), true, false, false),
            (value(""), false, true, true),
            (value("a"), true, true, true),
            (range(), true, false, false),
            (range(), true, true, true),
            (HeaderCheck::Present(true), false, false, false),
            (HeaderCheck::Present(true), true, false, true),
            (HeaderCheck::Present(false), false, false, true),
            (HeaderCheck::Present(false), true, false, false),
        ] {
            let matcher = matcher(check, invert, as_empty);
            assert_eq!(matcher.matches(&HeadView::of(&headers)), want, "{matcher:?}");
        }
    }

    #[test]
    fn one_value_of_several_is_enough() {
        let mut headers = HeaderMap::new();
        headers.append("x", HeaderValue::from_static("a"));
        headers.append("x", HeaderValue::from_static("3"));
        for (check, want) in [
            (value("a"), true),
            (value("3"), true),
            (value("a,3"), false),
            (HeaderCheck::Range { start: 1, end: 5 }, true),
            (HeaderCheck::Range { start: 4, end: 5 }, false),
        ] {
            let view = HeadView::of(&headers);
            assert_eq!(matcher(check.clone(), false, false).matches(&view), want, "{check:?}");
            assert_eq!(matcher(check.clone(), true, false).matches(&view), !want, "not {check:?}");
        }
    }

    #[test]
    fn case_is_ignored_where_asked() {
        let folded = |matcher| StringMatcher { matcher, ignore_case: true };
        assert!(folded(StringMatch::Contains("bc".into())).matches("aBCd"));
        assert!(folded(StringMatch::Prefix("ab".into())).matches("ABC"));
        assert!(folded(StringMatch::Suffix("bc".into())).matches("aBC"));
        assert!(!folded(StringMatch::Exact("abc".into())).matches("aBCd"));
    }

    #[test]
    fn the_first_query_parameter_of_a_name_counts() {
        let query = |value: Option<&str>| QueryMatcher {
            name: "a".into(),
            value: value.map(StringMatcher::exact),
            absent: false,
        };
        assert!(query(Some("b")).matches("x&a=b&a=c"));
        assert!(!query(Some("c")).matches("x&a=b&a=c"));
        assert!(query(None).matches("a"));
        assert!(!query(None).matches("ab=1"));
        assert!(!query(Some("b")).matches("a=%62"));
    }
}
