//! The router before scripted upstreams: what clients, upstreams and stats see.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use std::io::{Read, Write};

use support::{Act, Proxy, Upstream, answer};

const TO_UP: &str = r#"- match: {prefix: /}
  route: {cluster: up}"#;

fn retrying(policy: &str) -> String {
    format!("- match: {{prefix: /}}\n  route: {{cluster: up, retry_policy: {{{policy}}}}}")
}

#[test]
fn a_request_goes_through_and_its_connection_is_used_again() {
    let upstream = Upstream::start([Act::with(200, "x-mine: 1\r\n", "hello")]);
    let proxy = Proxy::start(&upstream, TO_UP);
    for _ in 0..2 {
        let answer = proxy.get("/x?y=1");
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        assert_eq!(answer.header("x-mine"), Some("1"));
        assert!(answer.header("x-envoy-upstream-service-time").is_some());
        let seen = upstream.next();
        assert!(seen.head.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{}", seen.head);
        assert_eq!(seen.header("host"), Some("a.com"));
        assert_eq!(seen.header("x-envoy-expected-rq-timeout-ms"), Some("15000"));
    }
    proxy.expect("cluster.up.upstream_rq_200", 2);
    proxy.expect("cluster.up.upstream_rq_2xx", 2);
    proxy.expect("cluster.up.upstream_cx_total", 1);
    proxy.expect("http.in.rq_total", 2);
}

#[test]
fn bodies_of_both_kinds_arrive() {
    let upstream = Upstream::start([Act::status(200, "ok")]);
    let proxy = Proxy::start(&upstream, TO_UP);
    assert_eq!(proxy.post("/", "one two").status, 200);
    let seen = upstream.next();
    assert_eq!((seen.body.as_str(), seen.header("content-length")), ("one two", Some("7")));
    let chunked =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\n";
    assert_eq!(proxy.send(chunked).status, 200);
    let seen = upstream.next();
    assert_eq!((seen.body.as_str(), seen.header("transfer-encoding")), ("one two", Some("chunked")));
}

#[test]
fn what_cannot_be_reached_is_told_as_envoy_tells_it() {
    let upstream = Upstream::start([Act::Close]);
    let routes = r#"
- match: {prefix: /dead}
  route: {cluster: dead}
- match: {prefix: /empty}
  route: {cluster: empty}
- match: {prefix: /none}
  route: {cluster: nowhere, cluster_not_found_response_code: NOT_FOUND}
- match: {prefix: /}
  route: {cluster: up}"#;
    let proxy = Proxy::start(&upstream, routes);
    let start = "upstream connect error or disconnect/reset before headers. reset reason: ";
    for (path, status, body) in [
        ("/dead", 503, format!("{start}remote connection failure")),
        ("/empty", 503, "no healthy upstream".into()),
        ("/none", 404, String::new()),
        ("/close", 503, format!("{start}connection termination")),
    ] {
        let answer = proxy.get(path);
        assert_eq!((answer.status, answer.body), (status, body), "{path}");
    }
    proxy.expect("cluster.dead.upstream_rq_503", 1);
    proxy.expect("cluster.empty.upstream_rq_503", 1);
    proxy.expect("http.in.no_cluster", 1);
}

#[test]
fn a_retry_follows_a_bad_answer_and_sends_the_body_again() {
    let upstream = Upstream::start([Act::status(503, "bad"), Act::Close, Act::status(200, "good")]);
    let host = "include_request_attempt_count: true\ninclude_attempt_count_in_response: true";
    let proxy = Proxy::with(&upstream, None, &retrying("retry_on: 5xx, num_retries: 3"), host, "");
    let answer = proxy.post("/", "body");
    assert_eq!((answer.status, answer.body.as_str()), (200, "good"));
    assert_eq!(answer.header("x-envoy-attempt-count"), Some("3"));
    for attempt in ["1", "2", "3"] {
        let seen = upstream.next();
        assert_eq!((seen.body.as_str(), seen.header("x-envoy-attempt-count")), ("body", Some(attempt)));
    }
    proxy.expect("cluster.up.upstream_rq_retry", 2);
    proxy.expect("cluster.up.upstream_rq_retry_success", 1);
    proxy.expect("cluster.up.retry.upstream_rq_503", 1);
    proxy.expect("cluster.up.upstream_rq_retry_backoff_exponential", 2);
    proxy.expect("cluster.up.upstream_rq_completed", 1);
}

#[test]
fn the_last_bad_answer_is_the_clients() {
    let upstream = Upstream::start([Act::status(500, "a"), Act::status(502, "b")]);
    let proxy = Proxy::start(&upstream, &retrying("retry_on: 5xx"));
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.body.as_str()), (502, "b"));
    proxy.expect("cluster.up.upstream_rq_retry_limit_exceeded", 1);
}

#[test]
fn a_request_header_asks_for_retries_and_does_not_go_upstream() {
    let upstream = Upstream::start([Act::status(409, ""), Act::status(200, "ok")]);
    let proxy = Proxy::start(&upstream, TO_UP);
    let answer = proxy.get_with("/", "x-envoy-retry-on: retriable-4xx\r\nx-envoy-max-retries: 1\r\n");
    assert_eq!(answer.status, 200);
    let seen = upstream.next();
    assert_eq!((seen.header("x-envoy-retry-on"), seen.header("x-envoy-max-retries")), (None, None));
}

#[test]
fn a_body_over_the_limit_is_not_kept_for_retries() {
    let upstream = Upstream::start([Act::status(503, "bad"), Act::status(200, "good")]);
    let routes = "- match: {prefix: /}\n  per_request_buffer_limit_bytes: 10\n  \
                  route: {cluster: up, retry_policy: {retry_on: 5xx}}";
    let proxy = Proxy::start(&upstream, routes);
    assert_eq!(proxy.post("/", "more than ten bytes").status, 503);
    proxy.expect("cluster.up.retry_or_shadow_abandoned", 1);
    assert_eq!(proxy.post("/", "small").status, 200);
}

#[test]
fn time_runs_out_for_the_whole_and_for_a_try() {
    let upstream = Upstream::start([Act::Hang]);
    let routes = r#"
- match: {prefix: /whole}
  route: {cluster: up, timeout: 0.05s}
- match: {prefix: /try}
  route: {cluster: up, retry_policy: {retry_on: 5xx, per_try_timeout: 0.03s}}"#;
    let proxy = Proxy::start(&upstream, routes);
    let answer = proxy.get("/whole");
    assert_eq!((answer.status, answer.body.as_str()), (504, "upstream request timeout"));
    proxy.expect("cluster.up.upstream_rq_timeout", 1);
    assert_eq!(proxy.get("/try").status, 504);
    proxy.expect("cluster.up.upstream_rq_per_try_timeout", 2);
    proxy.expect("cluster.up.upstream_rq_active", 0);
    let answer = proxy.get_with("/whole", "x-envoy-upstream-rq-timeout-alt-response: 1\r\n");
    assert_eq!(answer.status, 204);
}

#[test]
fn a_response_that_stalls_is_cut_when_time_is_over() {
    let upstream = Upstream::start([Act::Echo("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".into())]);
    let proxy = Proxy::start(&upstream, "- match: {prefix: /}\n  route: {cluster: up, timeout: 0.05s}");
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.whole, answer.body.as_str()), (200, false, "abc"));
    proxy.expect("cluster.up.upstream_rq_timeout", 1);
}

#[test]
fn a_response_that_breaks_off_is_cut_where_it_broke() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let upstream = Upstream::start([Act::AnswerAndClose(cut.into())]);
    let answer = Proxy::start(&upstream, TO_UP).get("/");
    assert_eq!((answer.status, answer.whole, answer.body.as_str()), (200, false, "abc"));
}

#[test]
fn an_answer_before_the_whole_request_reaches_the_client() {
    let early = "HTTP/1.1 413 X\r\ncontent-length: 5\r\n\r\nearly";
    let upstream = Upstream::start([Act::AnswerEarly(early.into())]);
    let proxy = Proxy::start(&upstream, TO_UP);
    let answer = proxy.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc");
    assert_eq!((answer.status, answer.body.as_str()), (413, "early"));
    assert_eq!(answer.header("x-envoy-upstream-service-time"), None);
    proxy.expect("cluster.up.upstream_rq_active", 0);
    proxy.expect("cluster.up.upstream_cx_active", 0);
}

#[test]
fn mirrors_get_a_copy_and_never_hurt() {
    let upstream = Upstream::start([Act::status(200, "main")]);
    let mirror = Upstream::start([Act::status(500, "ignored"), Act::Close]);
    let routes = "- match: {prefix: /}\n  route: {cluster: up, request_mirror_policies: [{cluster: copy}, {cluster: dead}]}";
    let copy = r#"
- name: copy
  load_assignment:
    cluster_name: copy
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: OTHER}}}}]}]"#;
    let proxy = Proxy::with(&upstream, Some(&mirror), routes, "", copy);
    for _ in 0..2 {
        let answer = proxy.post("/", "payload");
        assert_eq!((answer.status, answer.body.as_str()), (200, "main"));
        assert_eq!(upstream.next().header("host"), Some("a.com"));
        let seen = mirror.next();
        assert_eq!((seen.body.as_str(), seen.header("host")), ("payload", Some("a.com-shadow")));
        assert_eq!(seen.header("x-envoy-internal"), Some("true"));
    }
    proxy.expect("cluster.copy.internal.upstream_rq_500", 1);
    proxy.expect("cluster.copy.upstream_rq_503", 1);
}

#[test]
fn paths_hosts_and_headers_change_on_the_way() {
    let upstream = Upstream::start([Act::with(200, "x-bad: 1\r\n", "")]);
    let routes = r#"
- match: {prefix: /old}
  route: {cluster: up, prefix_rewrite: /new, host_rewrite_literal: b.com, append_x_forwarded_host: true}
  request_headers_to_add: [{header: {key: x-from, value: "%REQ(:path)%"}}]
  request_headers_to_remove: [x-secret]
  response_headers_to_add: [{header: {key: x-asked, value: "%REQ(x-secret)%-%RESPONSE_CODE%"}}]
  response_headers_to_remove: [x-bad]"#;
    let proxy = Proxy::start(&upstream, routes);
    let answer = proxy.get_with("/old/x?q", "x-secret: s\r\n");
    assert_eq!((answer.header("x-bad"), answer.header("x-asked")), (None, Some("-200")));
    let seen = upstream.next();
    assert!(seen.head.starts_with("GET /new/x?q HTTP/1.1\r\n"), "{}", seen.head);
    for (name, value) in [
        ("host", Some("b.com")),
        ("x-forwarded-host", Some("a.com")),
        ("x-envoy-original-host", Some("a.com")),
        ("x-envoy-original-path", Some("/old/x?q")),
        ("x-from", Some("/old/x?q")),
        ("x-secret", None),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

#[test]
fn local_replies_carry_the_routes_response_headers() {
    let upstream = Upstream::start([Act::Close]);
    let routes = r#"
- match: {prefix: /direct}
  direct_response: {status: 302}
- match: {prefix: /}
  route: {cluster: empty}"#;
    let host = "response_headers_to_add: [{header: {key: x-host, value: v}}]\ninclude_attempt_count_in_response: true";
    let proxy = Proxy::with(&upstream, None, routes, host, "");
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.header("x-host")), (503, Some("v")));
    assert_eq!(answer.header("x-envoy-attempt-count"), Some("1"));
    let answer = proxy.get("/direct?x");
    assert_eq!((answer.status, answer.header("location")), (302, Some("http://a.com/direct?x")));
    assert_eq!((answer.header("x-host"), answer.header("x-envoy-attempt-count")), (Some("v"), None));
}

#[test]
fn a_full_breaker_says_so() {
    let upstream = Upstream::start([Act::status(200, "")]);
    let narrow = r#"
- name: narrow
  circuit_breakers: {thresholds: [{max_requests: 0}]}
  load_assignment:
    cluster_name: narrow
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: UPSTREAM}}}}]}]"#;
    let proxy = Proxy::with(&upstream, None, "- match: {prefix: /}\n  route: {cluster: narrow}", "", narrow);
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.header("x-envoy-overloaded")), (503, Some("true")));
    assert!(answer.body.ends_with("reset reason: overflow"), "{}", answer.body);
    assert!(upstream.is_quiet());
}

#[test]
fn a_websocket_is_a_tunnel_once_the_upstream_agrees() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let upstream = Upstream::start([Act::Echo(switch.into()), Act::status(403, "no")]);
    let proxy = Proxy::start(&upstream, TO_UP);
    let request = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut client = proxy.connect();
    client.write_all(request).unwrap();
    let head = answer(&client);
    assert_eq!((head.status, head.header("upgrade")), (101, Some("websocket")));
    client.write_all(b"ping").unwrap();
    let mut echo = [0; 4];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"ping");
    drop(client);
    proxy.expect("cluster.up.upstream_rq_active", 0);
    assert_eq!(upstream.next().header("upgrade"), Some("websocket"));
    let mut client = proxy.connect();
    client.write_all(request).unwrap();
    let refused = answer(&client);
    assert_eq!((refused.status, refused.body.as_str()), (403, "no"));
    assert_eq!(refused.header("x-envoy-upstream-service-time"), None);
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let upstream = Upstream::start([Act::Hang]);
    let proxy = Proxy::start(&upstream, TO_UP);
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    upstream.next();
    proxy.expect("cluster.up.upstream_rq_active", 1);
    drop(client);
    proxy.expect("cluster.up.upstream_rq_active", 0);
    proxy.expect("cluster.up.upstream_cx_active", 0);
}
