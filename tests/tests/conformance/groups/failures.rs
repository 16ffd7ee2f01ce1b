//! What a client is told when the upstream fails.

use outrider_tests::{
    reply::{Finish, Reply},
    upstream::Speaks,
};

use crate::driver::{Group, Req, case, case::Act, get, post, req};

/// Failures of upstreams and clusters.
pub(crate) fn failures() -> Group {
    let breakers = "circuit_breakers: { thresholds: [ { max_pending_requests: 1, max_connections: 1, max_requests: 1 } ] }\n";
    let requests = format!(
        "circuit_breakers: {{ thresholds: [ {{ max_requests: 1 }} ] }}\n{}",
        crate::driver::case::H2_CLUSTER
    );
    let high = "circuit_breakers: { thresholds: [ { priority: HIGH, max_connections: 0, max_pending_requests: 0 } ] }\n";
    Group::new("failures")
        .upstreams(&["a"])
        .upstream("closed", None, None)
        .upstream("tcp", Some(Speaks::Tcp(outrider_tests::upstream::TcpScript::Say("this is not http\r\n\r\n".into()))), None)
        .with(|b| {
            b.hosts("empty", &[], "")
                .hosts("refused", &["closed"], "")
                .hosts("refused2", &["closed"], crate::driver::case::H2_CLUSTER)
                .hosts("nothttp", &["tcp"], "")
                .hosts("h2", &["a"], crate::driver::case::H2_CLUSTER)
                .hosts("breaker", &["a"], breakers)
                .hosts("zero", &["a"], "circuit_breakers: { thresholds: [ { max_pending_requests: 0, max_connections: 0 } ] }\n")
                .hosts("zerorq", &["a"], "circuit_breakers: { thresholds: [ { max_requests: 0 } ] }\n")
                .hosts("zeroretry", &["a"], "circuit_breakers: { thresholds: [ { max_retries: 0 } ] }\n")
                .hosts("requests", &["a"], &requests)
                .hosts("high", &["a"], high)
                .hosts("maintenance", &["a"], "")
                .cluster("drop", &dropping("{ numerator: 100 }"))
                .cluster("dropmost", &dropping("{ numerator: 999999, denominator: MILLION }"))
                .cluster("dropnone", &dropping("{ numerator: 0 }"))
        })
        .routes(ROUTES)
        .cases([
            case("empty cluster", get("/empty")).stats(&["cluster.empty.upstream_cx_none_healthy", "http.main.downstream_rq_5xx"]),
            case("empty cluster over h2", get("/empty").h2()),
            case("empty cluster, HEAD", req("HEAD", "/empty")),
            case("empty cluster, POST", post("/empty", "body")),
            case("connection refused", get("/refused")).stats(&["cluster.refused.upstream_cx_connect_fail", "cluster.refused.upstream_rq_503"]),
            case("connection refused over h2", get("/refused").h2()),
            case("connection refused to h2", get("/refused2")),
            case("cluster not found", get("/unknown")),
            case("cluster not found, 404", get("/unknown404")),
            case("cluster not found, 500", get("/unknown500")),
            case("cluster not found, gRPC", Req::grpc("/unknown", &["m"])),
            case("cluster not found, gRPC, 404", Req::grpc("/unknown404", &["m"])),
            case("cluster not found, POST", post("/unknown", "body")).stats(&["http.main.no_cluster", "http.main.rq_total"]),
            case("weighted cluster not found", get("/weighted-unknown")),
            case("weighted cluster not found, 404", get("/weighted-unknown404")),
            case("cluster header missing", get("/by-header")),
            case("cluster header empty", get("/by-header").h("x-cluster", "")),
            case("cluster header of no cluster", get("/by-header").h("x-cluster", "nowhere")).stats(&["http.main.no_cluster"]),
            case("cluster header of no cluster, 404", get("/by-header404").h("x-cluster", "nowhere")),
            case("cluster header twice", get("/by-header").h("x-cluster", "nowhere").h("x-cluster", "a")),
            case("cluster not found with a retry policy", get("/unknown-retry")),
            case("cluster not found with a mirror", get("/unknown-mirror")),
            case("cluster not found with header changes", get("/unknown-headers")),
            case("not http", get("/nothttp")).ignore("protocol error"),
            case("closed before headers", get("/a")).reply(Reply::status(0).finish(Finish::CloseFirst)),
            case("reset before headers", get("/a")).reply(Reply::status(0).finish(Finish::ResetFirst)),
            case("closed in the body", get("/a")).reply(Reply::text("0123456789").finish(Finish::Close(4))),
            case("closed in the body, h2", get("/a").h2()).reply(Reply::text("0123456789").finish(Finish::Close(4))),
            case("closed in chunks", get("/a")).reply(Reply::text("0123456789").chunked().finish(Finish::Close(4))),
            case("reset in the body", get("/a")).reply(Reply::text("0123456789").finish(Finish::Reset(4))),
            case("h2 closed before headers", get("/h2")).reply(Reply::status(0).finish(Finish::CloseFirst)),
            case("h2 reset before headers", get("/h2")).reply(Reply::status(0).finish(Finish::ResetFirst)),
            case("h2 reset in the body", get("/h2")).reply(Reply::text("0123456789").finish(Finish::Reset(4))),
            case("h2 reset in the body, h2", get("/h2").h2()).reply(Reply::text("0123456789").finish(Finish::Reset(4))),
            case("h2 closed in the body, h2", get("/h2").h2()).reply(Reply::text("0123456789").finish(Finish::Close(4))),
            case("bad status line", get("/a")).reply(Reply::raw("HTTP/1.1 abc what\r\n\r\n").finish(Finish::Close(0))),
            case("no status line", get("/a")).reply(Reply::raw("hello there\r\n\r\n").finish(Finish::Close(0))),
            case("head cut", get("/a")).reply(Reply::raw("HTTP/1.1 200 OK\r\nx: y\r\n").finish(Finish::Close(0))),
            case("bad chunk", get("/a")).reply(Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").finish(Finish::Close(0))),
            case("bad header", get("/a")).reply(Reply::raw("HTTP/1.1 200 OK\r\nbad header: y\r\n\r\n").finish(Finish::Close(0))),
            case("two lengths", get("/a")).reply(Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc").finish(Finish::Close(0))),
            case("length and chunks", get("/a")).reply(Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n").finish(Finish::Close(0))),
            case("body to the close", get("/a")).reply(Reply::raw("HTTP/1.1 200 OK\r\n\r\nuntil the end").finish(Finish::Close(0))),
            case("http/1.0 answer", get("/a")).reply(Reply::raw("HTTP/1.0 200 OK\r\nx: y\r\n\r\nold").finish(Finish::Close(0))),
            case("answer before the body", post("/a", "the body")).reply(Reply::text("early").early()),
            case("breaker: no connections", get("/zero")).stats(&["cluster.zero.upstream_rq_pending_overflow", "cluster.zero.upstream_cx_overflow"]),
            case("breaker: no connections, h2", get("/zero").h2()),
            case("breaker: no requests", get("/zerorq")).stats(&["cluster.zerorq.upstream_rq_pending_overflow", "cluster.zerorq.upstream_rq_503"]),
            case("breaker: no retries", get("/zeroretry")).reply(Reply::status(503)).reply(Reply::status(200)).stats(&["cluster.zeroretry.upstream_rq_retry_overflow", "cluster.zeroretry.upstream_rq_retry"]),
            case("breaker: priority", get("/high")),
            case("breaker: other priority", get("/normal")),
            case("drop all", get("/drop")).stats(&["cluster.drop.upstream_rq_503", "cluster.drop.upstream_rq_completed", "http.main.downstream_rq_5xx"]),
            case("drop all, h2", get("/drop").h2()),
            case("drop all, retries", get("/dropretry")),
            case("drop nearly all", get("/dropmost")),
            case("drop nothing", get("/dropnone")),
            case("breaker: two at once of one", Act::AtOnce(vec![get("/requests"), get("/requests")]))
                .reply(Reply::text("slow").after(300))
                .stats(&["cluster.requests.upstream_rq_pending_overflow", "http.main.downstream_rq_5xx"])
                .ignore("client").ignore("log "),
        ])
}

/// A cluster that drops this share of its requests.
fn dropping(share: &str) -> String {
    format!(
        "connect_timeout: 2s\ntype: STATIC\nload_assignment:\n  cluster_name: dropping\n  \
         policy: {{ drop_overloads: [ {{ category: all, drop_percentage: {share} }} ] }}\n  \
         endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, \
         port_value: @{{a}} }} }} }} }} ] }} ]\n"
    )
}

const ROUTES: &str = r#"
validate_clusters: false
virtual_hosts:
- name: all
  domains: ["*"]
  routes:
  - { match: { prefix: /empty }, route: { cluster: empty } }
  - { match: { prefix: /refused2 }, route: { cluster: refused2 } }
  - { match: { prefix: /refused }, route: { cluster: refused } }
  - { match: { prefix: /unknown404 }, route: { cluster: nowhere, cluster_not_found_response_code: NOT_FOUND } }
  - { match: { prefix: /unknown500 }, route: { cluster: nowhere, cluster_not_found_response_code: INTERNAL_SERVER_ERROR } }
  - { match: { prefix: /unknown-retry }, route: { cluster: nowhere, retry_policy: { retry_on: "5xx,gateway-error", num_retries: 2 } } }
  - { match: { prefix: /unknown-mirror }, route: { cluster: nowhere, request_mirror_policies: [ { cluster: a } ] } }
  - { match: { prefix: /unknown-headers }, route: { cluster: nowhere }, response_headers_to_add: [ { header: { key: x-added, value: "%RESPONSE_CODE_DETAILS%" } } ] }
  - { match: { prefix: /weighted-unknown404 }, route: { weighted_clusters: { clusters: [ { name: nowhere, weight: 1 }, { name: a, weight: 0 } ] }, cluster_not_found_response_code: NOT_FOUND } }
  - { match: { prefix: /weighted-unknown }, route: { weighted_clusters: { clusters: [ { name: nowhere, weight: 1 }, { name: a, weight: 0 } ] } } }
  - { match: { prefix: /by-header404 }, route: { cluster_header: x-cluster, cluster_not_found_response_code: NOT_FOUND } }
  - { match: { prefix: /by-header }, route: { cluster_header: x-cluster } }
  - { match: { prefix: /unknown }, route: { cluster: nowhere } }
  - { match: { prefix: /nothttp }, route: { cluster: nothttp } }
  - { match: { prefix: /h2 }, route: { cluster: h2 } }
  - { match: { prefix: /zerorq }, route: { cluster: zerorq } }
  - { match: { prefix: /zeroretry }, route: { cluster: zeroretry, retry_policy: { retry_on: 5xx } } }
  - { match: { prefix: /zero }, route: { cluster: zero } }
  - { match: { prefix: /requests }, route: { cluster: requests } }
  - { match: { prefix: /dropretry }, route: { cluster: drop, retry_policy: { retry_on: 5xx } } }
  - { match: { prefix: /dropmost }, route: { cluster: dropmost } }
  - { match: { prefix: /dropnone }, route: { cluster: dropnone } }
  - { match: { prefix: /drop }, route: { cluster: drop } }
  - { match: { prefix: /high }, route: { cluster: high, priority: HIGH } }
  - { match: { prefix: /normal }, route: { cluster: high } }
  - { match: { prefix: / }, route: { cluster: a } }
"#;
