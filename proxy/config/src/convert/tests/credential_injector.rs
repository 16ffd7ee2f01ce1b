//! Credentials that requests get on their way.

use std::sync::Arc;
use std::time::Duration;

use super::{bad, good, manager, with_hcm};
use crate::model::{Credential, CredentialInjector, GenericCredential, HttpFilterKind, OAuth2, SecretRef};

const ROUTES: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}\n";
const AT: &str =
    "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
const GENERIC: &str = "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic";

/// A bootstrap with the secrets `token` and `keys`, and a filter with these settings.
fn bootstrap(settings: &str) -> String {
    let filter = format!(
        "          - {{name: f, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector, {settings}}}}}\n"
    );
    let secrets = "static_resources:\n  secrets:\n  - {name: token, generic_secret: {secret: {inline_string: abc}}}\n  \
                   - {name: keys, session_ticket_keys: {keys: [{filename: /k}]}}\n";
    with_hcm(ROUTES)
        .replace("http_filters:\n", &format!("http_filters:\n{filter}"))
        .replace("static_resources:\n", secrets)
}

fn generic(settings: &str) -> String {
    format!("credential: {{typed_config: {{\"@type\": {GENERIC}, {settings}}}}}")
}

fn injector(settings: &str) -> Arc<CredentialInjector> {
    let manager = manager(&bootstrap(settings));
    let HttpFilterKind::CredentialInjector(injector) = &manager.filters[0].kind else {
        panic!("{:?}", manager.filters)
    };
    injector.clone()
}

fn secret(injector: &CredentialInjector) -> &GenericCredential {
    let Credential::Generic(generic) = &injector.credential else { panic!("{injector:?}") };
    generic
}

#[test]
fn a_secret_of_the_bootstrap_goes_into_authorization_unless_another_header_is_named() {
    let plain = injector(&generic("credential: {name: token}"));
    assert!(!plain.overwrite && !plain.allow_without && plain.dynamic_secret().is_none());
    let generic_one = secret(&plain);
    assert_eq!((generic_one.header.as_str(), &*generic_one.prefix), ("authorization", ""));
    assert!(matches!(&generic_one.secret, SecretRef::Static(_)));
    let named = injector(&format!(
        "overwrite: true, allow_request_without_credential: true, {}",
        generic("credential: {name: token}, header: X-Key, header_value_prefix: \"k \"")
    ));
    assert!(named.overwrite && named.allow_without);
    assert_eq!((secret(&named).header.as_str(), &*secret(&named).prefix), ("x-key", "k "));
}

#[test]
fn a_secret_with_a_source_comes_from_there() {
    let source = "sds_config: {path_config_source: {path: /x}}";
    let later = injector(&generic(&format!("credential: {{name: token, {source}}}")));
    let wanted = later.dynamic_secret().expect("it comes from elsewhere");
    assert_eq!(&*wanted.name, "token");
}

fn oauth2(settings: &str) -> String {
    format!(
        "credential: {{typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2, {settings}}}}}"
    )
}

const ENDPOINT: &str = "token_endpoint: {uri: auth.test/token?x=1, cluster: c, timeout: 1s}";
const CLIENT: &str = "client_credentials: {client_id: me, client_secret: {name: token}";

fn token(settings: &str) -> Arc<OAuth2> {
    let injector = injector(&oauth2(settings));
    let Credential::OAuth2(token) = &injector.credential else { panic!("{injector:?}") };
    token.clone()
}

#[test]
fn a_token_is_asked_for_as_the_settings_say() {
    let plain = token(&format!("{ENDPOINT}, {CLIENT}}}"));
    assert_eq!((plain.uri.to_string().as_str(), &*plain.cluster), ("http://auth.test/token?x=1", "c"));
    assert_eq!((plain.timeout, plain.retry_interval), (Duration::from_secs(1), Duration::from_secs(2)));
    assert!(plain.scopes.is_empty() && plain.params.is_empty() && &*plain.client_id == "me");
    let full = token(&format!(
        "{ENDPOINT}, {CLIENT}, auth_type: URL_ENCODED_BODY}}, scopes: [a, b], token_fetch_retry_interval: 3.5s, endpoint_params: [{{name: p, value: v}}]"
    ));
    assert_eq!(full.scopes.join(" "), "a b");
    assert_eq!(full.retry_interval, Duration::from_secs(3), "Envoy counts whole seconds");
    let [(name, value)] = &*full.params else { panic!("{full:?}") };
    assert_eq!((&**name, &**value), ("p", "v"));
}

#[test]
fn that_the_secret_goes_in_the_body_is_said_where_it_is_not_asked_for() {
    let noted = |more: &str| {
        let (_, ledger) = good(&bootstrap(&oauth2(&format!("{ENDPOINT}, {CLIENT}{more}}}"))));
        ledger.inert.iter().any(|(path, _)| path.ends_with("client_credentials.auth_type"))
    };
    assert!(noted("") && !noted(", auth_type: URL_ENCODED_BODY"));
}

#[test]
fn a_token_that_cannot_be_asked_for_is_refused_by_its_path() {
    let at = format!("{AT}.credential.typed_config");
    for (settings, path, why) in [
        (ENDPOINT.to_owned(), "client_credentials", "are needed"),
        (format!("{CLIENT}}}"), "token_endpoint", "an address is needed"),
        (
            format!("token_endpoint: {{uri: \"/x\", cluster: c, timeout: 1s}}, {CLIENT}}}"),
            "token_endpoint.uri",
            "is no URI with a host",
        ),
        (
            format!("token_endpoint: {{uri: a.test, cluster: c}}, {CLIENT}}}"),
            "token_endpoint.timeout",
            "a time is needed",
        ),
        (
            format!("{ENDPOINT}, {CLIENT}}}, token_fetch_retry_interval: 0.5s"),
            "token_fetch_retry_interval",
            "a second at least",
        ),
        (
            format!("{ENDPOINT}, {}}}", CLIENT.replace("name: token", "name: nobody")),
            "client_credentials.client_secret.name",
            "there is no generic secret",
        ),
    ] {
        let problems = bad(&bootstrap(&oauth2(&settings)));
        let path = format!("{at}.{path}: ");
        assert!(
            problems.iter().any(|problem| problem.starts_with(&path) && problem.contains(why)),
            "{path}{why}: {problems:#?}"
        );
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_path() {
    let at = format!("{AT}.credential.typed_config");
    for (settings, path, why) in [
        (
            generic("credential: {name: nobody}"),
            format!("{at}.credential.name"),
            "there is no generic secret named \"nobody\"",
        ),
        (generic("credential: {name: keys}"), format!("{at}.credential.name"), "no generic secret named"),
        (
            generic("credential: {name: token}, header_value_prefix: \"a\\nb\""),
            format!("{at}.header_value_prefix"),
            "control characters",
        ),
        (
            generic("credential: {name: token}, header: \":path\""),
            format!("{at}.header"),
            "not a header name",
        ),
        (
            "credential: {typed_config: {\"@type\": type.googleapis.com/google.protobuf.Empty}}".to_owned(),
            at.clone(),
            "is not supported",
        ),
    ] {
        let problems = bad(&bootstrap(&settings));
        assert!(
            problems.iter().any(|problem| problem.starts_with(&format!("{path}: ")) && problem.contains(why)),
            "{path}: {why}: {problems:#?}"
        );
    }
}

#[test]
fn a_generic_secret_is_a_single_one() {
    let with = |secret: &str| {
        bootstrap(&generic("credential: {name: token}")).replace("secret: {inline_string: abc}", secret)
    };
    let at = "static_resources.secrets[0].generic_secret";
    let problems = bad(&with("secrets: {a: {inline_string: abc}}"));
    assert!(problems.iter().any(|problem| problem.starts_with(&format!("{at}.secrets: "))), "{problems:#?}");
    let problems = bad(&with(""));
    assert!(
        problems.iter().any(|problem| problem == &format!("{at}.secret: a secret is needed")),
        "{problems:#?}"
    );
    let watched = "secret: {filename: /x, watched_directory: {path: /}}";
    let problems = bad(&with(watched));
    assert!(
        problems.iter().any(|problem| problem.contains("watched_directory: files of secrets are read")),
        "{problems:#?}"
    );
    good(&with("secret: {filename: /x}"));
}
