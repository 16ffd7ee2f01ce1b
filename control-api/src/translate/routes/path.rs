//! Rewritten paths, without lost or doubled slashes.

use outrider_proto::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};

use crate::attach::ir::{PathChange, PathMatch};

/// A path's change in the forms that Envoy has, for redirects and for rewrites alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NewPath {
    /// As it was.
    Same,
    /// What the match matched becomes this.
    Prefix(String),
    /// The whole path becomes this; the query stays.
    Full(String),
    /// An expression on the path without its query.
    Regex(RegexMatchAndSubstitute),
}

/// What Envoy must do for a change; `None` when there is no prefix that could be replaced.
///
/// A prefix is whole elements, so a slash at the end of either text means nothing
/// (<https://gateway-api.sigs.k8s.io/reference/spec/#httppathmodifier>), while Envoy replaces bytes.
pub(super) fn new_path(matched: &PathMatch, change: &PathChange) -> Option<NewPath> {
    let replacement = match change {
        PathChange::Full(path) => return Some(NewPath::Full(rooted(path))),
        PathChange::Prefix(replacement) => replacement.trim_end_matches('/'),
    };
    let PathMatch::Prefix(prefix) = matched else { return None };
    let prefix = prefix.trim_end_matches('/');
    Some(match (prefix, replacement) {
        ("", "") => NewPath::Same,
        // Envoy takes the slash itself for the prefix and would leave "/xyzbar" of "/bar".
        ("", replacement) => NewPath::Prefix(rooted(replacement) + "/"),
        // Nothing in the place of the prefix would leave "" of "/foo"; a slash would leave "//bar" of "/foo/bar".
        (prefix, "") => NewPath::Regex(substitute(&format!("^{}/?", regex::escape(prefix)), "/")),
        (_, replacement) => NewPath::Prefix(rooted(replacement)),
    })
}

/// The whole path of a request, by an expression: a rewrite has no other form for it that keeps the query.
pub(super) fn whole(path: &str) -> RegexMatchAndSubstitute {
    substitute("^.*$", path)
}

fn substitute(pattern: &str, text: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(regex(pattern)),
        // RE2 reads a backslash as the start of a group's number.
        substitution: text.replace('\\', "\\\\"),
    }
}

/// An expression for Envoy's default engine.
pub(super) fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy makes of a path.
    fn apply(prefix: &str, new: &NewPath, path: &str) -> String {
        match new {
            NewPath::Same => path.to_owned(),
            NewPath::Full(full) => full.clone(),
            NewPath::Prefix(text) => format!("{text}{}", path.strip_prefix(prefix).unwrap()),
            NewPath::Regex(rewrite) => {
                let pattern = regex::Regex::new(&rewrite.pattern.as_ref().unwrap().regex).unwrap();
                pattern.replace_all(path, rewrite.substitution.as_str()).into_owned()
            }
        }
    }

    /// The table of the Gateway API's HTTPPathModifier, and what it leaves open.
    #[test]
    fn prefixes_are_whole_elements() {
        let rows = [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo//bar", "/foo", "/", "//bar"),
            ("/a.b/foo/a.b/c", "/a.b", "/", "/foo/a.b/c"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/bar", "/", "/xyz/", "/xyz/bar"),
            ("/bar", "/", "/", "/bar"),
            ("/bar", "/", "", "/bar"),
            ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
        ];
        for (path, prefix, replacement, want) in rows {
            let matched = PathMatch::Prefix(prefix.into());
            let new = new_path(&matched, &PathChange::Prefix(replacement.into())).unwrap();
            assert_eq!(apply(prefix, &new, path), want, "{path} {prefix} -> {replacement}");
        }
    }

    #[test]
    fn only_a_prefix_can_be_replaced() {
        let change = PathChange::Prefix("/x".into());
        assert_eq!(new_path(&PathMatch::Exact("/foo".into()), &change), None);
        assert_eq!(new_path(&PathMatch::Regex("/foo.*".into()), &change), None);
        let full = new_path(&PathMatch::Exact("/foo".into()), &PathChange::Full("/x".into()));
        assert_eq!(full, Some(NewPath::Full("/x".into())));
    }

    #[test]
    fn backslashes_mean_themselves() {
        assert_eq!(whole(r"/a\1").substitution, r"/a\\1");
    }
}
