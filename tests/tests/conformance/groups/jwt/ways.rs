//! Where tokens are, and what becomes of them.

use std::time::SystemTime;

use outrider_tests::jwt::Keys;

use super::{LATE, bearer, manager, many, one, provider, routes};
use crate::driver::{Case, Group, get};

/// Where tokens are, and what becomes of them.
pub(crate) fn ways() -> Group {
    let keys = Keys::new().expect("keys");
    let set = keys.set().expect("a set");
    let by = |claims: &str| keys.token("ES256", claims).expect("a token");
    let rich = by(&format!(
        r#"{{"iss":"iss","sub":"amy","exp":{LATE},"n":12,"f":1.5,"neg":-3,"b":true,"z":null,"e":"","o":{{"in":{{"x":"deep"}}}},"l":["a",1],"a.b":"dotted","scope":"read  write"}}"#
    ));
    let header = |name: &str, claim: &str| format!("{{ header_name: {name}, claim_name: {claim} }}");
    let out = [
        header("x-sub", "sub"),
        header("x-n", "\"n\""),
        header("x-f", "\"f\""),
        header("x-neg", "neg"),
        header("x-b", "b"),
        header("x-z", "z"),
        header("x-e", "\"e\""),
        header("x-deep", "o.in.x"),
        header("x-obj", "o"),
        header("x-list", "l"),
        header("x-none", "none"),
        header("x-below", "sub.x"),
        "{ header_name: x-dotted, claim_path: [ { key: a.b } ] }".to_owned(),
    ];
    let claims_out = format!(", claim_to_headers: [ {} ]", out.join(", "));
    let providers = [
        provider("plain", "iss", &set, ""),
        provider("kept", "iss", &set, ", forward: true"),
        provider("payload", "iss", &set, ", forward_payload_header: x-payload"),
        provider(
            "padded",
            "iss",
            &set,
            ", forward_payload_header: x-padded, pad_forward_payload_header: true",
        ),
        provider("claims", "iss", &set, &claims_out),
        provider(
            "headers",
            "iss",
            &set,
            ", from_headers: [ { name: x-t, value_prefix: \"T=\" }, { name: x-bare } ]",
        ),
        provider("params", "iss", &set, ", from_params: [ t, u ]"),
        provider("paramskept", "iss", &set, ", from_params: [ t ], forward: true"),
        provider("cookies", "iss", &set, ", from_cookies: [ t ]"),
        provider(
            "all",
            "iss",
            &set,
            ", from_headers: [ { name: x-t } ], from_params: [ t ], from_cookies: [ t ]",
        ),
        provider(
            "noted",
            "iss",
            &set,
            ", payload_in_metadata: body, header_in_metadata: head, failed_status_in_metadata: failed",
        ),
        provider(
            "words",
            "iss",
            &set,
            ", payload_in_metadata: body, normalize_payload_in_metadata: { space_delimited_claims: [ scope, sub, none ] }",
        ),
        provider(
            "routed",
            "iss",
            &set,
            ", claim_to_headers: [ { header_name: x-way, claim_name: sub } ], clear_route_cache: true",
        ),
        provider("aud", "iss", &set, ", audiences: [ \"https://one/\", two ]"),
        provider("subject", "iss", &set, ", subjects: { prefix: a }"),
        provider("ends", "iss", &set, ", require_expiration: true"),
        provider("soon", "iss", &set, ", max_lifetime: 3600s"),
        provider("skew", "iss", &set, ", clock_skew_seconds: 5"),
        provider("anyone", "", &set, ""),
        provider("cached", "iss", &set, ", jwt_cache_config: { jwt_cache_size: 10 }"),
    ];
    let names = [
        "plain",
        "kept",
        "payload",
        "padded",
        "claims",
        "headers",
        "paramskept",
        "params",
        "cookies",
        "all",
        "noted",
        "words",
        "routed",
        "aud",
        "subject",
        "ends",
        "soon",
        "skew",
        "anyone",
        "cached",
    ];
    let mut map: Vec<String> =
        names.iter().map(|name| format!("  {name}: {{ provider_name: {name} }}\n")).collect();
    map.push("  over: { provider_and_audiences: { provider_name: aud, audiences: [ three ] } }\n".to_owned());
    map.push("  under: { provider_and_audiences: { provider_name: aud } }\n".to_owned());
    let filter = format!("providers:\n{}requirement_map:\n{}", providers.concat(), map.concat());
    let all: Vec<&str> = names.into_iter().chain(["over", "under"]).collect();
    let ways = "- match: { prefix: /routed, headers: [ { name: x-way, string_match: { exact: amy } } ] }\n  route: { cluster: b }\n".to_owned();
    let with = |name: &str, more: &str| by(&format!(r#"{{"iss":"iss","sub":"{name}"{more}}}"#));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let cookie = |text: &str| get("/cookies").h("cookie", text);
    let mut cases: Vec<Case> =
        ["plain", "kept", "payload", "padded", "claims", "noted", "words", "routed", "anyone"]
            .iter()
            .map(|name| one(name, "main", bearer(&format!("/{name}"), &rich)))
            .collect();
    cases.push(one(
        "reserved headers",
        "main",
        bearer("/claims", &rich).h("x-sub", "root").h("x-none", "root").h("x-payload", "root"),
    ));
    cases.push(one(
        "reserved headers without a requirement",
        "main",
        get("/x").h("x-sub", "root").h("x-payload", "root"),
    ));
    cases.push(one("noted failure", "main", bearer("/noted", "x")));
    cases.push(one("noted absence", "main", get("/noted")));
    cases.push(many(
        "of several in a header",
        "main",
        vec![
            bearer("/plain", &rich).h("authorization", "Bearer x"),
            get("/plain").h("authorization", "Bearer x").h("authorization", &format!("Bearer {rich}")),
        ],
    ));
    cases.push(many(
        "headers",
        "main",
        vec![
            get("/headers").h("x-t", &format!("T={rich}")),
            get("/headers").h("x-t", &format!("a T= {rich}")),
            get("/headers").h("x-bare", &rich),
            get("/headers").h("x-t", &rich),
            get("/headers").h("x-bare", &rich).h("x-t", "T=x"),
            bearer("/headers", &rich),
        ],
    ));
    cases.push(many(
        "params",
        "main",
        vec![
            get(&format!("/params?b=2&t={rich}&a=1")),
            get(&format!("/params?u={rich}")),
            get(&format!("/params?t={}", rich.replace('.', "%2e"))),
            get(&format!("/params?t=x&t={rich}")),
            get("/params?t"),
            get("/params?t="),
            get(&format!("/paramskept?b=2&t={rich}&a=1")),
            get(&format!("/plain?access_token={rich}")),
        ],
    ));
    cases.push(many(
        "cookies",
        "main",
        vec![
            cookie(&format!("a=1; t={rich}; b=2")),
            cookie(&format!("t=\"{rich}\"")),
            cookie(&format!("t=x; t={rich}")),
            cookie("a=1"),
            cookie("t="),
        ],
    ));
    cases.push(many(
        "several places",
        "main",
        vec![
            get(&format!("/all?t={rich}")).h("x-t", &rich).h("cookie", &format!("t={rich}")),
            get(&format!("/all?t={rich}")).h("x-t", "x"),
            get("/all?t=x").h("x-t", &rich),
        ],
    ));
    for path in ["aud", "over", "under"] {
        let requests = [
            r#","aud":"one""#,
            r#","aud":"http://one""#,
            r#","aud":["x","https://two/"]"#,
            r#","aud":"three""#,
            r#","aud":[]"#,
            "",
        ];
        let requests = requests.map(|more| bearer(&format!("/{path}"), &with("amy", more)));
        cases.push(many(&format!("audiences, {path}"), "main", requests.into()));
    }
    cases.push(many(
        "subjects",
        "main",
        vec![
            bearer("/subject", &with("amy", "")),
            bearer("/subject", &with("bob", "")),
            bearer("/subject", &by(r#"{"iss":"iss"}"#)),
        ],
    ));
    cases.push(many("expirations", "main", vec![bearer("/ends", &with("amy", "")), bearer("/ends", &rich)]));
    let soon = [
        String::new(),
        format!(r#","exp":{LATE}"#),
        format!(r#","exp":{}"#, now + 600),
        format!(r#","exp":{}"#, now - 10),
    ];
    cases.push(many(
        "lifetimes",
        "main",
        soon.iter().map(|more| bearer("/soon", &with("amy", more))).collect(),
    ));
    cases.push(many(
        "a skew",
        "main",
        vec![
            bearer("/skew", &with("amy", &format!(r#","exp":{}"#, now - 30))),
            bearer("/skew", &with("amy", &format!(r#","nbf":{}"#, now + 40))),
        ],
    ));
    cases.push(one(
        "a bad subject in time that has no end",
        "main",
        bearer("/subject", &with("bob", r#","exp":1000"#)),
    ));
    cases.push(many(
        "any issuer",
        "main",
        vec![bearer("/anyone", &by(r#"{"iss":"x"}"#)), bearer("/anyone", &by("{}"))],
    ));
    cases.push(
        many("a cache", "main", vec![bearer("/cached", &rich), bearer("/cached", &rich)]).ignore("jwt_cache"),
    );
    Group::new("jwt ways")
        .upstreams(&["a", "b"])
        .http("main", &manager("main", &filter, &(ways + &routes(&all))))
        .cases(cases)
}
