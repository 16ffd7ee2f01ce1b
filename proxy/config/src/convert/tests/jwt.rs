//! JSON Web Tokens.

use std::time::Duration;

use super::{bad, good, manager, with_hcm};
use crate::model::{HttpFilterKind, JwksRetries, JwtAuthn, JwtKeys, JwtPlace, JwtRequirement};

const ROUTES: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}\n";
const AT: &str =
    "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
const KEYS: &str = r#"local_jwks: {inline_string: '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}'}"#;

fn filter(settings: &str) -> String {
    let filter = format!(
        "          - {{name: f, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, {settings}}}}}\n"
    );
    with_hcm(ROUTES).replace("http_filters:\n", &format!("http_filters:\n{filter}"))
}

fn provider(more: &str) -> String {
    format!("providers: {{p: {{{more}}}}}")
}

fn jwt(settings: &str) -> std::sync::Arc<JwtAuthn> {
    let manager = manager(&filter(settings));
    let HttpFilterKind::JwtAuthn(jwt) = &manager.filters[0].kind else { panic!("{:?}", manager.filters) };
    jwt.clone()
}

#[test]
fn places_are_looked_at_in_the_order_of_their_names() {
    let jwt = jwt(&provider(&format!(
        "{KEYS}, from_cookies: [c], from_params: [z, a], from_headers: [{{name: x-b}}, {{name: X-A, value_prefix: \"T \"}}]"
    )));
    let places: Vec<String> = jwt.providers[0]
        .locations
        .iter()
        .map(|location| match &location.place {
            JwtPlace::Header { name, prefix } => format!("{name} {prefix:?}"),
            JwtPlace::Query(name) => format!("?{name}"),
            JwtPlace::Cookie(name) => format!("cookie {name}"),
        })
        .collect();
    assert_eq!(places, ["x-a \"T \"", "x-b \"\"", "?a", "?z", "cookie c"]);
}

#[test]
fn what_allows_failures_is_no_requirement_among_others() {
    let rule = |requires: &str| {
        let jwt = jwt(&format!(
            "{}, rules: [{{match: {{prefix: /}}, requires: {{requires_any: {{requirements: [{requires}]}}}}}}]",
            provider(KEYS)
        ));
        let Some(JwtRequirement::Any { of, allow_missing, allow_failed }) = &jwt.rules[0].requires else {
            panic!("{jwt:?}")
        };
        (of.len(), matches!(of[0], JwtRequirement::Whoever { .. }), *allow_missing, *allow_failed)
    };
    assert_eq!(rule("{provider_name: p}, {allow_missing: {}}"), (1, false, true, false));
    assert_eq!(rule("{allow_missing_or_failed: {}}, {allow_missing: {}}"), (1, true, true, true));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_path() {
    let at = format!("{AT}.providers[\"p\"]");
    let rule = |text: &str| format!("{}, rules: [{{match: {{prefix: /}}, {text}}}]", provider(KEYS));
    for (settings, path, why) in [
        (provider("local_jwks: {inline_string: '{'}"), format!("{at}.local_jwks"), "invalid JSON"),
        (
            provider("local_jwks: {inline_string: '{\"keys\":[]}'}"),
            format!("{at}.local_jwks"),
            "any valid public key",
        ),
        (
            provider(&format!("{KEYS}, claim_to_headers: [{{header_name: x}}]")),
            format!("{at}.claim_to_headers[0]"),
            "claim_path",
        ),
        (
            rule("requires: {provider_name: q}"),
            format!("{AT}.rules[0].requires.provider_name"),
            "no provider named \"q\"",
        ),
        (
            rule("requirement_name: r"),
            format!("{AT}.rules[0].requirement_name"),
            "no requirement named \"r\"",
        ),
        (
            rule("requires: {extract_only_without_validation: {}}"),
            format!("{AT}.rules[0].requires.extract_only"),
            "nobody verified",
        ),
        (
            rule("requires: {requires_all: {requirements: [{provider_name: p}]}}"),
            format!("{AT}.rules[0].requires.requires_all.requirements"),
            "",
        ),
        (
            format!("{}, filter_state_rules: {{name: x}}", provider(KEYS)),
            format!("{AT}.filter_state_rules"),
            "use rules",
        ),
    ] {
        let problems = bad(&filter(&settings));
        assert!(
            problems.iter().any(|text| text.starts_with(&path) && text.contains(why)),
            "{path}: {problems:?}"
        );
    }
}

#[test]
fn keys_that_are_left_out_are_told() {
    let keys = r#"local_jwks: {inline_string: '{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"new"}]}'}"#;
    let (_, ledger) = good(&filter(&provider(keys)));
    assert!(
        ledger.inert.iter().any(|(path, why)| path.ends_with("local_jwks") && why.contains("1 of the keys"))
    );
}

#[test]
fn keys_that_are_fetched_have_envoys_defaults() {
    let jwt = jwt(&provider("remote_jwks: {http_uri: {uri: \"https://a.b/k\", cluster: c, timeout: 3s}}"));
    let JwtKeys::Remote(remote) = &jwt.providers[0].keys else { panic!("{jwt:?}") };
    assert_eq!((remote.cache.as_secs(), remote.background, remote.retries), (600, None, None));
    let jwt = self::jwt(&provider(
        "remote_jwks: {http_uri: {uri: \"https://a.b/k\", cluster: c, timeout: 3s}, async_fetch: {}, retry_policy: {}}",
    ));
    let JwtKeys::Remote(remote) = &jwt.providers[0].keys else { panic!("{jwt:?}") };
    let second = Duration::from_secs(1);
    assert_eq!(remote.background, Some(second));
    assert_eq!(remote.retries, Some(JwksRetries { count: 1, base: second, most: 10 * second }));
    let problems = bad(&filter(&provider("remote_jwks: {http_uri: {uri: /k, cluster: c, timeout: 3s}}")));
    let at = format!("{AT}.providers[\"p\"].remote_jwks.http_uri.uri");
    assert!(
        problems.iter().any(|text| text.starts_with(&at) && text.contains("no URI with a host")),
        "{problems:?}"
    );
}
