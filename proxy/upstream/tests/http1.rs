//! HTTP/1.1 pools over real sockets.

mod common;

use std::time::Duration;

use common::{Bench, Speaks, Upstream, get, on_worker, until};
use outrider_upstream::{PoolErrorKind, SendErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[test]
fn a_connection_is_used_again() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |_| {});
        for _ in 0..5 {
            assert_eq!(bench.get("/").await.unwrap(), "1");
        }
        assert_eq!(bench.get("/big").await.unwrap().len(), 300_000);
        assert_eq!(bench.get("/host").await.unwrap(), "a.example");
        assert_eq!(upstream.connections.get(), 1);
        assert_eq!(bench.stat("upstream_cx_total"), 1);
        assert_eq!(bench.stat("upstream_cx_http1_total"), 1);
        assert_eq!(bench.stat("upstream_rq_total"), 7);
        assert_eq!(bench.stat("upstream_rq_active"), 0);
        assert_eq!(bench.stat("upstream_rq_pending_total"), 1);
        assert!(bench.stat("upstream_cx_rx_bytes_total") > 300_000);
    });
}

#[test]
fn a_connection_that_the_peer_closes_while_idle_is_not_used() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |_| {});
        bench.get("/").await.unwrap();
        upstream.hang_up();
        bench.until_stat("upstream_cx_active", 0).await;
        assert_eq!(bench.stat("upstream_cx_destroy_remote"), 1);
        assert_eq!(bench.get("/").await.unwrap(), "2");
        // And when the close is not seen before the next request goes out, that is sent anew.
        upstream.hang_up();
        tokio::task::yield_now().await;
        assert_eq!(bench.get("/").await.unwrap(), "3");
        assert_eq!(bench.get("/last").await.unwrap(), "3");
        assert_eq!(bench.get("/").await.unwrap(), "4");
    });
}

#[test]
fn a_response_dropped_before_its_end_closes_its_connection() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |_| {});
        let mut lease = bench.lease().await.unwrap();
        let response = lease.send(get("/big")).await.unwrap();
        let guard = lease.into_guard();
        drop(response);
        drop(guard);
        bench.until_stat("upstream_cx_destroy_local", 1).await;
        assert_eq!(bench.stat("upstream_rq_active"), 0);
        assert_eq!(bench.get("/").await.unwrap(), "2");
    });
}

#[test]
fn a_request_given_up_before_its_response_closes_its_connection() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |_| {});
        let mut lease = bench.lease().await.unwrap();
        let sent = tokio::time::timeout(Duration::from_millis(50), lease.send(get("/hold"))).await;
        assert!(sent.is_err());
        drop(lease);
        bench.until_stat("upstream_cx_active", 0).await;
        assert_eq!(bench.get("/").await.unwrap(), "2");
    });
}

#[test]
fn a_refused_connect_says_so_and_ejects_who_waits() {
    on_worker(async {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let bench = Bench::fixed(&[free], |_| {});
        let error = bench.lease().await.unwrap_err();
        assert_eq!(error.kind, PoolErrorKind::ConnectFailed);
        assert_eq!(&*error.details, "delayed connect error: Connection refused");
        assert_eq!(error.reset_reason(), "remote connection failure");
        bench.until_stat("upstream_cx_destroy_remote", 1).await;
        for (stat, value) in [
            ("upstream_cx_connect_fail", 1),
            ("upstream_rq_pending_failure_eject", 1),
            ("upstream_rq_pending_active", 0),
            ("upstream_cx_active", 0),
            ("upstream_rq_total", 0),
        ] {
            assert_eq!(bench.stat(stat), value, "{stat}");
        }
        assert_eq!(error.host.state.cx_connect_fail.load(std::sync::atomic::Ordering::Relaxed), 1);
    });
}

#[test]
fn a_connect_takes_no_longer_than_its_timeout() {
    on_worker(async {
        // A listener whose backlog is full answers no more.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(address)).await
        {
            held.push(stream.unwrap());
        }
        let bench = Bench::fixed(&[address], |c| c.connect_timeout = Duration::from_millis(50));
        let error = bench.lease().await.unwrap_err();
        assert_eq!(error.kind, PoolErrorKind::ConnectTimeout);
        assert_eq!(error.reset_reason(), "connection timeout");
        assert_eq!(bench.stat("upstream_cx_connect_timeout"), 1);
        assert_eq!(bench.stat("upstream_cx_connect_fail"), 1);
    });
}

#[test]
fn the_connection_limit_makes_requests_wait_and_a_freed_connection_serves_them() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |c| c.breaker_default.max_connections = 1);
        let first = bench.lease().await.unwrap();
        assert_eq!(bench.stat("circuit_breakers.default.cx_open"), 1);
        let cluster = bench.cluster();
        let host = cluster.pick(&Default::default()).unwrap();
        let context = Default::default();
        let second = cluster.acquire(&host, &context);
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err());
        assert_eq!(bench.stat("upstream_cx_overflow"), 1);
        assert_eq!(bench.stat("upstream_rq_pending_active"), 1);
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(second.requests(), 2);
        assert_eq!(upstream.connections.get(), 1);
        assert_eq!(bench.stat("upstream_rq_pending_active"), 0);
    });
}

#[test]
fn waiting_and_requests_overflow_at_their_limits() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |c| {
            c.breaker_default.max_requests = 1;
            c.breaker_default.track_remaining = true;
        });
        let held = bench.lease().await.unwrap();
        assert_eq!(bench.stat("circuit_breakers.default.rq_open"), 1);
        assert_eq!(bench.stat("circuit_breakers.default.remaining_rq"), 0);
        let error = bench.lease().await.unwrap_err();
        assert_eq!(error.kind, PoolErrorKind::Overflow);
        assert_eq!(bench.stat("upstream_rq_active_overflow"), 1);
        assert_eq!(bench.stat("upstream_rq_pending_overflow"), 0);
        drop(held);
        assert_eq!(bench.stat("circuit_breakers.default.remaining_rq"), 1);
        bench.get("/").await.unwrap();

        let bench = Bench::fixed(&[upstream.address], |c| c.breaker_default.max_pending_requests = 0);
        assert_eq!(bench.lease().await.unwrap_err().kind, PoolErrorKind::PendingOverflow);
        assert_eq!(bench.stat("upstream_rq_pending_overflow"), 1);
        assert_eq!(bench.stat("upstream_cx_total"), 0);
    });
}

#[test]
fn a_request_that_stops_waiting_leaves_the_queue() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |c| c.breaker_default.max_connections = 1);
        let first = bench.lease().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), bench.lease()).await.is_err());
        assert_eq!(bench.stat("upstream_rq_pending_active"), 0);
        assert_eq!(bench.stat("upstream_rq_cancelled"), 1);
        drop(first);
        assert_eq!(bench.get("/").await.unwrap(), "1");
    });
}

#[test]
fn a_connection_serves_as_many_requests_as_it_may() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |c| c.http.max_requests_per_connection = 2);
        for number in ["1", "1", "2", "2", "3"] {
            assert_eq!(bench.get("/").await.unwrap(), number);
        }
        assert_eq!(bench.stat("upstream_cx_max_requests"), 2);
    });
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let bench = Bench::fixed(&[upstream.address], |c| {
            c.http.idle_timeout = Some(Duration::from_millis(30));
        });
        bench.get("/").await.unwrap();
        bench.until_stat("upstream_cx_idle_timeout", 1).await;
        bench.until_stat("upstream_cx_destroy_local", 1).await;
        assert_eq!(bench.get("/").await.unwrap(), "2");
    });
}

#[test]
fn pools_survive_endpoint_changes_and_those_of_removed_hosts_drain() {
    on_worker(async {
        let (a, b) = (Upstream::start(Speaks::Http1).await, Upstream::start(Speaks::Http1).await);
        let bench = Bench::fixed(&[a.address], |_| {});
        bench.get("/").await.unwrap();
        bench.update(&[a.address, b.address], |_| {});
        for _ in 0..4 {
            bench.get("/").await.unwrap();
        }
        assert_eq!((a.connections.get(), b.connections.get()), (1, 1));
        assert_eq!(bench.stat("upstream_cx_active"), 2);
        // The worker hears of it although nobody asks for the cluster.
        let held = bench.lease().await.unwrap();
        let gone = held.remote().unwrap().clone();
        let stays = if gone.ip() == Some(a.address) { b.address } else { a.address };
        bench.update(&[stays], |_| {});
        tokio::task::yield_now().await;
        assert_eq!(bench.stat("upstream_cx_active"), 2, "a busy connection finishes its request");
        drop(held);
        bench.until_stat("upstream_cx_active", 1).await;
        bench.get("/").await.unwrap();
        assert_eq!(a.connections.get() + b.connections.get(), 2);
        bench.manager.remove("c");
        bench.until_stat("upstream_cx_active", 0).await;
    });
}

#[test]
fn a_connection_that_ends_before_its_response_is_a_termination() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 1000];
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut buffer).await;
            drop(stream);
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut buffer).await;
            stream.write_all(b"SMTP/1 hello\r\n\r\n").await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut buffer).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        });
        let bench = Bench::fixed(&[address], |_| {});
        let error = bench.get("/").await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::ConnectionTermination);
        assert!(error.request.is_none());
        let error = bench.get("/").await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::ProtocolError);
        until("counted", || bench.stat("upstream_cx_protocol_error") == 1).await;
        let error = bench.get("/").await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::ConnectionTermination);
        bench.until_stat("upstream_cx_active", 0).await;
    });
}

#[test]
fn an_upgraded_connection_counts_until_it_is_closed() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 1000];
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut buffer).await;
            let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhi";
            stream.write_all(head).await.unwrap();
            let n = stream.read(&mut buffer).await.unwrap();
            stream.write_all(&buffer[..n]).await.unwrap();
            let _ = stream.read(&mut buffer).await;
        });
        let bench = Bench::fixed(&[address], |_| {});
        let mut lease = bench.lease().await.unwrap();
        let mut request = get("/");
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "echo".parse().unwrap());
        let mut response = lease.send(request).await.unwrap();
        assert_eq!(response.status(), 101);
        let mut stream = lease.into_tunnel(&mut response).open().await.unwrap();
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"hi");
        stream.write_all(b"yo").await.unwrap();
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"yo");
        assert_eq!(bench.stat("upstream_cx_active"), 1);
        drop(stream);
        bench.until_stat("upstream_cx_active", 0).await;
    });
}
