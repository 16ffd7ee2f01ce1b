//! Regular expressions as Envoy (RE2) reads them, written for the regex crate.
//!
//! The two agree but for corners where they would silently match something else: the regex crate has nested
//! classes and set operations (`[a&&b]`), Unicode `\d`, `\w` and `\s`, word boundaries `\<`; RE2 has `\Q..\E` and
//! takes a stray `{` for itself. What RE2 has and the regex crate cannot have (`\C`) is an error.

use std::iter::Peekable;
use std::str::Chars;

/// The expression in the regex crate's notation. Mistakes that both engines see are left for the regex crate to tell.
pub(crate) fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, &mut out)?,
            '[' => class(&mut chars, &mut out)?,
            '{' if !is_repetition(&chars) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// Whether what follows `{` makes it a repetition: `3}`, `3,}`, `3,5}`.
fn is_repetition(after: &Peekable<Chars<'_>>) -> bool {
    let mut digits = 0;
    let mut comma = false;
    for c in after.clone() {
        match c {
            '0'..='9' => digits += 1,
            ',' if !comma && digits > 0 => comma = true,
            '}' => return digits > 0,
            _ => return false,
        }
    }
    false
}

/// What follows a backslash outside a class.
fn escape(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    match chars.next() {
        None => return Err("it ends in a backslash".to_owned()),
        Some('C') => return Err(r"\C (any byte) is not supported; use . for any character".to_owned()),
        Some('Q') => quoted(chars, out),
        // RE2: a stray \E means nothing.
        Some('E') => {}
        Some('d') => out.push_str("[0-9]"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("[0-9A-Za-z_]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str(r"[\t\n\f\r ]"),
        Some('S') => out.push_str(r"[^\t\n\f\r ]"),
        Some('b') => out.push_str(r"(?-u:\b)"),
        Some(c @ ('<' | '>')) => out.push(c),
        Some(c) => {
            out.push('\\');
            out.push(c);
        }
    }
    Ok(())
}

/// What stands between `\Q` and `\E`, taken literally.
fn quoted(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            return;
        }
        literal(c, out);
    }
}

/// A character that stands for itself, inside a class and outside.
fn literal(c: char, out: &mut String) {
    if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
        out.push('\\');
    }
    out.push(c);
}

/// A bracketed class; the opening bracket has been read.
fn class(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    const OPEN: &str = "a class is not closed: ] is missing";
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    loop {
        match chars.next().ok_or(OPEN)? {
            ']' if !first => {
                out.push(']');
                return Ok(());
            }
            '[' if chars.peek() == Some(&':') => named(chars, out),
            '\\' => class_escape(chars, out)?,
            c => literal(c, out),
        }
        first = false;
        // A range keeps its dash; a dash at the end stands for itself.
        if chars.peek() == Some(&'-') {
            let mut ahead = chars.clone();
            ahead.next();
            if ahead.peek().is_some_and(|c| *c != ']') {
                chars.next();
                out.push('-');
                match chars.next().ok_or(OPEN)? {
                    '\\' => class_escape(chars, out)?,
                    c => literal(c, out),
                }
            }
        }
    }
}

/// `[:alpha:]` and its kin, or a bracket that stands for itself; the bracket has been read.
fn named(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    let rest: String = chars.clone().take_while(|c| *c != ']').collect();
    if rest.len() > 2 && rest.starts_with(':') && rest.ends_with(':') {
        out.push('[');
        out.push_str(&rest);
        out.push(']');
        chars.by_ref().take(rest.chars().count() + 1).for_each(drop);
    } else {
        literal('[', out);
    }
}

/// What follows a backslash inside a class.
fn class_escape(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    match chars.next() {
        None => return Err("a class is not closed: ] is missing".to_owned()),
        Some('d') => out.push_str("0-9"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("0-9A-Za-z_"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str(r"\t\n\f\r "),
        Some('S') => out.push_str(r"[^\t\n\f\r ]"),
        Some(c) if c.is_ascii_punctuation() => literal(c, out),
        Some(c) => {
            out.push('\\');
            out.push(c);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let translated = translate(pattern).expect("it translates");
        outrider_core::matcher::full_regex(&translated).expect("it compiles").is_match(text)
    }

    /// Each was tried on RE2 as Envoy 1.40 has it, or follows its syntax page.
    #[test]
    fn corners_where_the_engines_differ() {
        for (pattern, yes, no) in [
            ("[a&&b]", "&", "c"),
            ("[+--]", ",", "a"),
            ("[a[b]+", "a[b", "c"),
            ("[[]", "[", "]"),
            ("[]a]", "]", "b"),
            ("[^]a]", "b", "]"),
            ("[[:alpha:]-]+", "ab-", "1"),
            (r"[\w-]+", "a-b", "é"),
            (r"[^\d]", "a", "1"),
            (r"\d+", "12", "١"),
            (r"\w+", "ab", "é"),
            (r"\Qa.b\E+", "a.bb", "axb"),
            ("a}b]{x", "a}b]{x", "ab"),
            ("a{2}", "aa", "a{2}"),
            (r"\<a\>", "<a>", "a"),
            (r"/a\-b\_c", "/a-b_c", "/abc"),
            (r"a\z", "a", "b"),
            (r"\pN+", "1", "a"),
            ("(?i)A(?P<n>b)", "ab", "b"),
        ] {
            assert!(matches(pattern, yes), "{pattern} must match {yes}");
            assert!(!matches(pattern, no), "{pattern} must not match {no}");
        }
        assert!(translate(r"a\C").is_err());
        assert!(translate("[a").is_err());
    }

    proptest! {
        #[test]
        fn literals_survive(text in "[ -~]{0,12}") {
            prop_assume!(!text.contains("\\E"));
            let pattern = format!("\\Q{text}\\E");
            prop_assert!(matches(&pattern, &text));
        }

        #[test]
        fn anything_ends(text in any::<String>()) {
            if let Ok(pattern) = translate(&text) {
                let _ = regex::Regex::new(&pattern);
            }
        }
    }
}
