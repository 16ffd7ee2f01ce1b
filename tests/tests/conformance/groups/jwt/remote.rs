//! Keys that are fetched. All upstreams answer alike: with keys, or what stands in their place.

use outrider_tests::jwt::Keys;
use outrider_tests::reply::{Finish, Reply};

use super::{LATE, bearer, manager, many, routes};
use crate::driver::{Case, Group, get};

/// Fetched keys: once, each time, again.
pub(crate) fn remote() -> Group {
    let keys = Keys::new().expect("keys");
    let set = keys.set().expect("a set");
    let good = keys.token("ES256", &format!(r#"{{"iss":"iss","sub":"amy","exp":{LATE}}}"#)).expect("a token");
    let expired = keys.token("ES256", r#"{"iss":"iss","exp":1000}"#).expect("a token");
    let other = keys.token("ES256", r#"{"iss":"other"}"#).expect("a token");
    let unknown =
        keys.with_header("ES256", r#"{"alg":"ES256","kid":"new"}"#, r#"{"iss":"iss"}"#).expect("a token");
    let whose = keys.token("ES256", r#"{"iss":"who"}"#).expect("a token");
    let provider = |name: &str, cluster: &str, more: &str| {
        format!(
            "  {name}: {{ issuer: iss, forward: true, remote_jwks: {{ http_uri: {{ uri: \"http://keys.test:81/{name}?x=1\", cluster: {cluster}, timeout: 5s }}, {more} }} }}\n"
        )
    };
    let retry =
        "retry_policy: { num_retries: 2, retry_back_off: { base_interval: 0.001s, max_interval: 5s } }";
    let each = "cache_duration: 0.5s";
    let providers = [
        provider("once", "keys", "cache_duration: 1000s"),
        provider("each", "keys", each),
        provider("again", "keys", &format!("{each}, {retry}")),
        provider("nowhere", "nowhere", each),
        provider("nobody", "nobody", each),
        provider("whose", "keys", each).replace("issuer: iss", "issuer: who"),
    ];
    let names = ["once", "each", "again", "nowhere", "nobody"];
    let map: String = names.iter().map(|name| format!("  {name}: {{ provider_name: {name} }}\n")).collect();
    let map = map
        + "  both: { requires_all: { requirements: [ { provider_name: each }, { provider_name: again } ] } }\n  \
           any: { requires_any: { requirements: [ { provider_name: nowhere }, { provider_name: each } ] } }\n  \
           whoever: { allow_missing_or_failed: {} }\n";
    let filter = format!("providers:\n{}requirement_map:\n{map}", providers.concat());
    let all: Vec<&str> = names.into_iter().chain(["both", "any", "whoever"]).collect();
    let tokens = |path: &str, tokens: &[&str]| -> Vec<_> {
        tokens.iter().map(|token| bearer(&format!("/{path}"), token)).collect()
    };
    let good = good.as_str();
    let fetching = |name: &str, requests: Vec<_>, replies: &[Reply]| -> Case {
        let stats = ["http.main.jwt_authn.jwks_fetch_success", "http.main.jwt_authn.jwks_fetch_failed"];
        let case = many(name, "main", requests).stats(&stats);
        // What Envoy's own client adds to a request, and how it frames one that it repeats.
        let case = case
            .ignore("keys header user-agent")
            .ignore("keys header x-")
            .ignore("keys header transfer-encoding");
        let case = case.ignore("keys body");
        replies.iter().fold(case, |case, reply| case.reply(reply.clone()))
    };
    let text = Reply::text(&set);
    let cases = vec![
        fetching("no token", vec![get("/once"), get("/once").h("authorization", "Bearer x")], &[]),
        fetching("tokens that are bad anyway", tokens("once", &[&expired, &other]), &[]),
        fetching("kept", tokens("once", &[good, good, &unknown]), std::slice::from_ref(&text)),
        fetching("each time", tokens("each", &[good, good]), std::slice::from_ref(&text)),
        fetching("no keys", tokens("each", &[good]), &[Reply::text("keys")]),
        fetching("none that can be used", tokens("each", &[good]), &[Reply::text(r#"{"keys":[]}"#)]),
        fetching("another status", tokens("each", &[good]), &[Reply::status(204)]),
        fetching("not found", tokens("each", &[good]), &[Reply::status(404).body("none")]),
        fetching("failure", tokens("each", &[good]), &[Reply::status(503)]),
        fetching("a reset", tokens("each", &[good]), &[Reply::status(200).finish(Finish::ResetFirst)]),
        fetching("half an answer", tokens("each", &[good]), &[Reply::text(&set).finish(Finish::Close(20))]),
        fetching(
            "tried again",
            tokens("again", &[good]),
            &[Reply::status(503), Reply::status(503), text.clone()],
        ),
        fetching("tried too often", tokens("again", &[good]), &[Reply::status(503)]),
        fetching("not tried again", tokens("again", &[good]), &[Reply::status(404)]),
        // Which of the two is asked first is nobody's business.
        fetching("two providers", tokens("both", &[good]), std::slice::from_ref(&text))
            .ignore("keys HTTP/1.1 GET"),
        fetching("one of two", tokens("any", &[good]), std::slice::from_ref(&text)),
        fetching("whoever", tokens("whoever", &[&whose]), std::slice::from_ref(&text)),
        fetching("no cluster", tokens("nowhere", &[good]), &[]),
        fetching("no host", tokens("nobody", &[good]), &[]),
    ];
    Group::new("jwt remote keys")
        .upstreams(&["a", "keys"])
        .upstream("nobody", None, None)
        .with(|b| b.hosts("nobody", &["nobody"], ""))
        .http("main", &manager("main", &filter, &routes(&all)))
        .cases(cases)
}
