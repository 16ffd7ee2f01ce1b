//! Access logs: operators, JSON, filters.

use outrider_tests::reply::{Finish, Reply};

use crate::driver::{Case, Group, case, case::H2_CLUSTER, get, post};

const ADDRESS: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%";

/// The operators of a text format, one listener each so that one bad one does not hide the others.
const OPERATORS: [(&str, &str); 18] = [
    (
        "req",
        "%REQ(x-in)% %REQ(X-IN)% %REQ(none)% %REQ(none?x-in)% %REQ(x-in):2% %REQ(:authority)% %REQ(:scheme)%",
    ),
    ("resp", "%RESP(x-out)% %RESP(none)% %RESP(:status)% %RESP(content-length)%"),
    ("trailer", "%TRAILER(x-t)% %TRAILER(grpc-status)%"),
    ("code", "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%"),
    ("bytes", "%BYTES_RECEIVED% %BYTES_SENT%"),
    (
        "up",
        "%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW% %UPSTREAM_PROTOCOL% %UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    ),
    (
        "upaddr",
        "%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT% %UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    ),
    (
        "fail",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% %CONNECTION_TERMINATION_DETAILS%",
    ),
    (
        "down",
        "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%",
    ),
    (
        "direct",
        "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_PORT% %DOWNSTREAM_DIRECT_LOCAL_ADDRESS%",
    ),
    ("route", "%ROUTE_NAME% %VIRTUAL_CLUSTER_NAME% %PROTOCOL% %FILTER_CHAIN_NAME% %ACCESS_LOG_TYPE%"),
    ("filterstate", "%FILTER_STATE(none)% %FILTER_STATE(none:PLAIN)% %UPSTREAM_FILTER_STATE(none)%"),
    (
        "tls",
        "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% %DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_URI_SAN% %REQUESTED_SERVER_NAME%",
    ),
    (
        "grpc",
        "%GRPC_STATUS% %GRPC_STATUS(CAMEL_STRING)% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%",
    ),
    ("literal", "a%%b \"quoted\" \\back"),
    ("local", "%LOCAL_REPLY_BODY%"),
    ("env", "%ENVIRONMENT(NO_SUCH_VARIABLE_HERE)%"),
    ("sub", "%REQ(x-in):3%|%RESP(x-out):1%|%PROTOCOL%"),
];

/// Operators that came to Envoy late.
const LATE: [(&str, &str); 13] = [
    ("headerbytes", "%REQUEST_HEADERS_BYTES% %RESPONSE_TRAILERS_BYTES%"),
    ("path", "%PATH% %PATH(NQ)% %PATH(WQ)% %PATH(NQ:ORIG)% %PATH(WQ:PATH)%"),
    ("query", "%QUERY_PARAM(a)% %QUERY_PARAM(none)% %QUERY_PARAMS(ORIG)%"),
    (
        "meta",
        "%DYNAMIC_METADATA(a:b)% %CLUSTER_METADATA(a:b)% %UPSTREAM_METADATA(a:b)% %METADATA(ROUTE:my:key)% %METADATA(CLUSTER:a:b)%",
    ),
    ("stream", "%STREAM_ID%"),
    (
        "upstreamtls",
        "%UPSTREAM_TLS_VERSION% %UPSTREAM_PEER_SUBJECT% %UPSTREAM_DETECTED_CLOSE_TYPE% %DOWNSTREAM_DETECTED_CLOSE_TYPE%",
    ),
    (
        "decoded",
        "%QUERY_PARAMS% %QUERY_PARAMS(DECODED)% %QUERY_PARAM(b)% %PATH(WQ:ORIG)% %PATH(NQ:ORIG_OR_PATH)%",
    ),
    (
        "places",
        "%METADATA(LISTENER:my:key)% %METADATA(VIRTUAL_HOST:my:key)% %METADATA(LISTENER_FILTER_CHAIN:my:key)% %METADATA(UPSTREAM_HOST:my:key)% %METADATA(ROUTE:my)% %METADATA(ROUTE:my:key):2% %METADATA(DYNAMIC:a:b)% %LISTENER_NAME%",
    ),
    (
        "attempts",
        "%UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT% %UPSTREAM_HOST_NAMES_ATTEMPTED% %UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT%",
    ),
    (
        "masks",
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(0)%",
    ),
    (
        "names",
        "%REQUESTED_SERVER_NAME(SNI_FIRST)% %REQUESTED_SERVER_NAME(HOST_FIRST:HOST)% %REQUESTED_SERVER_NAME(SNI_ONLY)% %REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)%",
    ),
    (
        "none",
        "%TRACE_ID% %SPAN_ID% %CUSTOM_FLAGS% %TLS_JA3_FINGERPRINT% %DOWNSTREAM_TLS_GROUP% %UPSTREAM_SERVER_NAME% %BYTES_RETRANSMITTED% %DOWNSTREAM_HANDSHAKE_DURATION% %DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%",
    ),
    ("retry", "%UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT%"),
];

const ROUTES: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { name: local, match: { prefix: /local }, direct_response: { status: 418, body: { inline_string: "tea" } } }
    - { name: retried, match: { prefix: /retry }, route: { cluster: a, retry_policy: { retry_on: 5xx } } }
    - { name: rewritten, match: { prefix: /rewrite }, route: { cluster: a, prefix_rewrite: /new } }
    - { name: dead, match: { prefix: /dead }, route: { cluster: dead } }
    - { name: grpc, match: { prefix: /s }, route: { cluster: h2 } }
    - { name: normal, match: { prefix: / }, route: { cluster: a }, metadata: { filter_metadata: { my: { key: value } } } }
"#;

/// The operators in text.
pub(crate) fn operators() -> Group {
    with_operators("operators", &OPERATORS)
}

/// The later ones.
pub(crate) fn late_operators() -> Group {
    with_operators("late-operators", &LATE)
}

fn with_operators(name: &'static str, operators: &[(&str, &str)]) -> Group {
    let mut group = Group::new(name)
        .upstreams(&["a"])
        .upstream("closed", None, None)
        .with(|b| b.hosts("dead", &["closed"], "").hosts("h2", &["a"], H2_CLUSTER));
    let mut log = String::from("access_log:\n");
    for (name, format) in operators {
        log.push_str(&logger(&format!("{ADDRESS} {name} {format}"), ""));
    }
    group = group.http("main", &format!("{log}{ROUTES}"));
    let lines = operators.len();
    let mut cases = vec![
        case("normal", get("/x?a=1").h("x-in", "value")).reply(Reply::text("ok").header("x-out", "out")),
        case("local reply", get("/local").h("x-in", "value")),
        case("not found by host", get("/x").h2()),
        case("with a body", post("/x", "12345")).reply(Reply::text("1234567890")),
        case("retried", get("/retry")).reply(Reply::status(500)).reply(Reply::text("ok")),
        case("rewritten", get("/rewrite/x?a=1")),
        case("escapes", get("/x?a%20b=1&b=%2Fq+r%22%20&b=2&c=%3C%7e%25%09%C3%A9%4")),
        case("escapes rewritten", get("/rewrite/x?b=")),
        case("dead upstream", get("/dead")),
        case("cut by the upstream", get("/x")).reply(Reply::text("0123456789").finish(Finish::Close(4))),
        case("grpc", crate::driver::Req::grpc("/s/m", &["q"])).reply(
            Reply::text("x")
                .header("content-type", "application/grpc")
                .trailer("grpc-status", "5")
                .trailer("x-t", "t"),
        ),
        case("odd value", get("/x").h("x-in", "a\"b\\c\td")),
    ];
    cases = cases.into_iter().map(|case| case.logs(lines)).collect();
    for case in &mut cases {
        case.ignore.push("log 127.0.0.1:<client> stream ".into());
    }
    group.cases(cases)
}

fn logger(format: &str, filter: &str) -> String {
    let text = outrider_tests::bootstrap::access_log(format);
    let text = text.trim_start_matches("access_log:\n");
    if filter.is_empty() { text.to_owned() } else { format!("{text}  filter: {filter}\n") }
}

/// JSON and filters.
pub(crate) fn filters() -> Group {
    let json = r#"
- name: envoy.access_loggers.file
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: @{dir}/access.log
    log_format:
      json_format:
        a_code: "%RESPONSE_CODE%"
        b_text: "code %RESPONSE_CODE%"
        c_missing: "%REQ(none)%"
        d_bytes: "%BYTES_SENT%"
        e_nested: { f: "%PROTOCOL%", g: [ "%REQ(x-in)%", "plain" ] }
        h_number: 7
        i_bool: true
        j_quote: "%REQ(x-in)%"
        k_null: null
        z_addr: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"
"#;
    let omit = json.replace("    log_format:\n", "    log_format:\n      omit_empty_values: true\n");
    let rows = [
        (
            "status500",
            "{ status_code_filter: { comparison: { op: GE, value: { default_value: 500, runtime_key: a.b } } } }",
        ),
        (
            "status404",
            "{ status_code_filter: { comparison: { op: EQ, value: { default_value: 404, runtime_key: a.b } } } }",
        ),
        (
            "status300",
            "{ status_code_filter: { comparison: { op: LE, value: { default_value: 300, runtime_key: a.b } } } }",
        ),
        (
            "slow",
            "{ duration_filter: { comparison: { op: GE, value: { default_value: 5000, runtime_key: a.c } } } }",
        ),
        ("nohc", "{ not_health_check_filter: {} }"),
        ("trace", "{ traceable_filter: {} }"),
        ("runtime0", "{ runtime_filter: { runtime_key: none.x, percent_sampled: { numerator: 0 } } }"),
        ("runtime100", "{ runtime_filter: { runtime_key: none.y, percent_sampled: { numerator: 100 } } }"),
        (
            "and",
            "{ and_filter: { filters: [ { status_code_filter: { comparison: { op: GE, value: { default_value: 400, runtime_key: a } } } }, { header_filter: { header: { name: x-in, present_match: true } } } ] } }",
        ),
        (
            "or",
            "{ or_filter: { filters: [ { status_code_filter: { comparison: { op: GE, value: { default_value: 500, runtime_key: a } } } }, { header_filter: { header: { name: x-in, string_match: { exact: v } } } } ] } }",
        ),
        ("header", "{ header_filter: { header: { name: x-in, string_match: { prefix: v } } } }"),
        ("flags", "{ response_flag_filter: {} }"),
        ("flagsnr", "{ response_flag_filter: { flags: [ NR ] } }"),
        ("grpcok", "{ grpc_status_filter: { statuses: [ OK ] } }"),
        ("grpcnot", "{ grpc_status_filter: { statuses: [ OK ], exclude: true } }"),
    ];
    let mut log = String::from("access_log:\n");
    for (name, filter) in rows {
        log.push_str(&logger(&format!("{ADDRESS} {name} %RESPONSE_CODE%"), filter));
    }
    log.push_str(&logger(&format!("{ADDRESS} all %RESPONSE_CODE%"), ""));
    let as_text = |json: &str| {
        // The driver finds lines by the address that they begin with: JSON keys come sorted, so `0` is first.
        json.replace("        z_addr:", "        \"0\":")
    };
    let request = |name: &str, req: crate::driver::Req| -> Case { case(name, req) };
    Group::new("log-filters")
        .upstreams(&["a"])
        .upstream("closed", None, None)
        .with(|b| b.hosts("dead", &["closed"], "").hosts("h2", &["a"], H2_CLUSTER))
        .http("main", &format!("{log}{ROUTES}"))
        .http("json", &format!("access_log:{}{ROUTES}", as_text(json)))
        .http("omit", &format!("access_log:{}{ROUTES}", as_text(&omit)))
        .http("default_format", &format!("access_log:\n- name: envoy.access_loggers.file\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: @{{dir}}/default.log\n{ROUTES}"))
        .cases([
            request("200", get("/x").h("x-in", "v")),
            request("200 without the header", get("/x")),
            request("418", get("/local").h("x-in", "w")),
            case("500", get("/x")).reply(Reply::status(500)),
            request("503 with a flag", get("/dead")),
            request("health checker", get("/x").h("user-agent", "Envoy/HC")),
            case("grpc ok", crate::driver::Req::grpc("/s", &["q"])).reply(Reply::text("x").header("content-type", "application/grpc").trailer("grpc-status", "0")),
            case("grpc not ok", crate::driver::Req::grpc("/s", &["q"])).reply(Reply::text("x").header("content-type", "application/grpc").trailer("grpc-status", "5")),
            request("json", get("/x").to("json").h("x-in", "with \"quotes\" and \\")),
            request("json without values", get("/x").to("json")),
            request("json, empty omitted", get("/x").to("omit")),
        ])
}
