//! Paths and authorities as they go upstream.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_config::model::{Forward, HostRewrite, PathMatch, PathRewrite, RegexRewrite};

use super::matcher::bare_path;

/// `x-envoy-original-path`
pub(crate) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// `x-envoy-original-host`
pub(crate) const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
/// `x-forwarded-host`
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The new path with its query, or `None` when the route does not rewrite.
pub(crate) fn path(rewrite: &PathRewrite, matched: &PathMatch, path: &str) -> Option<String> {
    match rewrite {
        PathRewrite::Prefix(new) => replace_prefix(new, matched, path),
        PathRewrite::Regex(regex) => Some(replace_bare(regex, path)),
    }
}

/// `path` with what was matched replaced by `new`: a prefix, or the whole path for exact, regular expression
/// and CONNECT matches. An empty `new` stands for no rewrite, as in Envoy.
pub(crate) fn replace_prefix(new: &str, matched: &PathMatch, path: &str) -> Option<String> {
    if new.is_empty() {
        return None;
    }
    let len = match matched {
        PathMatch::Prefix(text) | PathMatch::Exact(text) | PathMatch::SeparatedPrefix(text) => text.len(),
        PathMatch::Regex(_) | PathMatch::Connect => bare_path(path).len(),
    };
    let rest = path.get(len..).unwrap_or("");
    Some([new, rest].concat())
}

/// `path` whose part before query and fragment is rewritten by the expression.
pub(crate) fn replace_bare(rewrite: &RegexRewrite, path: &str) -> String {
    let bare = bare_path(path);
    let rest = path.get(bare.len()..).unwrap_or("");
    let new = rewrite.pattern.replace_all(bare, &*rewrite.substitution);
    [&new, rest].concat()
}

/// The authority that the route sets before a host is chosen; `None` leaves it.
pub(crate) fn host<'r>(forward: &'r Forward, headers: &HeaderMap, path: &str) -> Option<Cow<'r, [u8]>> {
    let new = match &forward.host_rewrite {
        Some(HostRewrite::Literal(literal)) => Some(Cow::Borrowed(literal.as_bytes())),
        Some(HostRewrite::Header(name)) => {
            headers.get(name).map(|value| Cow::Owned(value.as_bytes().to_vec()))
        }
        Some(HostRewrite::PathRegex(regex)) => {
            let new = regex.pattern.replace_all(bare_path(path), &*regex.substitution);
            Some(Cow::Owned(new.into_owned().into_bytes()))
        }
        Some(HostRewrite::Auto) | None => None,
    };
    new.filter(|host| !host.is_empty())
}

/// Appends the authority that is about to be replaced to `x-forwarded-host`, unless it is the last there.
pub(crate) fn append_forwarded_host(headers: &mut HeaderMap, old: &HeaderValue) {
    if old.is_empty() {
        return;
    }
    let Some(before) = headers.get(FORWARDED_HOST) else {
        headers.insert(FORWARDED_HOST, old.clone());
        return;
    };
    let last = before.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or(b"");
    if last.trim_ascii() == old.as_bytes() {
        return;
    }
    let joined = [before.as_bytes(), b",", old.as_bytes()].concat();
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(FORWARDED_HOST, joined);
    }
}

#[cfg(test)]
mod tests {
    use outrider_core::matcher::full_regex;

    use super::*;

    fn regex(pattern: &str, substitution: &str) -> RegexRewrite {
        let pattern = regex::Regex::new(pattern).expect("pattern");
        RegexRewrite { pattern, substitution: substitution.into() }
    }

    #[test]
    fn a_prefix_rewrite_replaces_what_was_matched_and_keeps_the_rest() {
        for (matched, new, path, want) in [
            (PathMatch::Prefix("/prefix".into()), "/", "/prefix", "/"),
            (PathMatch::Prefix("/prefix/".into()), "/", "/prefix/etc?a=b", "/etc?a=b"),
            (PathMatch::Prefix("/prefix".into()), "/", "/prefix/etc", "//etc"),
            (PathMatch::Exact("/whole".into()), "/new", "/whole?a", "/new?a"),
            (PathMatch::SeparatedPrefix("/api".into()), "/v2", "/api/x#f", "/v2/x#f"),
            (PathMatch::Regex(Box::new(full_regex("/a.*").expect("regex"))), "/n", "/abc?q", "/n?q"),
            (PathMatch::Connect, "/n", "/abc?q", "/n?q"),
        ] {
            assert_eq!(replace_prefix(new, &matched, path).as_deref(), Some(want));
        }
        assert_eq!(replace_prefix("", &PathMatch::Prefix("/a".into()), "/a"), None);
    }

    #[test]
    fn a_regex_rewrite_replaces_every_match_before_the_query() {
        let groups = regex("^/service/([^/]+)(/.*)$", "${2}/instance/${1}");
        assert_eq!(
            replace_bare(&groups, "/service/foo/v1/api?x=/service/"),
            "/v1/api/instance/foo?x=/service/"
        );
        assert_eq!(
            replace_bare(&regex("one", "two"), "/xxx/one/yyy/one/zzz?one"),
            "/xxx/two/yyy/two/zzz?one"
        );
        assert_eq!(replace_bare(&regex("(?i)/xxx/", "/yyy/"), "/aaa/XxX/bbb"), "/aaa/yyy/bbb");
    }

    #[test]
    fn forwarded_host_keeps_each_authority_once_in_a_row() {
        let mut headers = HeaderMap::new();
        let (a, b) = (HeaderValue::from_static("a"), HeaderValue::from_static("b"));
        for host in [&a, &a, &b, &a] {
            append_forwarded_host(&mut headers, host);
        }
        assert_eq!(headers.get(FORWARDED_HOST).expect("header"), "a,b,a");
    }
}
