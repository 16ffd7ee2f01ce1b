//! Which tokens are good.

use std::time::SystemTime;

use outrider_tests::jwt::{Keys, base64};

use super::{LATE, TO_A, bearer, claims, manager, many, one, provider};
use crate::driver::{Group, get};

/// Which tokens are good.
pub(crate) fn tokens() -> Group {
    let keys = Keys::new().expect("keys");
    let set = keys.set().expect("a set");
    let good = claims("");
    let by = |algorithm: &str, claims: &str| keys.token(algorithm, claims).expect("a token");
    let headed = |algorithm: &str, header: &str, claims: &str| {
        keys.with_header(algorithm, header, claims).expect("a token")
    };
    let mut cases = Vec::new();
    for algorithm in [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256",
        "HS384", "HS512",
    ] {
        cases.push(one(algorithm, "main", bearer("/x", &by(algorithm, &good))));
    }
    let of_text = |header: &str, payload: &str| {
        format!("{}.{}.{}", base64(header.as_bytes()), base64(payload.as_bytes()), base64(b"signature"))
    };
    let es = r#"{"alg":"ES256"}"#;
    let parts: Vec<String> = by("ES256", &good).split('.').map(str::to_owned).collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let in_a_month = now + 30 * 86_400;
    let bad = [
        ("its key's id", headed("ES256", r#"{"alg":"ES256","kid":"p256"}"#, &good)),
        ("no such key", headed("ES256", r#"{"alg":"ES256","kid":"nobody"}"#, &good)),
        ("another key's id", headed("ES256", r#"{"alg":"ES256","kid":"rsa"}"#, &good)),
        ("an empty id", headed("ES256", r#"{"alg":"ES256","kid":""}"#, &good)),
        ("an id that is no text", headed("ES256", r#"{"alg":"ES256","kid":7}"#, &good)),
        ("no algorithm", headed("none", r#"{"alg":"none"}"#, &good) + "AA"),
        ("no algorithm and no signature", headed("none", r#"{"alg":"none"}"#, &good)),
        ("an unknown algorithm", headed("ES256", r#"{"alg":"ES257"}"#, &good)),
        ("an algorithm that is no text", headed("ES256", r#"{"alg":1}"#, &good)),
        ("no alg", headed("ES256", "{}", &good)),
        ("the algorithm twice", headed("ES256", r#"{"alg":"ES256","alg":"ES256"}"#, &good)),
        ("HMAC by a public key", headed("HS256", r#"{"alg":"HS256","kid":"rsa"}"#, &good)),
        ("RSA where HMAC is said", headed("RS256", r#"{"alg":"HS256"}"#, &good)),
        ("by a stranger", keys.by_a_stranger(&good).expect("a token")),
        ("another payload", format!("{}.{}.{}", parts[0], base64(claims(r#","x":1"#).as_bytes()), parts[2])),
        ("a short signature", format!("{}.{}.AAAA", parts[0], parts[1])),
        ("a short signature of Ed25519", {
            let text = by("EdDSA", &good);
            text.rsplit_once('.').map(|(rest, _)| format!("{rest}.AAAA")).expect("three parts")
        }),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{}.{}.{}.AAAA", parts[0], parts[1], parts[2])),
        ("a dot too many", format!("{}..{}.{}", parts[0], parts[1], parts[2])),
        ("a last dot", format!("{}.{}.{}.", parts[0], parts[1], parts[2])),
        ("padding", format!("{}.{}.{}", parts[0], parts[1], parts[2]) + "=="),
        ("no base64 in the header", format!("{}*.{}.{}", parts[0], parts[1], parts[2])),
        ("no base64 in the payload", format!("{}.{}*.{}", parts[0], parts[1], parts[2])),
        ("no base64 in the signature", format!("{}.{}.{}*", parts[0], parts[1], parts[2])),
        ("a header that is no JSON", of_text("{", &good)),
        ("a header that is a list", of_text("[]", &good)),
        ("a payload that is no JSON", of_text(es, "{\"iss\"")),
        ("a payload that is text", of_text(es, "\"iss\"")),
        ("a payload with more behind it", headed("ES256", es, &(good.clone() + " x"))),
        ("an issuer that is no text", by("ES256", r#"{"iss":1}"#)),
        ("an issuer that is null", by("ES256", r#"{"iss":null}"#)),
        ("the issuer twice", by("ES256", r#"{"iss":"iss","iss":"iss"}"#)),
        ("another issuer", by("ES256", r#"{"iss":"other"}"#)),
        ("no issuer", by("ES256", "{}")),
        ("a subject that is no text", by("ES256", r#"{"iss":"iss","sub":["a"]}"#)),
        ("an iat that is text", by("ES256", r#"{"iss":"iss","iat":"1"}"#)),
        ("an iat that is negative", by("ES256", r#"{"iss":"iss","iat":-1}"#)),
        ("an nbf that is text", by("ES256", r#"{"iss":"iss","nbf":"1"}"#)),
        ("an nbf that is too large", by("ES256", r#"{"iss":"iss","nbf":1e30}"#)),
        ("an exp that is text", by("ES256", r#"{"iss":"iss","exp":"1"}"#)),
        ("an exp that is negative", by("ES256", r#"{"iss":"iss","exp":-1}"#)),
        ("an exp with a fraction", by("ES256", &format!(r#"{{"iss":"iss","exp":{LATE}.5}}"#))),
        ("an exp of nothing", by("ES256", r#"{"iss":"iss","exp":0}"#)),
        ("a jti that is no text", by("ES256", r#"{"iss":"iss","jti":1}"#)),
        ("an aud that is a number", by("ES256", r#"{"iss":"iss","aud":1}"#)),
        ("an aud with a number", by("ES256", r#"{"iss":"iss","aud":["a",1]}"#)),
        ("not yet valid", by("ES256", &format!(r#"{{"iss":"iss","nbf":{LATE}}}"#))),
        ("expired", by("ES256", r#"{"iss":"iss","exp":1000}"#)),
        ("expired within the skew", by("ES256", &format!(r#"{{"iss":"iss","exp":{}}}"#, now - 10))),
        ("valid within the skew", by("ES256", &format!(r#"{{"iss":"iss","nbf":{}}}"#, now + 30))),
        ("issued in the future", by("ES256", &format!(r#"{{"iss":"iss","iat":{in_a_month}}}"#))),
    ];
    cases.extend(bad.iter().map(|(name, token)| one(name, "main", bearer("/x?y=1", token))));
    cases.push(one("no token", "main", get("/x?y=1")));
    cases.push(one("another scheme", "main", get("/x").h("authorization", "Basic YTpi")));
    cases.push(one("a scheme alone", "main", get("/x").h("authorization", "Bearer ")));
    cases.push(one(
        "a scheme in small letters",
        "main",
        get("/x").h("authorization", &format!("bearer {}", by("ES256", &good))),
    ));
    cases.push(one("a long path", "main", get(&format!("/{}", "x".repeat(300)))));
    cases.push(many(
        "one after the other",
        "main",
        vec![bearer("/a", &by("ES256", &good)), bearer("/b", "x"), bearer("/c", &by("RS256", &good))],
    ));
    let plain = |set: &str| {
        format!(
            "providers:\n{}rules: [ {{ match: {{ prefix: / }}, requires: {{ provider_name: p }} }} ]\n",
            provider("p", "iss", set, "")
        )
    };
    Group::new("jwt tokens").upstreams(&["a"]).http("main", &manager("main", &plain(&set), TO_A)).cases(cases)
}
