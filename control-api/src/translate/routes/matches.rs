//! What a request must be.

use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::path::regex;
use crate::attach::ir::{HttpMatch, PathMatch, TextMatch};

/// A match in Envoy's terms. `None` when no request could ever fulfil it: Envoy would refuse the whole table for it.
pub(super) fn route_match(it: &HttpMatch) -> Option<pb::RouteMatch> {
    let mut headers = Vec::with_capacity(it.headers.len() + 1);
    if let Some(method) = &it.method {
        headers.push(header(":method", &TextMatch::Exact(method.clone()))?);
    }
    for (name, value) in &it.headers {
        headers.push(header(name, value)?);
    }
    let query = it.query.iter().map(|(name, value)| query(name, value)).collect::<Option<_>>()?;
    Some(pb::RouteMatch {
        path_specifier: Some(path(&it.path)?),
        headers,
        query_parameters: query,
        grpc: it.grpc.then(pb::route_match::GrpcRouteMatchOptions::default),
        ..Default::default()
    })
}

fn path(it: &PathMatch) -> Option<pb::route_match::PathSpecifier> {
    use pb::route_match::PathSpecifier;
    Some(match it {
        PathMatch::Exact(text) => PathSpecifier::Path(text.to_string()),
        PathMatch::Prefix(text) if text.trim_end_matches('/').is_empty() => {
            PathSpecifier::Prefix("/".to_owned())
        }
        // A path ends before these; Envoy takes none of them in a prefix.
        PathMatch::Prefix(text) if text.contains(['?', '#']) => return None,
        PathMatch::Prefix(text) => PathSpecifier::PathSeparatedPrefix(text.trim_end_matches('/').to_owned()),
        PathMatch::Regex(text) => PathSpecifier::SafeRegex(regex(expression(text)?)),
    })
}

/// A matcher of one header.
pub(super) fn header(name: &str, value: &TextMatch) -> Option<pb::HeaderMatcher> {
    if !name.starts_with(':') {
        http::HeaderName::from_bytes(name.as_bytes()).ok()?;
    }
    Some(pb::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(pb::header_matcher::HeaderMatchSpecifier::StringMatch(text(value)?)),
        ..Default::default()
    })
}

fn query(name: &str, value: &TextMatch) -> Option<pb::QueryParameterMatcher> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch;
    Some(pb::QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(StringMatch(text(value)?)),
    })
}

fn text(it: &TextMatch) -> Option<StringMatcher> {
    let pattern = match it {
        TextMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        TextMatch::Regex(text) => MatchPattern::SafeRegex(regex(expression(text)?)),
    };
    Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

/// Attachment refuses expressions that RE2 would not take; an empty one Envoy would refuse the whole table for.
fn expression(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
