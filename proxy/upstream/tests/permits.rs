//! Whatever requests do, every permit comes back exactly once.

mod common;

use std::time::Duration;

use common::{Bench, Speaks, Upstream, get, on_worker, permits};
use http_body_util::BodyExt;
use outrider_config::model::UpstreamProtocol;
use outrider_upstream::Lease;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Acquire,
    GiveUpWaiting,
    Drop,
    Finish,
    GiveUpSending,
    DropBody,
    HangUp,
    Update,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use Step::{Acquire, Drop, DropBody, Finish, GiveUpSending, GiveUpWaiting, HangUp, Update};

    let step = prop::sample::select(vec![
        Acquire,
        Acquire,
        Acquire,
        GiveUpWaiting,
        Drop,
        Finish,
        GiveUpSending,
        DropBody,
        HangUp,
        Update,
    ]);
    prop::collection::vec(step, 1..25)
}

async fn take(bench: &Bench) -> Option<Lease> {
    tokio::time::timeout(Duration::from_millis(100), bench.lease()).await.ok()?.ok()
}

async fn run(steps: Vec<Step>, http2: bool) {
    let upstream = Upstream::start(if http2 { Speaks::Http2 { streams: 3 } } else { Speaks::Http1 }).await;
    let limits = move |c: &mut outrider_config::model::Cluster| {
        c.breaker_default.max_connections = 2;
        c.breaker_default.max_pending_requests = 2;
        c.breaker_default.max_requests = 4;
        if http2 {
            c.http.protocol = UpstreamProtocol::Http2;
        }
    };
    let bench = Bench::fixed(&[upstream.address], limits);
    let mut versions = vec![bench.cluster()];
    let mut held = Vec::new();
    for step in steps {
        match step {
            Step::Acquire => held.extend(take(&bench).await),
            Step::GiveUpWaiting => {
                let _ = tokio::time::timeout(Duration::ZERO, bench.lease()).await;
            }
            Step::Drop => drop(held.pop()),
            Step::Finish => {
                if let Some(mut lease) = held.pop()
                    && let Ok(response) = lease.send(get("/")).await
                {
                    let mut guard = lease.into_guard();
                    if response.into_body().collect().await.is_ok() {
                        guard.finished();
                    }
                }
            }
            Step::GiveUpSending => {
                if let Some(mut lease) = held.pop() {
                    let _ = tokio::time::timeout(Duration::from_millis(1), lease.send(get("/hold"))).await;
                }
            }
            Step::DropBody => {
                if let Some(mut lease) = held.pop() {
                    drop(lease.send(get("/big")).await);
                }
            }
            Step::HangUp => upstream.hang_up(),
            Step::Update => {
                bench.update(&[upstream.address], limits);
                versions.push(bench.cluster());
            }
        }
    }
    drop(held);
    bench.manager.remove("c");
    for version in &versions {
        assert_eq!(permits(version), 0);
    }
    bench.until_stat("upstream_cx_active", 0).await;
    for gauge in [
        "upstream_rq_active",
        "upstream_rq_pending_active",
        "circuit_breakers.default.cx_open",
        "circuit_breakers.default.rq_open",
        "circuit_breakers.default.rq_pending_open",
    ] {
        assert_eq!(bench.stat(gauge), 0, "{gauge}");
    }
    for version in &versions {
        for host in version.shared.hosts.load().iter() {
            assert_eq!(host.active_requests(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn permits_come_back_once(steps in steps(), http2: bool) {
        on_worker(run(steps, http2));
    }
}
