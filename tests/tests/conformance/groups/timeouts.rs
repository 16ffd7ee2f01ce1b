//! Timeouts.

use outrider_tests::reply::{Finish, Reply};

use crate::driver::{Group, case, get, post, raw, talk};

/// All timeouts of the HTTP path.
pub(crate) fn timeouts() -> Group {
    Group::new("timeouts")
        .upstreams(&["a"])
        .http("main", MAIN)
        .http("idle", "common_http_protocol_options: { idle_timeout: 0.2s }\ndrain_timeout: 0.1s\nstream_idle_timeout: 0.2s\nroute_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, route: { cluster: a } } ] } ] }")
        .http("reqto", "request_timeout: 0.2s\nrequest_headers_timeout: 0.2s\nroute_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, route: { cluster: a } } ] } ] }")
        .cases([
            case("route timeout", get("/to")).reply(Reply::status(200).finish(Finish::Silence)),
            case("route timeout over h2", get("/to").h2()).reply(Reply::status(200).finish(Finish::Silence)),
            case("route timeout with a body", post("/to", "body")).reply(Reply::status(200).finish(Finish::Silence)),
            case("route timeout in the body", get("/to")).reply(Reply::text("0123456789").finish(Finish::Stall(4))),
            case("route timeout in the body, h2", get("/to").h2())
                .reply(Reply::text("0123456789").finish(Finish::Stall(4))),
            case("in time", get("/to")).reply(Reply::text("ok").after(10)),
            case("per try timeout", get("/try")).reply(Reply::status(200).finish(Finish::Silence)),
            case("per try timeout, then good", get("/try"))
                .reply(Reply::status(200).finish(Finish::Silence))
                .reply(Reply::text("second")),
            case("expected timeout of the client", get("/long").h("x-envoy-expected-rq-timeout-ms", "100")),
            case("timeout by header from outside", get("/to").h("x-envoy-upstream-rq-timeout-ms", "9000"))
                .reply(Reply::status(200).finish(Finish::Silence)),
            case("no timeout", get("/never")),
            case("route idle timeout", get("/idle")).reply(Reply::status(200).finish(Finish::Silence)),
            case("route idle timeout in the body", get("/idle"))
                .reply(Reply::text("0123456789").finish(Finish::Stall(4))),
            case("max stream duration", get("/max")).reply(Reply::status(200).finish(Finish::Silence)),
            case("grpc timeout", get("/gmax").h("grpc-timeout", "300m"))
                .reply(Reply::status(200).finish(Finish::Silence)),
            case("global and per try", get("/both")).reply(Reply::status(200).finish(Finish::Silence)),
            case("stream idle", get("/").to("idle")).reply(Reply::status(200).finish(Finish::Silence)),
            case("connection idle", talk("idle").send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").drain()).ignore("date").logs(1),
            case("connection idle without a request", talk("idle").drain()),
            case("request headers late", talk("reqto").send("GET / HTTP/1.1\r\nhost: a\r\n").responses(1)),
            case(
                "request body late",
                talk("reqto").send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab").responses(1),
            ),
            case("timeout, raw", raw("GET /to HTTP/1.1\r\nhost: a\r\n\r\n"))
                .reply(Reply::status(200).finish(Finish::Silence)),
        ])
}

const MAIN: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { match: { prefix: /to }, route: { cluster: a, timeout: 0.15s } }
    - match: { prefix: /try }
      route: { cluster: a, timeout: 3s, retry_policy: { retry_on: 5xx, num_retries: 1, per_try_timeout: 0.1s, retry_back_off: { base_interval: 0.001s, max_interval: 0.002s } } }
    - match: { prefix: /both }
      route: { cluster: a, timeout: 0.15s, retry_policy: { retry_on: 5xx, num_retries: 5, per_try_timeout: 0.1s, retry_back_off: { base_interval: 0.001s, max_interval: 0.002s } } }
    - { match: { prefix: /long }, route: { cluster: a, timeout: 5s } }
    - { match: { prefix: /never }, route: { cluster: a, timeout: 0s } }
    - { match: { prefix: /idle }, route: { cluster: a, timeout: 0s, idle_timeout: 0.15s } }
    - { match: { prefix: /max }, route: { cluster: a, timeout: 0s, max_stream_duration: { max_stream_duration: 0.15s } } }
    - { match: { prefix: /gmax }, route: { cluster: a, timeout: 5s, max_stream_duration: { grpc_timeout_header_max: 0s } } }
"#;
