//! What operators are told about the kinds of our own.

use super::*;
use crate::model::{documents, read_value};

/// Field and reason of each problem of a manifest, as `field: reason`.
fn problems(yaml: &str) -> Vec<String> {
    let documents = documents("test", yaml).unwrap();
    let value = documents.into_iter().next().unwrap();
    match read_value("test", value, "shop") {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(|it| format!("{}: {}", it.field, it.reason)).collect(),
    }
}

fn spec(kind: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: outrider.dev/v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\nspec:\n{spec}"
    )
}

#[track_caller]
fn refused(kind: &str, text: &str, field: &str, part: &str) {
    let found = problems(&spec(kind, text));
    let fits = |it: &String| it.starts_with(&format!("{field}: ")) && it.contains(part);
    assert!(found.iter().any(fits), "want {field}: ...{part}..., have {found:#?}");
}

#[track_caller]
fn fine(kind: &str, text: &str) {
    assert_eq!(problems(&spec(kind, text)), Vec::<String>::new());
}

const WEB: &str = "targetRefs: [{kind: Service, name: web}]\n";

#[test]
fn a_traffic_policy_with_everything_is_taken() {
    fine(
        "TrafficPolicy",
        "targetRefs: [{group: '', kind: Service, name: web, sectionName: http}, {group: outrider.dev, kind: ExternalService, name: pay}]
loadBalancing: {policy: RingHash, hashOn: [{header: x-user}, {cookie: {name: sid, ttl: 1h, path: /}}, {sourceIp: true}], minimumRingSize: 2048}
retries: {on: [5xx, reset], statusCodes: [503], attempts: 3, perTryTimeout: 1s, backoff: {base: 25ms, max: 1s}, budget: {percent: 20, minConcurrency: 5}}
timeouts: {request: 5s, idle: 1m, connect: 2s}
circuitBreakers: {maxConnections: 100, maxPendingRequests: 10, maxRequests: 200}
outlierDetection: {consecutiveErrors: 5, interval: 5s, baseEjectionTime: 10s, maxEjectionPercent: 50}
healthCheck: {http: {path: /healthz, expectedStatuses: [{from: 200, to: 299}]}, interval: 5s, timeout: 1s}
rateLimit: {requests: 100, per: 1s, burst: 200, rules: [{headers: [{name: x-user}], requests: 5, per: 2s}]}
connectionPool: {tcpKeepalive: {time: 60s}, idleTimeout: 5m, maxRequestsPerConnection: 1000, http2: {maxConcurrentStreams: 100}}",
    );
}

#[test]
fn a_traffic_policy_that_makes_no_sense_is_refused_by_its_field() {
    let with = |text: &str| format!("{WEB}{text}");
    for (text, field, part) in [
        ("targetRefs: []", "spec.targetRefs", "1 to 16"),
        ("targetRefs: [{kind: Pod, name: a}]", "spec.targetRefs[0].kind", "use Service"),
        ("targetRefs: [{kind: ExternalService, name: a}]", "spec.targetRefs[0].group", "outrider.dev"),
        ("targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}]", "spec.targetRefs[1]", "twice"),
        (
            "targetRefs: [{kind: Service, namespace: other, name: a}]",
            "spec.targetRefs[0].namespace",
            "unknown",
        ),
        (&with("timeouts: {request: 5}"), "spec.timeouts.request", "string"),
        (&with("timeouts: {request: 5 seconds}"), "spec.timeouts.request", "no duration"),
        (&with("timeouts: {connect: 0s}"), "spec.timeouts.connect", "too short"),
        (&with("retries: {on: [4xx]}"), "spec.retries.on[0]", "use one of"),
        (
            &with("retries: {attempts: 0, perTryTimeout: 1s}"),
            "spec.retries.attempts",
            "nothing is sent again",
        ),
        (
            &with("retries: {budget: {}}\ncircuitBreakers: {maxRetries: 3}"),
            "spec.retries.budget",
            "one of the two",
        ),
        (&with("retries: {backoff: {base: 1s, max: 1ms}}"), "spec.retries.backoff.max", "less than base"),
        (&with("loadBalancing: {policy: Best}"), "spec.loadBalancing.policy", "Best"),
        (&with("loadBalancing: {hashOn: [{header: a}]}"), "spec.loadBalancing.hashOn", "RingHash"),
        (&with("loadBalancing: {policy: Maglev, tableSize: 1000}"), "spec.loadBalancing.tableSize", "prime"),
        (
            &with("loadBalancing: {policy: Maglev, hashOn: [{}]}"),
            "spec.loadBalancing.hashOn[0]",
            "exactly one",
        ),
        (&with("outlierDetection: {interval: 1s}"), "spec.outlierDetection", "say how"),
        (&with("healthCheck: {http: {path: a}}"), "spec.healthCheck.http.path", "slash"),
        (&with("healthCheck: {}"), "spec.healthCheck", "exactly one"),
        (&with("rateLimit: {requests: 5, per: 10ms}"), "spec.rateLimit.per", "50ms"),
        (
            &with("rateLimit: {requests: 5, per: 2s, rules: [{headers: [{name: a}], requests: 1, per: 3s}]}"),
            "spec.rateLimit.rules[0].per",
            "multiple",
        ),
        (
            &with("connectionPool: {tcpKeepalive: {time: 1500ms}}"),
            "spec.connectionPool.tcpKeepalive.time",
            "whole seconds",
        ),
        (
            &with("connectionPool: {http2: {keepaliveTimeout: 1s}}"),
            "spec.connectionPool.http2.keepaliveTimeout",
            "keepaliveInterval",
        ),
        (&with("circuitBreaker: {}"), "spec.circuitBreaker", "unknown"),
    ] {
        refused("TrafficPolicy", text, field, part);
    }
}

#[test]
fn an_external_service_is_taken_or_refused_by_its_field() {
    fine("ExternalService", "hosts: [api.example.com]\nports: [{number: 443, protocol: HTTPS}]");
    fine(
        "ExternalService",
        "hosts: [api.example.com, '*.pay.example.com']
resolution: Static
addresses: [192.0.2.1, '2001:db8::1']
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8443}, {number: 5432, name: db, protocol: TCP}]
tls: {sni: api.example.com, subjectAltNames: [api.example.com, 'spiffe://example.com/api'], caCertificateRefs: [{kind: ConfigMap, name: ca}], clientCertificateRef: {name: client}, minVersion: TLSv1_3}
credentials: [{type: Bearer, secretRef: {name: token}}, {type: Header, header: x-api-key, secretRef: {name: token, key: key}}]",
    );
    let https = "hosts: [a.example.com]\nports: [{number: 443, protocol: HTTPS}]\n";
    let with = |text: &str| format!("{https}{text}");
    for (text, field, part) in [
        ("hosts: []\nports: [{number: 443, protocol: HTTPS}]", "spec.hosts", "1 to 32"),
        ("hosts: [a.example.com]\nports: []", "spec.ports", "1 to 32"),
        ("hosts: [A.example.com]\nports: [{number: 443, protocol: HTTPS}]", "spec.hosts[0]", "lower case"),
        ("hosts: ['*.example.com']\nports: [{number: 443, protocol: HTTPS}]", "spec.hosts[0]", "resolved"),
        (
            "hosts: [a.example, b.example]\nports: [{number: 443, protocol: HTTPS}]",
            "spec.hosts",
            "for each host",
        ),
        ("hosts: [a.example]\nports: [{number: 0, protocol: HTTPS}]", "spec.ports[0].number", "between 1"),
        ("hosts: [a.example]\nports: [{number: 1, protocol: UDP}]", "spec.ports[0].protocol", "UDP"),
        (
            "hosts: [a.example]\nports: [{number: 1, protocol: TCP}, {number: 1, name: b, protocol: TCP}]",
            "spec.ports[1].number",
            "twice",
        ),
        (&with("resolution: Static"), "spec.addresses", "needs them"),
        (&with("addresses: [192.0.2.1]"), "spec.addresses[0]", "Static"),
        (&with("tls: {insecureSkipVerify: true}"), "spec.tls.insecureSkipVerify", "unknown"),
        (&with("tls: {sni: '*.example.com'}"), "spec.tls.sni", "wildcard"),
        (&with("tls: {minVersion: TLSv1_1}"), "spec.tls.minVersion", "TLSv1_1"),
        (
            &with("credentials: [{type: Header, secretRef: {name: a}}]"),
            "spec.credentials[0].header",
            "missing",
        ),
        (
            &with("credentials: [{type: Bearer, header: Host, secretRef: {name: a}}]"),
            "spec.credentials[0].header",
            "own affair",
        ),
        (
            "hosts: [a.example]\nports: [{number: 80, protocol: HTTP}]\ncredentials: [{type: Bearer, secretRef: {name: a}}]",
            "spec.ports[0].protocol",
            "never sent in clear",
        ),
    ] {
        refused("ExternalService", text, field, part);
    }
}

#[test]
fn a_peer_policy_is_taken_or_refused_by_its_field() {
    fine("PeerPolicy", "mtls: {mode: Strict}");
    fine("PeerPolicy", "ports: [{number: 80, mtls: {mode: STRICT}}]");
    fine("PeerPolicy", "mtls: {mode: Permissive}\nports: [{number: 80, mtls: {mode: Disabled}}]");
    let twice = "ports: [{number: 80, mtls: {mode: Strict}}, {number: 80, mtls: {mode: Disabled}}]";
    refused("PeerPolicy", twice, "spec.ports[1].number", "stands here twice");
    refused("PeerPolicy", "ports: [{number: 0, mtls: {mode: Strict}}]", "spec.ports[0].number", "1");
}

#[test]
fn an_authorization_policy_is_taken_or_refused_by_its_field() {
    fine("AuthorizationPolicy", "{}");
    fine(
        "AuthorizationPolicy",
        "selector: {matchLabels: {app: web}}
action: DENY
rules:
- from: [{principals: ['cluster.local/ns/shop/*'], ipBlocks: [10.0.0.0/8, '::1']}]
  to: [{hosts: ['*.example.com'], ports: [80], methods: [GET], paths: [/admin*]}]
  when: [{header: x-user, values: [a, 'b*']}]",
    );
    for (text, field, part) in [
        ("action: DENY", "spec.rules", "does nothing"),
        ("rules: [{from: [{}]}]", "spec.rules[0].from[0]", "says nothing"),
        ("rules: [{from: [{ipBlocks: [10.0.0.0/33]}]}]", "spec.rules[0].from[0].ipBlocks[0]", "no address"),
        ("rules: [{to: [{paths: [admin]}]}]", "spec.rules[0].to[0].paths[0]", "neither"),
        ("rules: [{to: [{paths: ['/a*b']}]}]", "spec.rules[0].to[0].paths[0]", "within"),
        ("rules: [{to: [{methods: [get]}]}]", "spec.rules[0].to[0].methods[0]", "GET"),
        ("rules: [{to: [{ports: [70000]}]}]", "spec.rules[0].to[0].ports[0]", "u16"),
        ("rules: [{when: [{header: 'a b', values: [x]}]}]", "spec.rules[0].when[0].header", "no header name"),
        ("rules: [{when: [{header: a}]}]", "spec.rules[0].when[0]", "values or notValues"),
        ("selector: {matchLabels: {app: 'a*'}}", "spec.selector.matchLabels.app", "wildcards"),
        ("action: Audit", "spec.action", "Audit"),
    ] {
        refused("AuthorizationPolicy", text, field, part);
    }
}

#[test]
fn a_telemetry_is_taken_or_refused_by_its_field() {
    fine("Telemetry", "accessLog: {off: true}");
    fine(
        "Telemetry",
        "accessLog: {text: '%REQ(:PATH)% %RESPONSE_CODE%', filter: {minStatus: 400, minDuration: 1s}}",
    );
    fine("Telemetry", "accessLog: {json: {path: '%REQ(:PATH)%'}, path: /var/log/access.log}");
    for (text, field, part) in [
        ("selector: {}", "spec.accessLog", "missing"),
        ("accessLog: {text: '%NOPE%'}", "spec.accessLog.text", "NOPE"),
        ("accessLog: {json: {a: '%REQ(%'}}", "spec.accessLog.json.a", ""),
        ("accessLog: {text: a, json: {a: b}}", "spec.accessLog.json", "one of"),
        ("accessLog: {path: access.log}", "spec.accessLog.path", "absolute"),
        ("accessLog: {off: true, text: a}", "spec.accessLog.off", "remove"),
        ("accessLog: {filter: {}}", "spec.accessLog.filter", "minStatus"),
    ] {
        refused("Telemetry", text, field, part);
    }
}

#[test]
fn a_join_token_is_refused_by_its_field() {
    let hash = format!("sha256:{}", "0a".repeat(32));
    let with = |hash: &str, rest: &str| format!("hash: '{hash}'\n{rest}");
    let good = "serviceAccount: web\nexpires: 2030-01-31T12:00:00Z\nuses: 3";
    fine("JoinToken", &with(&hash, good));
    for (text, field, part) in [
        (with("outrider_join.shop.a.b", good), "spec.hash", "a token itself must not"),
        (with("sha256:zz", good), "spec.hash", "64"),
        (
            with(&hash, "serviceAccount: Web\nexpires: 2030-01-31T12:00:00Z\nuses: 3"),
            "spec.serviceAccount",
            "no name",
        ),
        (with(&hash, "serviceAccount: web\nexpires: tomorrow\nuses: 3"), "spec.expires", "2030-01-31"),
        (
            with(&hash, "serviceAccount: web\nexpires: 2030-01-31T12:00:00Z\nuses: 0"),
            "spec.uses",
            "between 1",
        ),
    ] {
        refused("JoinToken", &text, field, part);
    }
}

#[test]
fn the_definitions_in_deploy_are_current() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    let update = std::env::var_os("OUTRIDER_UPDATE").is_some();
    for (name, yaml) in crds_yaml().unwrap() {
        let path = folder.join(&name);
        if update {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &yaml).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == yaml, "{} is not current; run this test with OUTRIDER_UPDATE=1", path.display());
    }
}

#[test]
fn the_definitions_are_what_an_api_server_takes() {
    for crd in crds() {
        let name = crd.metadata.name.clone().unwrap();
        let version = crd.spec.versions.first().unwrap();
        assert!(version.served && version.storage, "{name}");
        let status = version.subresources.as_ref().is_some_and(|it| it.status.is_some());
        assert_eq!(status, !name.starts_with("jointokens"), "{name}: status");
        let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        let text = serde_json::to_string(schema).unwrap();
        assert!(!text.contains("$ref"), "{name}: references are not structural");
        structural(&name, "", &serde_json::to_value(schema).unwrap());
    }
}

/// Each schema has a type and a description.
fn structural(name: &str, path: &str, schema: &serde_json::Value) {
    assert!(schema.get("type").is_some() || path.is_empty(), "{name}: {path} has no type: {schema}");
    for (field, below) in schema.get("properties").and_then(|it| it.as_object()).into_iter().flatten() {
        if path.starts_with(".spec") {
            assert!(below.get("description").is_some(), "{name}: {path}.{field} has no description");
        }
        structural(name, &format!("{path}.{field}"), below);
    }
    if let Some(items) = schema.get("items") {
        structural(name, &format!("{path}[]"), items);
    }
}
