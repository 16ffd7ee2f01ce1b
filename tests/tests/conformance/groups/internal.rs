//! The `x-envoy-` headers of clients that the proxy counts as internal.

use outrider_tests::reply::{Finish, Reply};

use crate::driver::{Group, Req, case, get};

const HCM: &str = r#"
internal_address_config: { cidr_ranges: [ { address_prefix: 10.0.0.0, prefix_len: 8 } ] }
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    include_request_attempt_count: true
    routes:
    - match: { prefix: /try }
      route: { cluster: a, timeout: 3s, retry_policy: { retry_on: 5xx, num_retries: 1, per_try_timeout: 1s, retry_back_off: { base_interval: 0.001s, max_interval: 0.002s } } }
    - match: { prefix: /three }
      route: { cluster: a, retry_policy: { retry_on: 5xx, num_retries: 3, retry_back_off: { base_interval: 0.001s, max_interval: 0.002s } } }
    - { match: { prefix: /to }, route: { cluster: a, timeout: 0.1s } }
    - { match: { prefix: / }, route: { cluster: a } }
"#;

fn inside(path: &str) -> Req {
    get(path).h("x-forwarded-for", "10.0.0.1")
}

/// Timeouts and retries by header.
pub(crate) fn internal() -> Group {
    let status = Reply::status;
    let silent = || Reply::status(0).finish(Finish::Silence);
    let retry = |on: &str| inside("/").h("x-envoy-retry-on", on);
    Group::new("internal").upstreams(&["a"]).http("main", HCM).cases([
        case(
            "all envoy headers",
            inside("/")
                .h("x-envoy-internal", "false")
                .h("x-envoy-external-address", "9.9.9.9")
                .h("x-envoy-downstream-service-cluster", "c")
                .h("x-envoy-original-path", "/o")
                .h("x-envoy-decorator-operation", "d")
                .h("x-envoy-attempt-count", "7")
                .h("x-envoy-expected-rq-timeout-ms", "9"),
        ),
        case(
            "two addresses are not internal",
            get("/").h("x-forwarded-for", "10.0.0.1, 10.0.0.2").h("x-envoy-retry-on", "5xx"),
        )
        .reply(status(500)),
        case("outside", get("/").h("x-envoy-retry-on", "5xx").h("x-envoy-upstream-rq-timeout-ms", "50"))
            .reply(status(500)),
        case("timeout", inside("/").h("x-envoy-upstream-rq-timeout-ms", "100")).reply(silent()),
        case("timeout, longer than the route's", inside("/to").h("x-envoy-upstream-rq-timeout-ms", "200"))
            .reply(silent()),
        case("timeout of 0", inside("/to").h("x-envoy-upstream-rq-timeout-ms", "0"))
            .reply(Reply::text("ok").after(150)),
        case("timeout of nonsense", inside("/to").h("x-envoy-upstream-rq-timeout-ms", "soon"))
            .reply(silent()),
        case("per try timeout", inside("/try").h("x-envoy-upstream-rq-per-try-timeout-ms", "250"))
            .reply(silent()),
        case("alternative response", inside("/to").h("x-envoy-upstream-rq-timeout-alt-response", "204"))
            .reply(silent()),
        case("retry", retry("5xx")).reply(status(500)).reply(status(200)),
        case("retry twice", retry("5xx").h("x-envoy-max-retries", "2"))
            .reply(status(500))
            .reply(status(500))
            .reply(status(200)),
        case("retry gateway errors", retry("gateway-error")).reply(status(500)),
        case(
            "retry status codes",
            retry("retriable-status-codes").h("x-envoy-retriable-status-codes", "418, 419"),
        )
        .reply(status(419))
        .reply(status(200)),
        case("retry header names", retry("retriable-headers").h("x-envoy-retriable-header-names", "x-again"))
            .reply(status(200).header("x-again", "any"))
            .reply(status(200)),
        case("fewer retries than the policy", inside("/three").h("x-envoy-max-retries", "1"))
            .reply(status(500)),
        case("no retries", inside("/three").h("x-envoy-max-retries", "0")).reply(status(500)),
        case("retries of nonsense", inside("/three").h("x-envoy-max-retries", "many")).reply(status(500)),
        case("conditions join", inside("/three").h("x-envoy-retry-on", "retriable-4xx"))
            .reply(status(409))
            .reply(status(500))
            .reply(status(200)),
        case("nonsense", retry("bogus")).reply(status(500)),
        case("grpc retry", inside("/").h("x-envoy-retry-grpc-on", "unavailable"))
            .reply(status(200).header("grpc-status", "14"))
            .reply(status(200)),
        case("hedging asked for", inside("/").h("x-envoy-hedge-on-per-try-timeout", "true")),
        case("upstream alt stat", inside("/").h("x-envoy-upstream-alt-stat-name", "alt")),
    ])
}
