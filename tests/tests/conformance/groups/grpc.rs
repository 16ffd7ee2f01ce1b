//! gRPC.

use outrider_tests::reply::{Finish, Reply};

use crate::driver::{Case, Group, Req, case, case::H2_CLUSTER, get, post};

const ROUTES: &str = r#"
virtual_hosts:
- name: all
  domains: ["*"]
  routes:
  - { match: { prefix: /direct }, direct_response: { status: 403, body: { inline_string: "no" } } }
  - { match: { prefix: /ok }, direct_response: { status: 200, body: { inline_string: "fine" } } }
  - { match: { prefix: /redirect }, redirect: { path_redirect: /x } }
  - { match: { prefix: /to }, route: { cluster: h2, timeout: 0.15s } }
  - { match: { prefix: /grpcto }, route: { cluster: h2, max_stream_duration: { grpc_timeout_header_max: 10s } } }
  - { match: { prefix: /refused }, route: { cluster: refused } }
  - { match: { prefix: /empty }, route: { cluster: empty } }
  - { match: { prefix: /zero }, route: { cluster: zero } }
  - { match: { prefix: /h1 }, route: { cluster: a } }
  - { match: { prefix: /s/ }, route: { cluster: h2 } }
"#;

/// gRPC calls, and the proxy's own answers to them.
pub(crate) fn grpc() -> Group {
    let call = |path: &str| Req::grpc(path, &["question"]);
    let plain = |name: &str, path: &str| case(name, Req::grpc(path, &[]));
    let status = |code: u16| -> Case {
        case(&format!("http status {code}"), call("/s/m")).reply(Reply::status(code).head_only())
    };
    Group::new("grpc")
        .upstreams(&["a"])
        .upstream("closed", None, None)
        .with(|b| {
            b.hosts("h2", &["a"], H2_CLUSTER)
                .hosts("refused", &["closed"], H2_CLUSTER)
                .hosts("empty", &[], "")
                .hosts(
                    "zero",
                    &["a"],
                    &format!("circuit_breakers: {{ thresholds: [ {{ max_requests: 0 }} ] }}\n{H2_CLUSTER}"),
                )
        })
        .routes(ROUTES)
        .cases([
            case("unary", call("/s/m")).reply(Reply::grpc(&["answer"], "0")).stats(&[
                "cluster.h2.grpc.*",
                "cluster.h2.upstream_rq_2xx",
                "http.main.downstream_rq_2xx",
            ]),
            case("unary with a message", call("/s/m"))
                .reply(Reply::grpc(&["answer"], "5").trailer("grpc-message", "not%20here")),
            case("server streaming", call("/s/m")).reply(Reply::grpc(&["one", "two", "three"], "0")),
            case("client streaming", Req::grpc("/s/m", &["one", "two", "three"]))
                .reply(Reply::grpc(&["sum"], "0")),
            case("both streaming", Req::grpc("/s/m", &["one", "two"]))
                .reply(Reply { trailers: vec![("grpc-status".into(), "0".into())], ..Reply::echo() })
                // Whether the request had ended when the answer began decides: a race by nature.
                .ignore("service-time"),
            case("trailers only", call("/s/m")).reply(
                Reply::status(200)
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "7")
                    .header("grpc-message", "denied")
                    .head_only(),
            ),
            case("no status", call("/s/m"))
                .reply(Reply::status(200).header("content-type", "application/grpc").body("x")),
            case("to h1", call("/h1")).reply(
                Reply::text("x").header("content-type", "application/grpc").trailer("grpc-status", "0"),
            ),
            case("from h1", post("/s/m", "x").h("content-type", "application/grpc").h("te", "trailers"))
                .reply(Reply::grpc(&["answer"], "0")),
            case("web", post("/s/m", "x").h2().h("content-type", "application/grpc-web"))
                .reply(Reply::grpc(&["answer"], "0")),
            status(400),
            status(404),
            status(429),
            status(500),
            status(503),
            case("reset", call("/s/m")).reply(Reply::grpc(&["a"], "0").finish(Finish::Reset(3))),
            case("reset first", call("/s/m")).reply(Reply::status(0).finish(Finish::ResetFirst)),
            plain("no route", "/none"),
            plain("direct 403", "/direct"),
            plain("direct 200", "/ok"),
            plain("redirect", "/redirect"),
            plain("refused", "/refused"),
            plain("no hosts", "/empty"),
            plain("overflow", "/zero"),
            case("timeout", call("/to")).reply(Reply::status(0).finish(Finish::Silence)),
            case("timeout after headers", call("/to"))
                .reply(Reply::grpc(&["answer"], "0").finish(Finish::Stall(3))),
            case("deadline", call("/grpcto").h("grpc-timeout", "100m"))
                .reply(Reply::status(0).finish(Finish::Silence)),
            case("no route from h1", post("/none", "x").h("content-type", "application/grpc")),
            case("no route, json", post("/none", "x").h2().h("content-type", "application/json")),
            case("no route, get", get("/none").h2()),
        ])
}
