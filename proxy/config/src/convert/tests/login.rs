//! Users who log in.

use std::sync::Arc;
use std::time::Duration;

use outrider_core::oauth2::exchange::ClientAuth;

use super::{bad, good, manager, with_hcm};
use crate::model::{HttpFilterKind, OAuth2Login, PostLogout};

const ROUTES: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}\n";
const AT: &str =
    "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
const LOGIN: &str = "type.googleapis.com/envoy.extensions.filters.http.oauth2.v3";
/// What a login needs, by field.
const NEEDED: [(&str, &str); 6] = [
    ("token_endpoint", "{uri: auth.test/token?x=1, cluster: c, timeout: 1s}"),
    ("authorization_endpoint", "\"https://auth.test/authz?a=b\""),
    ("redirect_uri", "\"https://%REQ(:authority)%/callback\""),
    ("redirect_path_matcher", "{path: {exact: /callback}}"),
    ("signout_path", "{path: {exact: /signout}}"),
    ("credentials", "{client_id: me, token_secret: {name: token}, hmac_secret: {name: mac}}"),
];

/// A bootstrap with the secrets `token` and `mac`, and a filter that says this.
fn bootstrap(settings: &str) -> String {
    let filter = format!("          - {{name: f, typed_config: {{\"@type\": {LOGIN}.OAuth2{settings}}}}}\n");
    let secrets = "static_resources:\n  secrets:\n  - {name: token, generic_secret: {secret: {inline_string: abc}}}\n  \
                   - {name: mac, generic_secret: {secret: {inline_string: abc}}}\n";
    with_hcm(ROUTES)
        .replace("http_filters:\n", &format!("http_filters:\n{filter}"))
        .replace("static_resources:\n", secrets)
}

/// What is needed but for the field `without`, and `more`.
fn settings(without: &str, more: &str) -> String {
    let fields = NEEDED.iter().filter(|(name, _)| *name != without);
    let fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {value}")).collect();
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!("{}{more}", fields.join(", "))
}

fn config(without: &str, more: &str) -> String {
    bootstrap(&format!(", config: {{{}}}", settings(without, more)))
}

fn login(without: &str, more: &str) -> Arc<OAuth2Login> {
    let manager = manager(&config(without, more));
    let HttpFilterKind::OAuth2(Some(login)) = &manager.filters[0].kind else {
        panic!("{:?}", manager.filters)
    };
    login.clone()
}

#[test]
fn what_is_not_said_is_as_in_envoy() {
    let login = login("", "");
    assert_eq!(login.endpoint.uri.to_string(), "http://auth.test/token?x=1");
    assert_eq!((login.endpoint.timeout, login.endpoint.retries), (Some(Duration::from_secs(1)), None));
    assert_eq!((&*login.scope, &*login.resources, &*login.stat_prefix), ("user", "", ""));
    assert_eq!((login.auth, login.use_refresh, login.plain_tokens), (ClientAuth::Body, true, false));
    assert_eq!(login.default_lifetime, Duration::ZERO, "the server must say it");
    assert_eq!(login.default_refresh_lifetime, Duration::from_secs(604_800));
    let cookies = &login.cookies;
    let all = [
        &cookies.access,
        &cookies.hmac,
        &cookies.expires,
        &cookies.id,
        &cookies.refresh,
        &cookies.nonce,
        &cookies.verifier,
    ];
    let names = all.map(|cookie| &*cookie.name).join(" ");
    assert_eq!(names, "BearerToken OauthHMAC OauthExpires IdToken RefreshToken OauthNonce CodeVerifier");
    assert!(all.iter().all(|cookie| &*cookie.path == "/" && cookie.same_site.is_empty()));
    assert_eq!(cookies.nonce_lifetime, Duration::from_secs(600));
    assert!(cookies.domain.is_none() && matches!(login.post_logout, PostLogout::Origin));
}

#[test]
fn what_is_said_is_taken() {
    let login = login(
        "",
        "auth_scopes: [openid, \"a b\"], resources: [\"http://x/y?z\"], auth_type: BASIC_AUTH, stat_prefix: mine, \
         end_session_endpoint: \"https://auth.test/end\", post_logout_redirect_uri: {disabled: true}, \
         csrf_token_expires_in: 5.9s, default_expires_in: 77s, forward_id_token: {header: X-Id}, \
         retry_policy: {retry_on: 5xx, num_retries: 3}, \
         cookie_configs: {oauth_nonce_cookie_config: {same_site: NONE, path: /n, partitioned: true}}",
    );
    assert_eq!((&*login.scope, &*login.resources), ("openid%20a%20b", "&resource=http%3A%2F%2Fx%2Fy%3Fz"));
    assert_eq!((login.auth, &*login.stat_prefix), (ClientAuth::Basic, "mine."));
    assert!(matches!(login.post_logout, PostLogout::Nowhere));
    assert_eq!(login.default_lifetime, Duration::from_secs(77));
    assert_eq!(login.endpoint.retries.map(|retries| retries.count), Some(3));
    assert_eq!(login.forward_id.as_ref().map(|header| header.as_str()), Some("x-id"));
    let nonce = &login.cookies.nonce;
    assert_eq!((&*nonce.path, nonce.same_site, nonce.partitioned), ("/n", ";SameSite=None", true));
    assert_eq!(login.cookies.nonce_lifetime, Duration::from_secs(5), "Envoy counts whole seconds");
}

#[test]
fn a_client_with_a_certificate_needs_no_secret() {
    let credentials = "auth_type: TLS_CLIENT_AUTH, credentials: {client_id: me, hmac_secret: {name: mac}}";
    assert!(login("credentials", credentials).token_secret.is_none());
    let (_, ledger) = good(&config("", "auth_type: TLS_CLIENT_AUTH"));
    assert!(ledger.inert.iter().any(|(path, _)| path.ends_with("credentials.token_secret")), "{ledger:?}");
}

#[test]
fn a_filter_may_leave_all_to_routes() {
    let manager = manager(&bootstrap(""));
    assert!(matches!(manager.filters[0].kind, HttpFilterKind::OAuth2(None)));
}

#[test]
fn what_is_missing_is_told_by_its_path() {
    for (field, _) in NEEDED {
        let problems = bad(&config(field, ""));
        let wanted = format!("{AT}.config.{field}");
        assert!(problems.iter().any(|problem| problem.starts_with(&wanted)), "{wanted}: {problems:#?}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_path() {
    let credentials =
        |more: &str| format!("credentials: {{client_id: me, token_secret: {{name: token}}, {more}}}");
    for (without, more, path, why) in [
        ("", "auth_type: PRIVATE_KEY_JWT".to_owned(), "auth_type", "not supported"),
        ("", "private_key_jwt_config: {}".to_owned(), "private_key_jwt_config", "not supported"),
        ("", "end_session_endpoint: \"https://a.test\"".to_owned(), "end_session_endpoint", "openid"),
        ("", "forward_id_token: {header: host}".to_owned(), "forward_id_token.header", "may not carry"),
        ("", "retry_policy: {retry_on: reset}".to_owned(), "retry_policy.retry_on", "5xx"),
        (
            "authorization_endpoint",
            "authorization_endpoint: auth".to_owned(),
            "authorization_endpoint",
            "no URI",
        ),
        ("credentials", credentials("hmac_secret: {name: nobody}"), "credentials.hmac_secret.name", "nobody"),
        ("redirect_uri", "redirect_uri: \"%NONSENSE%\"".to_owned(), "redirect_uri", "NONSENSE"),
    ] {
        let problems = bad(&config(without, &more));
        let wanted = format!("{AT}.config.{path}");
        let told = |problem: &String| problem.starts_with(&wanted) && problem.contains(why);
        assert!(problems.iter().any(told), "{wanted} {why}: {problems:#?}");
    }
    let two = bad(&config("", "forward_bearer_token: true, preserve_authorization_header: true"));
    assert!(two.iter().any(|problem| problem.contains("only one may be set")), "{two:#?}");
}

#[test]
fn routes_have_secrets_of_the_bootstrap_alone() {
    let route = |settings: &str| {
        let said = format!(
            "typed_per_filter_config: {{f: {{\"@type\": {LOGIN}.OAuth2PerRoute, config: {{{settings}}}}}}}"
        );
        bootstrap("").replace("route: {cluster: c}}", &format!("route: {{cluster: c}}, {said}}}"))
    };
    good(&route(&settings("", "")));
    let source = "credentials: {client_id: me, token_secret: {name: token}, hmac_secret: {name: mac, sds_config: {path_config_source: {path: /x}}}}";
    let problems = bad(&route(&settings("credentials", source)));
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("credentials.hmac_secret.sds_config: secrets of routes")),
        "{problems:#?}"
    );
}
