//! Authorization by a service. It is the first upstream that is asked, so its answer is the first of a case's replies.

use bytes::Bytes;
use outrider_proto::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, QueryParameter, header_value_option::HeaderAppendAction as Action,
};
use outrider_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
use outrider_proto::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use outrider_proto::pb::envoy::r#type::v3::HttpStatus;
use outrider_proto::pb::google::protobuf::{BoolValue, Struct, Value, value::Kind};
use outrider_proto::prost::Message;
use outrider_tests::bootstrap::{access_log, indent};
use outrider_tests::reply::{Finish, Reply};

use crate::driver::{Case, Group, Req, case, case::Act, case::H2_CLUSTER, get, post};

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3";
const NOTED: &str = "envoy.filters.http.ext_authz";
const GRPC: &str =
    "grpc_service: { envoy_grpc: { cluster_name: grpcauthz }, timeout: 5s }\ntransport_api_version: V3\n";
/// PERMISSION_DENIED
const NO: i32 = 7;

/// A connection manager with the filter, named `authz`.
fn manager(name: &str, filter: &str, routes: &str) -> String {
    let log = format!(
        "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
         cluster=%UPSTREAM_CLUSTER% a=%DYNAMIC_METADATA({NOTED}:a)% list=%DYNAMIC_METADATA({NOTED}:list)% shadow=%FILTER_STATE(authz.shadow:TYPED)% %FILTER_STATE(authz.shadow:PLAIN)%"
    );
    format!(
        "stat_prefix: {name}\nhttp_filters:\n- name: authz\n  typed_config:\n    \"@type\": {TYPE}.ExtAuthz\n{}\
         - name: router\n  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n{}\
         route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
        indent(4, filter),
        access_log(&log),
        indent(4, routes)
    )
}

const TO_A: &str = "- match: { prefix: / }\n  route: { cluster: a }\n";

fn route(path: &str, settings: &str) -> String {
    format!(
        "- match: {{ prefix: {path} }}\n  route: {{ cluster: a }}\n  typed_per_filter_config:\n    authz: {{ \"@type\": {TYPE}.ExtAuthzPerRoute, {settings} }}\n"
    )
}

fn said(code: i32, http: Option<HttpResponse>) -> CheckResponse {
    let status = outrider_proto::pb::google::rpc::Status { code, ..Default::default() };
    CheckResponse { status: Some(status), http_response: http, ..CheckResponse::default() }
}

fn answer(message: &CheckResponse) -> Reply {
    let message = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message);
    let mut reply = Reply::status(200).header("content-type", "application/grpc");
    reply.body = vec![Bytes::from(frame)];
    reply.trailer("grpc-status", "0")
}

fn ok(ok: OkHttpResponse) -> Reply {
    answer(&said(0, Some(HttpResponse::OkResponse(ok))))
}

fn denied(denied: DeniedHttpResponse) -> Reply {
    answer(&said(NO, Some(HttpResponse::DeniedResponse(denied))))
}

fn plain() -> Reply {
    answer(&said(0, None))
}

fn header(name: &str, value: &str, action: Action) -> HeaderValueOption {
    let header = HeaderValue { key: name.to_owned(), value: value.to_owned(), raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append_action: action.into(), ..HeaderValueOption::default() }
}

#[expect(deprecated, reason = "services still write it")]
fn older(name: &str, value: &str, append: bool) -> HeaderValueOption {
    let append = Some(BoolValue { value: append });
    HeaderValueOption { append, ..header(name, value, Action::AppendIfExistsOrAdd) }
}

fn headers(headers: Vec<HeaderValueOption>) -> Reply {
    ok(OkHttpResponse { headers, ..OkHttpResponse::default() })
}

fn metadata() -> Struct {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let list = outrider_proto::pb::google::protobuf::ListValue { values: vec![text("x"), text("y")] };
    let list = Value { kind: Some(Kind::ListValue(list)) };
    Struct { fields: [("a".to_owned(), text("b")), ("list".to_owned(), list)].into() }
}

/// A request to `listener`, the service's answer, and what was counted.
fn asks(name: &str, listener: &str, request: Req, reply: Reply) -> Case {
    let stats = [
        format!("http.{listener}.ext_authz.*"),
        "cluster.a.ext_authz.*".to_owned(),
        "cluster.a.upstream_rq_4xx".to_owned(),
        "cluster.a.internal.upstream_rq_403".to_owned(),
    ];
    let stats = stats.each_ref().map(String::as_str);
    case(name, Act::from(request.to(listener)))
        .reply(reply)
        .reply(Reply::text("passed"))
        .stats(&stats)
        .logs(1)
        // What Envoy's own client adds.
        .ignore("authz header x-envoy-internal")
        .ignore("authz header x-envoy-expected")
        .ignore("authz header x-forwarded-for")
        .ignore("authz body h2")
        .ignore("client header x-envoy-upstream-service-time")
}

/// A service that speaks gRPC.
pub(crate) fn grpc() -> Group {
    let with = |more: &str| format!("{GRPC}{more}");
    let listeners = [
        ("main", with(""), [route("/off", "disabled: true"), route("/told", "check_settings: { context_extensions: { k: v, l: w } }"), "- match: { prefix: /gone }\n  direct_response: { status: 200 }\n".to_owned(), TO_A.to_owned()].concat()),
        ("lists", with("allowed_headers: { patterns: [ { prefix: x- }, { exact: \":path\" } ] }\ndisallowed_headers: { patterns: [ { exact: x-secret } ] }\nmetadata_context_namespaces: [ one ]\nroute_metadata_context_namespaces: [ mine ]\ninclude_tls_session: true\n"), "- match: { prefix: / }\n  route: { cluster: a }\n  metadata: { filter_metadata: { mine: { k: v }, other: { k: v } } }\n".to_owned()),
        ("raw", with("encode_raw_headers: true\n"), TO_A.to_owned()),
        ("open", "grpc_service: { envoy_grpc: { cluster_name: nobody } }\ntransport_api_version: V3\nfailure_mode_allow: true\nfailure_mode_allow_header_add: true\nstat_prefix: own\n".to_owned(), TO_A.to_owned()),
        ("closed", "grpc_service: { envoy_grpc: { cluster_name: nobody } }\ntransport_api_version: V3\nstatus_on_error: { code: ServiceUnavailable }\n".to_owned(), TO_A.to_owned()),
        ("nowhere", "grpc_service: { envoy_grpc: { cluster_name: nowhere } }\ntransport_api_version: V3\n".to_owned(), TO_A.to_owned()),
        ("late", "grpc_service: { envoy_grpc: { cluster_name: grpcauthz }, timeout: 0.1s }\ntransport_api_version: V3\n".to_owned(), TO_A.to_owned()),
        ("strict", with("validate_mutations: true\n"), TO_A.to_owned()),
        ("rules", with("decoder_header_mutation_rules: { allow_expression: { regex: \"x-envoy-ok\" }, disallow_expression: { regex: \"x-no.*\" } }\n"), TO_A.to_owned()),
        ("errors", with("decoder_header_mutation_rules: { disallow_all: true, disallow_is_error: true }\n"), TO_A.to_owned()),
        ("routed", with("clear_route_cache: true\n"), "- match: { prefix: /, headers: [ { name: x-way, string_match: { exact: b } } ] }\n  route: { cluster: b }\n".to_owned() + TO_A),
        ("deaf", with("enable_dynamic_metadata_ingestion: false\nmax_denied_response_body_bytes: 4\ncharge_cluster_response_stats: false\n"), TO_A.to_owned()),
        ("never", with("filter_enabled: { default_value: { numerator: 0 } }\n"), TO_A.to_owned()),
        ("denies", with("filter_enabled: { default_value: { numerator: 0 } }\ndeny_at_disable: { default_value: true, runtime_key: k }\nstatus_on_error: { code: Unauthorized }\n"), TO_A.to_owned()),
        ("meta", with("filter_enabled_metadata: { filter: f, path: [ { key: k } ], value: { present_match: true } }\n"), TO_A.to_owned()),
        ("shadow", with("shadow_mode: true\n"), TO_A.to_owned()),
    ];
    let mut group = Group::new("ext_authz grpc")
        .upstreams(&["a", "b", "authz"])
        .upstream("shut", None, None)
        .with(|b| b.hosts("grpcauthz", &["authz"], H2_CLUSTER).hosts("nobody", &["shut"], H2_CLUSTER));
    for (name, filter, routes) in &listeners {
        group = group.http(name, &manager(name, filter, routes));
    }
    let some = || get("/p?b=2&a=1&a=3").h("x-a", "old").h("x-b", "one").h("x-b", "two").h("x-secret", "s");
    let refusal = |status: i32, headers: Vec<HeaderValueOption>, body: &str| DeniedHttpResponse {
        status: Some(HttpStatus { code: status }),
        headers,
        body: body.to_owned(),
    };
    let challenge = || {
        vec![
            header("www-authenticate", "Basic", Action::AppendIfExistsOrAdd),
            header("set-cookie", "a=1", Action::AppendIfExistsOrAdd),
            header("set-cookie", "b=2", Action::AppendIfExistsOrAdd),
        ]
    };
    let query = |set: &[(&str, &str)], remove: &[&str]| OkHttpResponse {
        query_parameters_to_set: set
            .iter()
            .map(|(key, value)| QueryParameter { key: (*key).to_owned(), value: (*value).to_owned() })
            .collect(),
        query_parameters_to_remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        ..OkHttpResponse::default()
    };
    let remove = |names: &[&str]| OkHttpResponse {
        headers_to_remove: names.iter().map(|name| (*name).to_owned()).collect(),
        ..OkHttpResponse::default()
    };
    let back = |headers| ok(OkHttpResponse { response_headers_to_add: headers, ..OkHttpResponse::default() });
    let with_metadata =
        |code| answer(&CheckResponse { dynamic_metadata: Some(metadata()), ..said(code, None) });
    let error = |reply| answer(&said(2, Some(HttpResponse::ErrorResponse(reply))));
    use Action::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    group.cases([
        asks("allowed", "main", some(), plain()),
        asks("allowed with a body that is not sent", "main", post("/p", "body"), plain()),
        asks("denied", "main", some(), answer(&said(NO, None))),
        asks("denied with all", "main", some(), denied(refusal(401, challenge(), "go away"))),
        asks(
            "denied a call",
            "main",
            Req::grpc("/s/m", &["x"]),
            denied(refusal(401, challenge(), "go away")),
        ),
        asks(
            "denied by the older field",
            "main",
            some(),
            denied(refusal(
                403,
                vec![older("x-r", "1", false), older("x-r", "2", false), older("x-q", "1", true)],
                "",
            )),
        ),
        asks(
            "a denial without a status",
            "main",
            some(),
            denied(DeniedHttpResponse { body: "b".to_owned(), ..Default::default() }),
        ),
        asks("an error of the service's", "main", some(), error(refusal(502, challenge(), "broken"))),
        asks("an error without a status", "main", some(), error(DeniedHttpResponse::default())),
        asks("off for a route", "main", get("/off"), Reply::text("passed")),
        asks("extensions", "main", get("/told"), plain()),
        asks("an answer of the proxy's own", "main", get("/gone"), plain()),
        asks(
            "appended",
            "main",
            some(),
            headers(vec![
                header("x-a", "new", AppendIfExistsOrAdd),
                header("x-n", "new", AppendIfExistsOrAdd),
            ]),
        ),
        asks(
            "only if absent",
            "main",
            some(),
            headers(vec![header("x-a", "new", AddIfAbsent), header("x-n", "new", AddIfAbsent)]),
        ),
        asks(
            "overwritten",
            "main",
            some(),
            headers(vec![
                header("x-a", "new", OverwriteIfExistsOrAdd),
                header("x-n", "new", OverwriteIfExistsOrAdd),
            ]),
        ),
        asks(
            "only if there",
            "main",
            some(),
            headers(vec![header("x-a", "new", OverwriteIfExists), header("x-n", "new", OverwriteIfExists)]),
        ),
        asks(
            "the older field: append",
            "main",
            some(),
            headers(vec![older("x-a", "new", true), older("x-b", "three", true), older("x-n", "new", true)]),
        ),
        asks(
            "the older field: set",
            "main",
            some(),
            headers(vec![older("x-a", "new", false), older("x-n", "new", false)]),
        ),
        asks("upper case", "main", some(), headers(vec![header("X-Up", "new", OverwriteIfExistsOrAdd)])),
        asks("an empty value", "main", some(), headers(vec![header("x-a", "", OverwriteIfExistsOrAdd)])),
        asks(
            "pseudo headers",
            "main",
            some(),
            headers(vec![
                header(":path", "/other?q=1", OverwriteIfExistsOrAdd),
                header(":authority", "other.host", OverwriteIfExistsOrAdd),
            ]),
        ),
        asks("the host", "main", some(), headers(vec![header("host", "other.host", OverwriteIfExistsOrAdd)])),
        asks("the method", "main", some(), headers(vec![header(":method", "PUT", OverwriteIfExistsOrAdd)])),
        asks("removed", "main", some(), ok(remove(&["x-a", "X-B", ":path", "host", "none"]))),
        asks("query", "main", some(), ok(query(&[("a", "9"), ("n", "x%20y")], &["b"]))),
        asks(
            "headers for the client",
            "main",
            some(),
            back(vec![
                header("x-back", "1", AppendIfExistsOrAdd),
                header("x-back", "2", AppendIfExistsOrAdd),
                header("server", "mine", OverwriteIfExists),
                header("content-type", "x/y", AddIfAbsent),
            ]),
        ),
        asks("metadata", "main", some(), with_metadata(0)),
        asks("metadata of a denial", "main", some(), with_metadata(NO)),
        asks("lists of headers", "lists", some(), plain()),
        asks("raw headers", "raw", some(), plain()),
        asks("nobody, open", "open", some(), Reply::text("passed")),
        asks("nobody, closed", "closed", some(), Reply::text("passed")),
        asks("no cluster", "nowhere", some(), Reply::text("passed")),
        asks("too late", "late", some(), plain().after(2000)),
        asks("another status", "main", some(), Reply::status(500)),
        asks("a gRPC error", "main", some(), Reply::grpc(&[], "14")),
        asks("no gRPC", "main", some(), Reply::text("x")),
        asks("a reset", "main", some(), Reply::status(200).finish(Finish::ResetFirst)),
        asks("no message", "main", some(), Reply::grpc(&["\u{1}\u{2}garbage"], "0")),
        asks("strict: fine", "strict", some(), headers(vec![header("x-a", "new", OverwriteIfExistsOrAdd)])),
        asks(
            "strict: a bad value",
            "strict",
            some(),
            headers(vec![header("x-a", "a\nb", OverwriteIfExistsOrAdd)]),
        ),
        asks(
            "strict: a bad name",
            "strict",
            some(),
            headers(vec![header("x a", "b", OverwriteIfExistsOrAdd)]),
        ),
        asks(
            "strict: upper case",
            "strict",
            some(),
            headers(vec![header("X-Up", "b", OverwriteIfExistsOrAdd)]),
        ),
        asks(
            "strict: a bad response header",
            "strict",
            some(),
            back(vec![header("x-a", "a\nb", AppendIfExistsOrAdd)]),
        ),
        asks(
            "strict: a bad denial",
            "strict",
            some(),
            denied(refusal(401, vec![header("x-a", "a\nb", AppendIfExistsOrAdd)], "b")),
        ),
        asks("strict: a bad removal", "strict", some(), ok(remove(&["x a", "x-a"]))),
        asks("strict: a bad query", "strict", some(), ok(query(&[("a", "x y")], &[]))),
        asks(
            "rules",
            "rules",
            some(),
            headers(vec![
                header("x-a", "new", OverwriteIfExistsOrAdd),
                header("x-envoy-ok", "1", OverwriteIfExistsOrAdd),
                header("x-envoy-other", "1", OverwriteIfExistsOrAdd),
                header("x-not", "1", OverwriteIfExistsOrAdd),
                header("host", "other", OverwriteIfExistsOrAdd),
            ]),
        ),
        asks(
            "rules that refuse",
            "errors",
            some(),
            headers(vec![header("x-a", "new", OverwriteIfExistsOrAdd)]),
        ),
        asks("rules that refuse a removal", "errors", some(), ok(remove(&["x-a"]))),
        asks("routed anew", "routed", get("/"), headers(vec![header("x-way", "b", OverwriteIfExistsOrAdd)])),
        asks(
            "not routed anew",
            "main",
            get("/"),
            headers(vec![header("x-way", "b", OverwriteIfExistsOrAdd)]),
        ),
        asks("no metadata wanted", "deaf", some(), with_metadata(0)),
        asks("a shorter body", "deaf", some(), denied(refusal(401, Vec::new(), "much too long"))),
        asks("off", "never", some(), Reply::text("passed")),
        asks("off and denied", "denies", some(), Reply::text("passed")),
        asks("off by metadata", "meta", some(), Reply::text("passed")),
        asks("shadow: allowed", "shadow", some(), plain()),
        asks("shadow: denied", "shadow", some(), denied(refusal(401, challenge(), "go away"))),
        asks("shadow: error", "shadow", some(), Reply::status(500)),
    ])
}

/// A service that speaks HTTP, and bodies.
pub(crate) fn http() -> Group {
    let service = |more: &str| {
        format!(
            "http_service:\n  server_uri: {{ uri: \"http://authz.test:81/x\", cluster: authz, timeout: 5s }}\n{}",
            indent(2, more)
        )
    };
    let body = |limit: u32, partial: bool| {
        format!("with_request_body: {{ max_request_bytes: {limit}, allow_partial_message: {partial} }}\n")
    };
    let bodies = [
        route("/without", "check_settings: { disable_request_body_buffering: true }"),
        route("/more", "check_settings: { with_request_body: { max_request_bytes: 100 } }"),
        TO_A.to_owned(),
    ]
    .concat();
    let listeners = [
        ("main", service(""), TO_A.to_owned()),
        ("prefix", service("path_prefix: /check"), TO_A.to_owned()),
        ("fixed", service("path_override: /fixed"), TO_A.to_owned()),
        (
            "lists",
            service(
                "authorization_request: { allowed_headers: { patterns: [ { prefix: x- } ] }, headers_to_add: [ { key: x-added, value: added }, { key: x-a, value: over } ] }\nauthorization_response: { allowed_upstream_headers: { patterns: [ { prefix: x-up } ] }, allowed_upstream_headers_to_append: { patterns: [ { exact: x-a } ] }, allowed_client_headers: { patterns: [ { exact: x-client } ] }, allowed_client_headers_on_success: { patterns: [ { exact: x-good } ] }, dynamic_metadata_from_headers: { patterns: [ { exact: a } ] } }",
            ),
            TO_A.to_owned(),
        ),
        ("whole", service("") + &body(5, false), bodies.clone()),
        ("part", service("") + &body(5, true), bodies),
        ("text", format!("{GRPC}{}", body(100, false)), TO_A.to_owned()),
        (
            "bytes",
            format!(
                "{GRPC}with_request_body: {{ max_request_bytes: 3, allow_partial_message: true, pack_as_bytes: true }}\n"
            ),
            TO_A.to_owned(),
        ),
        (
            "again",
            service(
                "retry_policy: { retry_on: 5xx, num_retries: 2, retry_back_off: { base_interval: 0.001s, max_interval: 5s } }",
            ),
            TO_A.to_owned(),
        ),
        (
            "overhttp",
            GRPC.to_owned(),
            route(
                "/",
                "check_settings: { http_service: { server_uri: { uri: \"http://authz.test/x\", cluster: authz, timeout: 5s }, path_prefix: /over } }",
            ),
        ),
        (
            "overgrpc",
            service(""),
            route(
                "/",
                "check_settings: { context_extensions: { k: v }, grpc_service: { envoy_grpc: { cluster_name: grpcauthz }, timeout: 5s } }",
            ),
        ),
        (
            "open",
            service("").replace("cluster: authz", "cluster: nobody") + "failure_mode_allow: true\n",
            TO_A.to_owned(),
        ),
    ];
    let mut group = Group::new("ext_authz http")
        .upstreams(&["a", "authz"])
        .upstream("shut", None, None)
        .with(|b| b.hosts("grpcauthz", &["authz"], H2_CLUSTER).hosts("nobody", &["shut"], ""));
    for (name, filter, routes) in &listeners {
        group = group.http(name, &manager(name, filter, routes));
    }
    let some = || {
        get("/p?q=1")
            .h("authorization", "Basic x")
            .h("cookie", "c")
            .h("x-a", "old")
            .h("x-b", "1")
            .h("x-b", "2")
    };
    let rich = |status: u16| {
        Reply::status(status)
            .body("said")
            .header("x-upper", "1")
            .header("x-a", "new")
            .header("x-client", "c")
            .header("x-good", "g")
            .header("a", "b")
            .header("www-authenticate", "Basic")
            .header("location", "/login")
            .header("x-envoy-auth-headers-to-remove", "x-b, cookie")
    };
    group.cases([
        asks("allowed", "main", some(), Reply::text("x")),
        asks("denied", "main", some(), rich(401)),
        asks("sent elsewhere", "main", some(), rich(302)),
        asks("created is not allowed", "main", some(), Reply::status(201)),
        asks("an error", "main", some(), rich(503)),
        asks("a POST without its body", "main", post("/p", "body"), Reply::text("x")),
        asks("a prefix", "prefix", some(), Reply::text("x")),
        asks("one path", "fixed", some(), Reply::text("x")),
        asks("lists: allowed", "lists", some(), rich(200)),
        asks("lists: denied", "lists", some(), rich(403)),
        asks("a whole body", "whole", post("/p", "12345"), Reply::text("x")),
        asks("a body that is too long", "whole", post("/p", "123456"), Reply::text("x")),
        asks("chunks", "whole", post("/p", "12").piece("345").chunked(), Reply::text("x")),
        asks("trailers", "whole", post("/p", "12").trailer("x-t", "1"), Reply::text("x")),
        asks("over HTTP/2", "whole", post("/p", "12345").h2(), Reply::text("x")),
        asks("no body", "whole", get("/p"), Reply::text("x")),
        asks("a part of a body", "part", post("/p", "1234567"), Reply::text("x")),
        asks("a part that is all", "part", post("/p", "12345"), Reply::text("x")),
        asks("a route without bodies", "whole", post("/without", "1234567"), Reply::text("x")),
        asks("a route with more", "whole", post("/more", "1234567"), Reply::text("x")),
        asks(
            "an upgrade that is not allowed",
            "whole",
            get("/p").upgrade("websocket", "x"),
            Reply::status(403),
        ),
        asks("asked again", "again", some(), Reply::status(503)),
        asks("not asked again", "again", some(), Reply::status(403)),
        asks("HTTP for a route", "overhttp", some(), rich(401)),
        asks("gRPC for a route", "overgrpc", some(), plain()),
        asks("a body as text", "text", post("/p", "body"), plain()),
        asks("a body as bytes", "bytes", post("/p", "body"), plain()),
        asks("nobody, open", "open", some(), Reply::text("passed")),
    ])
}
