//! Answers that the proxy makes by itself: `direct_response` and redirects.

use crate::driver::{Case, Group, case, get, post, req};

/// Direct responses.
pub(crate) fn direct() -> Group {
    Group::new("direct")
        .routes(
            r#"
virtual_hosts:
- name: all
  domains: ["*"]
  response_headers_to_add: [ { header: { key: x-vhost, value: v } } ]
  routes:
  - { match: { path: /empty }, direct_response: { status: 204 } }
  - { match: { path: /none }, direct_response: { status: 200 } }
  - { match: { path: /teapot }, direct_response: { status: 418, body: { inline_string: "short and stout" } } }
  - { match: { path: /bytes }, direct_response: { status: 200, body: { inline_bytes: "AAEC/w==" } } }
  - { match: { path: /odd }, direct_response: { status: 599, body: { inline_string: "odd" } } }
  - { match: { path: /503 }, direct_response: { status: 503, body: { inline_string: "down" } } }
  - match: { path: /typed }
    direct_response: { status: 200, body: { inline_string: "{}" } }
    response_headers_to_add: [ { header: { key: content-type, value: application/json }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } ]
  - match: { path: /ops }
    direct_response: { status: 200, body: { inline_string: "ops" } }
    response_headers_to_add: [ { header: { key: x-r, value: "%RESPONSE_CODE% %PROTOCOL%" } } ]
    response_headers_to_remove: [ x-vhost ]
"#,
        )
        .cases([
            case("empty 204", get("/empty")),
            case("no body", get("/none")),
            case("no body to HEAD", req("HEAD", "/none")),
            case("body", get("/teapot")),
            case("body to HEAD", req("HEAD", "/teapot")),
            case("body over h2", get("/teapot").h2()),
            case("bytes", get("/bytes")),
            case("status without a name", get("/odd")),
            case("5xx", get("/503")),
            case("own content type", get("/typed")),
            case("header operations", get("/ops")),
            case("request with a body", post("/teapot", "some body")),
            case("request with chunks", post("/teapot", "some body").chunked()),
            case("http/1.0 refused", get("/teapot").http10()),
            case("close asked for", get("/teapot").h("connection", "close")),
            case("204 over h2", get("/empty").h2()),
        ])
}

/// Redirects.
pub(crate) fn redirects() -> Group {
    Group::new("redirects")
        .routes(
            r#"
virtual_hosts:
- name: all
  domains: ["*"]
  routes:
  - { match: { prefix: /https }, redirect: { https_redirect: true } }
  - { match: { prefix: /scheme }, redirect: { scheme_redirect: gopher } }
  - { match: { prefix: /host }, redirect: { host_redirect: new.host } }
  - { match: { prefix: /hport }, redirect: { host_redirect: "new.host:81", port_redirect: 82 } }
  - { match: { prefix: /port }, redirect: { port_redirect: 8443 } }
  - { match: { prefix: /path }, redirect: { path_redirect: /new/path } }
  - { match: { prefix: /pquery }, redirect: { path_redirect: "/new?q=1" } }
  - { match: { prefix: /prefix }, redirect: { prefix_rewrite: /pre2 } }
  - match: { prefix: /regex }
    redirect: { regex_rewrite: { pattern: { regex: "^/regex/(\\w+)/(\\w+)" }, substitution: "/\\2/\\1" } }
  - { match: { prefix: /301 }, redirect: { path_redirect: /x, response_code: MOVED_PERMANENTLY } }
  - { match: { prefix: /302 }, redirect: { path_redirect: /x, response_code: FOUND } }
  - { match: { prefix: /303 }, redirect: { path_redirect: /x, response_code: SEE_OTHER } }
  - { match: { prefix: /307 }, redirect: { path_redirect: /x, response_code: TEMPORARY_REDIRECT } }
  - { match: { prefix: /308 }, redirect: { path_redirect: /x, response_code: PERMANENT_REDIRECT } }
  - { match: { prefix: /strip }, redirect: { path_redirect: /x, strip_query: true } }
  - { match: { prefix: /sprefix }, redirect: { prefix_rewrite: /y, strip_query: true } }
  - { match: { prefix: /all }, redirect: { https_redirect: true, host_redirect: h.test, port_redirect: 444, path_redirect: /z, response_code: FOUND, strip_query: true } }
  - { match: { prefix: /same }, redirect: { host_redirect: test.host } }
  - match: { prefix: /headers }
    redirect: { path_redirect: /x }
    response_headers_to_add: [ { header: { key: x-r, value: "yes" } } ]
- name: port-in-domain
  domains: ["with.port:8080"]
  routes:
  - { match: { prefix: /https }, redirect: { https_redirect: true } }
  - { match: { prefix: /host }, redirect: { host_redirect: new.host } }
  - { match: { prefix: /path }, redirect: { path_redirect: /new } }
- name: default-ports
  domains: ["def.port:80", "def.port:443"]
  require_tls: ALL
  routes: [ { match: { prefix: / }, redirect: { https_redirect: true } } ]
- name: external
  domains: ["ext.tls"]
  require_tls: EXTERNAL_ONLY
  routes: [ { match: { prefix: / }, direct_response: { status: 200 } } ]
- name: tls
  domains: ["all.tls"]
  require_tls: ALL
  routes: [ { match: { prefix: / }, direct_response: { status: 200 } } ]
"#,
        )
        .cases(cases())
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "/https/a?b=c",
        "/scheme/a",
        "/host/a?b",
        "/hport",
        "/port",
        "/path/a?b=c",
        "/path",
        "/pquery?a=b",
        "/prefix/a?b",
        "/prefix",
        "/regex/ab/cd?e",
        "/regex/x",
        "/301?q",
        "/302",
        "/303",
        "/307",
        "/308",
        "/strip?q=1",
        "/sprefix/a?q=1",
        "/all?x",
        "/same/a",
        "/headers",
    ]
    .iter()
    .map(|path| case(path, get(path)))
    .collect();
    cases.extend([
        case("https keeps no port 80", get("/https/a").host("def.port:80")),
        case("https drops other port", get("/https/a").host("with.port:8080")),
        case("host drops the port", get("/host/a").host("with.port:8080")),
        case("path keeps the port", get("/path/a").host("with.port:8080")),
        case("already https", get("/https/a").h("x-forwarded-proto", "https")),
        case("require_tls all", get("/a?b").host("all.tls")),
        case("require_tls all, met", get("/a?b").host("all.tls").h("x-forwarded-proto", "https")),
        case("require_tls external, internal", get("/a").host("ext.tls")),
        case("require_tls all, POST", post("/a", "x").host("all.tls")),
        case("over h2", get("/https/a").h2()),
        case("HEAD", req("HEAD", "/302")),
        case("POST", post("/307", "body")),
    ]);
    cases
}
