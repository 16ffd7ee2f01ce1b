//! BackendTLSPolicies.

use super::{attachments, certificate, conditions};
use crate::attach::{Attachments, Roots, SubjectName};
use crate::model::{Key, Kind};

fn policy(name: &str, created: &str, section: &str, validation: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'}}
spec: {{targetRefs: [{{group: '', kind: Service, name: web{section}}}], validation: {validation}}}
"
    )
}

fn with(policies: &str) -> Attachments {
    let (ca, _) = certificate(4);
    attachments(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{ports: [{{name: https, port: 443}}, {{name: admin, port: 444}}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: roots, namespace: shop}}
data:
  ca.crt: |
{ca}---
apiVersion: v1
kind: ConfigMap
metadata: {{name: empty, namespace: shop}}
data: {{ca.crt: nothing}}
{policies}"
    ))
}

fn told(all: &Attachments, name: &str) -> Vec<String> {
    conditions(all, Kind::BackendTlsPolicy, &format!("shop/{name}"), "/ancestors/0/conditions")
}

fn roots(all: &Attachments, section: Option<&str>) -> Option<Roots> {
    let key = (("shop".into(), "web".into()), section.map(Into::into));
    all.backend_tls.get(&key).map(|it| it.roots.clone())
}

fn refs(name: &str) -> String {
    format!(
        "{{hostname: web.example.com, caCertificateRefs: [{{group: '', kind: ConfigMap, name: {name}}}]}}"
    )
}

const SYSTEM: &str = "{hostname: web.example.com, wellKnownCACertificates: System}";
const GOOD: [&str; 2] = ["Accepted=True:Accepted", "ResolvedRefs=True:ResolvedRefs"];

#[test]
fn of_two_policies_for_one_target_the_older_one_is_in_force() {
    let all = with(
        &[
            policy("a-newer", "2025-01-01T00:00:00Z", "", &refs("roots")),
            policy("b-older", "2024-01-01T00:00:00Z", "", SYSTEM),
            policy("c-port", "2025-01-01T00:00:00Z", ", sectionName: admin", &refs("roots")),
        ]
        .concat(),
    );
    assert_eq!(told(&all, "b-older"), GOOD);
    assert_eq!(told(&all, "a-newer")[0], "Accepted=False:Conflicted");
    assert_eq!(told(&all, "c-port"), GOOD, "a port is another target");
    assert_eq!(roots(&all, None), Some(Roots::System));
    assert!(matches!(roots(&all, Some("admin")), Some(Roots::Pem(pem)) if pem.contains("BEGIN CERTIFICATE")));
}

#[test]
fn a_policy_without_authorities_makes_connections_fail() {
    for (name, resolved) in [("gone", "InvalidCACertificateRef"), ("empty", "InvalidCACertificateRef")] {
        let all = with(&policy("p", "2025-01-01T00:00:00Z", "", &refs(name)));
        assert_eq!(
            told(&all, "p"),
            ["Accepted=False:NoValidCACertificate".to_owned(), format!("ResolvedRefs=False:{resolved}")]
        );
        assert_eq!(roots(&all, None), Some(Roots::Invalid), "never unverified");
    }
    let kind = "{hostname: a.b, caCertificateRefs: [{group: x.y, kind: Other, name: roots}]}";
    let all = with(&policy("p", "2025-01-01T00:00:00Z", "", kind));
    assert_eq!(told(&all, "p")[1], "ResolvedRefs=False:InvalidKind");
    assert_eq!(roots(&all, None), Some(Roots::Invalid));
}

#[test]
fn a_policy_for_nothing_says_so() {
    let all = with(&policy("p", "2025-01-01T00:00:00Z", ", sectionName: gone", SYSTEM));
    assert_eq!(told(&all, "p")[0], "Accepted=False:TargetNotFound");
    assert!(all.backend_tls.is_empty());
}

#[test]
fn names_go_before_the_host_name_and_the_ancestor_is_who_uses_it() {
    let names = "{hostname: a.example.com, wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: 'spiffe://x/y'}, {type: Hostname, hostname: '*.b'}]}";
    let all = with(&[&policy("p", "2025-01-01T00:00:00Z", "", names), super::CLASS_AND_EDGE].concat());
    let tls = &all.backend_tls[&(("shop".into(), "web".into()), None)];
    assert_eq!(tls.names, [SubjectName::Uri("spiffe://x/y".into()), SubjectName::Dns("*.b".into())]);
    let status = &all.statuses[&Key::new(Kind::BackendTlsPolicy, "shop", "p")];
    assert_eq!(status["ancestors"].as_array().unwrap().len(), 1);
    assert_eq!(status["ancestors"][0]["ancestorRef"]["kind"], "Gateway");
    assert_eq!(status["ancestors"][0]["ancestorRef"]["name"], "edge");
}
