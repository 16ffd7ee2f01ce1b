//! Which headers an answer may change.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::common::mutation_rules::v3 as pb;
use outrider_proto::pb::envoy::r#type::matcher::v3::RegexMatcher;
use regex::Regex;

use crate::convert::cx::Cx;
use crate::convert::matcher::whole_regex;
use crate::convert::scalar::bool_of;
use crate::model::HeaderRules;

/// The rules at `path`; `None`, and an error, when they are not usable.
pub(super) fn rules(cx: &Cx, path: &Path<'_>, message: &pb::HeaderMutationRules) -> Option<HeaderRules> {
    let pb::HeaderMutationRules {
        allow_all_routing,
        allow_envoy,
        disallow_system,
        disallow_all,
        allow_expression,
        disallow_expression,
        disallow_is_error,
    } = message;
    let allow = regex(cx, &path.field("allow_expression"), allow_expression.as_ref());
    let disallow = regex(cx, &path.field("disallow_expression"), disallow_expression.as_ref());
    Some(HeaderRules {
        allow_routing: bool_of(allow_all_routing).unwrap_or(false),
        allow_envoy: bool_of(allow_envoy).unwrap_or(false),
        disallow_system: bool_of(disallow_system).unwrap_or(false),
        disallow_all: bool_of(disallow_all).unwrap_or(false),
        allow: allow?,
        disallow: disallow?,
        is_error: bool_of(disallow_is_error).unwrap_or(false),
    })
}

/// The expression at `path`, if there is one; the outer `None` for one that is not usable.
#[expect(clippy::option_option, reason = "not usable, none, one")]
fn regex(cx: &Cx, path: &Path<'_>, message: Option<&RegexMatcher>) -> Option<Option<Regex>> {
    match message {
        Some(message) => whole_regex(cx, path, message).map(Some),
        None => Some(None),
    }
}
