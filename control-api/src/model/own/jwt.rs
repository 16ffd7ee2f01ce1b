//! Issuers of tokens in an `AuthorizationPolicy`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;

/// An issuer of tokens (JWT) that is believed. They are looked for in `Authorization: Bearer TOKEN`, and stay in the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwtIssuer {
    /// Who it is: the claim `iss`.
    pub issuer: String,
    /// Audiences one of which a token must be for. Default: any, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub audiences: Vec<String>,
    /// Its public keys: the text of a JSON Web Key Set. Either this or `jwksFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// Where proxies fetch its public keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_from: Option<JwksFrom>,
}

/// Where public keys are fetched: every proxy that the policy is for does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwksFrom {
    /// `Service` or `ExternalService`, in the namespace of the policy. For an issuer outside, an ExternalService with a port of protocol
    /// `HTTPS` has its host and how its certificate is verified.
    pub kind: JwksKind,
    /// Its name.
    pub name: String,
    /// Its port, one that speaks HTTP.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The path, as in `/.well-known/jwks.json`.
    pub path: String,
}

/// What serves public keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JwksKind {
    /// A Service.
    #[default]
    Service,
    /// An ExternalService.
    ExternalService,
}

/// What is wrong with an issuer by itself.
pub(super) fn issuer(mut at: Check<'_>, it: &JwtIssuer) {
    if it.issuer.is_empty() {
        at.field("issuer", "it is empty; give the claim iss of its tokens");
    }
    if it.audiences.iter().any(String::is_empty) {
        at.field("audiences", "one is empty");
    }
    match (&it.jwks, &it.jwks_from) {
        (Some(text), None) => {
            let keys = serde_json::from_str::<serde_json::Value>(text).ok();
            let keys = keys.as_ref().and_then(|it| it.get("keys")?.as_array());
            if keys.is_none_or(Vec::is_empty) {
                at.field("jwks", "it is no JSON Web Key Set with a key: {\"keys\": [...]}");
            }
        }
        (None, Some(from)) => {
            let mut at = at.at("jwksFrom");
            at.name("name", &from.name);
            at.range("port", Some(from.port), 1, u16::MAX);
            if http::uri::PathAndQuery::try_from(from.path.as_str()).is_err() || !from.path.starts_with('/') {
                at.field("path", format!("{:?} is no path; it starts with /", from.path));
            }
        }
        _ => at.wrong("give either jwks or jwksFrom: without keys no token can be verified"),
    }
}
