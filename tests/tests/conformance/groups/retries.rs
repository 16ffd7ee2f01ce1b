//! Retries.

use outrider_tests::reply::{Finish, Reply};

use crate::driver::{Case, Group, case, get, post};

const POLICIES: [(&str, &str); 14] = [
    ("5xx", "retry_on: 5xx"),
    ("gateway", "retry_on: gateway-error"),
    ("connect", "retry_on: connect-failure"),
    ("reset", "retry_on: reset"),
    ("before", "retry_on: reset-before-request"),
    ("refused", "retry_on: refused-stream"),
    ("r4xx", "retry_on: retriable-4xx"),
    ("codes", "retry_on: retriable-status-codes, retriable_status_codes: [ 418, 429 ]"),
    (
        "headers",
        "retry_on: retriable-headers, retriable_headers: [ { name: x-again, string_match: { exact: \"yes\" } } ]",
    ),
    ("reqheaders", "retry_on: 5xx, retriable_request_headers: [ { name: x-may, present_match: true } ]"),
    ("three", "retry_on: 5xx, num_retries: 3"),
    ("none", "retry_on: 5xx, num_retries: 0"),
    ("two", "retry_on: \"gateway-error,retriable-4xx\", num_retries: 2"),
    ("envoy", "retry_on: envoy-ratelimited"),
];

fn group(name: &'static str) -> Group {
    let routes: String = POLICIES
        .iter()
        .map(|(name, policy)| {
            format!(
                "  - {{ match: {{ prefix: /{name}/ }}, route: {{ cluster: a, retry_policy: {{ {policy}, {BACK_OFF} }} }} }}\n"
            )
        })
        .collect();
    Group::new(name)
        .upstreams(&["a", "b"])
        .upstream("closed", None, None)
        .with(|b| {
            b.hosts("two", &["a", "b"], "").hosts("half", &["a", "closed"], "").hosts("dead", &["closed"], "").hosts(
                "h2",
                &["a"],
                crate::driver::case::H2_CLUSTER,
            )
        })
        .routes(&format!(
            r#"
virtual_hosts:
- name: all
  domains: ["*"]
  include_request_attempt_count: true
  include_attempt_count_in_response: true
  routes:
{routes}
  - {{ match: {{ prefix: /other }}, route: {{ cluster: two, retry_policy: {{ retry_on: 5xx, num_retries: 1, {BACK_OFF}, retry_host_predicate: [ {PREVIOUS} ], host_selection_retry_max_attempts: 10 }} }} }}
  - {{ match: {{ prefix: /half }}, route: {{ cluster: half, retry_policy: {{ retry_on: connect-failure, num_retries: 3, {BACK_OFF}, retry_host_predicate: [ {PREVIOUS} ], host_selection_retry_max_attempts: 10 }} }} }}
  - {{ match: {{ prefix: /dead }}, route: {{ cluster: dead, retry_policy: {{ retry_on: connect-failure, num_retries: 2, {BACK_OFF} }} }} }}
  - {{ match: {{ prefix: /h2/ }}, route: {{ cluster: h2, retry_policy: {{ retry_on: "refused-stream", num_retries: 2, {BACK_OFF} }} }} }}
  - {{ match: {{ prefix: /h2reset }}, route: {{ cluster: h2, retry_policy: {{ retry_on: "reset", num_retries: 2, {BACK_OFF} }} }} }}
  - {{ match: {{ prefix: /h2grpc }}, route: {{ cluster: h2, retry_policy: {{ retry_on: "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable", num_retries: 1, {BACK_OFF} }} }} }}
  - {{ match: {{ prefix: / }}, route: {{ cluster: a }} }}
- name: policy
  domains: ["vhost.policy"]
  retry_policy: {{ retry_on: 5xx, num_retries: 1, {BACK_OFF} }}
  routes:
  - {{ match: {{ prefix: /own }}, route: {{ cluster: a, retry_policy: {{ retry_on: retriable-4xx, {BACK_OFF} }} }} }}
  - {{ match: {{ prefix: / }}, route: {{ cluster: a }} }}
"#
        ))
}

const BACK_OFF: &str = "retry_back_off: { base_interval: 0.001s, max_interval: 0.002s }";
const PREVIOUS: &str = "{ name: envoy.retry_host_predicates.previous_hosts, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } }";

const STATS: &[&str] = &[
    "cluster.a.upstream_rq_retry",
    "cluster.a.upstream_rq_retry_success",
    "cluster.a.upstream_rq_retry_limit_exceeded",
    "cluster.a.upstream_rq_total",
    "cluster.a.upstream_rq_completed",
    "cluster.a.upstream_rq_5xx",
    "cluster.a.retry.upstream_rq_5xx",
    "cluster.a.upstream_rq_rx_reset",
    "http.main.downstream_rq_5xx",
];

fn then_ok(name: &str, path: &str, first: Reply) -> Case {
    case(name, get(path)).reply(first).reply(Reply::text("second")).stats(STATS)
}

/// Which failures are retried, how often, where.
pub(crate) fn retries() -> Group {
    let status = Reply::status;
    let refuse = || Reply::status(0).finish(Finish::ResetFirst);
    let close = || Reply::status(0).finish(Finish::CloseFirst);
    let grpc_fail = |code: &str| {
        Reply::status(200).header("content-type", "application/grpc").header("grpc-status", code).head_only()
    };
    group("retries").cases([
        then_ok("5xx on 500", "/5xx/", status(500)),
        then_ok("5xx on 503", "/5xx/", status(503)),
        then_ok("5xx on 404", "/5xx/", status(404)),
        then_ok("5xx on a reset", "/5xx/", refuse()),
        then_ok("5xx on a close", "/5xx/", close()),
        then_ok("gateway on 500", "/gateway/", status(500)),
        then_ok("gateway on 502", "/gateway/", status(502)),
        then_ok("gateway on 504", "/gateway/", status(504)),
        then_ok("reset on a reset", "/reset/", refuse()),
        then_ok("reset on a close", "/reset/", close()),
        then_ok("reset on 503", "/reset/", status(503)),
        then_ok("reset before request, after it", "/before/", close()),
        then_ok("connect failure on a reset", "/connect/", refuse()),
        then_ok("retriable 4xx on 409", "/r4xx/", status(409)),
        then_ok("retriable 4xx on 404", "/r4xx/", status(404)),
        then_ok("status code in the list", "/codes/", status(418)),
        then_ok("status code not in the list", "/codes/", status(500)),
        then_ok("header", "/headers/", status(200).header("x-again", "yes")),
        then_ok("other header", "/headers/", status(200).header("x-again", "no")),
        then_ok("request header missing", "/reqheaders/", status(500)),
        case("request header there", get("/reqheaders/").h("x-may", "1"))
            .reply(status(500))
            .reply(status(200)),
        then_ok("ratelimited", "/envoy/", status(429).header("x-envoy-ratelimited", "true")),
        then_ok("zero retries", "/none/", status(500)),
        case("all fail", get("/three/")).reply(status(503).body("last")).stats(STATS),
        case("once by default", get("/5xx/")).reply(status(500).body("x")).stats(STATS),
        case("third time", get("/three/")).reply(status(500)).reply(status(502)).reply(Reply::text("third")),
        case("several conditions", get("/two/"))
            .reply(status(409))
            .reply(status(502))
            .reply(Reply::text("third")),
        case("body is sent again", post("/5xx/", "the body")).reply(status(500)).reply(Reply::echo()),
        case("chunked body is sent again", post("/5xx/", "the body").chunked())
            .reply(status(500))
            .reply(Reply::echo()),
        case("body of the failed answer is dropped", get("/5xx/"))
            .reply(status(500).body("dropped"))
            .reply(status(200)),
        case("cut in the body is not retried", get("/5xx/"))
            .reply(Reply::text("0123456789").finish(Finish::Close(3))),
        case("policy of the virtual host", get("/").host("vhost.policy"))
            .reply(status(500))
            .reply(status(200)),
        case("policy of the route replaces it", get("/own").host("vhost.policy"))
            .reply(status(500))
            .reply(status(200)),
        case("on another host", get("/other")).reply(status(500)).reply(Reply::text("other")).blur(),
        case("one host dead", vec![get("/half"), get("/half"), get("/half")])
            .blur()
            .ignore("x-envoy-attempt-count")
            .ignore("x-envoy-expected-rq-timeout-ms"),
        case("all hosts dead", get("/dead")).stats(&[
            "cluster.dead.upstream_rq_retry",
            "cluster.dead.upstream_cx_connect_fail",
            "cluster.dead.upstream_rq_pending_failure_eject",
        ]),
        case("refused stream", get("/h2/")).reply(refuse()).reply(Reply::text("second")),
        case("refused stream always", get("/h2/")).reply(refuse()),
        case("reset stream", get("/h2reset/")).reply(refuse()).reply(Reply::text("second")),
        case("grpc unavailable", crate::driver::Req::grpc("/h2grpc/m", &["q"]))
            .reply(grpc_fail("14"))
            .reply(Reply::grpc(&["ok"], "0")),
        case("grpc not found", crate::driver::Req::grpc("/h2grpc/m", &["q"]))
            .reply(grpc_fail("5"))
            .reply(Reply::grpc(&["ok"], "0")),
        case("by header from outside", get("/").h("x-envoy-retry-on", "5xx"))
            .reply(status(500))
            .reply(status(200)),
        case("attempt count of the client", get("/").h("x-envoy-attempt-count", "9")),
    ])
}
