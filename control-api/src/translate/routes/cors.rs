//! Cross-origin requests.

use outrider_proto::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use outrider_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::path::regex;
use crate::attach::ir::Cors;
use crate::translate::wire::truth;

/// The name of the filter, which is the key of its policies.
pub(super) const FILTER: &str = "envoy.filters.http.cors";

/// How long browsers may keep an answer that says nothing of it, in seconds: the Gateway API's default.
const MAX_AGE: u64 = 5;

/// The policy of a route.
///
/// Envoy answers a `*` among methods and headers with what the request asked for, and any origin with itself, as the Gateway
/// API wants it where credentials are allowed. Headers to be exposed it passes on as they are, and a `*` there
/// would read as a name with credentials: it is left out.
pub(super) fn policy(cors: &Cors) -> CorsPolicy {
    let list = |words: &[std::sync::Arc<str>]| {
        if words.iter().any(|word| &**word == "*") { "*".to_owned() } else { words.join(", ") }
    };
    let exposed = list(&cors.expose_headers);
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(|origin| matcher(origin)).collect(),
        allow_methods: list(&cors.allow_methods),
        allow_headers: list(&cors.allow_headers),
        expose_headers: if exposed == "*" && cors.allow_credentials { String::new() } else { exposed },
        max_age: cors.max_age.map_or(MAX_AGE, |age| age.as_secs()).to_string(),
        allow_credentials: Some(truth(cors.allow_credentials)),
        // The gateway answers a preflight that it does not like; the backend is not asked.
        forward_not_matching_preflights: Some(truth(false)),
        ..Default::default()
    }
}

/// `*` alone is any origin; in a host it is any number of labels, but never a port, which stands for itself.
fn matcher(origin: &str) -> StringMatcher {
    let pattern = if origin == "*" || !origin.contains('*') {
        MatchPattern::Exact(origin.to_owned())
    } else {
        let parts: Vec<String> = origin.split('*').map(regex::escape).collect();
        MatchPattern::SafeRegex(regex(&parts.join("[^/:]+")))
    };
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, origin: &str) -> bool {
        match matcher(pattern).match_pattern.unwrap() {
            MatchPattern::Exact(text) => text == "*" || text == origin,
            MatchPattern::SafeRegex(it) => {
                regex::Regex::new(&format!("^(?:{})$", it.regex)).unwrap().is_match(origin)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wildcards_in_origins() {
        assert!(allows("*", "https://anything.example:8443"));
        assert!(allows("https://*.example.com", "https://a.b.example.com"));
        assert!(!allows("https://*.example.com", "https://example.com"));
        assert!(!allows("https://*.example.com", "https://a.example.com.evil.org"));
        assert!(!allows("https://*.example.com", "https://a_example_com"));
        assert!(!allows("https://*.example.com", "https://evil.org/.example.com"));
        assert!(allows("http://*:8080", "http://shop:8080"));
        assert!(!allows("http://*", "http://shop:8080"));
        assert!(!allows("https://a.example.com", "https://aXexample.com"));
    }
}
