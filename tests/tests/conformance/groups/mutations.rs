//! Header additions and removals at all levels, append actions, the substitution formatter.

use outrider_tests::{bootstrap::indent, reply::Reply};

use crate::driver::{Group, case, get};

const LEVELS: &str = r#"
request_headers_to_add: [ { header: { key: x-order, value: config } }, { header: { key: x-config, value: c } } ]
request_headers_to_remove: [ x-rm-config ]
response_headers_to_add: [ { header: { key: x-order, value: config } } ]
response_headers_to_remove: [ x-rrm-config ]
virtual_hosts:
- name: all
  domains: ["*"]
  request_headers_to_add: [ { header: { key: x-order, value: vhost } } ]
  request_headers_to_remove: [ x-rm-vhost ]
  response_headers_to_add: [ { header: { key: x-order, value: vhost } } ]
  response_headers_to_remove: [ x-rrm-vhost ]
  routes:
  - match: { prefix: /levels }
    route: { cluster: a }
    request_headers_to_add: [ { header: { key: x-order, value: route } } ]
    request_headers_to_remove: [ x-rm-route ]
    response_headers_to_add: [ { header: { key: x-order, value: route } } ]
    response_headers_to_remove: [ x-rrm-route ]
  - match: { prefix: /overwrite }
    route: { cluster: a }
    request_headers_to_add: [ { header: { key: x-order, value: route }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } ]
    response_headers_to_add: [ { header: { key: x-order, value: route }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } ]
"#;

/// Levels and their order.
pub(crate) fn levels() -> Group {
    let hcm = |text: &str| format!("route_config:\n{}", indent(2, text));
    let specific = format!("most_specific_header_mutations_wins: true\n{LEVELS}");
    let get = || get("/levels").h("x-rm-config", "1").h("x-rm-vhost", "1").h("x-rm-route", "1");
    let reply = || {
        Reply::text("ok").header("x-rrm-config", "1").header("x-rrm-vhost", "1").header("x-rrm-route", "1")
    };
    Group::new("levels").upstreams(&["a"]).http("main", &hcm(LEVELS)).http("specific", &hcm(&specific)).cases(
        [
            case("all levels", get()).reply(reply()),
            case("all levels, client has it", get().h("x-order", "client"))
                .reply(reply().header("x-order", "upstream")),
            case("most specific wins", get().to("specific")).reply(reply()),
            case("overwrite", crate::driver::get("/overwrite").h("x-order", "client"))
                .reply(Reply::text("ok").header("x-order", "upstream")),
            case("overwrite, most specific", crate::driver::get("/overwrite").to("specific"))
                .reply(Reply::text("ok").header("x-order", "upstream")),
            case("over h2", get().h2()).reply(reply()),
        ],
    )
}

const PSEUDO: &str = r#"  - match: { prefix: /pseudo }
    route: { cluster: a }
    request_headers_to_add:
    - { header: { key: x-host-was, value: "%REQ(host)%" } }
    response_headers_to_add:
    - { header: { key: x-status, value: "%RESPONSE_CODE% %RESP(x-up)% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%" } }
"#;

/// Append actions and formats.
pub(crate) fn formats() -> Group {
    let formats = [
        ("remote", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        ("remote-port", "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_PORT%"),
        ("direct", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
        (
            "local",
            "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%",
        ),
        ("req", "%REQ(x-in)% %REQ(:METHOD)% %REQ(:authority)%"),
        ("req-alt", "%REQ(x-none?x-in)%"),
        ("req-cut", "%REQ(x-in):3%"),
        ("req-none", "[%REQ(x-none)%]"),
        ("protocol", "%PROTOCOL%"),
        ("percent", "100%%"),
        ("route", "%ROUTE_NAME%"),
        ("env", "%ENVIRONMENT(NO_SUCH_VARIABLE_HERE)%"),
        ("host-name", "%UPSTREAM_HOST%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
        ("sni", "[%REQUESTED_SERVER_NAME%]"),
        ("meta", "[%DYNAMIC_METADATA(a:b)%]"),
        ("query", "%QUERY_PARAM(a)% [%QUERY_PARAM(z)%]"),
        ("literal", "plain text; with, marks"),
        ("flags", "%RESPONSE_FLAGS% %RESPONSE_CODE%"),
        ("stream", "%CONNECTION_TERMINATION_DETAILS%"),
        ("vcluster", "[%VIRTUAL_CLUSTER_NAME%]"),
    ];
    let add: String = formats
        .iter()
        .map(|(name, format)| format!("    - {{ header: {{ key: x-f-{name}, value: \"{format}\" }} }}\n"))
        .collect();
    let actions = r#"
    - { header: { key: x-append, value: new }, append_action: APPEND_IF_EXISTS_OR_ADD }
    - { header: { key: x-absent, value: new }, append_action: ADD_IF_ABSENT }
    - { header: { key: x-over, value: new }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }
    - { header: { key: x-only, value: new }, append_action: OVERWRITE_IF_EXISTS }
    - { header: { key: x-empty, value: "" }, keep_empty_value: true }
    - { header: { key: x-gone, value: "" } }
    - { header: { key: x-empty-f, value: "%REQ(x-none2)%" } }
    - { header: { key: x-old-false, value: new }, append: false }
    - { header: { key: x-old-true, value: new }, append: true }
"#;
    let routes = format!(
        "virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n\
         {}{add}{}{add}\
         {}{actions}{}{actions}\
{}",
        "  - name: formats\n    match: { prefix: /formats }\n    route: { cluster: a }\n    request_headers_to_add:\n",
        "    response_headers_to_add:\n",
        "  - match: { prefix: /actions }\n    route: { cluster: a }\n    request_headers_to_add:\n",
        "    response_headers_to_add:\n",
        PSEUDO,
    );
    let names =
        ["x-append", "x-absent", "x-over", "x-only", "x-empty", "x-gone", "x-old-false", "x-old-true"];
    let mut given = get("/actions");
    let mut reply = Reply::text("ok");
    for name in names {
        given = given.h(name, "old");
        reply = reply.header(name, "old");
    }
    let mut twice = get("/actions");
    for name in names {
        twice = twice.h(name, "one").h(name, "two");
    }
    Group::new("formats").upstreams(&["a"]).routes(&routes).cases([
        case("formats", get("/formats/x?a=1").h("x-in", "value")),
        case("formats over h2", get("/formats/x?a=1").h("x-in", "value").h2()),
        case("actions on nothing", get("/actions")),
        case("actions on something", given).reply(reply),
        case("actions on two", twice),
        case("response formats", get("/pseudo")).reply(Reply::status(201).header("x-up", "u")),
    ])
}
