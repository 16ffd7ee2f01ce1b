//! Texts with a form of their own: durations, regular expressions.

use std::time::Duration;

use super::re2::Judge;

/// The longest regular expression that is looked at.
const LONGEST_REGEX: usize = 4096;
/// The most memory that a compiled expression may take, in bytes.
const REGEX_SIZE: usize = 1 << 20;
/// How deep groups and repetitions may be nested.
const NESTING: u32 = 100;

/// A duration by GEP-2257: up to four numbers of up to five digits with `h`, `m`, `s` or `ms`.
///
/// # Errors
/// When it has another form, with the form in the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<crate::model::own::Duration>().map(crate::model::own::Duration::std)
}

/// Whether proxies could use this regular expression: it must be one by RE2's rules, which Envoy and gRPC follow.
///
/// # Errors
/// What is wrong with it.
pub fn regex(text: &str) -> Result<(), String> {
    if text.len() > LONGEST_REGEX {
        return Err(format!("longer than {LONGEST_REGEX} bytes"));
    }
    let wrong = |why: &str| format!("{text:?} is no regular expression by RE2's rules: {why}");
    let short = |error: String| {
        let last = error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
        wrong(last)
    };
    // Bounds what the parsers take of the stack as well.
    let ast = regex_syntax::ast::parse::ParserBuilder::new()
        .nest_limit(NESTING)
        .build()
        .parse(text)
        .map_err(|error| short(error.to_string()))?;
    regex_syntax::ast::visit(&ast, Judge::default()).map_err(|why| wrong(&why))?;
    let mut builder = regex::RegexBuilder::new(text);
    builder.size_limit(REGEX_SIZE).nest_limit(NESTING);
    builder.build().map(drop).map_err(|error| short(error.to_string()))
}
