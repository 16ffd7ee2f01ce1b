//! Expressions: conditions of policies, matchers of match trees, filters of access logs.

use outrider_core::cel;
use outrider_core::cel::ast::{Expr, Literal};
use outrider_tests::bootstrap::{access_log, indent, tcp_filter};
use outrider_tests::upstream::TcpScript;

use super::rbac::{manager, route};
use crate::driver::{Case, Group, Req, Tls, case, get, post, talk};

const LOG: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS% in=%BYTES_RECEIVED%";
const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const DYNAMIC: &str = "fault: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: { fixed_delay: 0.001s, percentage: { numerator: 100 } }, filter_metadata: { name: tiger, num: 3, b: true, z: null, list: [ 1, two ], map: { in: x } } }\n";

/// What policies ask. Each is asked turned round as well, which tells what is false from what is an error.
const CONDITIONS: [(&str, &str); 64] = [
    ("path", "request.path == '/path?q=1&r=2'"),
    ("url-path", "request.url_path.startsWith('/url-') && request.query == 'q=1&r=2'"),
    ("method", "request.method in ['GET', 'HEAD']"),
    ("host", "request.host == 'test.host' && request.headers['host'] == request.host"),
    ("scheme", "request.scheme == 'http'"),
    ("protocol", "request.protocol == 'HTTP/1.1'"),
    ("agent", "has(request.useragent)"),
    ("referer", "request.referer.endsWith('/from')"),
    ("id", "request.id != ''"),
    ("header", "request.headers['X-A'] == 'foo'"),
    ("many", "request.headers['x-many'] == 'one,two'"),
    ("pseudo", "request.headers[':path'] == request.path && request.headers[':method'] == 'GET'"),
    ("missing", "request.headers['nope'] == 'foo'"),
    ("missing-or", "request.headers['nope'] == 'foo' || request.headers['x-a'] == 'foo'"),
    ("missing-and", "request.headers['nope'] == 'foo' && false"),
    ("missing-ternary", "request.headers['nope'] == 'a' ? true : true"),
    ("missing-list", "'foo' in [request.headers['nope'], 'foo']"),
    ("in-headers", "'x-a' in request.headers && !('nope' in request.headers)"),
    ("has-header", "has(request.headers.nope)"),
    ("has-no-map", "has(request.path.x)"),
    ("size", "request.size == 0"),
    ("total-size", "request.total_size > 50 && request.headers_bytes == request.total_size"),
    ("time", "request.time > timestamp('2020-01-01T00:00:00Z') && request.time.getFullYear() > 2020"),
    ("duration", "request.duration < duration('10s')"),
    ("has-duration", "has(request.duration)"),
    ("response", "response.code == 200"),
    ("has-response", "has(response.code)"),
    ("flags", "response.flags == 0"),
    ("response-header", "'x' in response.headers"),
    ("mtls", "connection.mtls"),
    ("tls", "has(connection.tls_version)"),
    ("sni", "connection.requested_server_name == ''"),
    ("connection", "connection.id >= 0u && type(connection.id) == uint"),
    ("source", "source.address.startsWith('127.0.0.1:') && source.port > 0"),
    ("destination", "destination.address == '127.0.0.1:@{main}' && destination.port == @{main}"),
    ("upstream", "upstream.address == ''"),
    ("attempts", "upstream.request_attempt_count == 0u"),
    ("meta", "metadata.filter_metadata['envoy.filters.http.fault'].name == 'tiger'"),
    ("meta-num", "metadata.filter_metadata['envoy.filters.http.fault']['num'] == 3"),
    ("meta-list", "'two' in metadata.filter_metadata['envoy.filters.http.fault'].list"),
    ("meta-deep", "metadata.filter_metadata['envoy.filters.http.fault'].map == {'in': 'x'}"),
    ("meta-null", "metadata.filter_metadata['envoy.filters.http.fault'].z == null"),
    ("meta-none", "metadata.filter_metadata['nope'].name == 'tiger'"),
    ("meta-has", "has(metadata.filter_metadata) && !has(metadata.filter_metadata.nope)"),
    ("route-meta", "xds.route_metadata.filter_metadata['my'].color == 'blue'"),
    ("route-deep", "xds.route_metadata.filter_metadata['my'].deep.er == 3.0"),
    ("state", "filter_state['nope'] == 'x'"),
    ("has-state", "has(filter_state.nope)"),
    ("chain", "xds.filter_chain_name == ''"),
    ("matches", "request.path.matches('^/mat[a-z]+') && request.path.matches('q=')"),
    ("matches-no", "request.path.matches('^q')"),
    ("contains", "request.path.contains('r=') && request.path.size() > 5 && size(b'abc') == 3"),
    ("uint", "1u + 1u == 2u && 1 == 1u && -1 < 0u && [1, 2] == [1.0, 2u]"),
    ("mixed", "1 + 1u == 2u"),
    ("division", "7 / 0 == 1"),
    ("overflow", "9223372036854775807 + 1 > 0"),
    ("concat", "'a' + 'b' == 'ab'"),
    ("map", "{'a': 1, 'b': [2, 3]}['b'][1] == 3 && {1: 2}[1.0] == 2 && !({'a': 1} == {'a': 2})"),
    ("map-twice", "{'a': 1, 'a': 2}.a == 1"),
    ("convert", "int(request.headers['x-n']) + 1 == 43 && double('1.5') == 1.5 && uint('+5') == 5u"),
    ("convert-no", "int(request.headers['x-a']) == 1"),
    (
        "hours",
        "timestamp('2020-01-01T00:00:00Z').getHours('+01:00') == 1 && duration('1.5s').getMilliseconds() == 500",
    ),
    ("no-bool", "request.path"),
    ("number-or", "1 || true"),
];

/// What access logs ask, when all is known.
const FILTERS: [(&str, &str); 22] = [
    ("code", "response.code >= 400"),
    ("uint", "response.code == 200u || response.code == 418.0"),
    ("details", "response.code_details == 'via_upstream'"),
    ("size", "response.size > 0 && response.total_size > response.size"),
    ("header", "response.headers['x-out'] == 'v'"),
    ("no-header", "has(response.headers.nope)"),
    ("trailer", "has(response.trailers.nope)"),
    ("flags", "response.flags == 4"),
    ("grpc", "response.grpc_status == 2"),
    // A request that is answered at once may take no time at all here: the clock is read once for all that is at hand.
    ("duration", "request.duration >= duration('0s') && request.duration < duration('60s')"),
    ("latency", "response.backend_latency < duration('60s')"),
    ("request-size", "request.size == 5"),
    ("upstream", "upstream.address.startsWith('127.0.0.1:') && upstream.port > 0"),
    ("attempts", "upstream.request_attempt_count == 1u"),
    ("local", "upstream.local_address.startsWith('127.0.0.1:')"),
    ("failure", "upstream.transport_failure_reason == ''"),
    ("cluster", "xds.cluster_name == 'a'"),
    ("route", "xds.route_name == 'named'"),
    ("has-host", "has(xds.upstream_host_metadata)"),
    ("has-cluster", "has(xds.cluster_metadata)"),
    ("ended", "has(connection.termination_details)"),
    ("mtls", "connection.mtls && connection.uri_san_peer_certificate == 'spiffe://test/client'"),
];

/// The expression `text` as configurations hold it.
#[expect(clippy::expect_used, reason = "without its expressions a group cannot be run")]
fn tree(text: &str) -> String {
    // Ports are filled in later; as long as they are, they are a number that nothing else is.
    let text = text.replace("@{main}", "77007700");
    let expr = cel::parse(&text).expect("an expression");
    yaml(&expr).replace("77007700", "@{main}")
}

fn yaml(expr: &Expr) -> String {
    let all = |exprs: &[Expr]| exprs.iter().map(yaml).collect::<Vec<_>>().join(", ");
    match expr {
        Expr::Literal(value) => format!("{{ const_expr: {{ {} }} }}", literal(value)),
        Expr::Ident(name) => format!("{{ ident_expr: {{ name: {name:?} }} }}"),
        Expr::Select { operand, field, test } => format!(
            "{{ select_expr: {{ operand: {}, field: {field:?}, test_only: {test} }} }}",
            yaml(operand)
        ),
        Expr::Call { function, target, args } => {
            let target = target.as_ref().map(|target| format!("target: {}, ", yaml(target)));
            let target = target.unwrap_or_default();
            format!("{{ call_expr: {{ function: {function:?}, {target}args: [ {} ] }} }}", all(args))
        }
        Expr::List(elements) => format!("{{ list_expr: {{ elements: [ {} ] }} }}", all(elements)),
        Expr::Map(entries) => {
            let entry =
                |(key, value): &(Expr, Expr)| format!("{{ map_key: {}, value: {} }}", yaml(key), yaml(value));
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("{{ struct_expr: {{ entries: [ {} ] }} }}", entries.join(", "))
        }
    }
}

fn literal(value: &Literal) -> String {
    use base64::Engine as _;
    match value {
        Literal::Null => "null_value: NULL_VALUE".to_owned(),
        Literal::Bool(value) => format!("bool_value: {value}"),
        Literal::Int(value) => format!("int64_value: \"{value}\""),
        Literal::Uint(value) => format!("uint64_value: \"{value}\""),
        Literal::Double(value) => format!("double_value: {value:?}"),
        Literal::Text(text) => format!("string_value: {}", serde_json::Value::String(text.clone())),
        Literal::Bytes(bytes) => {
            format!("bytes_value: \"{}\"", base64::engine::general_purpose::STANDARD.encode(bytes))
        }
    }
}

/// Rules that let through what `expression` is true of.
fn allow(expression: &str, more: &str) -> String {
    format!(
        "rules: {{ action: ALLOW, policies: {{ p: {{ permissions: [ {{ any: true }} ], principals: [ {{ any: true }} ], condition: {}{more} }} }} }}",
        tree(expression)
    )
}

fn asked(path: &str) -> Req {
    get(&format!("/{path}?q=1&r=2"))
        .h("x-a", "foo")
        .h("x-n", "42")
        .h("x-many", "one")
        .h("x-many", "two")
        .h("referer", "http://test/from")
}

/// Conditions of policies.
pub(crate) fn policies() -> Group {
    let mut routes = Vec::new();
    let mut cases: Vec<Case> = Vec::new();
    for (name, text) in CONDITIONS {
        let more = if name.starts_with("meta") { DYNAMIC } else { "" };
        // The whole segment: one name may begin like another.
        routes.push(route(name, &allow(text, ""), more).replacen("prefix: ", "path: ", 1));
        let not = format!("not-{name}");
        let turned = allow(&format!("!({text})"), "");
        routes.push(route(&not, &turned, more).replacen("prefix: ", "path: ", 1));
        cases.push(case(name, asked(name)));
        cases.push(case(&not, asked(&not)));
    }
    let extras = ", cel_config: { enable_string_conversion: true, enable_string_concat: true, enable_string_functions: true }";
    for (name, text) in [
        ("extra-concat", "request.method + request.host == 'GETtest.host'"),
        ("extra-string", "string(42) == '42' && string(true) == 'true'"),
        ("extra-lower", "'ABC'.lowerAscii() == 'abc' && request.method.upperAscii() == 'GET'"),
        ("extra-replace", "request.headers['x-many'].replace('o', '0') == '0ne,tw0'"),
        ("extra-split", "request.headers['x-many'].split(',') == ['one', 'two']"),
        ("extra-join", "['a', 'b'].join('-') == 'a-b'"),
    ] {
        routes.push(route(name, &allow(text, extras), ""));
        cases.push(case(name, asked(name)));
    }
    let denied = allow("request.headers['nope'] == 'x'", "").replace("ALLOW", "DENY");
    routes.push(route("deny-error", &denied, ""));
    cases.push(case("deny-error", asked("deny-error")));
    cases.push(case("a body", post("/size?q=1", "hello")));
    Group::new("cel policies").upstreams(&["a"]).http("main", &manager("main", "", &routes)).cases(cases)
}

/// Matchers of match trees.
pub(crate) fn trees() -> Group {
    let matcher = |form: &str| {
        format!(
            "matcher: {{ matcher_list: {{ matchers: [ {{ predicate: {{ single_predicate: {{ input: {{ name: in, typed_config: {{ \"@type\": type.googleapis.com/xds.type.matcher.v3.HttpAttributesCelMatchInput }} }}, custom_match: {{ name: cel, typed_config: {{ \"@type\": type.googleapis.com/xds.type.matcher.v3.CelMatcher, expr_match: {{ {form} }} }} }} }} }}, on_match: {{ action: {{ name: a, typed_config: {{ \"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: it, action: ALLOW }} }} }} }} ] }} }}"
        )
    };
    let parsed = |text: &str| matcher(&format!("cel_expr_parsed: {{ expr: {} }}", tree(text)));
    let routes = [
        route("path", &parsed("request.path == '/path?q=1&r=2'"), ""),
        route("header", &parsed("request.headers['x-a'] == 'foo' && source.port > 0"), ""),
        route("missing", &parsed("request.headers['nope'] == 'foo'"), ""),
        route("turned", &parsed("!(request.headers['nope'] == 'foo')"), ""),
        route("number", &parsed("1"), ""),
        route(
            "checked",
            &matcher(&format!("cel_expr_checked: {{ expr: {} }}", tree("request.method == 'GET'"))),
            "",
        ),
        route("old", &matcher(&format!("parsed_expr: {{ expr: {} }}", tree("has(request.referer)"))), ""),
        route("meta", &parsed("metadata.filter_metadata['envoy.filters.http.fault'].b"), DYNAMIC),
    ];
    let names = ["path", "header", "missing", "turned", "number", "checked", "old", "meta"];
    Group::new("cel trees")
        .upstreams(&["a"])
        .http("main", &manager("main", "", &routes))
        .cases(names.map(|name| case(name, asked(name))))
}

/// Conditions of policies for connections.
pub(crate) fn connections() -> Group {
    let mut group = Group::new("cel connections").tcp_upstream("echo", TcpScript::Echo);
    let mut cases = Vec::new();
    for (name, text, passes) in [
        ("source", "source.address.startsWith('127.0.0.1:') && !connection.mtls", true),
        ("request", "has(request.path)", false),
        ("missing", "request.path == '/'", false),
        ("headers", "size(request.headers) == 0", true),
        ("port", "destination.port == 1", false),
    ] {
        let filters = format!(
            "- name: rbac\n  typed_config: {{ \"@type\": {NETWORK}, stat_prefix: {name}, {} }}\n{}",
            allow(text, ""),
            tcp_filter(name, &format!("cluster: echo\n{}", access_log(LOG)))
        );
        let chain = format!("filter_chains:\n- filters:\n{}", indent(2, &filters));
        group = group.with(|b| b.listener(name, &chain));
        let talk = talk(name).send("hello");
        let talk = if passes { talk.read("hello").finish().drain() } else { talk.drain() };
        cases.push(case(name, talk).logs(1).stats(&[&format!("{name}.rbac.*")]));
    }
    group.cases(cases)
}

/// Filters of access logs.
pub(crate) fn logs() -> Group {
    let mut log = String::from("access_log:\n");
    let mut add = |name: &str, text: &str| {
        let line = access_log(&format!("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% {name} %RESPONSE_CODE%"));
        let text = serde_json::Value::String(text.to_owned());
        log.push_str(line.trim_start_matches("access_log:\n"));
        log.push_str(&format!(
            "  filter: {{ extension_filter: {{ name: cel, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter, expression: {text} }} }} }}\n"
        ));
    };
    for (name, text) in FILTERS {
        add(name, text);
        add(&format!("not-{name}"), &format!("!({text})"));
    }
    // One line at least, for the driver to wait for.
    add("all", "true");
    let routes = "route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - match: { prefix: /local }\n      direct_response: { status: 418 }\n    - match: { prefix: / }\n      name: named\n      route: { cluster: a }\n";
    let hcm = format!("{log}{routes}");
    let context = "name: envoy.transport_sockets.tls\ntyped_config:\n  \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n  common_tls_context:\n    tls_certificates: [ { certificate_chain: { filename: \"@{certs}/server.pem\" }, private_key: { filename: \"@{certs}/server.key\" } } ]\n    validation_context: { trusted_ca: { filename: \"@{certs}/ca.pem\" } }\n";
    let tls = format!(
        "filter_chains:\n- transport_socket:\n{}  filters:\n{}",
        indent(4, context),
        indent(2, &outrider_tests::bootstrap::hcm_filter("tls", &hcm))
    );
    let reply = || outrider_tests::reply::Reply::text("hi").header("x-out", "v");
    // Each expression that is no error is one line, true or turned round.
    Group::new("cel logs").upstreams(&["a"]).http("main", &hcm).with(|b| b.listener("tls", &tls)).cases([
        case("answered", get("/x")).reply(reply()),
        case("with a body", post("/x", "hello")).reply(reply()),
        case("failed", get("/x")).reply(outrider_tests::reply::Reply::status(500)),
        case("not forwarded", get("/local")),
        case("with a certificate", get("/x").to("tls").tls(Tls::to("server.test").cert("client"))),
        case("without a certificate", get("/x").to("tls").tls(Tls::to("server.test"))),
    ])
}
