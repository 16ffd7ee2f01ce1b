//! Path normalisation (RFC 3986, as browsers do it), merged slashes, escaped slashes.

use std::borrow::Cow;

use outrider_config::model::EscapedSlashes;

/// What became of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Normalised {
    /// It stays as it is.
    Same,
    /// The request goes on with this path and query.
    Changed(String),
    /// The client is sent to this path and query.
    Redirect(String),
    /// 400.
    Rejected,
}

/// What is to be done to paths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathPolicy {
    pub(crate) normalize: bool,
    pub(crate) merge_slashes: bool,
    pub(crate) escaped_slashes: EscapedSlashes,
}

impl PathPolicy {
    /// Whether nothing is to be done to any path.
    pub(crate) fn is_noop(self) -> bool {
        !self.normalize && !self.merge_slashes && self.escaped_slashes == EscapedSlashes::Keep
    }

    /// Applies the policy to `target`, a path with its query. The query is never touched.
    pub(crate) fn apply(self, target: &str) -> Normalised {
        let (path, query) = match target.find('?') {
            Some(at) => target.split_at(at),
            None => (target, ""),
        };
        if !needs_work(path) {
            return Normalised::Same;
        }
        let mut result = Cow::Borrowed(path);
        let mut redirect = false;
        if self.escaped_slashes != EscapedSlashes::Keep
            && let Some(unescaped) = unescape_slashes(path)
        {
            match self.escaped_slashes {
                EscapedSlashes::Reject => return Normalised::Rejected,
                EscapedSlashes::Redirect => redirect = true,
                EscapedSlashes::Forward | EscapedSlashes::Keep => {}
            }
            result = Cow::Owned(unescaped);
        }
        if self.normalize {
            match canonical(&result) {
                Some(canonical) => result = Cow::Owned(canonical),
                None => return Normalised::Rejected,
            }
        }
        if self.merge_slashes && result.contains("//") {
            result = Cow::Owned(merge_slashes(&result));
        }
        if redirect {
            return Normalised::Redirect(format!("{result}{query}"));
        }
        if result == path { Normalised::Same } else { Normalised::Changed(format!("{result}{query}")) }
    }
}

/// Whether any step could change `path`: it has an escape, a backslash, a dot after a slash, a double slash, or a
/// byte that is to be escaped.
fn needs_work(path: &str) -> bool {
    let mut previous = 0;
    for byte in path.bytes() {
        let hit = match byte {
            b'%' | b'\\' => true,
            b'.' | b'/' => previous == b'/',
            other => class(other) == Class::Escape,
        };
        if hit {
            return true;
        }
        previous = byte;
    }
    false
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays; an escape of it is undone.
    Unreserved,
    /// Stays; an escape of it stays too.
    Reserved,
    /// Is escaped.
    Escape,
}

const fn class(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'.' => Class::Unreserved,
        0..=0x20 | 0x7f.. | b'"' | b'#' | b'<' | b'>' | b'?' | b'`' | b'{' | b'}' | b'^' => Class::Escape,
        _ => Class::Reserved,
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The byte that the escape at the start of `text` stands for.
fn escape(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

/// The length of the dot at the start of `text`: 1, or 3 when it is escaped; 0 when there is none.
fn dot(text: &[u8]) -> usize {
    match text {
        [b'.', ..] => 1,
        [b'%', b'2', b'e' | b'E', ..] => 3,
        _ => 0,
    }
}

fn at(text: &[u8], from: usize) -> &[u8] {
    text.get(from..).unwrap_or_default()
}

/// The canonical form of `path`: dot segments resolved, needless escapes undone, missing ones made, backslashes
/// turned. `None` when it has a NUL.
fn canonical(path: &str) -> Option<String> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let text = path.as_bytes();
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut i = 0;
    while let Some(byte) = text.get(i).copied() {
        let dot_len = dot(at(text, i));
        if dot_len > 0 {
            i += match (out.last(), after_dot(at(text, i + dot_len))) {
                (Some(b'/'), Some(Segment { up, len })) => {
                    if up {
                        pop_segment(&mut out);
                    }
                    dot_len + len
                }
                _ => {
                    out.push(b'.');
                    dot_len
                }
            };
            continue;
        }
        if let Some(value) = escape(at(text, i)) {
            if value == 0 {
                return None;
            }
            match class(value) {
                Class::Unreserved => out.push(value),
                _ => out.extend_from_slice(at(text, i).get(..3).unwrap_or_default()),
            }
            i += 3;
            continue;
        }
        match byte {
            b'\\' => out.push(b'/'),
            _ if class(byte) == Class::Escape => {
                out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => out.push(byte),
        }
        i += 1;
    }
    // Only ASCII was pushed: everything else is escaped.
    String::from_utf8(out).ok()
}

/// A dot segment: whether it goes up, and how much of the text after its first dot it takes.
struct Segment {
    up: bool,
    len: usize,
}

fn after_dot(rest: &[u8]) -> Option<Segment> {
    let ends = |rest: &[u8]| match rest {
        [] => Some(0),
        [b'/' | b'\\', ..] => Some(1),
        _ => None,
    };
    if let Some(len) = ends(rest) {
        return Some(Segment { up: false, len });
    }
    let second = dot(rest);
    if second == 0 {
        return None;
    }
    ends(at(rest, second)).map(|len| Segment { up: true, len: second + len })
}

/// Cuts the last segment off `out`, which ends with a slash; the first slash stays.
fn pop_segment(out: &mut Vec<u8>) {
    out.pop();
    let keep = out.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    out.truncate(keep);
    if out.is_empty() {
        out.push(b'/');
    }
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for part in path.split_inclusive('/') {
        if part != "/" || !out.ends_with('/') {
            out.push_str(part);
        }
    }
    out
}

/// `path` with its escaped slashes and backslashes undone; `None` when it has none.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut found = false;
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let (replacement, len) = match tail.as_bytes() {
            [_, b'2', b'f' | b'F', ..] => ("/", 3),
            [_, b'5', b'c' | b'C', ..] => ("\\", 3),
            _ => ("%", 1),
        };
        found |= len == 3;
        out.push_str(replacement);
        rest = tail.get(len..).unwrap_or_default();
    }
    out.push_str(rest);
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NORMALIZE: PathPolicy =
        PathPolicy { normalize: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };

    fn run(policy: PathPolicy, path: &str) -> String {
        match policy.apply(path) {
            Normalised::Same => path.to_owned(),
            Normalised::Changed(path) => path,
            Normalised::Redirect(path) => format!("-> {path}"),
            Normalised::Rejected => "400".to_owned(),
        }
    }

    #[test]
    fn dot_segments_and_escapes_are_resolved() {
        let table = [
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b..", "/a/b.."),
            ("/a/...", "/a/..."),
            ("/a\\b", "/a/b"),
            ("/%41%7e", "/A~"),
            ("/%2fa", "/%2fa"),
            ("/a%zz", "/a%zz"),
            ("/a?x=/../y%41", "/a?x=/../y%41"),
            ("/a//b", "/a//b"),
            ("/a%00", "400"),
            ("/\u{e9}", "/%C3%A9"),
        ];
        for (path, want) in table {
            assert_eq!(run(NORMALIZE, path), want, "{path}");
        }
    }

    #[test]
    fn slashes_are_merged_and_unescaped_as_asked() {
        let policy = |escaped_slashes| PathPolicy { normalize: true, merge_slashes: true, escaped_slashes };
        assert_eq!(run(policy(EscapedSlashes::Keep), "//a/./b/../c%2e%2e/%2fd?x=//y"), "/a/c../%2fd?x=//y");
        assert_eq!(run(policy(EscapedSlashes::Reject), "/a%2fb"), "400");
        assert_eq!(run(policy(EscapedSlashes::Reject), "/a%5Cb"), "400");
        assert_eq!(run(policy(EscapedSlashes::Redirect), "/a%2fb?q"), "-> /a/b?q");
        assert_eq!(run(policy(EscapedSlashes::Forward), "/a%2f..%5cb"), "/b");
        assert_eq!(run(policy(EscapedSlashes::Forward), "/a///b/"), "/a/b/");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing_more(path in "/[a-c./%25e\\\\ ]{0,24}") {
            if let Normalised::Changed(once) = NORMALIZE.apply(&path) {
                prop_assert!(!format!("{once}/").contains("/../"), "{once}");
                prop_assert!(once.starts_with('/'));
            }
        }
    }
}
