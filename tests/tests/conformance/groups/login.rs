//! `envoy.filters.http.oauth2`: users who log in at an authorization server.
//!
//! The secret of all is `macsecret`, so sessions, nonces and verifiers of one proxy are those of the other; these here were made once.

use outrider_tests::{
    bootstrap::indent,
    reply::{Finish, Reply},
};

use crate::driver::{Case, Group, Req, case, case::Act, get, post, req};

const TYPE: &str = "type.googleapis.com/envoy.extensions";
/// Until 2100, with the access token `acc`, at `test.host`.
const SESSION: &str =
    "OauthHMAC=GiXUyNCgNbIZ0KstfYUqUvmo3C6TWNVjsmAsIeYfjNc=; OauthExpires=4102444800; BearerToken=acc";
/// The same, signed as older versions of Envoy did it.
const OLDER: &str = "OauthHMAC=MWEyNWQ0YzhkMGEwMzViMjE5ZDBhYjJkN2Q4NTJhNTJmOWE4ZGMyZTkzNThkNTYzYjI2MDJjMjFlNjFmOGNkNw==; OauthExpires=4102444800; BearerToken=acc";
/// With an ID token, for the domain `example.com`.
const DOMAIN: &str = "OauthHMAC=3sJOlXBQso2ARcEtbhAjSTZFATR7BnhhER2KbUPY+zo=; OauthExpires=4102444800; BearerToken=acc; IdToken=idt";
/// Over since 1970.
const OVER: &str = "OauthHMAC=xvnl3tT5jd4DYrwbLmGFYhe7mdxVVD+qMT7tTy6iO70=; OauthExpires=1; BearerToken=acc";
/// Without any token.
const BARE: &str = "OauthHMAC=E18HMHBbYlfpp1X72gQLGMxSDh4YmCz1zXtEM3xpiM8=; OauthExpires=4102444800";

const NONCE: &str =
    "OauthNonce.b42b65e6ceabff53=b42b65e6ceabff53.PPjHThWrbi8ivIiUzN1kQmF2ugVZjaMsiev1Jc4j07M=";
const OLD_NONCE: &str = "OauthNonce=b42b65e6ceabff53.PPjHThWrbi8ivIiUzN1kQmF2ugVZjaMsiev1Jc4j07M=";
const VERIFIER: &str = "CodeVerifier.b42b65e6ceabff53=99OVze-AMbcsjBr92sdnogyetzmIlIwRYdL_nftVZ83kPzHPMr7asvCY9RCa-QDPYPYJFzTufqJy6z06GOVH-w";
/// For `http://test.host/x?y=z`.
const STATE: &str = "eyJ1cmwiOiJodHRwOi8vdGVzdC5ob3N0L3g_eT16IiwiY3NyZl90b2tlbiI6ImI0MmI2NWU2Y2VhYmZmNTMuUFBqSFRoV3JiaThpdklpVXpOMWtRbUYydWdWWmphTXNpZXYxSmM0ajA3TT0iLCJmbG93X2lkIjoiYjQyYjY1ZTZjZWFiZmY1MyJ9";
/// For `http://test.host/callback?z`.
const LOOP: &str = "eyJ1cmwiOiJodHRwOi8vdGVzdC5ob3N0L2NhbGxiYWNrP3oiLCJjc3JmX3Rva2VuIjoiYjQyYjY1ZTZjZWFiZmY1My5QUGpIVGhXcmJpOGl2SWlVek4xa1FtRjJ1Z1ZaamFNc2lldjFKYzRqMDdNPSIsImZsb3dfaWQiOiJiNDJiNjVlNmNlYWJmZjUzIn0";
/// For `nourl`.
const NO_URL: &str = "eyJ1cmwiOiJub3VybCIsImNzcmZfdG9rZW4iOiJiNDJiNjVlNmNlYWJmZjUzLlBQakhUaFdyYmk4aXZJaVV6TjFrUW1GMnVnVlpqYU1zaWV2MUpjNGowN009IiwiZmxvd19pZCI6ImI0MmI2NWU2Y2VhYmZmNTMifQ";
/// For `http://evil.test/`.
const EVIL: &str = "eyJ1cmwiOiJodHRwOi8vZXZpbC50ZXN0LyIsImNzcmZfdG9rZW4iOiJiNDJiNjVlNmNlYWJmZjUzLlBQakhUaFdyYmk4aXZJaVV6TjFrUW1GMnVnVlpqYU1zaWV2MUpjNGowN009IiwiZmxvd19pZCI6ImI0MmI2NWU2Y2VhYmZmNTMifQ";
/// Its token is not signed.
const UNSIGNED: &str = "eyJ1cmwiOiJodHRwOi8vdGVzdC5ob3N0L3giLCJjc3JmX3Rva2VuIjoiYjQyYjY1ZTZjZWFiZmY1My5BQUFBIiwiZmxvd19pZCI6ImI0MmI2NWU2Y2VhYmZmNTMifQ";

const TOKENS: &str = r#"{"access_token":"acc","id_token":"idt","refresh_token":"ref","expires_in":100}"#;

/// The connection manager `name` with the filter; what routes say of it is at `/off` and `/other`.
fn manager(name: &str, settings: &str, credentials: &str) -> String {
    let config = |settings: &str| {
        format!(
            "token_endpoint: {{ cluster: auth, uri: \"http://auth.test/token?x=1\", timeout: 1s }}\n\
             authorization_endpoint: \"https://auth.test:444/authz?a=b&state=old\"\n\
             redirect_uri: \"%REQ(:scheme)%://%REQ(:authority)%/callback\"\n\
             redirect_path_matcher: {{ path: {{ exact: /callback }} }}\nsignout_path: {{ path: {{ exact: /signout }} }}\n\
             credentials:\n  client_id: \"me:1\"\n  token_secret: {{ name: tok }}\n  hmac_secret: {{ name: mac }}\n{}{settings}",
            indent(2, credentials)
        )
    };
    let other = indent(12, &config("auth_scopes: [ other ]\nstat_prefix: other\n"));
    format!(
        "stat_prefix: {name}\nhttp_filters:\n- name: login\n  typed_config:\n    \"@type\": {TYPE}.filters.http.oauth2.v3.OAuth2\n    config:\n{}\
         - name: router\n  typed_config: {{ \"@type\": {TYPE}.filters.http.router.v3.Router }}\n\
         route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - match: {{ prefix: /off }}\n      route: {{ cluster: a }}\n      \
         typed_per_filter_config: {{ login: {{ \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }} }}\n    \
         - match: {{ prefix: /other }}\n      route: {{ cluster: a }}\n      typed_per_filter_config:\n        login:\n          \
         \"@type\": {TYPE}.filters.http.oauth2.v3.OAuth2PerRoute\n          config:\n{other}    \
         - match: {{ prefix: / }}\n      route: {{ cluster: a }}\n",
        indent(6, &config(settings))
    )
}

fn group(name: &'static str) -> Group {
    let settings = [
        ("plain", "", ""),
        (
            "oidc",
            "auth_scopes: [ openid, \"a b\" ]\nresources: [ res, \"http://example.com/x?y\" ]\nforward_bearer_token: true\n\
             end_session_endpoint: \"https://auth.test/end\"\nstat_prefix: mine\nforward_id_token: { header: x-id }\n",
            "",
        ),
        (
            "domain",
            "auth_type: BASIC_AUTH\npreserve_authorization_header: true\ndisable_token_encryption: true\ndefault_expires_in: 77s\n\
             csrf_token_expires_in: 5.9s\nallowed_redirect_domains: [ Test.host, \"*.b.test\" ]\nuse_refresh_token: false\n\
             cookie_configs: { bearer_token_cookie_config: { same_site: STRICT, path: /b, partitioned: true }, oauth_nonce_cookie_config: { same_site: NONE, path: /n } }\n",
            "cookie_domain: example.com\n",
        ),
        (
            "matched",
            "deny_redirect_matcher: [ { name: x-deny, present_match: true } ]\nallow_failed_matcher: [ { name: x-allow, present_match: true } ]\n\
             pass_through_matcher: [ { name: x-pass, present_match: true } ]\ndisable_access_token_set_cookie: true\ndisable_id_token_set_cookie: true\n\
             disable_refresh_token_set_cookie: true\n",
            "cookie_names: { bearer_token: BT, oauth_hmac: Mac, oauth_nonce: __Host-N }\n",
        ),
        ("certificate", "auth_type: TLS_CLIENT_AUTH\noriginal_request_uri: \"https://%REQ(x-host)%\"\n", ""),
    ];
    let group = Group::new(name).upstreams(&["a", "auth"]).with(|b| {
        b.secret("tok", "generic_secret: { secret: { inline_string: \"hush&=\" } }\n")
            .secret("mac", "generic_secret: { secret: { inline_string: macsecret } }\n")
    });
    settings.iter().fold(group, |group, (name, settings, credentials)| {
        group.http(name, &manager(name, settings, credentials))
    })
}

/// A request to a listener, with what the filter counts of it. What Envoy's own client adds to its questions is not told.
fn one(name: &str, listener: &str, requests: &[Req]) -> Case {
    let requests: Vec<Req> = requests.iter().map(|request| request.clone().to(listener)).collect();
    let prefix = if listener == "oidc" { "oidc.mine" } else { listener };
    let stats = [
        "allow_failed_passthrough",
        "failure",
        "passthrough",
        "refreshtoken_failure",
        "refreshtoken_success",
        "success",
        "unauthorized_rq",
    ]
    .map(|stat| format!("http.{prefix}.oauth_{stat}"));
    case(name, Act::from(requests)).stats(&stats.each_ref().map(String::as_str)).ignore("auth header x-")
}

fn with(path: &str, cookies: &[&str]) -> Req {
    get(path).h("cookie", &cookies.join("; "))
}

/// Requests with a session, without one, with one that is renewed, and with one that ends.
pub(crate) fn sessions() -> Group {
    let refresh = |token: &str| format!("RefreshToken={token}");
    let renewed = |name: &str, reply: Reply| {
        one(name, "plain", &[with("/x", &[&refresh("r1")])]).reply(reply).reply(Reply::text("app"))
    };
    let cases = vec![
        one("sent to log in", "plain", &[get("/x?y=z&q=%20")]),
        one("sent to log in, with scopes and resources", "oidc", &[get("/x")]),
        one("sent to log in, with attributes of cookies", "domain", &[get("/x")]),
        one("sent to log in, with names of cookies", "matched", &[get("/x")])
            .ignore("__Host-N")
            .ignore("Nonce"),
        one("sent to log in from a POST", "plain", &[post("/x", "body")]),
        one("sent to log in from OPTIONS", "plain", &[req("OPTIONS", "/x")]),
        one("sent to log in, for another host", "certificate", &[get("/x").h("x-host", "other.test")]),
        one("sent to log in, for no host", "certificate", &[get("/x")]),
        one("a host that is not allowed", "domain", &[get("/x").host("evil.test")]),
        one("a host below one that is allowed", "domain", &[get("/x").host("x.b.test:80")]),
        one("a host below one, in capitals", "domain", &[get("/x").host("x.B.test")]),
        one("a session", "plain", &[with("/x", &[SESSION]).h("authorization", "Bearer mine")]),
        one("a session, signed as before", "plain", &[with("/x", &[OLDER])]),
        one("a session of no token", "plain", &[with("/x", &[BARE])]),
        one(
            "a session and the cookies of logins",
            "plain",
            &[with("/x", &[SESSION, "OauthNonce.1=x; CodeVerifier=y; OauthNonce=z"])],
        ),
        one(
            "a session whose token goes upstream",
            "oidc",
            &[with("/x", &[SESSION]).h("authorization", "Bearer mine").h("x-id", "spoof")],
        ),
        one("a session of a domain", "domain", &[with("/x", &[DOMAIN.trim_end_matches("; IdToken=idt")])]),
        one("a session of another host", "plain", &[with("/x", &[SESSION]).host("other.host")]),
        one("a session that is over", "plain", &[with("/x", &[OVER])]),
        one("a session of another token", "plain", &[with("/x", &[&SESSION.replace("=acc", "=acd")])]),
        one(
            "what upstreams are told comes from nobody else",
            "plain",
            &[with("/x", &[SESSION]).h("x-envoy-oauth-status", "a").h("x-envoy-oauth-failure-reason", "b")],
        ),
        one("off", "plain", &[get("/off").h("authorization", "mine")]),
        one("a route of its own", "plain", &[get("/other")]).stats(&["other.oauth_unauthorized_rq"]),
        one(
            "passes through",
            "matched",
            &[get("/x").h("x-pass", "").h("authorization", "mine").h("cookie", "OauthExpires=1")],
        ),
        one("goes on without", "matched", &[get("/x").h("x-allow", "").h("authorization", "mine")]),
        one(
            "goes on without its cookies",
            "matched",
            &[with("/x?q", &["a=b; BT=x; Mac=y; __Host-N.1=z"]).h("x-allow", "")],
        ),
        one("is not sent to log in", "matched", &[get("/x").h("x-deny", "")]),
        one("goes on rather than not", "matched", &[get("/x").h("x-deny", "").h("x-allow", "")]),
        renewed("renewed", Reply::text(r#"{"access_token":"new","expires_in":100}"#)),
        renewed("renewed with all tokens", Reply::text(TOKENS)).ignore("a header cookie"),
        renewed("not renewed", Reply::status(500)),
        renewed("renewed with garbage", Reply::text("garbage")).ignore("log "),
        renewed("renewed without a token", Reply::text(r#"{"expires_in":100}"#)).ignore("log "),
        one("not renewed, goes on", "matched", &[with("/x", &[&refresh("r")]).h("x-allow", "")])
            .reply(Reply::status(500))
            .reply(Reply::text("app")),
        one("not renewed, is not sent to log in", "matched", &[with("/x", &[&refresh("r")]).h("x-deny", "")])
            .reply(Reply::status(400)),
        one("not renewed where nothing is", "domain", &[with("/x", &[&refresh("r")])]),
        one("what renews is encoded", "certificate", &[with("/x", &[&refresh("a:/=&?+~")])])
            .reply(Reply::status(400)),
        one("signed out", "plain", &[get("/signout"), get("/signout?x=y")]),
        one(
            "signed out of a login",
            "plain",
            &[with("/signout", &["OauthNonce.1=a", "x=y", "OauthNonce.=a"])],
        ),
        one("signed out at the server", "oidc", &[with("/signout", &["IdToken=idt"])]),
        one("signed out of a domain", "domain", &[with("/signout", &[DOMAIN])]),
        one("signed out of __Host-", "matched", &[with("/signout", &["__Host-N.1=a"])]),
    ];
    group("oauth2 sessions").cases(cases)
}

/// Users who come back.
pub(crate) fn returns() -> Group {
    let back = |query: &str| format!("/callback?{query}");
    let good = || with(&back(&format!("code=c%201&state={STATE}")), &[NONCE, VERIFIER]);
    let answered = |name: &str, body: &str| one(name, "plain", &[good()]).reply(Reply::text(body));
    let of = |name: &str, state: &str, cookies: &[&str]| {
        one(name, "plain", &[with(&back(&format!("code=c&state={state}")), cookies)])
    };
    let cases = vec![
        answered("logged in", TOKENS),
        answered("logged in for seconds in a text", r#"{"access_token":"acc","expires_in":"100"}"#),
        answered("logged in in camel case", r#"{"accessToken":"acc","idToken":"idt","expiresIn":100}"#),
        answered("logged in with an empty token", r#"{"access_token":"","expires_in":100}"#),
        one("logged in with a certificate", "certificate", &[good()]).reply(Reply::text(TOKENS)),
        one("logged in with basic", "domain", &[good()]).reply(Reply::text(TOKENS)),
        one("logged in for the time by default", "domain", &[good()])
            .reply(Reply::text(r#"{"access_token":"acc"}"#)),
        answered("no time", r#"{"access_token":"acc"}"#).ignore("log "),
        answered("less than no time", r#"{"access_token":"acc","expires_in":-1}"#).ignore("log "),
        answered("no token", r#"{"expires_in":100}"#).ignore("log "),
        answered("a number for a token", r#"{"access_token":5,"expires_in":100}"#).ignore("log "),
        answered("garbage", "garbage").ignore("log "),
        answered("nothing", "").ignore("log "),
        one("an error of the endpoint", "plain", &[good()]).reply(Reply::status(400)).ignore("log "),
        one("an accepted code", "plain", &[good()]).reply(Reply::status(201)).ignore("log "),
        one("an ill endpoint", "plain", &[good()]).reply(Reply::status(500)).ignore("log "),
        one("a silent endpoint", "plain", &[good()])
            .reply(Reply::status(0).finish(Finish::Silence))
            .ignore("log "),
        one("an endpoint that closes", "plain", &[good()])
            .reply(Reply::status(0).finish(Finish::CloseFirst))
            .ignore("log "),
        one(
            "an error of the server",
            "plain",
            &[with(&back(&format!("error=denied&state={STATE}&b=1")), &[NONCE])],
        ),
        one("an error of the server, of nobody", "plain", &[get(&back("error=denied"))]),
        one("no code", "plain", &[get(&back("state=x")), get("/callback")]),
        one("no state", "plain", &[get(&back("code=x"))]),
        of("a state that is none", "%%%", &[]),
        of("a state that is a list", "WzFd", &[]),
        of("a state without a token", "eyJ1cmwiOiJhIn0", &[]),
        of("a state of numbers", "eyJ1cmwiOjEsImNzcmZfdG9rZW4iOjJ9", &["OauthNonce=2"]),
        of("no nonce", STATE, &[VERIFIER]),
        of("another nonce", STATE, &["OauthNonce.b42b65e6ceabff53=other", VERIFIER]),
        of("a nonce that is not signed", UNSIGNED, &["OauthNonce=b42b65e6ceabff53.AAAA", VERIFIER]),
        of("no verifier", STATE, &[OLD_NONCE]),
        of("a verifier that is too short", STATE, &[NONCE, "CodeVerifier=abcd"]),
        of("a verifier of another secret", STATE, &[NONCE, &format!("CodeVerifier={}", "A".repeat(64))]),
        of("no URL", NO_URL, &[NONCE, VERIFIER]),
        one(
            "a URL that is not allowed",
            "domain",
            &[with(&back(&format!("code=c&state={EVIL}")), &[NONCE, VERIFIER])],
        ),
        one("nobody goes on from here", "matched", &[get("/callback").h("x-allow", "").h("x-deny", "")]),
        of("back again", STATE, &[SESSION, NONCE]),
        of("back again, and again", LOOP, &[SESSION, NONCE]),
        one("back again without a state", "plain", &[with("/callback?code=a", &[SESSION])]),
    ];
    group("oauth2 returns").cases(cases)
}
