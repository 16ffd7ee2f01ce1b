//! Regular expressions and durations in routes.

use std::time::Duration;

use super::backends::Refusal;
use super::ir::TextMatch;
use crate::model::validate::text;

/// How a value is matched; a regular expression that no proxy could use is refused.
pub(super) fn matching(value: &str, regex: bool, field: &str) -> Result<TextMatch, Refusal> {
    if !regex {
        return Ok(TextMatch::Exact(value.into()));
    }
    match text::regex(value) {
        Ok(()) => Ok(TextMatch::Regex(value.into())),
        Err(why) => Err(Refusal::new("UnsupportedValue", format!("{field}: {why}"))),
    }
}

/// A duration by GEP-2257.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    text::duration(text)
}
