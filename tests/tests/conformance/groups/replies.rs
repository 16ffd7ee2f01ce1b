//! Local replies, and what `local_reply_config` makes of them.

use crate::driver::{Group, Req, case, get, raw, req, talk};

const ROUTES: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { name: tea, match: { prefix: /tea }, direct_response: { status: 418, body: { inline_string: "tea" } } }
    - { name: typed, match: { prefix: /typed }, direct_response: { status: 418, body: { inline_string: "{}" } }, response_headers_to_add: [ { header: { key: content-type, value: application/x-own } } ] }
    - { name: empty, match: { prefix: /empty }, direct_response: { status: 204 } }
    - { match: { prefix: /redirect }, redirect: { path_redirect: /other } }
    - { match: { prefix: /dead }, route: { cluster: dead } }
    - { match: { prefix: /up }, route: { cluster: a } }
"#;

const MAPPERS: &str = r#"
local_reply_config:
  mappers:
  - filter: { header_filter: { header: { name: x-json, present_match: true } } }
    body_format_override: { json_format: { code: "%RESPONSE_CODE%", text: "%LOCAL_REPLY_BODY%", path: "%REQ(:path)%", none: "%REQ(x-none)%" } }
  - filter: { status_code_filter: { comparison: { op: EQ, value: { default_value: 404, runtime_key: none } } } }
    status_code: 410
    body: { inline_string: "gone from here" }
    headers_to_add:
    - { header: { key: x-mapped, value: "%RESPONSE_CODE% %REQ(:path)% %LOCAL_REPLY_BODY%" } }
    - { header: { key: x-empty, value: "%REQ(x-none)%" } }
  - filter: { response_flag_filter: { flags: [UF] } }
    status_code: 599
    body_format_override: { text_format_source: { inline_string: "<p>%LOCAL_REPLY_BODY% %RESPONSE_FLAGS%</p>" }, content_type: "text/html; charset=UTF-8" }
  - filter: { and_filter: { filters: [ { status_code_filter: { comparison: { op: EQ, value: { default_value: 418, runtime_key: none } } } }, { header_filter: { header: { name: x-html, present_match: true } } } ] } }
    body: { inline_string: "<b>own</b>" }
    headers_to_add: [ { header: { key: content-type, value: text/html }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } ]
  - filter: { header_filter: { header: { name: x-nobody, present_match: true } } }
    body: { inline_string: "" }
    body_format_override: { text_format_source: { inline_string: "%LOCAL_REPLY_BODY%" } }
"#;

/// Mappers and formats.
pub(crate) fn replies() -> Group {
    let format = "  body_format: { text_format_source: { inline_string: \"%LOCAL_REPLY_BODY%:%RESPONSE_CODE%:%REQ(:path)%:%ROUTE_NAME%\\n\" } }\n";
    let json = "local_reply_config: { body_format: { json_format: { status: \"%RESPONSE_CODE%\", message: \"%LOCAL_REPLY_BODY%\", deep: { a: [ \"%REQ(:method)%\", 1 ] } } } }\n";
    let listeners = ["main", "formatted", "json"];
    let grpc = |path: &str, to: &str| Req::grpc(path, &["q"]).to(to);
    let mut group = Group::new("local-replies")
        .upstreams(&["a"])
        .upstream("closed", None, None)
        .with(|b| b.hosts("dead", &["closed"], ""))
        .http("main", &format!("{MAPPERS}{ROUTES}"))
        .http("formatted", &format!("{MAPPERS}{format}{ROUTES}"))
        .http("json", &format!("{json}{ROUTES}"));
    for to in listeners {
        group = group.cases([
            case(&format!("{to} no route"), get("/none").to(to)),
            case(&format!("{to} no route over h2"), get("/none").h2().to(to)),
            case(&format!("{to} dead"), get("/dead").to(to)),
            case(&format!("{to} direct"), get("/tea").to(to)),
            case(&format!("{to} direct with a type"), get("/typed").to(to)),
            case(&format!("{to} without a body"), get("/empty").to(to)),
            case(&format!("{to} as html"), get("/tea").h("x-html", "1").to(to)),
            case(&format!("{to} typed as html"), get("/typed").h("x-html", "1").to(to)),
            case(&format!("{to} as json"), get("/tea").h("x-json", "1").to(to)),
            case(&format!("{to} dead as json"), get("/dead").h("x-json", "1").to(to)),
            case(&format!("{to} emptied"), get("/tea").h("x-nobody", "1").to(to)),
            case(&format!("{to} redirect"), get("/redirect").to(to)),
            case(&format!("{to} to head over h2"), req("HEAD", "/none").h2().to(to)),
            case(&format!("{to} from upstream"), get("/up").to(to)),
            case(&format!("{to} to grpc"), grpc("/none", to)),
            case(&format!("{to} to grpc, direct"), grpc("/tea", to)),
            case(
                &format!("{to} bad request"),
                talk(to).send("GET /x HTTP/1.1\r\nhost: h\r\nbad name: x\r\n\r\n").responses(1),
            ),
            case(&format!("{to} no host"), talk(to).send("GET /x HTTP/1.1\r\n\r\n").responses(1)),
        ]);
    }
    group.cases([case(
        "bad request after a good one",
        raw("GET /tea HTTP/1.1\r\nhost: h\r\n\r\nGET / bad\r\n\r\n").responses(2),
    )])
}
