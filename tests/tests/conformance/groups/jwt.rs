//! JSON Web Tokens.

#![expect(clippy::expect_used, reason = "without its tokens a group cannot be run")]

mod remote;
mod requirements;
mod tokens;
mod ways;

use outrider_tests::bootstrap::{access_log, indent};

pub(crate) use self::{remote::remote, requirements::requirements, tokens::tokens, ways::ways};
use crate::driver::{Case, Req, case, case::Act, get};

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3";
/// The year 2100.
const LATE: &str = "4102444800";
const NOTED: &str = "envoy.filters.http.jwt_authn";

/// A connection manager with the filter; what is noted, and how it ended, is in its log.
fn manager(name: &str, filter: &str, routes: &str) -> String {
    let log = format!(
        "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% sub=%DYNAMIC_METADATA({NOTED}:body:sub)% \
         scope=%DYNAMIC_METADATA({NOTED}:body:scope)% exp=%DYNAMIC_METADATA({NOTED}:body:exp)% alg=%DYNAMIC_METADATA({NOTED}:head:alg)% \
         code=%DYNAMIC_METADATA({NOTED}:failed:code)% why=%DYNAMIC_METADATA({NOTED}:failed:message)%"
    );
    format!(
        "stat_prefix: {name}\nhttp_filters:\n- name: jwt\n  typed_config:\n    \"@type\": {TYPE}.JwtAuthentication\n{}\
         - name: router\n  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n{}\
         route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
        indent(4, filter),
        access_log(&log),
        indent(4, routes)
    )
}

fn provider(name: &str, issuer: &str, set: &str, more: &str) -> String {
    let issuer = if issuer.is_empty() { String::new() } else { format!("issuer: {issuer}, ") };
    format!("  {name}: {{ {issuer}local_jwks: {{ inline_string: '{set}' }}{more} }}\n")
}

const TO_A: &str = "- match: { prefix: / }\n  route: { cluster: a }\n";

/// A route for each of these requirements.
fn routes(names: &[&str]) -> String {
    let one = |name: &&str| {
        format!(
            "- match: {{ prefix: /{name} }}\n  route: {{ cluster: a }}\n  typed_per_filter_config:\n    jwt: {{ \"@type\": {TYPE}.PerRouteConfig, requirement_name: \"{name}\" }}\n"
        )
    };
    names.iter().map(one).chain([TO_A.to_owned()]).collect()
}

fn bearer(path: &str, token: &str) -> Req {
    get(path).h("authorization", &format!("Bearer {token}"))
}

fn one(name: &str, listener: &str, request: Req) -> Case {
    many(name, listener, vec![request])
}

fn many(name: &str, listener: &str, requests: Vec<Req>) -> Case {
    let count = requests.len();
    let requests: Vec<Req> = requests.into_iter().map(|request| request.to(listener)).collect();
    let stats = ["allowed", "denied", "cors_preflight_bypassed", "jwt_cache_miss"]
        .map(|stat| format!("http.{listener}.jwt_authn.{stat}"));
    case(name, Act::from(requests)).stats(&stats.each_ref().map(String::as_str)).logs(count)
}

fn claims(more: &str) -> String {
    format!(r#"{{"iss":"iss","sub":"amy","exp":{LATE}{more}}}"#)
}
