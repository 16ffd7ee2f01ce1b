//! Who gets through, asked of the real Envoy where there is one.

use outrider_proto::pb::envoy::config::listener::v3::Listener;
use serde_json::{Value, json};

use super::testing_filters as filters_of;
use crate::model::Kind;
use crate::translate::testing::{
    Running, WEB, ask, conditions, context, envoy_takes, message, resources, sidecar,
};
use crate::translate::{Context, Type, translate};
use crate::world::Proxy;

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrider.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn world(policies: &[&str]) -> Context {
    let all: String =
        policies.iter().enumerate().map(|(index, spec)| policy(&format!("p{index}"), spec)).collect();
    context(&format!("{WEB}{all}"))
}

/// An Envoy whose listener `http` has the filters for HTTP and whose listener `tcp` has those for connections that are not.
fn envoy(context: &Context) -> Option<Running> {
    let (http, tcp) = filters_of(context, &sidecar());
    let mut http_filters: Vec<Value> = http;
    http_filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}));
    let routes = json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]});
    let manager = |filters: Vec<Value>| {
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test", "normalize_path": true, "merge_slashes": true,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD", "route_config": routes, "http_filters": filters}})
    };
    let router = vec![http_filters.last().cloned().unwrap()];
    let mut network: Vec<Value> = tcp;
    network.push(manager(router));
    let listener = |name: &str, filters: Vec<Value>| {
        json!({"name": name, "filter_chains": [{"filters": filters}],
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}})
    };
    Running::start(
        &json!({"listeners": [listener("http", vec![manager(http_filters)]), listener("tcp", network)]}),
    )
}

/// Asks for each request (`GET /path` and header lines) and compares statuses.
#[track_caller]
fn answers(policies: &[&str], requests: &[(&str, &str, u16)]) {
    let context = world(policies);
    envoy_takes(&resources(&context));
    let Some(envoy) = envoy(&context) else { return };
    let address = envoy.listener("http");
    for (request, headers, want) in requests {
        assert_eq!(ask(address, request, headers).0, *want, "{request} {headers:?} with {policies:?}");
    }
}

#[test]
fn without_a_policy_everything_passes_and_no_filter_is_there() {
    let context = world(&[]);
    let (http, network) = filters_of(&context, &sidecar());
    assert!(http.is_empty() && network.is_empty());
}

#[test]
fn an_allow_without_rules_lets_nothing_through() {
    answers(&["{}"], &[("GET /", "", 403)]);
    answers(&["{rules: [{}]}"], &[("GET /", "", 200)]);
    // Of several, any may allow it.
    answers(&["{}", "{rules: [{to: [{methods: [GET]}]}]}"], &[("GET /", "", 200), ("POST /", "", 403)]);
}

#[test]
fn a_selector_of_other_workloads_changes_nothing() {
    answers(&["{selector: {matchLabels: {app: other}}}"], &[("GET /", "", 200)]);
    answers(&["{selector: {matchLabels: {app: web}}}"], &[("GET /", "", 403)]);
}

#[test]
fn what_a_pod_says_of_its_labels_counts_and_not_what_its_proxy_says() {
    let yaml = format!(
        "{WEB}{}---\n{{apiVersion: v1, kind: Pod, metadata: {{name: web-0, namespace: shop, labels: {{app: secret}}}}}}",
        policy("p", "{selector: {matchLabels: {app: secret}}}")
    );
    assert_eq!(filters_of(&context(&yaml), &sidecar()).0.len(), 1);
}

#[test]
fn where_nobody_says_the_labels_no_policy_is_without_force() {
    let nameless = Proxy { labels: Default::default(), ..sidecar() };
    let selected = |specs: &[&str]| {
        let context = world(specs);
        envoy_takes(&translate(&context, &nameless));
        let (http, tcp) = filters_of(&context, &nameless);
        assert_eq!(http.len(), tcp.len());
        http.len()
    };
    let (web, db) = ("selector: {matchLabels: {app: web}}", "selector: {matchLabels: {app: db}}");
    assert_eq!(selected(&[&format!("{{action: DENY, {db}, rules: [{{}}]}}")]), 1);
    assert_eq!(selected(&[&format!("{{action: LOG, {db}, rules: [{{}}]}}")]), 0);
    // What one of them lets through the other need not: all must.
    assert_eq!(selected(&[&format!("{{{web}, rules: [{{}}]}}"), &format!("{{{db}}}")]), 2);
    // What is for all lets through what it lets through, whatever is for this workload besides.
    assert_eq!(selected(&[&format!("{{{web}}}"), "{rules: [{}]}"]), 1);
    // A Pod without labels says that it has none.
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop}}";
    let yaml = format!("{WEB}{}{pod}", policy("p", &format!("{{{db}}}")));
    assert!(filters_of(&context(&yaml), &nameless).0.is_empty());
}

#[test]
fn a_policy_that_selects_nothing_says_so() {
    let pod =
        "---\n{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}}}";
    let said = |selector: &str, pod: &str| {
        let spec = format!("{{selector: {{matchLabels: {{app: {selector}}}}}}}");
        let context = context(&format!("{WEB}{}{pod}", policy("p", &spec)));
        conditions(
            &context.policies.statuses[&crate::model::Key::new(Kind::AuthorizationPolicy, "shop", "p")],
        )
        .join("\n")
    };
    assert!(said("wbe", pod).contains("no Pod of namespace shop has the labels"), "{}", said("wbe", pod));
    assert!(!said("web", pod).contains("no Pod"));
    assert!(!said("wbe", "").contains("no Pod"), "without any Pod nobody knows");
}

#[test]
fn a_path_is_judged_as_the_application_reads_it() {
    use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    let manager = |context: &Context| -> HttpConnectionManager {
        let listener: Listener = message(&resources(context), Type::Listener, "virtualInbound");
        let chain = listener.filter_chains.iter().find(|it| it.name == "inbound|8080||").unwrap().clone();
        let Some(outrider_proto::pb::envoy::config::listener::v3::filter::ConfigType::TypedConfig(config)) =
            chain.filters.into_iter().next().unwrap().config_type
        else {
            panic!()
        };
        outrider_proto::any::unpack(&config).unwrap()
    };
    let judged = manager(&world(&["{action: DENY, rules: [{to: [{paths: [/admin]}]}]}"]));
    assert!(judged.merge_slashes);
    assert_eq!(judged.path_with_escaped_slashes_action().as_str_name(), "UNESCAPE_AND_FORWARD");
    let free = manager(&world(&[]));
    assert!(!free.merge_slashes, "nobody judges it, so nobody changes it");
    assert_eq!(free.stream_idle_timeout.unwrap().seconds, 0, "a watch would be cut");
}

#[test]
fn a_deny_goes_before_any_allow() {
    answers(
        &["{rules: [{}]}", "{action: DENY, rules: [{to: [{paths: [/admin*]}]}]}"],
        &[
            ("GET /", "", 200),
            ("GET /admin/x?y", "", 403),
            ("GET /a/../admin", "", 403),
            ("GET //admin", "", 403),
            ("GET /a%2F..%2fadmin", "", 403),
            ("GET /x/admin", "", 200),
        ],
    );
}

#[test]
fn a_log_refuses_nothing() {
    answers(
        &["{action: LOG, rules: [{to: [{methods: [DELETE]}]}]}"],
        &[("GET /", "", 200), ("DELETE /", "", 200)],
    );
}

#[test]
fn a_host_is_known_however_it_is_written() {
    answers(
        &[
            "{action: DENY, rules: [{to: [{hosts: [admin.example, '*.secret.example', 'api.example:8080']}]}]}",
        ],
        &[
            ("GET /", "Host: admin.example\r\n", 403),
            ("GET /", "Host: ADMIN.example:81\r\n", 403),
            ("GET /", "Host: admin.example.\r\n", 403),
            ("GET /", "Host: a.secret.example:1\r\n", 403),
            ("GET /", "Host: api.example:8080\r\n", 403),
            ("GET /", "Host: api.example\r\n", 200),
            ("GET /", "Host: adminXexample\r\n", 200),
            ("GET /", "Host: not-admin.example\r\n", 200),
        ],
    );
}

#[test]
fn all_parts_of_a_rule_must_match() {
    answers(
        &[
            "{rules: [{from: [{ipBlocks: [127.0.0.0/8], notIpBlocks: [127.0.0.9]}], to: [{methods: [GET, HEAD], paths: ['/a', '*.txt'], notPaths: [/x.txt]}], when: [{header: X-Role, values: [admin, 'ops-*'], notValues: [ops-junior]}]}]}",
        ],
        &[
            ("GET /a", "X-Role: admin\r\n", 200),
            ("GET /b.txt", "x-role: ops-1\r\n", 200),
            ("GET /a", "", 403),
            ("GET /a", "x-role: user\r\n", 403),
            ("GET /a", "x-role: ops-junior\r\n", 403),
            ("POST /a", "x-role: admin\r\n", 403),
            ("GET /x.txt", "x-role: admin\r\n", 403),
            ("GET /ab", "x-role: admin\r\n", 403),
        ],
    );
    answers(&["{rules: [{from: [{ipBlocks: [10.0.0.0/8, '::/0']}]}]}"], &[("GET /", "", 403)]);
    // Another port than that of the listener.
    answers(&["{rules: [{to: [{ports: [1]}]}]}"], &[("GET /", "", 403)]);
    answers(&["{rules: [{to: [{notPorts: [1]}]}]}"], &[("GET /", "", 200)]);
}

#[test]
fn nobody_has_an_identity_without_mutual_tls() {
    answers(&["{rules: [{from: [{principals: ['*']}]}]}"], &[("GET /", "", 403)]);
    answers(&["{rules: [{from: [{namespaces: [shop]}]}]}"], &[("GET /", "", 403)]);
    // Not to be mallory is no reason to be let in for one who is nobody; to be refused, it is.
    answers(&["{rules: [{from: [{notPrincipals: [a/ns/b/sa/mallory]}]}]}"], &[("GET /", "", 403)]);
    answers(&["{action: DENY, rules: [{from: [{notNamespaces: [shop]}]}]}"], &[("GET /", "", 403)]);
    answers(
        &[
            "{action: DENY, rules: [{from: [{principals: ['cluster.local/*', '*/sa/x', a/ns/b/sa/c]}], to: [{paths: [/a]}]}]}",
        ],
        &[("GET /a", "", 403), ("GET /b", "", 200)],
    );
    answers(&["{action: DENY, rules: [{from: [{namespaces: [evil]}]}]}"], &[("GET /", "", 403)]);
    let context = context(&format!(
        "{WEB}---\n{{apiVersion: v1, kind: Pod, metadata: {{name: web-0, namespace: shop}}, spec: {{containers: [{{name: a}}]}}}}\n---\n\
         {{apiVersion: outrider.dev/v1, kind: AuthorizationPolicy, metadata: {{name: p0, namespace: shop}}, spec: {{rules: [{{from: [{{principals: ['*']}}]}}]}}}}\n"
    ));
    let status = &context.policies.statuses[&crate::model::Key::new(Kind::AuthorizationPolicy, "shop", "p0")];
    let said = conditions(status);
    assert!(said.iter().any(|it| it.contains("match nobody") && it.contains("web-0")), "{said:?}");
}

#[test]
fn where_http_cannot_be_seen_a_deny_holds_and_an_allow_does_not_match() {
    for (spec, passes) in [
        ("{action: DENY, rules: [{to: [{paths: [/admin]}]}]}", false),
        ("{action: DENY, rules: [{to: [{paths: [/admin], ports: [1]}]}]}", true),
        (
            "{action: DENY, rules: [{when: [{header: a, values: [b]}], from: [{ipBlocks: [10.0.0.0/8]}]}]}",
            true,
        ),
        ("{rules: [{to: [{methods: ['*']}]}]}", false),
        ("{rules: [{to: [{methods: [GET]}, {notPorts: [1]}]}]}", true),
        ("{rules: [{from: [{ipBlocks: [127.0.0.1]}]}]}", true),
        ("{action: LOG, rules: [{to: [{paths: [/a]}]}]}", true),
    ] {
        let context = world(&[spec]);
        envoy_takes(&resources(&context));
        let Some(envoy) = envoy(&context) else { return };
        assert_eq!(ask(envoy.listener("tcp"), "GET /", "").0 == 200, passes, "{spec}");
    }
}

#[test]
fn rules_have_names_that_say_where_they_come_from() {
    let all = resources(&world(&["{rules: [{}, {to: [{ports: [1]}]}]}"]));
    let listener: Listener = message(&all, Type::Listener, "virtualInbound");
    let text = format!("{listener:?}");
    // The filters are packed; their bytes have the names as they are.
    let bytes = all.of(Type::Listener).get("virtualInbound").unwrap().body.clone();
    let raw = String::from_utf8_lossy(&bytes);
    assert!(
        raw.contains("ns[shop]-policy[p0]-rule[0]") && raw.contains("ns[shop]-policy[p0]-rule[1]"),
        "{text}"
    );
}

/// An issuer whose key is shared (`HS256`), so that tokens can stand here.
const ISSUER: &str = "jwt: [{issuer: 'https://issuer.example', jwks: '{\"keys\": [{\"kty\": \"oct\", \"alg\": \"HS256\", \"k\": \"b3V0cmlkZXItdGVzdC1rZXktb2YtMzItYnl0ZXMteHg\"}]}'}]";
/// Tokens of the issuer about jane and eve, and one about jane that somebody else signed.
const JANE: &str = "Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiamFuZSJ9.g8OcgK4uicFGl4zmq1xmoJW-hn4yChLF7zKgcpwTVNQ\r\n";
const EVE: &str = "Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiZXZlIn0.SXj0xNiidnEVsJZbRoMXCwMcXjTMr7oDsLeZwCu0_KI\r\n";
const FORGED: &str = "Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiamFuZSJ9.1oCPYcNvPJYExn1nnyq5YrRZ66ZrY9aVcYgILLSmai8\r\n";

#[test]
fn tokens_are_verified_and_rules_look_at_whom_they_are_about() {
    let allow =
        format!("{{{ISSUER}, rules: [{{from: [{{requestPrincipals: [https://issuer.example/jane]}}]}}]}}");
    answers(
        &[&allow],
        &[("GET /", JANE, 200), ("GET /", EVE, 403), ("GET /", "", 403), ("GET /", FORGED, 401)],
    );
    let any = format!(
        "{{{ISSUER}, rules: [{{from: [{{requestPrincipals: ['*']}}], to: [{{paths: [/a]}}]}}, {{to: [{{paths: [/open]}}]}}]}}"
    );
    answers(
        &[&any],
        &[("GET /a", EVE, 200), ("GET /a", "", 403), ("GET /open", "", 200), ("GET /open", FORGED, 401)],
    );
    // Who shows no token could be the one that is refused.
    let deny = format!("{{{ISSUER}, action: Deny, rules: [{{from: [{{requestPrincipals: ['*/eve']}}]}}]}}");
    answers(&[&deny], &[("GET /", JANE, 200), ("GET /", EVE, 403), ("GET /", "", 403)]);
    let not = format!(
        "{{{ISSUER}, rules: [{{from: [{{notRequestPrincipals: ['https://issuer.example/eve']}}]}}]}}"
    );
    answers(&[&not], &[("GET /", JANE, 200), ("GET /", EVE, 403), ("GET /", "", 403)]);
}

#[test]
fn keys_that_cannot_be_had_let_nobody_in_and_the_policy_says_so() {
    let spec = "{jwt: [{issuer: a, jwksFrom: {kind: ExternalService, name: idp, port: 443, path: /keys}}], rules: [{from: [{requestPrincipals: ['*']}]}]}";
    let without = world(&[spec]);
    let said = |context: &Context| {
        conditions(
            &context.policies.statuses[&crate::model::Key::new(Kind::AuthorizationPolicy, "shop", "p0")],
        )
        .join("\n")
    };
    assert!(said(&without).contains("spec.jwt[0].jwksFrom: there is no port 443"), "{}", said(&without));
    assert!(!format!("{:?}", filters_of(&without, &sidecar()).0).contains("jwt_authn.v3.JwtAuthentication"));
    let idp = "---\napiVersion: outrider.dev/v1\nkind: ExternalService\nmetadata: {name: idp, namespace: shop}\nspec: {hosts: [idp.example], ports: [{number: 443, protocol: HTTPS}]}\n";
    let with = context(&format!("{WEB}{}{idp}", policy("p0", spec)));
    assert!(!said(&with).contains("PartiallyInvalid"), "{}", said(&with));
    envoy_takes(&resources(&with));
    let filters = format!("{:?}", filters_of(&with, &sidecar()).0);
    assert!(
        filters.contains("https://idp.example/keys") && filters.contains("external|443||idp.shop"),
        "{filters}"
    );
}
