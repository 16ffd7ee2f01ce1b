//! Each rule, by an object that breaks it.

use proptest::prelude::*;

use super::text;
use crate::model::{documents, read_value};

/// The fields that are refused of an object in YAML.
fn refused(yaml: &str) -> Vec<String> {
    let mut out = Vec::new();
    for value in documents("test.yaml", yaml).expect("YAML") {
        if let Err(problems) = read_value("test.yaml", value, "shop") {
            out.extend(problems.into_iter().map(|problem| {
                assert!(!problem.reason.is_empty());
                problem.field
            }));
        }
    }
    out
}

fn http(spec: &str) -> Vec<String> {
    refused(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: web}}, spec: {spec}}}"
    ))
}

/// One rule of an HTTPRoute.
fn rule(rule: &str) -> Vec<String> {
    let fields = http(&format!("{{rules: [{rule}]}}"));
    fields.into_iter().map(|field| field.replacen("spec.rules[0].", "", 1)).collect()
}

fn gateway(listeners: &str) -> Vec<String> {
    let fields = refused(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: web}}, spec: {{gatewayClassName: outrider, listeners: {listeners}}}}}"
    ));
    fields.into_iter().map(|field| field.replacen("spec.", "", 1)).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn a_route_with_everything_in_it_is_taken() {
    let whole = rule(
        "{name: all, matches: [{path: {type: PathPrefix, value: /a%20b}, method: GET, headers: [{name: X-A, value: b}], queryParams: [{name: q, value: v}]}],
          timeouts: {request: 10s, backendRequest: 1m500ms},
          filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}},
                    {type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}, fraction: {numerator: 1, denominator: 3}}},
                    {type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}, percent: 5}},
                    {type: CORS, cors: {allowOrigins: ['https://*.example.com:8443'], allowMethods: ['*'], allowCredentials: true}},
                    {type: URLRewrite, urlRewrite: {hostname: a.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}],
          backendRefs: [{name: web, port: 80, weight: 0}]}",
    );
    // The request has a minute and more for one attempt, and ten seconds for all.
    assert_eq!(whole, ["timeouts.backendRequest"]);
}

#[test]
fn paths_that_could_be_read_in_two_ways_are_refused() {
    for bad in [
        "a", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a#b", "/a/..", "/a/.", "/a b", "/%zz", "/%2",
    ] {
        assert_eq!(
            rule(&format!("{{matches: [{{path: {{value: '{bad}'}}}}]}}")),
            ["matches[0].path.value"],
            "{bad}"
        );
    }
    assert_eq!(rule("{matches: [{path: {type: RegularExpression, value: '/a//b'}}]}"), NONE);
}

#[test]
fn headers_have_names_once_whatever_their_case() {
    assert_eq!(
        rule("{matches: [{headers: [{name: X-A, value: b}, {name: x-a, value: c}]}]}"),
        ["matches[0].headers[1].name"]
    );
    assert_eq!(rule("{matches: [{headers: [{name: 'a b', value: c}]}]}"), ["matches[0].headers[0].name"]);
    assert_eq!(
        rule(
            "{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: a, value: b}, {name: A, value: b}]}}]}"
        ),
        ["filters[0].responseHeaderModifier.add[1].name"]
    );
    assert_eq!(
        rule(
            "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: b}]}}]}"
        ),
        ["filters[0].requestHeaderModifier.set[0].name"]
    );
}

#[test]
fn a_filter_has_what_its_type_says_and_nothing_else() {
    assert_eq!(rule("{filters: [{type: URLRewrite}]}"), ["filters[0].urlRewrite"]);
    assert_eq!(
        rule(
            "{filters: [{type: RequestMirror, urlRewrite: {}, requestMirror: {backendRef: {name: a, port: 1}}}]}"
        ),
        ["filters[0].urlRewrite"]
    );
    assert_eq!(
        rule("{backendRefs: [{name: a, port: 1, filters: [{type: CORS}]}]}"),
        ["backendRefs[0].filters[0].cors"]
    );
    assert_eq!(
        rule(
            "{filters: [{type: RequestRedirect, requestRedirect: {}}, {type: RequestRedirect, requestRedirect: {}}]}"
        ),
        ["filters[1].type"]
    );
    assert_eq!(
        rule(
            "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300, port: 70000, hostname: '*.a'}}]}"
        ),
        [
            "filters[0].requestRedirect.hostname",
            "filters[0].requestRedirect.port",
            "filters[0].requestRedirect.statusCode"
        ]
    );
}

#[test]
fn a_redirect_has_no_backends_and_no_rewrite_beside_it() {
    assert_eq!(
        rule("{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]}"),
        ["backendRefs"]
    );
    assert_eq!(
        rule("{filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]}"),
        ["filters"]
    );
}

#[test]
fn a_prefix_is_replaced_where_one_prefix_is_matched() {
    let filter = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}";
    assert_eq!(rule(&format!("{{filters: [{filter}]}}")), NONE);
    for matches in ["[{path: {type: Exact, value: /a}}]", "[{path: {value: /a}}, {path: {value: /b}}]"] {
        let fields = rule(&format!("{{matches: {matches}, filters: [{filter}]}}"));
        assert_eq!(fields, ["filters[0].urlRewrite.path"]);
    }
    assert_eq!(
        rule(
            "{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}]}"
        ),
        ["filters[0].urlRewrite.path.replaceFullPath", "filters[0].urlRewrite.path.replacePrefixMatch"]
    );
}

#[test]
fn mirrors_say_one_share_of_at_most_all() {
    let mirror = |share: &str| {
        rule(&format!(
            "{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 1}}, {share}}}}}]}}"
        ))
    };
    assert_eq!(mirror("percent: 101"), ["filters[0].requestMirror.percent"]);
    assert_eq!(mirror("percent: 1, fraction: {numerator: 1}"), ["filters[0].requestMirror.fraction"]);
    assert_eq!(
        mirror("fraction: {numerator: 3, denominator: 2}"),
        ["filters[0].requestMirror.fraction.numerator"]
    );
    assert_eq!(
        mirror("fraction: {numerator: 3, denominator: 0}").first().unwrap(),
        "filters[0].requestMirror.fraction.denominator"
    );
}

#[test]
fn backends_have_ports_and_weights_in_range() {
    assert_eq!(rule("{backendRefs: [{name: a}]}"), ["backendRefs[0].port"]);
    assert_eq!(rule("{backendRefs: [{name: a, kind: Other, group: x.y}]}"), NONE);
    assert_eq!(
        rule("{backendRefs: [{name: a, port: 0, weight: 1000001}]}"),
        ["backendRefs[0].port", "backendRefs[0].weight"]
    );
}

#[test]
fn durations_are_those_of_the_gateway_api() {
    for bad in ["1", "1.5s", "-1s", "1us", "123456s", "1h1m1s1ms1s", "", "s"] {
        assert_eq!(rule(&format!("{{timeouts: {{request: '{bad}'}}}}")), ["timeouts.request"], "{bad}");
    }
    assert_eq!(rule("{timeouts: {request: 0s, backendRequest: 1h}}"), NONE, "0s is no limit");
}

#[test]
fn host_names_and_parents_are_named_once_and_well() {
    assert_eq!(
        http("{hostnames: ['UPPER', '1.2.3.4', 'a.*.b', '*.a.b', 'a:80']}"),
        ["spec.hostnames[0]", "spec.hostnames[1]", "spec.hostnames[2]", "spec.hostnames[4]"]
    );
    assert_eq!(http("{parentRefs: [{name: a}, {name: a}]}"), ["spec.parentRefs[1]"]);
    assert_eq!(
        http("{parentRefs: [{name: a}, {name: a, sectionName: b}]}"),
        ["spec.parentRefs[1].sectionName"]
    );
    assert_eq!(
        http("{parentRefs: [{name: a, port: 1}, {name: a, port: 2}, {name: a, namespace: shop, port: 3}]}"),
        NONE
    );
    assert_eq!(http("{rules: [{name: a}, {name: a}]}"), ["spec.rules[1].name"]);
    assert_eq!(http("{rules: []}"), ["spec.rules"]);
}

#[test]
fn a_grpc_method_has_the_form_of_one() {
    let method = |text: &str| {
        refused(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: web}}, spec: {{rules: [{{matches: [{{method: {text}}}]}}]}}}}"
        ))
    };
    assert_eq!(method("{service: a.B, method: C}"), NONE);
    assert_eq!(method("{type: RegularExpression, service: 'a.*'}"), NONE);
    assert_eq!(method("{}"), ["spec.rules[0].matches[0].method"]);
    assert_eq!(
        method("{service: a/b, method: 1x}"),
        ["spec.rules[0].matches[0].method.service", "spec.rules[0].matches[0].method.method"]
    );
}

#[test]
fn listeners_have_names_places_and_tls_as_their_protocol_wants() {
    assert_eq!(
        gateway(
            "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]"
        ),
        NONE
    );
    assert_eq!(gateway("[]"), ["listeners"]);
    assert_eq!(
        gateway("[{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]"),
        ["listeners[1].name"]
    );
    assert_eq!(
        gateway("[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}]"),
        ["listeners[1]"]
    );
    assert_eq!(gateway("[{name: a, port: 80, protocol: HTTP, tls: {}}]"), ["listeners[0].tls"]);
    assert_eq!(
        gateway("[{name: a, port: 80, protocol: HTTPS, tls: {mode: Passthrough}}]"),
        ["listeners[0].tls.mode"]
    );
    assert_eq!(
        gateway("[{name: a, port: 80, protocol: HTTPS, tls: {mode: Terminate}}]"),
        ["listeners[0].tls.certificateRefs"]
    );
    assert_eq!(gateway("[{name: a, port: 80, protocol: TLS}]"), ["listeners[0].tls.mode"]);
    assert_eq!(gateway("[{name: a, port: 80, protocol: TCP, hostname: a.b}]"), ["listeners[0].hostname"]);
    assert_eq!(
        gateway("[{name: a, port: 0, protocol: HTTP, hostname: 1.2.3.4}]"),
        ["listeners[0].hostname", "listeners[0].port"]
    );
    assert_eq!(
        gateway("[{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}]"),
        ["listeners[0].allowedRoutes.namespaces.selector"]
    );
}

#[test]
fn a_backend_tls_policy_says_whom_to_believe_and_whom_to_expect() {
    let policy = |spec: &str| {
        refused(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: web}}, spec: {spec}}}"
        ))
    };
    let target = "targetRefs: [{group: '', kind: Service, name: a}]";
    assert_eq!(
        policy(&format!("{{{target}, validation: {{hostname: a.b, wellKnownCACertificates: System}}}}")),
        NONE
    );
    assert_eq!(
        policy(&format!("{{{target}, validation: {{hostname: '*.b'}}}}")),
        ["spec.validation.hostname", "spec.validation.caCertificateRefs"]
    );
    assert_eq!(
        policy(&format!(
            "{{{target}, validation: {{hostname: a.b, wellKnownCACertificates: Mine, subjectAltNames: [{{type: URI, hostname: a}}]}}}}"
        )),
        [
            "spec.validation.wellKnownCACertificates",
            "spec.validation.subjectAltNames[0].hostname",
            "spec.validation.subjectAltNames[0].uri"
        ]
    );
}

#[test]
fn services_and_slices_have_ports_and_addresses_of_their_form() {
    let service = |spec: &str| {
        refused(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {spec}}}"))
    };
    assert_eq!(service("{ports: [{port: 80, targetPort: http}]}"), NONE);
    assert_eq!(service("{clusterIP: None}"), NONE);
    assert_eq!(service("{}"), ["spec.ports"]);
    assert_eq!(service("{ports: [{port: 80}, {port: 81}]}"), ["spec.ports[0].name", "spec.ports[1].name"]);
    assert_eq!(service("{ports: [{name: a, port: 80}, {name: b, port: 80}]}"), ["spec.ports[1]"]);
    assert_eq!(service("{ports: [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]}"), NONE);
    assert_eq!(
        service("{ports: [{port: 80, targetPort: 70000}], clusterIP: x}"),
        ["spec.ports[0].targetPort", "spec.clusterIP"]
    );
    assert_eq!(service("{type: ExternalName, externalName: a_b}"), ["spec.externalName"]);
    let slice = |rest: &str| {
        refused(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web}}, {rest}}}"
        ))
    };
    assert_eq!(
        slice("addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{name: '', port: 80}]"),
        NONE
    );
    assert_eq!(
        slice("addressType: IPv6, endpoints: [{addresses: [10.0.0.1]}]"),
        ["endpoints[0].addresses[0]"]
    );
    assert_eq!(slice("addressType: IPv4, endpoints: [{addresses: []}]"), ["endpoints[0].addresses"]);
    assert_eq!(slice("addressType: Other, endpoints: []"), ["addressType"]);
    assert_eq!(
        slice("addressType: IPv4, endpoints: [{addresses: [0.0.0.0]}]"),
        ["endpoints[0].addresses[0]"]
    );
}

#[test]
fn names_labels_and_data_have_the_forms_of_kubernetes() {
    assert_eq!(
        refused("{apiVersion: v1, kind: Service, metadata: {name: 1web}, spec: {clusterIP: None}}"),
        ["metadata.name"]
    );
    assert_eq!(refused("{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}"), ["metadata.name"]);
    assert_eq!(
        refused("{apiVersion: v1, kind: ConfigMap, metadata: {name: UP, namespace: b.c}}"),
        ["metadata.name", "metadata.namespace"]
    );
    assert_eq!(
        refused(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {'a b': c, d: 'e f'}}, data: {'g h': i}}"
        ),
        ["metadata.labels[\"a b\"]", "metadata.labels[\"d\"]", "data[\"g h\"]"]
    );
    assert_eq!(
        refused(
            "{apiVersion: v1, kind: Secret, metadata: {name: a}, type: kubernetes.io/tls, data: {tls.crt: ''}}"
        ),
        ["data[\"tls.key\"]"]
    );
}

#[test]
fn an_expression_is_one_that_re2_reads_in_the_same_way() {
    for good in
        ["/a/[0-9]+", "(?i)x|y", "[[:alpha:]_]*", "a{2,1000}", "(?P<n>a)\\b", "\\pL\\p{Greek}", "(a*)*"]
    {
        assert_eq!(text::regex(good), Ok(()), "{good}");
    }
    for bad in [
        "(",
        "(?=a)",
        "(?x)a",
        "[a&&b]",
        "[a[b]]",
        "\\u0041",
        "a**",
        "a{1001}",
        "(a{100}){100}",
        "\\b{start}a",
        "\\1",
        "\\p{script=Greek}",
        "\\p{alphabetic}",
    ] {
        assert!(text::regex(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_duration_is_what_its_parts_are(parts in proptest::collection::vec((0_u64..100_000, 0_usize..4), 1..5)) {
        let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        let written: String = parts.iter().map(|(number, unit)| format!("{number}{}", units[*unit].0)).collect();
        let millis: u64 = parts.iter().map(|(number, unit)| number * units[*unit].1).sum();
        prop_assert_eq!(text::duration(&written).unwrap().as_millis(), u128::from(millis));
    }

    #[test]
    fn no_text_is_too_odd_to_be_judged(text in ".{0,40}") {
        let _ = (text::duration(&text), text::regex(&text));
        let object = serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": text, "labels": {&text: text}},
            "spec": {"hostnames": [text], "rules": [{
                "matches": [{"path": {"value": text}}],
                "filters": [{"type": "CORS", "cors": {"allowOrigins": [text]}}],
            }]},
        });
        let _ = read_value("test.yaml", object, "shop");
    }
}
