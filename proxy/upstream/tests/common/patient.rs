//! Servers whose health can be changed, and clusters that check it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outrider_config::model::{ActiveCheck, CheckIntervals, Cluster, HttpProbe, Probe, RuntimeInteger};
use tokio::net::TcpListener;

use super::{Bench, LocalExec};

/// A check that asks all the time.
pub(crate) fn check(probe: Probe) -> ActiveCheck {
    let soon = Duration::from_millis(5);
    ActiveCheck {
        timeout: Duration::from_secs(5),
        unhealthy_threshold: 2,
        healthy_threshold: 2,
        intervals: CheckIntervals {
            healthy: soon,
            healthy_edge: soon,
            unhealthy: soon,
            unhealthy_edge: soon,
            no_traffic: soon,
            no_traffic_healthy: soon,
            initial_jitter: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_percent: 0,
            min_ms: RuntimeInteger::fixed(0),
            max_ms: RuntimeInteger::fixed(u64::MAX),
        },
        reuse_connection: true,
        probe,
    }
}

/// A GET that wants a 200.
pub(crate) fn by_http() -> HttpProbe {
    HttpProbe {
        host: "".into(),
        path: "/healthz".into(),
        method: http::Method::GET,
        send: Bytes::new(),
        receive: Vec::new(),
        response_buffer: 1024,
        add: Vec::new(),
        remove: Vec::new(),
        expected: vec![std::ops::Range { start: 200, end: 201 }],
        retriable: Vec::new(),
        http2: false,
        service_name: None,
        verify_cluster: RuntimeInteger::fixed(100),
    }
}

/// Has `cluster` checked so, and nobody used who is not well.
pub(crate) fn checked(cluster: &mut Cluster, probe: Probe) {
    cluster.checks = Some(Box::new(check(probe)));
    cluster.panic_threshold = RuntimeInteger::fixed(0);
}

/// A server whose answer can be changed.
#[derive(Clone)]
pub(crate) struct Patient {
    pub(crate) address: SocketAddr,
    pub(crate) status: Rc<Cell<u16>>,
    pub(crate) headers: Rc<RefCell<HeaderMap>>,
    /// The body, and a gRPC status in its trailers.
    pub(crate) answer: Rc<RefCell<(Bytes, Option<&'static str>)>>,
    pub(crate) asked: Rc<RefCell<Vec<(String, HeaderMap)>>>,
    pub(crate) connections: Rc<Cell<u64>>,
}

impl Patient {
    pub(crate) async fn start(http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let patient = Self {
            address: listener.local_addr().unwrap(),
            status: Rc::new(Cell::new(200)),
            headers: Rc::default(),
            answer: Rc::default(),
            asked: Rc::default(),
            connections: Rc::default(),
        };
        let this = patient.clone();
        tokio::task::spawn_local(async move {
            loop {
                let io = TokioIo::new(listener.accept().await.unwrap().0);
                let this = this.clone();
                this.connections.set(this.connections.get() + 1);
                let service = service_fn(move |request| {
                    let answer = this.answer(&request);
                    async move { Ok::<_, hyper::Error>(answer) }
                });
                tokio::task::spawn_local(async move {
                    let _ = if http2 {
                        hyper::server::conn::http2::Builder::new(LocalExec)
                            .serve_connection(io, service)
                            .await
                    } else {
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                    };
                });
            }
        });
        patient
    }

    pub(crate) fn answer(
        &self,
        request: &Request<Incoming>,
    ) -> Response<BoxBody<Bytes, std::convert::Infallible>> {
        let mut asked = self.asked.borrow_mut();
        asked.push((request.uri().to_string(), request.headers().clone()));
        let (body, status) = self.answer.borrow().clone();
        let trailers = status.map(|status| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(status));
            Ok(trailers)
        });
        let body = Full::new(body).with_trailers(async move { trailers });
        let mut response = Response::new(BodyExt::boxed(body));
        *response.status_mut() = http::StatusCode::from_u16(self.status.get()).unwrap();
        *response.headers_mut() = self.headers.borrow().clone();
        response
    }

    pub(crate) fn says(&self, name: &'static str, value: &'static str) {
        self.headers.borrow_mut().insert(name, http::HeaderValue::from_static(value));
    }
}

/// Begins to find hosts, and to check them.
pub(crate) fn watch(bench: &Bench) {
    let manager = bench.manager.clone();
    tokio::task::spawn_local(async move { manager.run_discovery().await });
}

/// Whether a host is shown with these flags.
pub(crate) fn shown(bench: &Bench, flag: &str) -> bool {
    bench.manager.snapshot().text().contains(&format!("::health_flags::{flag}\n"))
}
