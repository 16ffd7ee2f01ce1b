//! HTTP/1 through a connection manager: what clients, upstreams and logs see. Expectations were measured on Envoy 1.40.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

mod hcm;

use hcm::{Proxy, on_worker};

#[test]
fn a_direct_response_has_envoys_headers() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = proxy.connect().await;
        client.send("GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let response = client.response().await;
        let names: Vec<&str> =
            response.head.lines().skip(1).filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!(names, ["content-length", "content-type", "date", "server"]);
        assert_eq!((response.status, response.body.as_str()), (200, "hello"));
        assert_eq!(response.header("server"), Some("envoy"));
        client.send("HEAD /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.head_response().await.header("content-length"), Some("5"));
        client.send("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let empty = client.head_response().await;
        assert_eq!((empty.status, empty.header("content-length")), (204, None));
        client.send("GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let missing = client.response().await;
        assert_eq!((missing.status, missing.header("content-length")), (404, Some("0")));
        assert_eq!(missing.header("connection"), None);
        assert_eq!(
            proxy.log(4).await,
            [
                "200 - direct_response HTTP/1.1 GET /direct a rx=0 tx=5",
                "200 - direct_response HTTP/1.1 HEAD /direct a rx=0 tx=0",
                "204 - direct_response HTTP/1.1 GET /empty a rx=0 tx=0",
                "404 NR route_not_found HTTP/1.1 GET /none a rx=0 tx=0",
            ]
        );
        assert_eq!(proxy.stat("downstream_rq_2xx"), 3);
        assert_eq!(proxy.stat("downstream_rq_4xx"), 1);
        assert_eq!(proxy.stat("no_route"), 1);
        assert_eq!(proxy.stat("downstream_cx_total"), 1);
        assert_eq!(proxy.registry.value("listener.test.http.test.downstream_rq_2xx"), Some(3));
    });
}

#[test]
fn hop_by_hop_headers_stop_here() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let response = proxy
            .exchange(
                "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: x-foo, keep-alive\r\nX-Foo: 1\r\nTE: trailers, gzip\r\n\
                 Keep-Alive: 3\r\nProxy-Connection: 1\r\nUpgrade: foo\r\nx-envoy-retry-on: 5xx\r\n\
                 x-request-id: abc\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n",
            )
            .await;
        assert_eq!(response.request_line(), "GET /echo HTTP/1.1");
        assert_eq!(response.seen("te"), Some("trailers"));
        assert_eq!(response.seen("x-request-id"), Some("abc"));
        assert_eq!(response.seen("x-forwarded-for"), Some("10.0.0.1"));
        assert_eq!(response.seen("x-forwarded-proto"), Some("http"));
        for gone in ["x-foo", "connection", "keep-alive", "proxy-connection", "upgrade", "x-envoy-retry-on"] {
            assert_eq!(response.seen(gone), None, "{gone}");
        }
        assert_eq!(response.header("server"), Some("envoy"));
        assert_eq!(response.header("x-hop"), Some("1"));
        for gone in ["connection", "keep-alive"] {
            assert_eq!(response.header(gone), None, "{gone}");
        }
    });
}

#[test]
fn an_edge_says_who_the_client_is() {
    on_worker(|| async {
        let fields = "use_remote_address: true\nvia: me\nappend_x_forwarded_port: true\n\
                      always_set_request_id_in_response: true";
        let proxy = Proxy::start(fields).await;
        let request = "GET /echo HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nx-request-id: abc\r\n\
                       x-forwarded-proto: https\r\nx-envoy-external-address: 9.9.9.9\r\n\r\n";
        let response = proxy.exchange(request).await;
        assert!(response.seen("x-forwarded-for").is_some_and(|list| list.starts_with("1.2.3.4,")));
        assert_eq!(response.seen("x-forwarded-proto"), Some("http"));
        assert_eq!(response.seen("x-forwarded-port"), Some(proxy.address.port().to_string().as_str()));
        assert_eq!(response.seen("x-envoy-external-address"), Some("127.0.0.1"));
        assert_eq!(response.seen("via"), Some("me"));
        assert_eq!(response.header("via"), Some("me"));
        let id = response.seen("x-request-id").unwrap();
        assert_ne!(id, "abc");
        assert_eq!(response.header("x-request-id"), Some(id));
    });
}

#[test]
fn malformed_requests_are_answered_counted_and_logged_as_envoy_does() {
    let long = format!("GET /direct HTTP/1.1\r\nHost: a\r\na: {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET /direct HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(101));
    let table = [
        ("BAD\r\n\r\n", 400, "Bad Request", "http1.codec_error"),
        ("GET /direct HTTP/1.1\r\nHost: a\r\na :b\r\n\r\n", 400, "Bad Request", "http1.codec_error"),
        ("GET /direct HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "Bad Request", "http.invalid_authority"),
        ("GET /direct HTTP/1.0\r\nHost: a\r\n\r\n", 426, "Upgrade Required", "low_version"),
        (&long, 431, "Request Header Fields Too Large", "http1.headers_too_large"),
        (&many, 431, "Request Header Fields Too Large", "http1.too_many_headers"),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
            501,
            "Not Implemented",
            "http1.invalid_transfer_encoding",
        ),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "Bad Request",
            "http1.content_length_and_chunked_not_allowed",
        ),
    ];
    on_worker(|| async {
        for (request, status, body, details) in table {
            let proxy = Proxy::start("").await;
            let mut client = proxy.connect().await;
            client.send(request).await;
            let response = client.response().await;
            assert_eq!((response.status, response.body.as_str()), (status, body), "{details}");
            assert_eq!(response.header("connection"), Some("close"), "{details}");
            assert_eq!(response.header("content-type"), Some("text/plain"), "{details}");
            assert_eq!(response.header("server"), Some("envoy"), "{details}");
            assert_eq!(client.rest().await, "", "{details}");
            let line = format!("{status} DPE {details} HTTP/1.1 - - - rx=0 tx={}", body.len());
            assert_eq!(proxy.log(1).await, [line]);
            assert_eq!(proxy.stat("downstream_cx_protocol_error"), 1, "{details}");
            assert_eq!(proxy.stat("downstream_rq_completed"), 1, "{details}");
            proxy.wait_stat("downstream_cx_active", 0).await;
        }
    });
}

#[test]
fn requests_that_envoy_refuses_are_refused() {
    let table = [
        ("GET /direct HTTP/1.1\r\n\r\n", 400, Some("close"), "missing_host_header"),
        ("GET /direct#f HTTP/1.1\r\nHost: a\r\n\r\n", 400, Some("close"), "path_normalization_failed"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404, None, "absolute_path_rejected"),
        (
            "GET /direct HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            403,
            Some("close"),
            "upgrade_failed",
        ),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 404, Some("close"), "route_not_found"),
    ];
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        for (number, (request, status, connection, details)) in table.into_iter().enumerate() {
            let response = proxy.exchange(request).await;
            assert_eq!((response.status, response.header("connection")), (status, connection), "{details}");
            let log = proxy.log(number + 1).await;
            assert!(log[number].contains(details), "{log:?}");
        }
    });
}

#[test]
fn an_absolute_target_names_the_host() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let response =
            proxy.exchange("GET http://u:p@host.x:80/echo?d HTTP/1.1\r\nHost: other\r\n\r\n").await;
        assert_eq!(response.request_line(), "GET /echo?d HTTP/1.1");
        assert_eq!(response.seen("host"), Some("host.x:80"));
        let response = proxy.exchange("GET ftp://a/echo HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(response.status, 400);
        let response = proxy.exchange("GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
        assert_eq!(response.seen("host"), Some("a,b"));
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_until_the_limit() {
    on_worker(|| async {
        let proxy = Proxy::start("common_http_protocol_options: { max_requests_per_connection: 2 }").await;
        let mut client = proxy.connect().await;
        client.send(&"GET /direct HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3)).await;
        assert_eq!(client.response().await.header("connection"), None);
        assert_eq!(client.response().await.header("connection"), Some("close"));
        assert_eq!(client.rest().await, "");
        assert_eq!(proxy.stat("downstream_rq_total"), 2);
        assert_eq!(proxy.stat("downstream_cx_max_requests_reached"), 1);
    });
}

#[test]
fn http_1_0_is_served_when_allowed() {
    on_worker(|| async {
        let proxy =
            Proxy::start("http_protocol_options: { accept_http_10: true, default_host_for_http_10: dh }")
                .await;
        let mut client = proxy.connect().await;
        client.send("GET /echo HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        let response = client.response().await;
        assert!(response.head.starts_with("HTTP/1.0 200 OK"), "{}", response.head);
        assert_eq!(response.header("connection"), Some("keep-alive"));
        assert_eq!(response.seen("host"), Some("dh"));
        client.send("GET /echo HTTP/1.0\r\n\r\n").await;
        assert_eq!(client.response().await.header("connection"), Some("close"));
        assert_eq!(client.rest().await, "");
    });
}

#[test]
fn limits_in_time_are_kept() {
    on_worker(|| async {
        let proxy = Proxy::start("stream_idle_timeout: 0.2s").await;
        let mut client = proxy.connect().await;
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\ncontent-length: 10\r\n\r\nab").await;
        let response = client.response().await;
        assert_eq!((response.status, response.body.as_str()), (408, "stream timeout"));
        assert_eq!(response.header("connection"), Some("close"));
        assert_eq!(proxy.log(1).await, ["408 SI stream_idle_timeout HTTP/1.1 POST /echo a rx=2 tx=14"]);
        let response = proxy.exchange("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((response.status, response.body.as_str()), (504, "stream timeout"));
        assert_eq!(proxy.stat("downstream_rq_idle_timeout"), 2);

        let proxy = Proxy::start("request_headers_timeout: 0.2s").await;
        let mut client = proxy.connect().await;
        client.send("GET /direct HTTP/1.1\r\nHost: a\r\n").await;
        let response = client.response().await;
        assert_eq!((response.status, response.body.as_str()), (408, "request header timeout"));
        assert_eq!(proxy.log(1).await, ["408 - request_header_timeout HTTP/1.1 - - - rx=0 tx=22"]);

        let proxy = Proxy::start("request_timeout: 0.2s").await;
        let mut client = proxy.connect().await;
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\ncontent-length: 10\r\n\r\nab").await;
        let response = client.response().await;
        assert_eq!((response.status, response.body.as_str()), (408, "request timeout"));

        let proxy =
            Proxy::start("common_http_protocol_options: { idle_timeout: 0.2s, max_stream_duration: 0.4s }")
                .await;
        let fresh = proxy.connect().await;
        assert_eq!(fresh.rest().await, "");
        let mut used = proxy.connect().await;
        used.send("GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
        used.response().await;
        assert_eq!(used.rest().await, "");
        assert_eq!(proxy.stat("downstream_cx_idle_timeout"), 2);
        let response = proxy.exchange("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((response.status, response.body.as_str()), (504, "downstream duration timeout"));
        assert_eq!(proxy.stat("downstream_rq_max_duration_reached"), 1);
    });
}

#[test]
fn a_client_that_goes_away_is_noted_once() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = proxy.connect().await;
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        proxy.wait_stat("downstream_rq_active", 1).await;
        drop(client);
        assert_eq!(proxy.log(1).await, ["0 DC downstream_remote_disconnect HTTP/1.1 GET /slow a rx=0 tx=0"]);
        proxy.wait_stat("downstream_cx_active", 0).await;
        assert_eq!(proxy.stat("downstream_rq_active"), 0);
        assert_eq!(proxy.stat("downstream_cx_destroy_remote_active_rq"), 1);
    });
}

#[test]
fn a_websocket_goes_through() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = proxy.connect().await;
        client
            .send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nsec-websocket-key: k\r\n\r\n")
            .await;
        let response = client.head_response().await;
        assert_eq!(response.status, 101);
        assert_eq!(response.header("connection"), Some("upgrade"));
        assert_eq!(response.header("upgrade"), Some("websocket"));
        client.send("ping").await;
        let start = std::time::Instant::now();
        let mut seen = String::new();
        while !seen.ends_with("ping") {
            assert!(start.elapsed() < hcm::DEADLINE, "{seen}");
            let mut buffer = [0; 1024];
            let n = tokio::io::AsyncReadExt::read(&mut client.stream, &mut buffer).await.unwrap();
            assert_ne!(n, 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        drop(client);
        let log = proxy.log(1).await;
        assert!(log[0].starts_with("101 DC downstream_remote_disconnect"), "{log:?}");
        assert_eq!(proxy.stat("downstream_cx_upgrades_total"), 1);
        proxy.wait_stat("downstream_cx_upgrades_active", 0).await;
    });
}

#[test]
fn a_tunnel_that_is_terminated_counts_no_more() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = proxy.connect().await;
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        assert_eq!(client.head_response().await.status, 101);
        proxy.wait_stat("downstream_cx_upgrades_active", 1).await;
        proxy.drain.terminate();
        client.rest().await;
        proxy.wait_stat("downstream_cx_active", 0).await;
        assert_eq!(proxy.stat("downstream_cx_upgrades_active"), 0);
        assert_eq!(proxy.stat("downstream_cx_upgrades_total"), 1);
    });
}

#[test]
fn a_client_that_leaves_while_a_filter_waits_is_logged_with_its_request() {
    on_worker(|| async {
        let delay = "delay: { fixed_delay: 60s, percentage: { numerator: 100 } }";
        let proxy = Proxy::with_fault("", delay).await;
        let mut client = proxy.connect().await;
        client.send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").await;
        proxy.wait_stat("fault.delays_injected", 1).await;
        drop(client);
        let log = proxy.log(1).await;
        assert!(log[0].contains(" downstream_remote_disconnect HTTP/1.1 GET /echo a "), "{log:?}");
        proxy.wait_stat("fault.active_faults", 0).await;

        let proxy = Proxy::with_fault("request_timeout: 0.1s", delay).await;
        let request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(proxy.exchange(request).await.status, 408);
        let log = proxy.log(1).await;
        assert!(log[0].contains(" POST /echo a "), "{log:?}");
    });
}

#[test]
fn a_fault_answers_with_its_own_status_where_the_runtime_says_none() {
    on_worker(|| async {
        for (key, status) in [("low", 418), ("high", 600), ("wide", 418), ("none", 418), ("fine", 599)] {
            let abort = "abort: { http_status: 418, percentage: { numerator: 100 } }, abort_http_status_runtime: status.";
            let proxy = Proxy::with_fault("", &format!("{abort}{key}")).await;
            let response = proxy.exchange("GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(response.status, status, "{key}");
        }
    });
}

#[test]
fn a_draining_listener_asks_clients_to_go() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = proxy.connect().await;
        client.send("GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.response().await.header("connection"), None);
        proxy.drain.start(std::time::Duration::from_secs(60), false);
        client.send("GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.response().await.header("connection"), Some("close"));
        assert_eq!(client.rest().await, "");
        assert_eq!(proxy.stat("downstream_cx_drain_close"), 1);
        let idle = proxy.connect().await;
        proxy.wait_stat("downstream_cx_active", 1).await;
        proxy.drain.terminate();
        assert_eq!(idle.rest().await, "");
    });
}

#[test]
fn a_sleeping_connection_wakes_with_its_next_request() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = proxy.connect().await;
        for _ in 0..2 {
            client.send("GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(client.response().await.status, 200);
            // Longer than a connection stays awake.
            tokio::time::sleep(std::time::Duration::from_millis(2300)).await;
        }
        client.send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.response().await.status, 200);
        assert_eq!(proxy.stat("downstream_cx_total"), 1);
        assert_eq!(proxy.stat("downstream_cx_http1_total"), 1);
    });
}

#[test]
fn grpc_clients_get_grpc_answers() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let response = proxy
            .exchange("POST /nowhere HTTP/1.1\r\nHost: a\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n")
            .await;
        assert_eq!((response.status, response.body.as_str()), (200, ""));
        assert_eq!(response.header("grpc-status"), Some("14"));
        assert_eq!(response.header("content-type"), Some("application/grpc"));
        let log = proxy.log(1).await;
        assert!(log[0].starts_with("200 NC cluster_not_found"), "{log:?}");
    });
}
