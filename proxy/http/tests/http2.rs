//! HTTP/2 through a connection manager. Expectations were measured on Envoy 1.40.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

#[path = "hcm/mod.rs"]
mod hcm;

use std::time::Duration;

use bytes::Bytes;
use hcm::{DEADLINE, Proxy, on_worker};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone)]
struct LocalExec;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

async fn connect(proxy: &Proxy) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (sender, connection) = http2::handshake(LocalExec, TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    sender
}

fn get(path: &str) -> http::Request<Full<Bytes>> {
    let uri = format!("http://a.b{path}");
    http::Request::get(uri).body(Full::default()).unwrap()
}

async fn text(response: http::Response<hyper::body::Incoming>) -> (http::response::Parts, String) {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(DEADLINE, body.collect()).await.unwrap().unwrap().to_bytes();
    (parts, String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn streams_share_a_connection() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = connect(&proxy).await;
        let (direct, echo) = (client.send_request(get("/direct")), client.send_request(get("/echo?x")));
        let (parts, body) = text(direct.await.unwrap()).await;
        assert_eq!((parts.status.as_u16(), body.as_str()), (200, "hello"));
        assert_eq!(parts.headers["server"], "envoy");
        assert!(parts.headers.contains_key("date"));
        let (parts, body) = text(echo.await.unwrap()).await;
        assert!(body.starts_with("GET /echo?x HTTP/1.1\r\n"), "{body}");
        assert!(body.contains("host: a.b\r\n"), "{body}");
        assert!(body.contains("x-forwarded-proto: http\r\n"), "{body}");
        assert_eq!(parts.headers.get("connection"), None);
        assert_eq!(parts.headers.get("keep-alive"), None);
        let missing = text(client.send_request(get("/none")).await.unwrap()).await.0;
        assert_eq!((missing.status.as_u16(), missing.headers.get("content-length")), (404, None));
        let mut log = proxy.log(3).await;
        log.sort();
        assert_eq!(log[0], "200 - direct_response HTTP/2 GET /direct a.b rx=0 tx=5");
        assert!(log[1].starts_with("200 - via_upstream HTTP/2 GET /echo?x a.b"), "{log:?}");
        assert_eq!(log[2], "404 NR route_not_found HTTP/2 GET /none a.b rx=0 tx=0");
        assert_eq!(proxy.stat("downstream_cx_http2_total"), 1);
        assert_eq!(proxy.stat("downstream_rq_http2_total"), 3);
    });
}

#[test]
fn a_body_goes_through() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = connect(&proxy).await;
        let request = http::Request::post("http://a/echo").body(Full::from("some text")).unwrap();
        let (_, body) = text(client.send_request(request).await.unwrap()).await;
        assert!(body.ends_with("\r\n\r\nsome text"), "{body}");
        let log = proxy.log(1).await;
        assert!(log[0].contains("rx=9"), "{log:?}");
    });
}

#[test]
fn a_stream_that_its_client_resets_is_noted() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = connect(&proxy).await;
        let pending = client.send_request(get("/slow"));
        let pending = tokio::task::spawn_local(pending);
        proxy.wait_stat("downstream_rq_active", 1).await;
        pending.abort();
        assert_eq!(proxy.log(1).await, ["0 DR http2.remote_reset HTTP/2 GET /slow a.b rx=0 tx=0"]);
        let (parts, _) = text(client.send_request(get("/direct")).await.unwrap()).await;
        assert_eq!(parts.status.as_u16(), 200);
    });
}

#[test]
fn a_stream_that_takes_too_long_is_ended_alone() {
    on_worker(|| async {
        let proxy = Proxy::start("stream_idle_timeout: 0.2s").await;
        let mut client = connect(&proxy).await;
        let (parts, body) = text(client.send_request(get("/slow")).await.unwrap()).await;
        assert_eq!((parts.status.as_u16(), body.as_str()), (504, "stream timeout"));
        let (parts, _) = text(client.send_request(get("/direct")).await.unwrap()).await;
        assert_eq!(parts.status.as_u16(), 200);
        assert_eq!(proxy.stat("downstream_cx_total"), 1);
    });
}

#[test]
fn a_draining_listener_says_goaway() {
    on_worker(|| async {
        let proxy = Proxy::start("").await;
        let mut client = connect(&proxy).await;
        text(client.send_request(get("/direct")).await.unwrap()).await;
        proxy.drain.start(Duration::from_secs(60), false);
        text(client.send_request(get("/direct")).await.unwrap()).await;
        let closed = async {
            while !client.is_closed() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(DEADLINE, closed).await.expect("the connection ends");
        assert_eq!(proxy.stat("downstream_cx_drain_close"), 1);
    });
}

#[test]
fn a_websocket_over_http2_reaches_an_http1_upstream() {
    on_worker(|| async {
        let proxy = Proxy::start("http2_protocol_options: { allow_connect: true }").await;
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (mut client, connection) =
            http2::handshake::<_, _, Empty<Bytes>>(LocalExec, TokioIo::new(stream)).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        // The client must have seen that extended CONNECT is allowed.
        let warm = http::Request::get("http://a/direct").body(Empty::new()).unwrap();
        text(client.send_request(warm).await.unwrap()).await;
        let mut request = http::Request::connect("http://a/ws").body(Empty::new()).unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        io.write_all(b"ping").await.unwrap();
        let mut seen = String::new();
        while !seen.ends_with("ping") {
            let mut buffer = [0; 1024];
            let n = tokio::time::timeout(DEADLINE, io.read(&mut buffer)).await.unwrap().unwrap();
            assert_ne!(n, 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        assert!(seen.starts_with("GET /ws HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("upgrade: websocket\r\n"), "{seen}");
    });
}
