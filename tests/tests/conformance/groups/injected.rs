//! Credentials that requests get on their way.

use outrider_tests::bootstrap::indent;

use crate::driver::{Case, Group, Req, case, case::Act, get};

const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// A connection manager with an injector; the filter is off at `/off`.
fn manager(settings: &str, credential: &str) -> String {
    format!(
        "http_filters:\n- name: injector\n  typed_config:\n    \"@type\": {TYPE}.filters.http.credential_injector.v3.CredentialInjector\n{}    \
         credential:\n      name: credential\n      typed_config: {{ {credential} }}\n\
         - name: router\n  typed_config: {{ \"@type\": {TYPE}.filters.http.router.v3.Router }}\n\
         route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - match: {{ prefix: /off }}\n      route: {{ cluster: a }}\n      \
         typed_per_filter_config: {{ injector: {{ \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }} }}\n    \
         - match: {{ prefix: /direct }}\n      direct_response: {{ status: 200, body: {{ inline_string: here }} }}\n    \
         - match: {{ prefix: / }}\n      route: {{ cluster: a }}\n",
        indent(4, settings)
    )
}

fn generic(secret: &str, more: &str) -> String {
    format!(
        "\"@type\": {TYPE}.http.injected_credentials.generic.v3.Generic, credential: {{ name: {secret} }}{more}"
    )
}

/// Requests to a listener, with what the injector counts of them.
fn one(name: &str, listener: &str, requests: &[Req]) -> Case {
    let requests: Vec<Req> = requests.iter().map(|request| request.clone().to(listener)).collect();
    let stats = ["injected", "failed", "already_exists"]
        .map(|stat| format!("http.{listener}.credential_injector.{stat}"));
    case(name, Act::from(requests)).stats(&stats.each_ref().map(String::as_str))
}

/// `envoy.http.injected_credentials.generic`
pub(crate) fn generic_secrets() -> Group {
    let mine = || get("/").h("authorization", "mine");
    let inline = |text: &str| format!("generic_secret: {{ secret: {{ inline_string: {text:?} }} }}\n");
    let listeners = [
        ("plain", "", generic("token", "")),
        ("over", "overwrite: true\n", generic("token", "")),
        ("prefixed", "", generic("token", ", header_value_prefix: \"Bearer \"")),
        ("named", "overwrite: true\n", generic("token", ", header: X-Api-Key, header_value_prefix: \"k=\"")),
        ("host", "overwrite: true\n", generic("token", ", header: host")),
        ("empty", "", generic("nothing", ", header_value_prefix: \"Bearer \"")),
        ("empty-over", "overwrite: true\n", generic("nothing", "")),
        ("allowed", "allow_request_without_credential: true\n", generic("nothing", "")),
        ("allowed-over", "allow_request_without_credential: true\noverwrite: true\n", generic("nothing", "")),
        ("bytes", "", generic("bytes", "")),
    ];
    let cases = vec![
        one("injected", "plain", &[get("/"), get("/x?y=z")]),
        one("there already", "plain", &[mine()]),
        one("there already, and empty", "plain", &[get("/").h("authorization", "")]),
        one("overwritten", "over", &[mine()]),
        one("overwritten twice", "over", &[mine().h("x", "y").h("authorization", "other")]),
        one("prefix", "prefixed", &[get("/"), mine()]),
        one("another header", "named", &[get("/"), get("/").h("x-api-key", "mine"), mine()]),
        one("the host", "host", &[get("/")]),
        one("bytes", "bytes", &[get("/")]),
        one("off", "plain", &[get("/off")]),
        one("direct response", "plain", &[get("/direct")]),
        one("none there", "empty", &[get("/"), mine()]),
        one("none there for a direct response", "empty", &[get("/direct")]),
        one("none there to overwrite with", "empty-over", &[get("/"), mine()]),
        one("none there, allowed", "allowed", &[get("/"), mine()]),
        one("none there, allowed to overwrite with", "allowed-over", &[get("/"), mine()]),
    ];
    let group = Group::new("injected credentials").upstreams(&["a"]).with(|b| {
        b.secret("token", &inline("s3cret"))
            .secret("nothing", &inline(""))
            .secret("bytes", "generic_secret: { secret: { inline_bytes: c2VjcmV0 } }\n")
    });
    let add = |group: Group, (name, settings, credential): (&str, &str, String)| {
        group.http(name, &manager(settings, &credential))
    };
    listeners.into_iter().fold(group, add).cases(cases)
}
