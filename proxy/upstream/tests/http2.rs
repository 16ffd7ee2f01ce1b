//! HTTP/2 pools over real sockets.

mod common;

use std::time::Duration;

use common::{Bench, Speaks, Upstream, get, on_worker, until};
use outrider_config::model::UpstreamProtocol;
use outrider_core::stream::Protocol;
use outrider_upstream::SendErrorKind;

const H2: Speaks = Speaks::Http2 { streams: 100 };

fn h2(bench: &mut outrider_config::model::Cluster) {
    bench.http.protocol = UpstreamProtocol::Http2;
}

#[test]
fn requests_share_a_connection() {
    on_worker(async {
        let upstream = Upstream::start(H2).await;
        let bench = Bench::fixed(&[upstream.address], h2);
        let mut leases = Vec::new();
        for _ in 0..3 {
            leases.push(bench.lease().await.unwrap());
        }
        assert!(leases.iter().all(|lease| lease.protocol() == Protocol::Http2));
        assert_eq!(bench.stat("upstream_rq_active"), 3);
        drop(leases);
        assert_eq!(bench.get("/").await.unwrap(), "1");
        assert_eq!(bench.get("/host").await.unwrap(), "a.example");
        assert_eq!(bench.get("/big").await.unwrap().len(), 300_000);
        assert_eq!(upstream.connections.get(), 1);
        assert_eq!(bench.stat("upstream_cx_http2_total"), 1);
        assert_eq!(bench.stat("upstream_rq_active"), 0);
    });
}

#[test]
fn more_streams_than_the_peer_allows_get_another_connection() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http2 { streams: 1 }).await;
        let bench = Bench::fixed(&[upstream.address], h2);
        // The peer's limit is known once its settings came: with the first response at the latest.
        bench.get("/").await.unwrap();
        let mut held = bench.lease().await.unwrap();
        let hold = held.send(get("/hold"));
        tokio::pin!(hold);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut hold).await.is_err());
        assert_eq!(bench.get("/").await.unwrap(), "2");
        assert_eq!(upstream.connections.get(), 2);
    });
}

#[test]
fn the_configured_stream_limit_holds() {
    on_worker(async {
        let upstream = Upstream::start(H2).await;
        let bench = Bench::fixed(&[upstream.address], |c| {
            h2(c);
            c.http.http2.max_concurrent_streams = Some(2);
        });
        let leases = [bench.lease().await.unwrap(), bench.lease().await.unwrap()];
        let third = bench.lease().await.unwrap();
        assert_ne!(third.connection_id(), leases[0].connection_id());
        assert_eq!(leases[1].connection_id(), leases[0].connection_id());
        until("accepted", || upstream.connections.get() == 2).await;
    });
}

#[test]
fn a_connection_closed_while_idle_is_replaced() {
    on_worker(async {
        let upstream = Upstream::start(H2).await;
        let bench = Bench::fixed(&[upstream.address], h2);
        bench.get("/").await.unwrap();
        upstream.hang_up();
        bench.until_stat("upstream_cx_active", 0).await;
        assert_eq!(bench.get("/").await.unwrap(), "2");
    });
}

#[test]
fn a_request_whose_connection_breaks_is_terminated_and_not_sent_again() {
    on_worker(async {
        let upstream = Upstream::start(H2).await;
        let bench = Bench::fixed(&[upstream.address], h2);
        let mut lease = bench.lease().await.unwrap();
        let hold = lease.send(get("/hold"));
        tokio::pin!(hold);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut hold).await.is_err());
        upstream.hang_up();
        let error = hold.await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::ConnectionTermination);
        assert_eq!(upstream.requests.get(), 1);
    });
}

#[test]
fn a_dropped_response_resets_its_stream_alone() {
    on_worker(async {
        let upstream = Upstream::start(H2).await;
        let bench = Bench::fixed(&[upstream.address], h2);
        let mut lease = bench.lease().await.unwrap();
        let response = lease.send(get("/big")).await.unwrap();
        drop(response);
        drop(lease);
        assert_eq!(bench.get("/").await.unwrap(), "1");
        assert_eq!(bench.stat("upstream_cx_active"), 1);
    });
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    on_worker(async {
        let upstream = Upstream::start(H2).await;
        let bench = Bench::fixed(&[upstream.address], |c| {
            h2(c);
            c.http.idle_timeout = Some(Duration::from_millis(30));
        });
        bench.get("/").await.unwrap();
        bench.until_stat("upstream_cx_idle_timeout", 1).await;
        bench.until_stat("upstream_cx_active", 0).await;
        assert_eq!(bench.get("/").await.unwrap(), "2");
    });
}

#[test]
fn after_a_goaway_what_runs_is_finished_and_what_comes_goes_elsewhere() {
    on_worker(async {
        let upstream = Upstream::start(H2).await;
        let bench = Bench::fixed(&[upstream.address], h2);
        bench.get("/").await.unwrap();
        let mut lease = bench.lease().await.unwrap();
        let mut hold = Box::pin(lease.send(get("/hold")));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut hold).await.is_err());
        upstream.go_away();
        // Its last word comes after a round trip; until then the old connection takes streams.
        let mut number = String::new();
        while number != "2" {
            number = bench.get("/").await.unwrap();
        }
        assert_eq!(bench.get("/").await.unwrap(), "2");
        upstream.release.notify_waiters();
        assert_eq!(hold.await.unwrap().status(), 200);
        drop(lease);
        bench.until_stat("upstream_cx_active", 1).await;
    });
}
