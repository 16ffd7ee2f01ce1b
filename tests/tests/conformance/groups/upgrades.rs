//! Upgrades: WebSocket over HTTP/1 and as extended CONNECT.

use outrider_tests::reply::Reply;

use crate::driver::{Group, case, case::H2_CLUSTER, connect, get, raw};

const ROUTES: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { match: { prefix: /off }, route: { cluster: a, upgrade_configs: [ { upgrade_type: websocket, enabled: false } ] } }
    - { match: { prefix: /on }, route: { cluster: a, upgrade_configs: [ { upgrade_type: special } ] } }
    - { match: { prefix: /h2 }, route: { cluster: h2 } }
    - { match: { prefix: /timeout }, route: { cluster: a, timeout: 0.1s } }
    - { match: { prefix: /direct }, direct_response: { status: 200 } }
    - { match: { prefix: / }, route: { cluster: a } }
"#;

/// Upgrades.
pub(crate) fn upgrades() -> Group {
    let ws =
        "upgrade_configs: [ { upgrade_type: websocket } ]\nhttp2_protocol_options: { allow_connect: true }\n";
    let switch = || Reply::switch("websocket");
    Group::new("upgrades")
        .upstreams(&["a"])
        .with(|b| b.hosts("h2", &["a"], H2_CLUSTER))
        .http("main", &format!("{ws}{ROUTES}"))
        .http("without", ROUTES)
        .http("disabled", &format!("upgrade_configs: [ {{ upgrade_type: websocket, enabled: false }} ]\n{ROUTES}"))
        .cases([
            case("websocket", get("/x").upgrade("websocket", "hello")).reply(switch()),
            case("capitals", get("/x").upgrade("WebSocket", "hello")).reply(switch()),
            case("with its headers", get("/x").h("sec-websocket-key", "k").h("sec-websocket-version", "13").upgrade("websocket", "hello"))
                .reply(switch().header("sec-websocket-accept", "a")),
            case("keep-alive, Upgrade", raw("GET /x HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n")).reply(switch()),
            case("refused by the upstream", get("/x").upgrade("websocket", "hello")).reply(Reply::status(403).body("no")),
            case("answered 200", get("/x").upgrade("websocket", "hello")).reply(Reply::text("plain")),
            case("not configured", get("/x").to("without").upgrade("websocket", "hello")),
            case("disabled", get("/x").to("disabled").upgrade("websocket", "hello")),
            case("disabled on the route", get("/off").upgrade("websocket", "hello")).reply(switch()),
            case("other type", get("/x").upgrade("other", "hello")),
            case("enabled on the route", get("/on").upgrade("special", "hello")).reply(Reply::switch("special")),
            case("several types", get("/x").upgrade("websocket, other", "hello")).reply(switch()),
            case("no connection token", get("/x").h("upgrade", "websocket")),
            case("outlives the timeout", get("/timeout").upgrade("websocket", "hello")).reply(switch()),
            case("direct response", get("/direct").upgrade("websocket", "hello")),
            case("h2 to h2", connect("/h2", "websocket", "hello")).reply(Reply::status(200).tunnel()),
            case("h2 to h1", connect("/x", "websocket", "hello")).reply(switch()),
            case("h1 to h2", get("/h2").upgrade("websocket", "hello")).reply(Reply::status(200).tunnel()),
            case("h2 refused by the upstream", connect("/h2", "websocket", "")).reply(Reply::status(403).body("no").early()),
            case("h2 not configured", connect("/x", "websocket", "hello").to("without")),
            case("h2 other type", connect("/x", "other", "hello")),
            case("upgrade with a body", get("/x").piece("body").upgrade("websocket", "hello")).reply(switch().early()).ignore("cut"),
        ])
}
