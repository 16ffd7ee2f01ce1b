//! How the kinds of our own are judged: problems with the path of their field.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::common::{Duration, Selector};

/// Collects what is wrong under one path.
pub(super) struct Check<'o> {
    path: String,
    out: &'o mut Vec<(String, String)>,
}

impl<'o> Check<'o> {
    /// At the top: `spec`.
    pub(super) fn spec(out: &'o mut Vec<(String, String)>) -> Self {
        Self { path: "spec".to_owned(), out }
    }

    /// Below a field.
    pub(super) fn at(&mut self, field: &str) -> Check<'_> {
        Check { path: format!("{}.{field}", self.path), out: self.out }
    }

    /// Below an entry of a list.
    pub(super) fn item(&mut self, field: &str, index: usize) -> Check<'_> {
        Check { path: format!("{}.{field}[{index}]", self.path), out: self.out }
    }

    /// Something is wrong with what stands here.
    pub(super) fn wrong(&mut self, reason: impl Into<String>) {
        self.out.push((self.path.clone(), reason.into()));
    }

    /// Something is wrong with a field below.
    pub(super) fn field(&mut self, field: &str, reason: impl Into<String>) {
        self.out.push((format!("{}.{field}", self.path), reason.into()));
    }

    /// A number in a range.
    pub(super) fn range<N: PartialOrd + std::fmt::Display + Copy>(
        &mut self,
        field: &str,
        value: Option<N>,
        least: N,
        most: N,
    ) {
        if let Some(value) = value
            && !(least..=most).contains(&value)
        {
            self.field(field, format!("{value} is not between {least} and {most}"));
        }
    }

    /// A duration of at least so many milliseconds.
    pub(super) fn at_least(&mut self, field: &str, value: Option<Duration>, millis: u64) {
        let least = Duration(std::time::Duration::from_millis(millis));
        if let Some(value) = value
            && value < least
        {
            self.field(field, format!("{value} is too short; give {least} or more"));
        }
    }

    /// The name of a header that may be matched or written.
    pub(super) fn header_name(&mut self, field: &str, name: &str) {
        if http::HeaderName::try_from(name).is_err() {
            self.field(field, format!("{name:?} is no header name"));
        }
    }

    /// The name of an object or of a port.
    pub(super) fn name(&mut self, field: &str, name: &str) {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if name.is_empty() || name.len() > 253 || !name.chars().all(fine) {
            self.field(
                field,
                format!("{name:?} is no name; use lower-case letters, digits, '-' and '.', 253 at most"),
            );
        }
    }

    /// The labels of a selector.
    pub(super) fn selector(&mut self, selector: Option<&Selector>) {
        for (name, value) in selector.iter().flat_map(|it| &it.match_labels) {
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
            if name.is_empty() || !name.chars().all(fine) {
                self.field("selector.matchLabels", format!("{name:?} is no name of a label"));
            }
            if value.len() > 63 || !value.chars().all(|c| fine(c) && c != '/') {
                self.field(
                    &format!("selector.matchLabels.{name}"),
                    format!("{value:?} is no value of a label; wildcards are not supported"),
                );
            }
        }
    }

    /// A list without two equal entries.
    pub(super) fn unique<T: Ord + std::fmt::Display>(
        &mut self,
        list: &str,
        field: &str,
        values: impl Iterator<Item = T>,
    ) {
        let mut seen = BTreeSet::new();
        for (index, value) in values.enumerate() {
            let text = value.to_string();
            if !seen.insert(value) {
                let at = if field.is_empty() { String::new() } else { format!(".{field}") };
                self.field(&format!("{list}[{index}]{at}"), format!("{text} stands here twice; keep one"));
            }
        }
    }
}

/// A DNS name, in lower case; `*.` in front where `wildcard` allows it.
pub(super) fn host(text: &str, wildcard: bool) -> Result<(), String> {
    let bare = if wildcard { text.strip_prefix("*.").unwrap_or(text) } else { text };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
    };
    if bare.len() <= 253 && bare.split('.').all(label) && bare.parse::<IpAddr>().is_err() {
        return Ok(());
    }
    if !wildcard && text.starts_with("*.") {
        return Err(format!("{text:?}: a wildcard cannot stand here"));
    }
    Err(format!("{text:?} is no DNS name in lower case"))
}
