//! `AuthorizationPolicy`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::common::{ConditionsStatus, Selector};
use super::jwt::{self, JwtIssuer};

/// Who may do what at a workload. It is enforced by the workload's sidecar or, where the workload is a gateway's, by that gateway, on what arrives there.
///
/// `Deny` goes first: what a rule of one matches is refused. Then, when any policy with `Allow` is for the workload, what none of
/// their rules matches is refused; an `Allow` without rules lets nothing through. `Log` refuses nothing.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    shortname = "ap",
    category = "outrider",
    namespaced,
    status = "ConditionsStatus",
    doc = "Who may do what at a workload. It is enforced by the workload's sidecar or, where the workload is a gateway's, by that gateway, on what arrives there."
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// The workloads that it is for. Default: all of the namespace. The labels of a workload are those of its Pod, else those that its proxy
    /// tells (`LABELS` of its node's metadata). Where neither is there, nobody can say that it is not meant: `Deny` is in force whatever
    /// it selects, and only what every `Allow` would let through passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Issuers of tokens (JWT) that are believed at these workloads, for HTTP. A request with a token that is not good, or of nobody who is
    /// listed, is refused with 401. One without a token has no request principal, and rules say who needs one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub jwt: Vec<JwtIssuer>,
    /// What is done with what a rule matches. Default: `Allow`.
    #[serde(default)]
    pub action: Action,
    /// What is matched. An empty rule (`{}`) matches everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub rules: Vec<Rule>,
}

/// What is done with what a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// It may pass, unless a `Deny` matches it, too; what no `Allow` matches is refused.
    #[default]
    #[serde(alias = "ALLOW", alias = "allow")]
    Allow,
    /// It is refused.
    #[serde(alias = "DENY", alias = "deny")]
    Deny,
    /// It is marked for access logs: the dynamic metadata `envoy.common` gets `access_log_hint: true`. Nothing is refused.
    #[serde(alias = "LOG", alias = "log")]
    Log,
}

/// One rule: any of `from`, any of `to` and all of `when` must match; what is not given matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub from: Vec<Source>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub to: Vec<Operation>,
    /// What else must be true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub when: Vec<Condition>,
}

/// Where something comes from: all fields that are given must match, each by one of its entries; of a `not` field, none may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Identities of workloads, as in `cluster.local/ns/shop/sa/web`; `*` in front or at the end stands for anything. They come from
    /// mutual TLS: a peer without it has none. `Allow` does not match such a peer; `Deny` does, since it could be anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    /// Identities that it must not be. In `Allow` the peer must have one at all; in `Deny`, having none is not being it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<String>,
    /// Namespaces of the identities of workloads. As `principals`: a peer without an identity is not matched by `Allow`, and is by `Deny`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Namespaces that it must not be from. As `notPrincipals`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<String>,
    /// Who verified tokens are about, as `ISSUER/SUBJECT` (the claims `iss` and `sub`, which has no slash); `*` in front or at the end stands for
    /// anything. The policies for the workload say by `jwt` who is believed. A request without a token is not matched by `Allow`, and is by
    /// `Deny`. Of HTTP, as `Operation` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_principals: Vec<String>,
    /// Whom tokens must not be about. In `Allow` there must be a token; in `Deny`, having none is not being it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_request_principals: Vec<String>,
    /// Addresses of the peer, as in `10.0.0.0/8` or `10.1.2.3`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_blocks: Vec<String>,
    /// Addresses that the peer must not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ip_blocks: Vec<String>,
}

/// What something is for: all fields that are given must match, each by one of its entries; of a `not` field, none may.
///
/// Hosts, methods and paths are those of HTTP. At a port that does not speak it, an `Allow` rule with one of them matches nothing; a
/// `Deny` rule applies by what can be seen there, so it may refuse more than it says, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Hosts, in any case; with any port, unless the entry has one. `*` in front or at the end stands for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Hosts that it must not be for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_hosts: Vec<String>,
    /// Ports of the workload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Ports that it must not be for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ports: Vec<u16>,
    /// Methods, as in `GET`. For gRPC it is always `POST`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Methods that it must not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_methods: Vec<String>,
    /// Paths without the query; `*` in front or at the end stands for anything. For gRPC: `/package.Service/Method`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Paths that it must not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_paths: Vec<String>,
}

/// A condition on a request header. A header of HTTP, as `Operation` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name.
    pub header: String,
    /// Values one of which it must have; `*` in front or at the end stands for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Values that it must not have. A request without the header has none of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_values: Vec<String>,
}

/// What is wrong with a policy by itself.
pub(super) fn check(policy: &AuthorizationPolicy) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (spec, mut at) = (&policy.spec, Check::spec(&mut out));
    at.selector(spec.selector.as_ref());
    if spec.rules.is_empty() && spec.action != Action::Allow {
        at.field("rules", "without rules it does nothing; a rule {} matches everything");
    }
    at.unique("jwt", "issuer", spec.jwt.iter().map(|it| &it.issuer));
    for (index, issuer) in spec.jwt.iter().enumerate() {
        jwt::issuer(at.item("jwt", index), issuer);
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let mut at = at.item("rules", index);
        for (index, source) in rule.from.iter().enumerate() {
            self::source(at.item("from", index), source);
        }
        for (index, operation) in rule.to.iter().enumerate() {
            self::operation(at.item("to", index), operation);
        }
        for (index, condition) in rule.when.iter().enumerate() {
            let mut at = at.item("when", index);
            at.header_name("header", &condition.header);
            if condition.header.eq_ignore_ascii_case("host") {
                at.field("header", "match hosts with to.hosts");
            }
            if condition.values.is_empty() && condition.not_values.is_empty() {
                at.wrong("give values or notValues");
            }
            patterns(&mut at, "values", &condition.values);
            patterns(&mut at, "notValues", &condition.not_values);
        }
    }
    out
}

fn source(mut at: Check<'_>, it: &Source) {
    if *it == Source::default() {
        at.wrong("it says nothing; remove it to match every source");
    }
    for (field, list) in [("principals", &it.principals), ("notPrincipals", &it.not_principals)] {
        patterns(&mut at, field, list);
        for (index, text) in list.iter().enumerate().filter(|(_, text)| text.contains("://")) {
            at.field(
                &format!("{field}[{index}]"),
                format!("{text:?}: write it without the scheme, as in cluster.local/ns/shop/sa/web"),
            );
        }
    }
    for (field, list) in
        [("requestPrincipals", &it.request_principals), ("notRequestPrincipals", &it.not_request_principals)]
    {
        patterns(&mut at, field, list);
        for (index, text) in list.iter().enumerate().filter(|(_, text)| *text != "*" && !text.contains('/')) {
            at.field(
                &format!("{field}[{index}]"),
                format!("{text:?}: want ISSUER/SUBJECT, as in https://issuer.example/jane"),
            );
        }
    }
    for (field, list) in [("namespaces", &it.namespaces), ("notNamespaces", &it.not_namespaces)] {
        patterns(&mut at, field, list);
    }
    for (field, list) in [("ipBlocks", &it.ip_blocks), ("notIpBlocks", &it.not_ip_blocks)] {
        for (index, text) in list.iter().enumerate().filter(|(_, text)| ip_block(text).is_none()) {
            at.field(
                &format!("{field}[{index}]"),
                format!("{text:?} is no address and no block, as in 10.0.0.0/8"),
            );
        }
    }
}

/// An address or block.
pub fn ip_block(text: &str) -> Option<ipnet::IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from))
}

fn operation(mut at: Check<'_>, it: &Operation) {
    if *it == Operation::default() {
        at.wrong("it says nothing; remove it to match every request");
    }
    for (field, list) in [
        ("hosts", &it.hosts),
        ("notHosts", &it.not_hosts),
        ("methods", &it.methods),
        ("notMethods", &it.not_methods),
        ("paths", &it.paths),
        ("notPaths", &it.not_paths),
    ] {
        patterns(&mut at, field, list);
    }
    for (field, list) in [("methods", &it.methods), ("notMethods", &it.not_methods)] {
        for (index, text) in list.iter().enumerate() {
            if http::Method::from_bytes(text.as_bytes()).is_err() || text.contains('*') && text != "*" {
                at.field(&format!("{field}[{index}]"), format!("{text:?} is no method, and no *"));
            } else if text.chars().any(|c| c.is_ascii_lowercase()) {
                at.field(
                    &format!("{field}[{index}]"),
                    format!(
                        "{text:?} has small letters, and methods count by case; write {}",
                        text.to_uppercase()
                    ),
                );
            }
        }
    }
    for (field, list) in [("paths", &it.paths), ("notPaths", &it.not_paths)] {
        for (index, text) in list.iter().enumerate() {
            if !text.starts_with(['/', '*']) {
                at.field(
                    &format!("{field}[{index}]"),
                    format!("{text:?} starts with neither / nor *, so no path matches it"),
                );
            } else if text.contains(['?', '#']) {
                at.field(
                    &format!("{field}[{index}]"),
                    format!("{text:?}: the query is no part of the path; remove it"),
                );
            }
        }
    }
    for (field, list) in [("ports", &it.ports), ("notPorts", &it.not_ports)] {
        for (index, port) in list.iter().enumerate() {
            at.range(&format!("{field}[{index}]"), Some(*port), 1, u16::MAX);
        }
    }
}

/// Texts with `*` in front, at the end, or alone.
fn patterns(at: &mut Check<'_>, field: &str, list: &[String]) {
    for (index, text) in list.iter().enumerate() {
        let inner = text.strip_prefix('*').unwrap_or(text);
        let both = text.len() > 1 && text.starts_with('*') && text.ends_with('*');
        let inner = if both { inner } else { inner.strip_suffix('*').unwrap_or(inner) };
        if text.is_empty() {
            at.field(&format!("{field}[{index}]"), "it is empty; * matches anything");
        } else if inner.contains('*') {
            at.field(
                &format!("{field}[{index}]"),
                format!("{text:?}: * can stand in front or at the end, not in both places and not within"),
            );
        }
    }
}
